"""Compile the kernels of some compressors ahead of the first round, and check them.

Numba keeps the machine code in a cache on disk, by processor type, so that this takes
seconds once and milliseconds afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from psrv.codec.base import Blocks, Draw, aligned
from psrv.codec.fingerprint import verify
from psrv.codec.registry import COMPRESSORS, parse


def warmup(specs: Iterable[str] = COMPRESSORS) -> int:
    """Run every operation of the compressors that are named; of all by default.

    Their examples are run, on a small vector: kernels do not depend on a spec's numbers.

    Returns:
        How many compressors were run.

    Raises:
        CodecError: the kernels do not compute what the specification says.
    """
    names = {spec.partition("/")[0].partition(":")[0] for spec in specs}
    blocks, draw = Blocks.of([300, 20]), Draw()
    for name in names:
        verify(name)
        for spec in COMPRESSORS[name].examples:
            for made in {parse(spec), parse(spec).contracted()}:
                buffer, out = aligned(blocks.dimension), aligned(blocks.dimension)
                room = np.empty(made.payload_bound(blocks, 1), np.uint8)
                payload = room[: made.encode(buffer, blocks, draw, room, out)].copy()
                made.decode(payload, blocks, draw, out)
                made.decode_onto(payload, blocks, draw, buffer, out)
                made.reduce([payload] * 2, blocks, [draw] * 2, out, buffer, 1.0)
                made.relay([payload] * 2, blocks, [draw] * 2, out, buffer, 1.0, made, draw, room)
    return len(names)
