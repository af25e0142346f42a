"""Held, not held or undecided: how a measured number answers a claim.

One rule for all experiments. A claim needs a number to be at least, or at most, a bound.
Over the values of several seeds, with mean m and standard error s = sd / sqrt(count):

    held         m - 2 s >= bound      (at most: m + 2 s <= bound)
    not held     m + 2 s <  bound      (at most: m - 2 s >  bound)
    undecided    between the two; a value is missing; or one value of something random

Ratios are averaged as logarithms (``ratio=True``): the geometric mean, and the same rule on
log scale, so that a ratio and its reciprocal get the same verdict. A value is missing when it is
None or NaN, as of a run that did not reach its target. Infinite values have no spread: with one
among them the claim is held if every value meets the bound, not held if none does.
``deterministic=True`` is for what no seed changes: one value then decides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

Value = float | None


class Verdict(StrEnum):
    """What became of a claim."""

    HELD = "held"
    NOT_HELD = "not held"
    UNDECIDED = "undecided"


def decide(
    values: Sequence[Value],
    bound: float,
    *,
    least: bool,
    deterministic: bool = False,
    ratio: bool = False,
) -> Verdict:
    """The verdict on values over seeds; the module's text gives the rule.

    Args:
        values: one a seed; None or NaN where there is none.
        bound: what the claim needs; above 0 if ``ratio``.
        least: the claim is "at least ``bound``"; otherwise "at most".
        deterministic: no seed changes the value, so that one is enough.
        ratio: values are ratios (at least 0), averaged as logarithms.
    """
    if ratio and not bound > 0:
        raise ValueError(f"the bound of a ratio is {bound}; expected a number above 0")
    known = present(values)
    if not known or len(known) < len(values) or math.isnan(bound):
        return Verdict.UNDECIDED
    if ratio:
        known, bound = [_log(v) for v in known], math.log(bound)
    if not least:
        known, bound = [-v for v in known], -bound
    if not all(map(math.isfinite, known)):
        met = {v >= bound for v in known}
        if len(met) == 2 or (len(known) == 1 and not deterministic):
            return Verdict.UNDECIDED
        return Verdict.HELD if True in met else Verdict.NOT_HELD
    if len(known) == 1 and not deterministic:
        return Verdict.UNDECIDED
    mean, reach = spread(known)
    if mean - reach >= bound:
        return Verdict.HELD
    return Verdict.NOT_HELD if mean + reach < bound else Verdict.UNDECIDED


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a claim about several cases: not held if one is not, held if all are."""
    found = list(verdicts)
    if Verdict.NOT_HELD in found:
        return Verdict.NOT_HELD
    return Verdict.UNDECIDED if Verdict.UNDECIDED in found or not found else Verdict.HELD


def present(values: Iterable[Value]) -> list[float]:
    """The values that are there: neither None nor NaN."""
    return [float(v) for v in values if v is not None and not math.isnan(v)]


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and two standard errors of finite values; equal values have no spread at all."""
    if len(values) == 1 or min(values) == max(values):
        return float(values[0]), 0.0
    return statistics.fmean(values), 2 * statistics.stdev(values) / math.sqrt(len(values))


def center(values: Iterable[Value], *, ratio: bool = False) -> Value:
    """The mean that ``decide`` looks at: geometric for ratios; None without a value."""
    known = present(values)
    if not known:
        return None
    if not ratio:
        return statistics.fmean(known)
    return math.exp(mean) if (mean := statistics.fmean(map(_log, known))) < 709 else math.inf


def ratios(above: Sequence[Value], below: Sequence[Value]) -> list[Value]:
    """above / below, seed by seed; None where either is missing or both are 0."""
    found: list[Value] = []
    for a, b in zip(above, below, strict=True):
        if not present([a]) or not present([b]) or (a == 0 and b == 0):
            found.append(None)
        else:
            assert a is not None
            assert b is not None
            found.append(a / b if b else math.inf)
    return found


def of_means(above: Sequence[Value], below: Sequence[Value]) -> list[Value]:
    """mean(above) / mean(below) for ``decide`` and ``plus_minus``, as jackknife pseudo-values.

    For costs, whose mean over seeds is what one pays. Their mean is the quotient with its
    bias taken off, and their standard error the quotient's, whatever the values of one seed
    have in common. One of a side stands for all seeds (a run without draws); a missing value
    leaves one missing value.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.
    """
    count = max(len(above), len(below))
    rows = [list(v) * count if len(v) == 1 else list(v) for v in (above, below)]
    if not count or any(len(present(row)) < count for row in rows):
        return [None]
    a, b = ([float(v) for v in row if v is not None] for row in rows)
    whole, total = sum(a) / sum(b), float(count)
    if count == 1:
        return [whole]
    without = ((sum(a) - x) / (sum(b) - y) for x, y in zip(a, b, strict=True))
    return [total * whole - (total - 1) * left for left in without]


def plus_minus(values: Sequence[Value]) -> str:
    """Mean and two standard errors in words: ``4.41 ± 0.89 (32 seeds)``."""
    known = present(values)
    if not known or len(known) < len(values):
        return "no value"
    mean, reach = spread(known)
    seeds = f" ({len(known)} seeds)" if len(known) > 1 else ""
    return number(mean) + (f" ± {number(reach)}" if reach else "") + seeds


def measured(
    values: Sequence[Value],
    shown: Callable[[float], str] | None = None,
    *,
    ratio: bool = False,
) -> str:
    """Values over seeds in words: ``4.31 (3.9 to 4.8, 8 seeds)``; mean, least and largest.

    Args:
        values: as for ``decide``.
        shown: how to write a number; by default three significant digits.
        ratio: the geometric mean.
    """
    write = shown or number
    known = present(values)
    missing = len(values) - len(known)
    if not known:
        return "no value" + (f" ({missing} missing)" if missing > 1 else "")
    mean = center(known, ratio=ratio)
    assert mean is not None
    about = []
    if len(known) > 1:
        low, high = write(min(known)), write(max(known))
        about.append(f"{low} to {high}" if low != high else f"all {low}")
        about.append(f"{len(known)} seeds")
    if missing:
        about.append(f"{missing} missing")
    return write(mean) + (f" ({', '.join(about)})" if about else "")


def number(value: Value) -> str:
    """A number of any size with three significant digits: 0.0123, 45.6, 12,300, 1.2e-09."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if size >= 999.5:
        return f"{float(f'{value:.2e}'):,.0f}"
    return f"{value:.3g}"


def _log(value: float) -> float:
    if value < 0:
        raise ValueError(f"a ratio is {value}; expected a number of at least 0")
    return math.log(value) if value else -math.inf
