"""Compile every kernel ahead of the first round.

Numba keeps the machine code in a cache on disk, by processor type, so that this takes
seconds once and milliseconds afterwards.
"""

from __future__ import annotations

import numpy as np

from psrv.codec.base import Blocks, Draw, aligned
from psrv.codec.registry import EXAMPLES, parse


def warmup() -> int:
    """Run every operation of every compressor on a small vector.

    Returns:
        How many compressors were run.
    """
    blocks, draw = Blocks.of([300, 20]), Draw()
    for spec in EXAMPLES:
        compressor = parse(spec)
        for made in {compressor, compressor.contracted()}:
            buffer, out = aligned(blocks.dimension), aligned(blocks.dimension)
            room = np.empty(made.payload_bound(blocks, 1), np.uint8)
            payload = room[: made.encode(buffer, blocks, draw, room, out)]
            made.decode(payload, blocks, draw, out)
            made.decode_onto(payload, blocks, draw, buffer, out)
            made.reduce([payload, payload], blocks, [draw, draw], out, buffer, 1.0)
            copy = payload.copy()
            made.relay([copy, copy], blocks, [draw, draw], out, buffer, 1.0, made, draw, room)
    return len(EXAMPLES)
