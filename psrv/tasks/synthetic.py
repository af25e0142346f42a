"""A load generator: gradients of any size at almost no cost, after a given compute time.

    f(x) = PULL |x|^2 / 2,    gradient of rank i in round t = PULL x + NOISE u(i, t)

where u(i, t) is read from a table of uniform numbers in [-1, 1), each chunk of
coordinates at an offset that depends on seed, rank, round and chunk. So an update that
is lost, repeated or taken from another round or rank changes every later parameter,
and two passes over memory are all it costs.

The tensors have the sizes of a network's: a few matrices that grow towards the end,
each with a bias, and a last tensor that makes the sum exact.
"""

from __future__ import annotations

import time
from math import isqrt
from typing import ClassVar

import numpy as np

from psrv.codec.base import Floats
from psrv.errors import ConfigError
from psrv.layout import Tensor
from psrv.tasks.base import Option, Setup, Task, share
from psrv.tasks.spec import read_count, read_index, read_seconds

PULL = np.float32(0.125)
NOISE = np.float32(0.25)

_TABLE = 1 << 17
_CHUNK = 1 << 14  # chunk, its result and the table stay in the L2 cache
_DRAW = 4
_OFFSETS = 5

_SHARES = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 1 / 4, 1 / 4)


class Synthetic(Task):
    """Pseudo-gradients of D parameters; the module's text gives the formulas."""

    summary = "D parameters and a given compute time, for load tests"
    argument = "D"
    options: ClassVar = {
        "compute": Option(read_seconds, 0.0, "seconds that one gradient takes, at least"),
        "slow": Option(read_seconds, 0.0, "seconds that rank slow_rank takes longer"),
        "slow_rank": Option(read_index, None, "the rank that is slow"),
    }
    default_rounds = 50
    step_sizes: ClassVar = {"sgd": 0.1, "momentum": 0.05, "sign": 1e-3, "adam": 1e-3}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        try:
            dimension = read_count(setup.argument or "")
        except ValueError as error:
            raise ConfigError(
                f"task '{setup.spec}': D is '{setup.argument}'; expected {error}"
            ) from None
        slow_rank = self.settings["slow_rank"]
        if (slow_rank is None) != (not self.settings["slow"]):
            raise ConfigError(f"task '{setup.spec}': slow and slow_rank go together; give both")
        if slow_rank is not None and slow_rank >= self.workers:
            raise ConfigError(
                f"task '{setup.spec}': slow_rank is {slow_rank}; the ranks are 0 to "
                f"{self.workers - 1}"
            )
        self.tensors = network_of(dimension)
        # The top 24 bits, so that every number is exact in float32.
        raw = np.random.Philox(np.random.SeedSequence((_DRAW, setup.seed))).random_raw(_TABLE)
        unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23)
        self._table: Floats = unit - np.float32(1.0)
        self._noise = self._table * NOISE

    def initial(self) -> Floats:
        return np.resize(self._table, self.dimension)

    def gradient(self, rank: int, x: Floats, round: int, batch: object, out: Floats) -> None:
        start = time.perf_counter()
        chunks = -(-self.dimension // _CHUNK)
        key = np.random.SeedSequence((_OFFSETS, self.seed, rank, round))
        offsets = np.random.Philox(key).random_raw(chunks) % np.uint64(_TABLE - _CHUNK)
        for chunk, offset in enumerate(offsets.tolist()):
            part = out[chunk * _CHUNK : (chunk + 1) * _CHUNK]
            np.multiply(x[chunk * _CHUNK : (chunk + 1) * _CHUNK], PULL, out=part)
            part += self._noise[offset : offset + part.size]
        wanted = self.settings["compute"]
        if rank == self.settings["slow_rank"]:
            wanted += self.settings["slow"]
        remaining = wanted - (time.perf_counter() - start)
        if remaining > 0:
            time.sleep(remaining)

    def evaluate(self, rank: int, x: Floats) -> dict[str, float]:
        part = x[share(self.dimension, self.workers, rank)]
        squares = sum(
            float(np.square(part[i : i + _CHUNK], dtype=np.float64).sum())
            for i in range(0, part.size, _CHUNK)
        )
        # Each rank sums its share of the coordinates; counts add up to n.
        return {"loss_sum": self.workers * float(PULL) / 2 * squares, "count": 1.0}


def network_of(dimension: int) -> tuple[Tensor, ...]:
    """Tensors of a network-like shape with ``dimension`` coordinates in all, at least 1."""
    if dimension < 256:
        return (Tensor("weight", (dimension,)),)
    tensors = []
    for layer, part in enumerate(_SHARES):
        size = int(part * dimension)
        width = 1 << (isqrt(size).bit_length() - 1)
        rows = size // (width + 1)
        tensors.append(Tensor(f"layer{layer}.weight", (rows, width)))
        tensors.append(Tensor(f"layer{layer}.bias", (rows,)))
    rest = dimension - sum(t.size for t in tensors)
    return (*tensors, Tensor("head", (rest,)))
