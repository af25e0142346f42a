"""A compressor beside its transcription, as the tests of both use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from codec_reference import REFERENCES, Floats, Reference
from psrv.codec import Blocks, Compressor, aligned, parse


@dataclass(frozen=True)
class Pair:
    """The methods are the compressor's, with buffers of their own: no argument is changed."""

    spec: str
    real: Compressor
    reference: Reference

    @classmethod
    def of(cls, spec: str) -> Self:
        assert spec in REFERENCES, f"write {spec}'s transcription in tests/codec_reference.py"
        return cls(spec, parse(spec), REFERENCES[spec])

    def encode(self, x: Floats, sizes: Sequence[int], key: int = 0) -> tuple[bytes, Floats]:
        """The payload, and what ``encode`` left in the buffer."""
        blocks = Blocks.of(sizes)
        buffer = aligned(x.size)
        buffer[:] = x
        payload = np.full(self.real.payload_bytes(blocks), 0xEE, np.uint8)
        self.real.encode(buffer, blocks, key, payload)
        return payload.tobytes(), buffer

    def decode(self, payload: bytes, sizes: Sequence[int]) -> Floats:
        out = np.full(sum(sizes), np.nan, np.float32)
        self.real.decode(payload, Blocks.of(sizes), out)
        return out

    def onto(self, payload: bytes, sizes: Sequence[int], base: Floats) -> Floats:
        out = np.full(sum(sizes), np.nan, np.float32)
        self.real.decode_onto(payload, Blocks.of(sizes), base, out)
        return out

    def reduce(
        self,
        payloads: Sequence[bytes],
        sizes: Sequence[int],
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> Floats:
        out = np.full(sum(sizes), np.nan, np.float32)
        self.real.reduce(payloads, Blocks.of(sizes), out, residual, rho)
        return out
