"""Compressors and the channels that use them; useful on its own: ``from psrv import codec``."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np

from psrv.codec import rng
from psrv.codec.base import Blocks, Compressor, Draw, aligned, alpha
from psrv.codec.coder import Coder
from psrv.codec.registry import COMPRESSORS, EXAMPLES, OF_SEVERAL, parse
from psrv.codec.warm import warmup

__all__ = [
    "COMPRESSORS",
    "EXAMPLES",
    "OF_SEVERAL",
    "Blocks",
    "Coder",
    "Compressor",
    "Draw",
    "aligned",
    "alpha",
    "digest",
    "parse",
    "rng",
    "warmup",
]


@cache
def digest() -> bytes:
    """32 bytes that two processes share if they produce and read the same payloads.

    sha256 over the generator's first words and, for every form of every compressor, the
    payload of a fixed vector, what it decodes to, and what was left over. Exchanged when a
    worker connects, so that a change of format, of generator or of summation order is
    refused instead of training on nonsense.
    """
    hasher = hashlib.sha256()
    key = rng.key(1, rng.Purpose.TIE, 2, 3, 4)
    for i in range(4):
        hasher.update(rng.word(key, i).to_bytes(8, "little"))
    blocks, draw = Blocks.of([4100, 77]), Draw(1, 2, 3, 4, 5)
    ramp = np.arange(blocks.dimension, dtype=np.float32)
    vector, decoded = aligned(blocks.dimension), aligned(blocks.dimension)
    for spec in sorted(EXAMPLES + OF_SEVERAL):
        compressor = parse(spec)
        vector[:] = (ramp % 11 - 5) / (ramp + 1)
        payload = np.empty(compressor.payload_bound(blocks, draw.workers), np.uint8)
        payload = payload[: compressor.encode(vector, blocks, draw, payload)]
        compressor.decode(payload, blocks, draw, decoded)
        hasher.update(spec.encode())
        hasher.update(payload)
        hasher.update(vector)
        hasher.update(decoded)
    return hasher.digest()
