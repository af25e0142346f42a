"""What a user would write in NumPy instead: the other side of ``psrv bench codec``.

Same payload sizes, same blocks, x - C(x) left in the vector; as short as NumPy allows, and
without the fixed order of sums, the specified ties and the checks on payloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from psrv.codec import Blocks
from psrv.codec.base import Bytes, Floats


class Plain(Protocol):
    """One compressor in NumPy."""

    def encode(self, x: Floats, blocks: Blocks) -> Bytes:
        """The payload; x - C(x) stays in ``x``."""

    def decode(self, payload: Bytes, blocks: Blocks) -> Floats:
        """C(x), in a new vector."""


class Dense:
    """Copies."""

    def encode(self, x: Floats, blocks: Blocks) -> Bytes:
        """A copy, if every number is finite."""
        assert np.isfinite(x).all()
        payload = x.view(np.uint8).copy()
        x[:] = 0
        return payload

    def decode(self, payload: Bytes, blocks: Blocks) -> Floats:
        """A copy."""
        return payload.view(np.float32).copy()


class Sign:
    """Mean magnitude and packed bits, block by block."""

    def encode(self, x: Floats, blocks: Blocks) -> Bytes:
        """abs, mean, packbits, where, subtract."""
        scales, bits = np.empty(len(blocks), np.float32), []
        for b, (start, stop) in enumerate(pairwise(blocks.edges)):
            part = x[start:stop]
            scales[b] = np.abs(part).mean()
            negative = part < 0
            bits.append(np.packbits(negative, bitorder="little"))
            part -= np.where(negative, -scales[b], scales[b])
        return np.concatenate([scales.view(np.uint8), *bits])

    def decode(self, payload: Bytes, blocks: Blocks) -> Floats:
        """unpackbits, where."""
        out = np.empty(blocks.dimension, np.float32)
        scales = payload[: 4 * len(blocks)].view(np.float32)
        bits = payload[4 * len(blocks) :]
        for b, (start, stop) in enumerate(pairwise(blocks.edges)):
            own = bits[blocks.bit_edges[b] : blocks.bit_edges[b + 1]]
            negative = np.unpackbits(own, count=stop - start, bitorder="little")
            out[start:stop] = np.where(negative, -scales[b], scales[b])
        return out


class SignUnscaled:
    """Packed bits; an exact zero is sent as positive."""

    def encode(self, x: Floats, blocks: Blocks) -> Bytes:
        """packbits, where, subtract."""
        assert np.isfinite(x).all()
        negative = x < 0
        x -= np.where(negative, np.float32(-1), np.float32(1))
        return np.packbits(negative, bitorder="little")

    def decode(self, payload: Bytes, blocks: Blocks) -> Floats:
        """unpackbits, where."""
        negative = np.unpackbits(payload, count=blocks.dimension, bitorder="little")
        return np.where(negative, np.float32(-1), np.float32(1))


PLAIN: dict[str, Plain] = {"dense": Dense(), "sign": Sign(), "sign-unscaled": SignUnscaled()}


def mean(plain: Plain, payloads: Sequence[Bytes], blocks: Blocks) -> Floats:
    """What ``reduce`` gives, decoding one payload after the other."""
    total = plain.decode(payloads[0], blocks)
    for payload in payloads[1:]:
        total += plain.decode(payload, blocks)
    total *= np.float32(1 / len(payloads))
    return total
