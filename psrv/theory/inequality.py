"""The constants A and B of the AB inequality, for the compressors of n workers together.

    E ||mean C_i(a_i) - mean a_i||^2 <= A mean ||a_i||^2 - B ||mean a_i||^2

for all a_1 to a_n, with every C_i unbiased; A >= B >= 0. B is what correlation between the
workers gains. ``psrv.theory.measured`` has the same two sides on data.

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), Assumption 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psrv.errors import ConfigError


class AB(NamedTuple):
    """A and B."""

    A: float
    B: float


def ab_of_variance(omega: float, workers: int, independent: bool = True) -> AB:
    """Any unbiased C_i with E ||C_i(x) - x||^2 <= omega ||x||^2 (Lemma 1).

    Args:
        independent: the C_i are drawn independently of each other.
    """
    _at_least(0, omega=omega)
    _at_least(1, workers=workers)
    return AB(omega / workers if independent else omega, 0.0)


def ab_rand_k(dimension: int, k: int, workers: int) -> AB:
    """K of d coordinates, multiplied by d / K, each worker on its own: ((d/K - 1)/n, 0)."""
    _at_least(1, dimension=dimension, k=k)
    _at_least(k, dimension=dimension)
    return ab_of_variance(dimension / k - 1, workers)


def ab_perm_k(units: int, workers: int) -> AB:
    """perm-k in both regimes, whatever the remainders; an equality for these compressors.

    With at least as many units as workers every unit has one owner: A = B = 1 (Theorems 1
    and 8). Else n = q units + r, each unit has q owners and r workers are idle:
    A = B = 1 - n (q - 1) / ((n - 1) q) (Theorems 2 and 9, Lemma 10).

    Args:
        units: what is permuted: d coordinates, or runs of coordinates, or the blocks of K.1.
    """
    _at_least(1, units=units, workers=workers)
    q = workers // units
    if q <= 1:  # also n = 1, where both sides of the inequality are 0
        return AB(1.0, 1.0)
    constant = (workers - q) / ((workers - 1) * q)
    return AB(constant, constant)


def ab_quantised(ab: AB, omega: float, workers: int, independent: bool = True) -> AB:
    """C_i after an unbiased quantiser Q_i of variance omega, drawn apart from the C_i.

    A becomes (1 + omega) A + max(0, 1 - B) v, with v = omega / n for independent Q_i, else
    omega; B stays. Differs from Lemma 9, which lacks the second term: its proof measures
    the distance to mean Q_i(a_i) and not to mean a_i, so what the quantisers themselves add
    is missing. (C_i the identity, A = B = 0, would make quantisation free.) The two agree
    where B = 1: perm-k with n <= d. With rand-k this is ((1 + omega_C)(1 + omega) - 1) / n,
    what Lemma 1 says of the composition.

    For perm-k and rand-k the same constants hold with independent Q_i after C_i, which is how
    payloads are made: E ||Q_i(C_i(a)) - C_i(a)||^2 <= omega (1 + omega_C) ||a||^2, and
    (1 + omega_C) / n is A + (1 - B) / n for both.
    """
    _at_least(0, omega=omega)
    _at_least(1, workers=workers)
    own = omega / workers if independent else omega
    return AB((1 + omega) * ab.A + max(0.0, 1 - ab.B) * own, ab.B)


def ab_groups(sizes: Sequence[int], constants: Sequence[AB]) -> AB:
    """Groups of workers, independent of each other, as one A and one B.

    A = max |G_k| A_k / n. B = 1 / sum 1 / B_k, by Cauchy and Schwarz. Weaker than the terms
    of Lemma 17, which ``group_L_hat`` uses as they are; with g equal groups of perm-k,
    n/g <= d, both are 1/g.
    """
    if not sizes or len(sizes) != len(constants):
        raise ConfigError(f"{len(sizes)} group sizes for {len(constants)} pairs of constants")
    workers = sum(sizes)
    _at_least(1, size=min(sizes))
    least = min(ab.B for ab in constants)
    return AB(
        max(size * ab.A for size, ab in zip(sizes, constants, strict=True)) / workers,
        1 / sum(1 / ab.B for ab in constants) if least > 0 else 0.0,
    )


def _at_least(least: float, **numbers: float) -> None:
    for name, value in numbers.items():
        if not least <= value < float("inf"):
            raise ConfigError(f"{name} is {value}; expected a number of {least} or more")
