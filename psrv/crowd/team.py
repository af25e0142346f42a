"""Threads that divide the ranks of a crowd among them; the kernels hold no lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from numba import config

LEAST = 1 << 18
"""Coordinates of all ranks together from which a second thread pays."""


class Team:
    """Calls a function of a range of ranks; on several threads where there is enough to do.

    Args:
        workers: n. dimension: d, of each rank.
        threads: at most so many; None for what Numba would use (``NUMBA_NUM_THREADS``).
    """

    def __init__(self, workers: int, dimension: int, threads: int | None = None) -> None:
        most = config.NUMBA_NUM_THREADS if threads is None else threads
        count = max(1, min(most, workers)) if workers * dimension >= LEAST else 1
        edges = [workers * part // count for part in range(count + 1)]
        self._ranges = list(pairwise(edges))
        self._pool = ThreadPoolExecutor(count) if count > 1 else None

    def each(self, function: Callable[[int, int], int]) -> int:
        """``function(lo, hi)`` for all ranks; the first result that is not -1, or -1."""
        if self._pool is None:
            ((lo, hi),) = self._ranges
            return int(function(lo, hi))
        found = list(self._pool.map(lambda part: int(function(*part)), self._ranges))
        return next((bad for bad in found if bad >= 0), -1)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranks of each thread."""
        return self._ranges
