"""Memory between two forbidden pages: a touch one byte outside ends the process.

Vector operations and raw addresses escape Numba's bounds check, but not the processor's. What
is tested with these runs in a process of its own (``fuzz/driver.py``), which says what it was
about to do.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from psrv.codec import scratch

NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; Python names it from 3.13 on


class Guarded:
    """Readable and writable bytes, in whole pages, with a forbidden page before and behind."""

    def __init__(self, size: int, *, lazy: bool = False) -> None:
        """
        Args:
            size: bytes that are needed at least.
            lazy: promise no memory for them: what is never touched costs nothing, so that a
                vector may be far larger than the machine's memory.
        """
        page = mmap.PAGESIZE
        self.size = max(1, -(-size // page)) * page
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (NORESERVE if lazy else 0)
        self._map = mmap.mmap(-1, self.size + 2 * page, flags=kind)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for at in (start, start + page + self.size):
            if protect(at, page, 0):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._room = np.frombuffer(self._map, np.uint8)[page : page + self.size]

    def place(self, count: int, at_end: bool) -> NDArray[np.uint8]:
        """``count`` bytes of which the last, or else the first, has a forbidden neighbour."""
        assert count <= self.size
        return self._room[self.size - count :] if at_end else self._room[:count]

    def floats(self, count: int, at_end: bool) -> NDArray[np.float32]:
        """``place`` for ``count`` float32."""
        return self.place(4 * count, at_end).view(np.float32)


class GuardedScratch:
    """Stands in for ``codec/scratch.py``: each vector ends at a forbidden page, and is spoilt.

    The real one hands out more than was asked for, zeroed at first: both would hide a kernel
    that goes too far, or that reads what it has not written.
    """

    def __init__(self) -> None:
        self._held: dict[str, Guarded] = {}

    def array(self, name: str, size: int, dtype: type[np.generic]) -> NDArray:
        needed = size * np.dtype(dtype).itemsize
        room = self._held.get(name)
        if room is None or room.size < needed:
            room = self._held[name] = Guarded(needed)
        vector = room.place(needed, True)
        vector[:] = 0xFF  # as float32 a NaN, as int32 -1
        return vector.view(dtype)

    def install(self) -> None:
        """For the rest of this process."""
        scratch.array = self.array
