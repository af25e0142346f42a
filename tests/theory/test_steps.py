from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from psrv.errors import ConfigError
from psrv.theory import (
    Group,
    L_hat,
    default_probability,
    ef21_step,
    ef21_theta_beta,
    group_L_hat,
    marina_step,
    marina_step_of,
)


def test_marina_step_by_hand():
    # (1 - p) / p = 3; (A - B) L+^2 + B L+-^2 = 2 * 4 + 1 * 4 = 12; root 6
    assert marina_step(2, 2, 2, 3, 1, 0.25) == pytest.approx(1 / 8)


def test_the_root_goes_over_the_whole_product():
    p, l_hat_squared = 0.1, 16.0
    printed = 1 / (1 + sqrt((1 - p) / p) * l_hat_squared)
    found = marina_step(1, 4, 4, 1, 0, p)
    assert found == pytest.approx(1 / (1 + 3 * 4))
    assert found > printed


def test_marina_step_with_pl_by_hand():
    assert marina_step(2, 2, 2, 3, 1, 0.25, mu=1e-3) == pytest.approx(1 / (2 + sqrt(72)))
    assert marina_step(2, 2, 2, 3, 1, 0.25, mu=10) == pytest.approx(0.25 / 20)


def test_marina_limits():
    assert marina_step(5, 9, 9, 4, 0, 1.0) == pytest.approx(1 / 5)  # gradient descent
    assert marina_step(5, 9, 0, 1, 1, 0.01) == pytest.approx(1 / 5)  # perm-k, equal Hessians
    assert marina_step(5, 9, 9, 0, 0, 0.01) == pytest.approx(1 / 5)  # no compression
    steps = [marina_step(1, 2, 1, 1, 1, p) for p in (0.01, 0.1, 0.5, 1)]
    assert steps == sorted(steps)


def test_marina_step_is_what_the_proof_needs():
    # The condition at the end of the proof of Theorem 4, with equality for Lemma 4's case b = 0.
    for a, b, p in ((1, 1, 0.1), (2, 0.5, 0.3)):
        step = marina_step(0, 3, 2, a, b, p)
        l_hat_squared = (a - b) * 9 + b * 4
        assert step * (1 - p) / (2 * p) * l_hat_squared - 1 / (2 * step) == pytest.approx(0)


def test_ef21_by_hand():
    assert ef21_theta_beta(0.75) == pytest.approx((0.5, 0.5))
    assert ef21_step(1, 2, 0.75) == pytest.approx(1 / 3)
    assert ef21_step(1, 2, 0.75, mu=1e-3) == pytest.approx(1 / (1 + 2 * sqrt(2)))
    assert ef21_step(1, 2, 0.75, mu=5) == pytest.approx(0.5 / 10)


def test_ef21_without_compression_is_gradient_descent():
    assert ef21_step(4, 7, 1.0) == 0.25


@pytest.mark.parametrize("alpha", [1e-12, 1e-3, 0.3, 0.999])
def test_ef21_theta_and_beta_minimise_their_ratio(alpha):
    theta, beta = ef21_theta_beta(alpha)
    root = sqrt(1 - alpha)
    assert sqrt(beta / theta) == pytest.approx((1 + root) / alpha - 1)  # (19) and Table 3
    if alpha < 1e-9:
        assert theta == pytest.approx(alpha / 2)
        return
    s = np.linspace(0, alpha / (1 - alpha), 2001)[1:-1]
    ratio = (1 - alpha) * (1 + 1 / s) / (1 - (1 - alpha) * (1 + s))
    assert beta / theta <= ratio.min() * (1 + 1e-9)
    assert beta / theta == pytest.approx(ratio.min(), rel=1e-2)


def test_one_group_is_no_group():
    group = Group(8, 1.5, 0.5, 3.0, 2.0)
    assert group_L_hat([group]) == pytest.approx(L_hat(3.0, 2.0, 1.5, 0.5))


def test_groups_by_hand():
    # Appendix M: G = n / 2, equal constants, A = B = 1: L_hat^2 = G / n L+-_G^2
    groups = [Group(5, 1, 1, 7.0, 2.0)] * 2
    assert group_L_hat(groups) == pytest.approx(sqrt(0.5) * 2)
    assert marina_step_of(1, group_L_hat(groups), 0.2) == pytest.approx(1 / (1 + sqrt(8)))
    assert marina_step_of(1, 2, 0.2, mu=1e-9) == pytest.approx(1 / (1 + sqrt(32)))


def test_default_probability():
    assert default_probability("perm-k", 1000, 10) == 1 / 10
    assert default_probability("perm-k", 1000, 10_000) == 1 / 1000
    assert default_probability("perm-k", 1000, 100, group=5) == 1 / 5
    assert default_probability("perm-k", 1600, 1000, units=100) == 1 / 100
    assert default_probability("rand-k", 1000, 10, k=50) == 1 / 20
    for wrong in ({"compressor": "rand-k"}, {"compressor": "top-k"}, {"group": 11}):
        with pytest.raises(ConfigError):
            default_probability(**({"compressor": "perm-k", "dimension": 9, "workers": 10} | wrong))


@pytest.mark.parametrize(
    "arguments",
    [(1, 1, 1, 1, 1, 0), (1, 1, 1, 1, 1, 1.1), (1, 1, 1, 0.5, 1, 0.5), (0, 0, 0, 1, 1, 0.5)],
)
def test_refused(arguments):
    with pytest.raises(ConfigError):
        marina_step(*arguments)


def test_refused_by_ef21():
    with pytest.raises(ConfigError, match="alpha is 0"):
        ef21_step(1, 1, 0)
    with pytest.raises(ConfigError, match="mu is 0"):
        ef21_step(1, 1, 0.5, mu=0)
    with pytest.raises(ConfigError, match="finite"):
        ef21_step(float("inf"), 1, 0.5)
