"""The largest step sizes that the theorems allow, and the default probability of MARINA.

A step size that is computed from upper bounds of the constants is allowed as well. Where
the theorems give a pair, one for smooth nonconvex f and one under the Polyak-Lojasiewicz
condition ||grad f(x)||^2 >= 2 mu (f(x) - f*), the latter is taken where ``mu`` is given.

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), Theorems 4 and 5
(MARINA), 6 and 7 (EF21), 10 and 11 (MARINA with groups). Theorem 4 and Table 3 print the
root over (1 - p)/p alone; their proof, Theorem 5 and Theorem 10 have it over the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import NamedTuple

from psrv.errors import ConfigError


class Group(NamedTuple):
    """One group of workers, independent of the others (Assumption 6).

    Attributes:
        size: |G_k|.
        A, B: of the AB inequality inside the group.
        L_plus, L_plus_minus: of the group's functions alone.
    """

    size: int
    A: float
    B: float
    L_plus: float
    L_plus_minus: float


def L_hat(L_plus: float, L_plus_minus: float, A: float, B: float) -> float:
    """sqrt((A - B) L+^2 + B L+-^2), the constant in Lemma 5."""
    _numbers(L_plus=L_plus, L_plus_minus=L_plus_minus, A=A, B=B)
    if A < B * (1 - 1e-12):
        raise ConfigError(f"A is {A} and B is {B}; the AB inequality needs A >= B")
    return sqrt(max(0.0, A - B) * L_plus**2 + B * L_plus_minus**2)


def group_L_hat(groups: Sequence[Group]) -> float:
    """The same over groups: root of the sum of (|G_k| / n)^2 L_hat_k^2 (Lemmas 17 and 18)."""
    workers = sum(group.size for group in groups)
    if not groups or min(group.size for group in groups) < 1:
        raise ConfigError("groups need at least one worker each, and there must be one")
    parts = [g.size / workers * L_hat(g.L_plus, g.L_plus_minus, g.A, g.B) for g in groups]
    return sqrt(sum(part * part for part in parts))


def marina_step(
    L_minus: float,
    L_plus: float,
    L_plus_minus: float,
    A: float,
    B: float,
    p: float,
    *,
    mu: float | None = None,
) -> float:
    """1 / (L- + sqrt((1-p)/p ((A-B) L+^2 + B L+-^2))) (Theorem 4).

    With ``mu`` (Theorem 5): twice that under the root, and at most p / (2 mu).

    Args:
        p: probability of a dense round, in (0, 1].
    """
    return marina_step_of(L_minus, L_hat(L_plus, L_plus_minus, A, B), p, mu=mu)


def marina_step_of(L_minus: float, L_hat: float, p: float, *, mu: float | None = None) -> float:
    """``marina_step`` from L_hat; with ``group_L_hat`` Theorem 10, or 11 where ``mu`` is given."""
    _numbers(L_minus=L_minus, L_hat=L_hat)
    if not 0 < p <= 1:
        raise ConfigError(f"p is {p}; a probability of dense rounds is above 0 and at most 1")
    root = sqrt((1 if mu is None else 2) * (1 - p) / p) * L_hat
    return _limited(L_minus + root, p, mu)


def ef21_step(L_minus: float, L_plus: float, alpha: float, *, mu: float | None = None) -> float:
    """1 / (L- + L+ sqrt(beta / theta)) (Theorem 6), for an alpha-contractive compressor.

    With ``mu`` (Theorem 7): twice that under the root, and at most theta / (2 mu).
    sqrt(beta / theta) is sqrt(1 - alpha) / (1 - sqrt(1 - alpha)); equation (19) also calls it
    1 / sqrt(1 - alpha) - 1, which is the inverse.

    Args:
        alpha: E ||C(x) - x||^2 <= (1 - alpha) ||x||^2, in (0, 1]; K / d of top-k.
    """
    _numbers(L_minus=L_minus, L_plus=L_plus)
    theta, beta = ef21_theta_beta(alpha)
    root = L_plus * sqrt((1 if mu is None else 2) * beta / theta)
    return _limited(L_minus + root, theta, mu)


def ef21_theta_beta(alpha: float) -> tuple[float, float]:
    """theta = 1 - sqrt(1 - alpha) and beta = (1 - alpha) / theta (Lemma 8)."""
    if not 0 < alpha <= 1:
        raise ConfigError(f"alpha is {alpha}; a contraction is above 0 and at most 1")
    theta = alpha / (1 + sqrt(1 - alpha))  # the same, without cancellation for a small alpha
    return theta, (1 - alpha) / theta


def default_probability(
    compressor: str,
    dimension: int,
    workers: int,
    *,
    k: int | None = None,
    group: int | None = None,
    units: int | None = None,
) -> float:
    """How often MARINA sends dense gradients: the share of the vector that a message holds.

    So dense and compressed rounds cost the same in expectation, which minimises the
    communication complexity up to a constant (Lemmas 13 and 14; (51) for groups).

    Args:
        compressor: ``perm-k``: 1/n, or 1/d where n >= d. ``rand-k``: K / d.
        k: K, for rand-k.
        group: workers in a group that permutes by itself; it takes the place of n.
        units: what perm-k permutes, if not single coordinates: takes the place of d.
    """
    if dimension < 1 or workers < 1:
        raise ConfigError(f"{dimension} coordinates and {workers} workers: both need 1 or more")
    if compressor == "rand-k":
        if k is None or not 1 <= k <= dimension:
            raise ConfigError(f"rand-k sends k = {k} of {dimension} coordinates")
        return k / dimension
    if compressor != "perm-k":
        raise ConfigError(f"no default probability for '{compressor}', only perm-k and rand-k")
    members = workers if group is None else group
    pieces = dimension if units is None else units
    if not (1 <= members <= workers and 1 <= pieces <= dimension):
        raise ConfigError(f"group is {group} of {workers} workers, units {units} of {dimension}")
    return 1 / min(members, pieces)


def _limited(inverse: float, rate: float, mu: float | None) -> float:
    """1 / inverse, and with ``mu`` at most rate / (2 mu)."""
    if mu is not None:
        _numbers(mu=mu)
        if mu == 0:
            raise ConfigError("mu is 0; the Polyak-Lojasiewicz condition needs more than 0")
    if inverse == 0:
        raise ConfigError("all smoothness constants are 0; there is no largest step size")
    return 1 / inverse if mu is None else min(1 / inverse, rate / (2 * mu))


def _numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (value >= 0 and isfinite(value)):
            raise ConfigError(f"{name} is {value}; expected a finite number of 0 or more")
