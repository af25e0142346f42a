from __future__ import annotations

import pytest

from psrv.errors import ConfigError
from psrv.theory import AB, ab_groups, ab_of_variance, ab_perm_k, ab_quantised, ab_rand_k


def test_lemma_1():
    assert ab_of_variance(3.0, 6) == AB(0.5, 0)
    assert ab_of_variance(3.0, 6, independent=False) == AB(3.0, 0)


def test_rand_k_by_hand():
    assert ab_rand_k(100, 10, 3) == AB(3.0, 0)
    assert ab_rand_k(7, 7, 5) == AB(0, 0)


@pytest.mark.parametrize(
    ("units", "workers", "expected"),
    [
        (12, 4, 1.0),  # Theorem 1
        (13, 4, 1.0),  # Theorem 8: a remainder changes nothing
        (4, 4, 1.0),
        (4, 7, 1.0),  # q = 1 with idle workers
        (2, 4, 1 / 3),  # Theorem 2: (d - 1) / (n - 1)
        (3, 12, 2 / 11),
        (3, 14, 1 - 14 * 3 / (13 * 4)),  # Theorem 9: q = 4, two idle
        (1, 5, 0.0),  # everybody sends everything
        (1, 1, 1.0),
    ],
)
def test_perm_k_by_hand(units, workers, expected):
    found = ab_perm_k(units, workers)
    assert found.A == found.B == pytest.approx(expected)


def test_quantised_agrees_with_lemma_9_where_b_is_one():
    assert ab_quantised(AB(1, 1), 0.125, 8) == AB(1.125, 1)


def test_a_quantiser_alone_is_not_free():
    assert ab_quantised(AB(0, 0), 0.5, 4) == ab_of_variance(0.5, 4)
    assert ab_quantised(AB(0, 0), 0.5, 4, independent=False) == ab_of_variance(0.5, 4, False)


def test_quantised_rand_k_has_the_variance_of_the_composition():
    both = (1 + (100 / 10 - 1)) * (1 + 0.125) - 1
    assert pytest.approx(both / 3) == ab_quantised(ab_rand_k(100, 10, 3), 0.125, 3).A


def test_quantised_perm_k_of_many_workers_adds_the_mean_of_q_quantisers():
    base = ab_perm_k(2, 8)
    assert pytest.approx(base.A + 0.125 / 4) == ab_quantised(base, 0.125, 8).A


def test_equal_groups_divide_both_by_their_number():
    found = ab_groups([4, 4, 4], [AB(1, 1)] * 3)
    assert found == pytest.approx((1 / 3, 1 / 3))
    assert ab_groups([2, 6], [AB(1, 0), AB(0.5, 0.5)]) == AB(3 / 8, 0)
    assert ab_groups([5], [AB(0.4, 0.3)]) == pytest.approx((0.4, 0.3))


def test_refused():
    with pytest.raises(ConfigError, match="dimension is 4; expected a number of 5 or more"):
        ab_rand_k(4, 5, 2)
    with pytest.raises(ConfigError, match="omega"):
        ab_of_variance(-1, 2)
    with pytest.raises(ConfigError, match="units"):
        ab_perm_k(0, 2)
    with pytest.raises(ConfigError, match="2 group sizes"):
        ab_groups([1, 2], [AB(1, 1)])
