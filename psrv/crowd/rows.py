"""The vectors of all ranks: what goes out this round, and what the uplink remembers.

Two matrices float32[n, d], or fewer rows, in place of n senders with two vectors each. As
there, they change places when a round commits whose leftover (ef) or whose vector (marina) is
remembered; and neither is made before something needs it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Bucket, address
from psrv.crowd.team import Team

Matrix = NDArray[np.float32]
NONE: Matrix = np.empty((0, 0), np.float32)


class Rows:
    """n vectors of d coordinates, and as many remembered ones.

    Where some workers have the same function and nothing is drawn, what they send and remember
    is the same too: they share a row.

    Args:
        members: int64[n], the row of each rank; None where each has its own.

    Attributes:
        workers: n. count: m, the number of rows.
        members: int64[n]. weights: int64[m], how many ranks share a row.
        team: threads for the rows.
    """

    def __init__(
        self,
        workers: int,
        dimension: int,
        threads: int | None = None,
        members: NDArray[np.int64] | None = None,
    ) -> None:
        self.workers, self.dimension = workers, dimension
        self.members = np.arange(workers) if members is None else np.asarray(members, np.int64)
        self.weights = np.bincount(self.members)
        self.count = self.weights.size
        self.team = Team(self.count, dimension, threads)
        self._values: Matrix | None = None
        self._memory: Matrix | None = None

    @property
    def values(self) -> Matrix:
        """float32[m, d]: the vectors to send; used up by a round. Another array after a swap."""
        if self._values is None:
            self._values = self._new()
        return self._values

    @property
    def memory(self) -> Matrix:
        """float32[m, d]: errors (ef), h (markov) or the last vectors (marina); zero at first."""
        if self._memory is None:
            self._memory = self._new()
        return self._memory

    @property
    def remembered(self) -> Matrix | None:
        """``memory`` if it has been made: what a checkpoint needs."""
        return self._memory

    @property
    def stride(self) -> int:
        """Bytes from a row to the next."""
        return 4 * self.dimension

    def rank(self, row: int) -> int:
        """The first rank that has a row."""
        return int(np.flatnonzero(self.members == row)[0])

    def swap(self) -> None:
        """What is left of the values becomes the memory."""
        self._values, self._memory = self.memory, self.values

    def at(self, bucket: Bucket) -> int:
        """The address of the bucket in the first row of ``values``."""
        return address(self.values) + 4 * bucket.start

    def memory_at(self, bucket: Bucket) -> int:
        """The same in ``memory``."""
        return address(self.memory) + 4 * bucket.start

    def _new(self) -> Matrix:
        return np.zeros((self.count, self.dimension), np.float32)
