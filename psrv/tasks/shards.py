"""Which samples each worker trains on, round by round.

The samples are dealt once, in a seeded random order, so that the shards are disjoint
and cover everything; their sizes differ by at most one. Every epoch each worker goes
through its shard in a new order. A batch is always full: what is left of a shard at
the end of an epoch is dropped, and since the order changes, it is others next time.
An epoch has the same number of rounds on every worker.

A batch of another size (MARINA's dense rounds) is drawn from the shard for that round
alone, without repetition, and does not move the epochs' order on.

The orders come from raw Philox output, whose stream NumPy promises not to change, and
not from ``Generator.permutation``, which may: workers with different NumPy versions
must still deal the same disjoint shards.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psrv.errors import ConfigError

_DEAL = 1
_EPOCH = 2
_OTHER = 8


class Shards:
    """The samples 0 to N - 1, dealt over n workers and cut into batches."""

    def __init__(self, samples: int, workers: int, batch: int, seed: int, task: str) -> None:
        """Deal the samples.

        Args:
            samples: N.
            workers: n, at most N.
            batch: samples a worker takes each round, at most floor(N / n).
            seed: at least 0.
            task: for messages.

        Raises:
            ConfigError: more workers than samples, or a batch that no shard can fill.
        """
        if workers > samples:
            raise ConfigError(
                f"task {task} has {samples} training samples for {workers} workers; "
                "each worker needs at least one"
            )
        smallest = samples // workers
        if not 1 <= batch <= smallest:
            raise ConfigError(
                f"task {task}: batch is {batch}; a worker's shard holds {smallest} of the "
                f"{samples} training samples, so batch must be 1 to {smallest}"
            )
        self.workers = workers
        self.task = task
        self.size = batch
        self.smallest = smallest
        self.seed = seed
        self.rounds_per_epoch = smallest // batch
        self._dealt = permutation(samples, _DEAL, seed, 0, 0)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def rows(self, rank: int) -> NDArray[np.int64]:
        """The samples of a worker: int64, shape (N // n or one more,), in no useful order."""
        return self._dealt[rank :: self.workers]

    def batch(self, rank: int, round: int, size: int | None = None) -> NDArray[np.int64]:
        """The samples of a worker in a round: int64, shape (size,), none of them twice.

        Args:
            size: 1 to floor(N / n); None, or the size given at the start, is the round's
                place in the epoch. Any other is a draw of its own from the whole shard, of
                which a smaller size takes the first.

        Raises:
            ConfigError: a size that not every shard can fill.
        """
        if size is not None and size != self.size:
            if not 1 <= size <= self.smallest:
                raise ConfigError(
                    f"task {self.task}: a batch of {size} was asked for; a worker's shard holds "
                    f"{self.smallest} training samples, so it must be 1 to {self.smallest}"
                )
            rows = self.rows(rank)
            return rows[permutation(rows.size, _OTHER, self.seed, round, rank)[:size]]
        epoch, step = divmod(round, self.rounds_per_epoch)
        known, order = self._orders.get(rank, (-1, self._dealt))
        if known != epoch:
            rows = self.rows(rank)
            order = rows[permutation(rows.size, _EPOCH, self.seed, epoch, rank)]
            self._orders[rank] = epoch, order
        return order[step * self.size : (step + 1) * self.size]


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """A random order of 0 to count - 1 that depends on the key alone.

    Keys of one kind must have one length: a seed sequence takes (1,) and (1, 0) for equal.
    """
    raw = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(raw, kind="stable")
