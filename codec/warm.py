"""Compile every kernel ahead of the first round.

Numba keeps the machine code in a cache on disk, by processor type, so that this takes
seconds once and milliseconds afterwards.
"""

from __future__ import annotations

import numpy as np

from psrv.codec.base import Blocks, aligned
from psrv.codec.registry import COMPRESSORS, parse


def warmup() -> int:
    """Run every operation of every compressor on a small vector.

    Returns:
        How many compressors were run.
    """
    blocks = Blocks.of([300, 20])
    for name in COMPRESSORS:
        compressor = parse(name)
        buffer, out = aligned(blocks.dimension), aligned(blocks.dimension)
        payload = np.empty(compressor.payload_bytes(blocks), np.uint8)
        compressor.encode(buffer, blocks, 0, payload)
        compressor.decode(payload, blocks, out)
        compressor.decode_onto(payload, blocks, buffer, out)
        compressor.reduce([payload, payload], blocks, out, buffer, 1.0)
    return len(COMPRESSORS)
