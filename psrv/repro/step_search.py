"""The permutation paper's grid search: the theorem's step size times a power of two, best shown.

A *race* is one simulated run to a target: relative squared gradient norm. Its score is the bits
that one worker has sent until then. ``search`` finds the multiplier with the fewest: from a
first guess it doubles while that helps, and where the guess itself is no success it halves.

The rule. A multiplier's score is the mean of its races' bits over the search's seeds, and no
number where one of them diverges or needs more than ``most_bits``. One with a score is better than
one without; of those without, the one is better whose races ended with the smaller relative
squared norm; one that diverged is never the best. Doubling goes on until a multiplier is not
better than the best so far; halving likewise, and only where doubling found nothing beyond the
first guess. So the best has a worse neighbour on both sides, or is an end of the range.

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), sections 5.1 and A.1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from psrv.crowd.history import Record, Target
from psrv.errors import NonFiniteError
from psrv.repro.cell_process import progress
from psrv.simulation import simulate

POINTS = 160
"""Points of a curve that are kept."""

Race = Callable[[float, int, float], dict[str, Any]]
"""(multiplier, seed, most_bits) -> what ``race`` returns."""


class BitsTarget(Target):
    """``Target``, or a number of bits that a worker has sent."""

    def __init__(self, relative: float, most_bits: float) -> None:
        super().__init__(relative)
        self.most_bits = most_bits

    def __call__(self, record: Record) -> bool:
        return super().__call__(record) or 8 * record.payload_up > self.most_bits


def race(
    objective: Any,
    method: dict[str, Any],
    lr: float | str,
    *,
    workers: int,
    seed: int,
    rounds: int,
    every: int,
    target: float,
    most_bits: float = float("inf"),
) -> dict[str, Any]:
    """One run to a target, as JSON can hold it.

    Args:
        method: arguments of ``simulate`` that name it. lr: see there.
        every: rounds between records. target: of ||grad f||^2 to its value at the start.

    Returns:
        ``bits`` to the target, or None; ``rounds``; ``lost``, whether it diverged; ``floor``,
        the least relative squared norm that was seen; ``curve``, bits and relative squared
        norms, some of them.
    """
    goal = BitsTarget(target, most_bits)
    records: list[Record] = []

    def stop(record: Record) -> bool:
        records.append(record)
        progress(max(record.round / rounds, 8 * record.payload_up / most_bits))
        return goal(record)

    try:
        # Steps that are too large are part of a search; NumPy's words about them are not news.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(overflow|invalid value)", RuntimeWarning)
            simulate(
                objective, workers=workers, rounds=rounds, lr=lr, seed=seed, every=every,
                blocks="global", stop=stop, **method,
            )  # fmt: skip
    except NonFiniteError:  # in a gradient, or in the sum over workers
        goal.lost = True
    first = records[0].grad_norm ** 2
    values = [record.grad_norm**2 / first for record in records]
    bits = [8 * record.payload_up for record in records]
    finite = [v for v in values if np.isfinite(v)]
    kept = np.unique(np.linspace(0, len(records) - 1, POINTS).round().astype(int)).tolist()
    reached = goal.reached
    return {
        "bits": None if reached is None else 8 * reached.payload_up,
        "rounds": records[-1].round,
        "lost": goal.lost,
        "floor": min(finite),
        "curve": [[bits[i] for i in kept], [values[i] for i in kept]],
    }


def search(
    run: Race,
    start: float,
    seeds: int,
    most_bits: float,
    *,
    low: float = 2.0**-6,
    high: float = 2.0**30,
) -> dict[str, Any]:
    """The multiplier of fewest bits; the module's text gives the rule.

    Args:
        start: the first guess. seeds: 0 to seeds - 1 are run with each multiplier.
        low, high: halving and doubling go no further.

    Returns:
        ``best``, a multiplier, or None where every one diverged; ``score``, its mean bits, or
        None where it did not arrive with each seed; ``races``, those of the best, by seed up to
        the first that did not arrive; ``tried``, by multiplier: ``score``, whether one race was
        ``lost``, ``final``, the largest relative squared norm at the end of a race, and the
        ``curve`` of seed 0.
    """
    tried: dict[float, dict[str, Any]] = {}
    races: dict[float, list[dict[str, Any]]] = {}
    best: float | None = None

    def attempt(multiplier: float) -> dict[str, Any]:
        # One that is already twice as bad as the best needs not arrive.
        most = most_bits
        if best is not None and tried[best]["score"] is not None:
            most = min(most_bits, 2.5 * tried[best]["score"])
        runs = races[multiplier] = []
        for seed in range(seeds):
            runs.append(run(multiplier, seed, most))
            if runs[-1]["bits"] is None:
                break
        found = [r["bits"] for r in runs]
        return {
            "score": None if None in found else float(np.mean(found)),
            "lost": any(r["lost"] for r in runs),
            "final": max(r["curve"][1][-1] for r in runs),
            "curve": runs[0]["curve"],
        }

    def climb(multiplier: float, factor: float) -> None:
        nonlocal best
        while low <= multiplier <= high:
            tried[multiplier] = attempt(multiplier)
            if tried[multiplier]["lost"]:
                if best is not None or factor > 1:
                    return
            elif best is None or _rank(tried[multiplier]) < _rank(tried[best]):
                best = multiplier
            else:
                return
            multiplier *= factor

    climb(start, 2.0)
    if best in (None, start):
        climb(start / 2, 0.5)
    named = {f"{m:g}": tried[m] for m in sorted(tried)}
    if best is None:
        return {"best": None, "score": None, "races": [], "tried": named}
    return {"best": best, "score": tried[best]["score"], "races": races[best], "tried": named}


def _rank(one: dict[str, Any]) -> tuple[bool, float]:
    """Smaller is better: those that arrived by their bits, then the others by where they ended."""
    arrived = one["score"] is not None
    return (not arrived, one["score"] if arrived else one["final"])
