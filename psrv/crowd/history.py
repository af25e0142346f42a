"""What is recorded of a simulation, and when it has seen enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NAMES = ("loss", "grad_norm", "payload_up", "payload_down")


class Record(NamedTuple):
    """One line of a history, at the point where a round begins.

    Attributes:
        round: rounds done. loss, grad_norm: at x_round.
        payload_up, payload_down: bytes per worker in all the rounds before.
    """

    round: int
    loss: float
    grad_norm: float
    payload_up: float
    payload_down: float


Stop = Callable[[Record], bool]


class Target:
    """Stop at a relative squared gradient norm; or where the run has diverged.

    Args:
        relative: of ||grad f(x)||^2 to that of the first record.
        diverged: the same ratio from which a run is given up.

    Attributes:
        reached: the record at which the target was met, or None.
        lost: whether the run was given up.
    """

    def __init__(self, relative: float, diverged: float = 1e8) -> None:
        self.relative, self.diverged = relative, diverged
        self.reached: Record | None = None
        self.lost = False
        self._first: float | None = None

    def __call__(self, record: Record) -> bool:
        """Whether to stop at this record."""
        square = record.grad_norm**2
        if self._first is None:
            self._first = square
        if square <= self.relative * self._first:
            self.reached = record
        self.lost = not square <= self.diverged * self._first
        return self.lost or self.reached is not None


class History:
    """The arrays that ``Simulation.history`` is made of, one value a round.

    Args:
        rounds: the most there will be.
        every: rounds between two records of loss and gradient norm; NaN in those between.
    """

    def __init__(self, rounds: int, every: int) -> None:
        self.every = every
        # One value more: a run that stops early ends with a record and no round.
        self._values = {name: np.zeros(rounds + 1) for name in NAMES}
        for name in ("loss", "grad_norm"):
            self._values[name][:] = np.nan
        self.up = self.down = 0.0

    def record(self, round: int, loss: float, norm: float) -> Record:
        """Note what is measured before a round."""
        self._values["loss"][round], self._values["grad_norm"][round] = loss, norm
        return Record(round, loss, norm, self.up, self.down)

    def sent(self, round: int, up: float, down: float) -> None:
        """Note a round's payload bytes per worker."""
        self._values["payload_up"][round], self._values["payload_down"][round] = up, down
        self.up += up
        self.down += down

    def ended(self, count: int) -> dict[str, NDArray[np.float64]]:
        """The arrays, cut to ``count`` values."""
        return {name: values[:count].copy() for name, values in self._values.items()}

    def state(self, round: int) -> dict[str, NDArray[Any]]:
        """For a checkpoint: what is before a round."""
        return {f"history.{name}": values[:round] for name, values in self._values.items()}

    def restore(self, held: Mapping[str, NDArray[Any]], round: int) -> None:
        """Take over a ``state``."""
        for name, values in self._values.items():
            values[:round] = held[f"history.{name}"][:round]
        self.up, self.down = 0.0, 0.0
        for up, down in zip(
            *(self._values[f"payload_{w}"][:round] for w in ("up", "down")), strict=True
        ):
            self.up += float(up)
            self.down += float(down)

    def records(self, round: int) -> list[Record]:
        """Those before a round, for a ``Stop`` that has to see them again."""
        found, up, down = [], 0.0, 0.0
        for t in range(round):
            if t % self.every == 0:
                loss, norm = (float(self._values[n][t]) for n in ("loss", "grad_norm"))
                found.append(Record(t, loss, norm, up, down))
            up += float(self._values["payload_up"][t])
            down += float(self._values["payload_down"][t])
        return found
