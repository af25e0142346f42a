"""Compressors and the channels that use them; useful on its own: ``from psrv import codec``."""

from __future__ import annotations

import hashlib

import numpy as np

from psrv.codec import rng
from psrv.codec.base import Blocks, Compressor, aligned
from psrv.codec.registry import COMPRESSORS, parse
from psrv.codec.warm import warmup

__all__ = ["COMPRESSORS", "Blocks", "Compressor", "aligned", "digest", "parse", "rng", "warmup"]


def digest() -> bytes:
    """32 bytes that two processes share if they produce and read the same payloads.

    sha256 over the generator's first words and every compressor's payload of a fixed
    vector. Exchanged when a worker connects, so that a change of format, of generator or
    of summation order is refused instead of training on nonsense.
    """
    hasher = hashlib.sha256()
    key = rng.key(1, rng.Purpose.TIE, 2, 3, 4)
    for i in range(4):
        hasher.update(rng.word(key, i).to_bytes(8, "little"))
    blocks = Blocks.of([4100, 77])
    ramp = np.arange(blocks.dimension, dtype=np.float32)
    for name in sorted(COMPRESSORS):
        compressor = parse(name)
        vector = aligned(blocks.dimension)
        vector[:] = (ramp % 11 - 5) / (ramp + 1)
        payload = np.empty(compressor.payload_bytes(blocks), np.uint8)
        compressor.encode(vector, blocks, key, payload)
        hasher.update(name.encode())
        hasher.update(payload)
        hasher.update(vector)
    return hasher.digest()
