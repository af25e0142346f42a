"""Temporary vectors that are reused: no call allocates in proportion to its input twice.

One set a thread, since buckets are encoded and reduced on several. A vector grows to the
largest size that was asked for and is never given back while its thread lives.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psrv.codec.blocks import aligned

_local = threading.local()


def array(name: str, size: int, dtype: type[np.generic]) -> NDArray[Any]:
    """This thread's vector of that name, cut to ``size``; its contents are arbitrary.

    A second call with the same name hands out the same memory: one user a name.
    """
    held: dict[str, NDArray[np.uint8]] = _local.__dict__.setdefault("held", {})
    needed = size * np.dtype(dtype).itemsize
    room = held.get(name)
    if room is None or room.size < needed:
        # Half as much again, so that sizes that creep up do not allocate each time.
        room = held[name] = aligned(needed + needed // 2 + 64, np.uint8)
    return room[:needed].view(dtype)
