"""A compressor beside its transcription, as the tests of both use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from codec_reference import Draw, Floats, Reference, mean
from codec_references import reference_of
from psrv import codec
from psrv.codec import Blocks, Compressor, aligned, parse

FORMS = tuple(
    (spec, contracted)
    for spec in codec.EXAMPLES
    for contracted in (False, True)
    if not contracted or parse(spec).contracted() is not parse(spec)
)
"""Every example as it is parsed, and as error feedback uses it where that is another form."""


@dataclass(frozen=True)
class Pair:
    """The methods are the compressor's, with buffers of their own: no argument is changed."""

    spec: str
    real: Compressor
    reference: Reference

    @classmethod
    def of(cls, spec: str, contracted: bool = False) -> Self:
        real = parse(spec)
        return cls(spec, real.contracted() if contracted else real, reference_of(spec, contracted))

    def encode(
        self,
        x: Floats,
        sizes: Sequence[int],
        draw: Draw = Draw(),  # noqa: B008 (a tuple of numbers)
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> tuple[bytes, Floats]:
        """The payload, and what ``encode`` left in the buffer."""
        blocks = Blocks.of(sizes)
        buffer = aligned(x.size)
        buffer[:] = x
        room = np.full(self.real.payload_bound(blocks, draw.workers), 0xEE, np.uint8)
        size = self.real.encode(buffer, blocks, real_draw(draw), room, residual, rho)
        return room[:size].tobytes(), buffer

    def decode(self, payload: bytes, sizes: Sequence[int], draw: Draw = Draw()) -> Floats:  # noqa: B008
        out = np.full(sum(sizes), np.nan, np.float32)
        self.real.decode(payload, Blocks.of(sizes), real_draw(draw), out)
        return out

    def onto(
        self,
        payload: bytes,
        sizes: Sequence[int],
        base: Floats,
        draw: Draw = Draw(),  # noqa: B008
    ) -> Floats:
        out = np.full(sum(sizes), np.nan, np.float32)
        self.real.decode_onto(payload, Blocks.of(sizes), real_draw(draw), base, out)
        return out

    def reduce(
        self,
        payloads: Sequence[bytes],
        sizes: Sequence[int],
        residual: Floats | None = None,
        rho: float = 1.0,
        weights: Floats | None = None,
        draws: Sequence[Draw] | None = None,
    ) -> Floats:
        out = np.full(sum(sizes), np.nan, np.float32)
        given = [Draw()] * len(payloads) if draws is None else draws
        self.real.reduce(
            payloads, Blocks.of(sizes), [real_draw(d) for d in given], out, residual, rho, weights
        )
        return out

    def expected(
        self,
        payloads: Sequence[bytes],
        sizes: Sequence[int],
        residual: Floats | None = None,
        rho: float = 1.0,
        weights: Floats | None = None,
        draws: Sequence[Draw] | None = None,
    ) -> Floats:
        """What ``reduce`` has to give, by the transcription."""
        given = [Draw()] * len(payloads) if draws is None else draws
        payloads = [bytes(p) for p in payloads]
        pairs = zip(payloads, given, strict=True)
        own = getattr(self.reference, "reduce", None)
        if own is not None:
            return own(payloads, sizes, given, residual, rho, weights)
        decoded = [self.reference.decode(p, sizes, d) for p, d in pairs]
        return mean(decoded, residual, rho, weights)


def real_draw(draw: Draw) -> codec.Draw:
    """The same draw as psrv's own type."""
    return codec.Draw(*draw)


def draws_of(workers: int, round: int = 3, seed: int = 1) -> list[Draw]:
    """One for each of n ranks in a round."""
    return [Draw(seed, round, 2, rank, workers) for rank in range(workers)]
