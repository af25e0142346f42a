"""Seconds of two or more things, measured in turn, so that a slow spell hits all of them.

A ratio of the pairs' times is what ``psrv bench`` compares: on a machine that others use
too it repeats to a few percent where seconds do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

Call = Callable[[], object]
Step = tuple[Call, Call | None]
"""What is timed, and what puts its arguments back before it, untimed."""

LEAST, MOST = 3, 1000
"""Rounds of one measurement."""


def in_turn(steps: Sequence[Step], seconds: float) -> list[list[float]]:
    """Run all steps, round after round.

    The first round is not counted: it compiles, and it touches memory that has no page yet.
    Where it alone took longer than ``seconds``, it counts, since what takes that long does
    not hang on either.

    Args:
        seconds: when no further round is begun, untimed parts included; but there are at
            least ``LEAST`` rounds, and at most ``MOST``.

    Returns:
        The seconds of each step, one for each round.
    """
    start = time.perf_counter()
    rounds = [_round(steps)]
    if time.perf_counter() - start <= seconds:
        rounds.clear()
    limit = time.perf_counter() + seconds
    while len(rounds) < LEAST or (time.perf_counter() < limit and len(rounds) < MOST):
        rounds.append(_round(steps))
    return [list(column) for column in zip(*rounds, strict=True)]


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of what was measured in turn."""
    return median(a / b for a, b in zip(above, below, strict=True))


def _round(steps: Sequence[Step]) -> list[float]:
    taken = []
    for call, prepare in steps:
        if prepare is not None:
            prepare()
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken
