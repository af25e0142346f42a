"""L+ and L+- along a run: how much workers' gradients disagree between two points.

    (L+^t)^2  = mean ||g_i(x^t) - g_i(x^t+1)||^2                    / ||x^t - x^t+1||^2
    (L+-^t)^2 = that mean - ||g(x^t) - g(x^t+1)||^2                 / ||x^t - x^t+1||^2

Both are lower bounds of the problem's L+ and L+-; their ratio says how much perm-k may gain
over independent compressors at that place. Where the gradients are of minibatches, their
noise counts as disagreement.

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), A.8.2 and Table 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from psrv.codec.base import Floats
from psrv.errors import ConfigError

_CHUNK = 1 << 19  # coordinates taken to float64 at once: 4 MiB


class Local(NamedTuple):
    """The constants between two points, squared."""

    L_minus_squared: float
    L_plus_squared: float
    L_plus_minus_squared: float

    @property
    def ratio(self) -> float:
        """(L+^t)^2 / (L+-^t)^2, as in Table 5; infinite where all workers agree."""
        if self.L_plus_minus_squared == 0:
            return float("inf")
        return self.L_plus_squared / self.L_plus_minus_squared


def local_smoothness(before: Floats, after: Floats, x_before: Floats, x_after: Floats) -> Local:
    """The constants between two points from all workers' gradients there.

    Sums are in float64, and the variance is summed about the mean, in two passes: it may be
    a small part of the whole. What float32 gradients have lost is lost.

    Args:
        before, after: float32[n, d], the gradients at the two points; unchanged.
        x_before, x_after: float32[d].

    Raises:
        ConfigError: arrays of different shapes, or equal points.
    """
    if before.shape != after.shape or before.ndim != 2 or before.shape[1:] != x_before.shape:
        raise ConfigError(
            f"gradients of shapes {before.shape} and {after.shape} at points of shape "
            f"{x_before.shape}; expected (n, d), (n, d) and (d,)"
        )
    step = x_after.astype(np.float64) - x_before
    length = float(step @ step)
    if length == 0:
        raise ConfigError("the two points are equal")
    workers, dimension = before.shape
    rows = max(1, _CHUNK // dimension)
    parts = [slice(start, start + rows) for start in range(0, workers, rows)]
    mean = np.zeros(dimension)
    for part in parts:
        mean += np.subtract(after[part], before[part], dtype=np.float64).sum(0)
    mean /= workers
    spread = 0.0
    for part in parts:
        change = np.subtract(after[part], before[part], dtype=np.float64)
        change -= mean
        spread += float(np.vdot(change, change))
    minus, variance = float(mean @ mean) / length, spread / workers / length
    return Local(minus, minus + variance, variance)


class Watched:
    """An objective that also records the local constants while it is being minimised.

    It has ``gradients`` like the objective inside, which it asks once a round; nothing is
    computed twice. It keeps one round's gradients, so these must not be written to later.

    Attributes:
        local: by round t, the constants between the points of rounds t and t + 1.
    """

    def __init__(self, objective: Any, wanted: Callable[[int], bool] | None = None) -> None:
        """
        Args:
            objective: with ``gradients``; see ``psrv.simulation.Objective``.
            wanted: which rounds t to record; None for all. A recorded round costs three
                passes over the gradients of all workers.
        """
        if not hasattr(objective, "gradients"):
            raise ConfigError(f"{type(objective).__name__} has no gradients(x, round) to watch")
        self.objective = objective
        self.local: dict[int, Local] = {}
        self._wanted = wanted or (lambda round: True)
        self._last: tuple[int, Floats, Floats] | None = None

    def initial(self) -> Floats:
        """x_0."""
        return self.objective.initial()

    def gradient(self, rank: int, x: Floats, round: int) -> Floats:
        """Of one worker; nothing is recorded."""
        return self.objective.gradient(rank, x, round)

    def loss(self, x: Floats) -> float:
        """f(x)."""
        return self.objective.loss(x)

    def gradients(self, x: Floats, round: int) -> Floats:
        """Of all workers, float32[n, d]; the first call of a round is the one that counts."""
        found = self.objective.gradients(x, round)
        if self._last is not None and self._last[0] == round:
            return found
        if self._last is not None and self._last[0] == round - 1:
            _, before, x_before = self._last
            if not np.array_equal(x, x_before):
                self.local[round - 1] = local_smoothness(before, found, x_before, x)
        needed = self._wanted(round)
        self._last = (round, found, x.copy()) if needed else None
        return found
