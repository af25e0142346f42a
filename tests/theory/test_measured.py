from __future__ import annotations

import numpy as np
import pytest

from psrv.codec import Blocks, alpha, parse
from psrv.errors import ConfigError
from psrv.theory import (
    AB,
    Sides,
    ab_of_variance,
    ab_perm_k,
    ab_quantised,
    ab_rand_k,
    ab_sides,
    fitted_ab,
    measured_alpha,
    measured_omega,
    measured_pi,
)


def vectors(rng, n, d, kind):
    if kind == "equal":
        return np.tile(rng.standard_normal(d, np.float32), (n, 1))
    found = rng.standard_normal((n, d), np.float32)
    if kind == "centred":
        found -= found.mean(0)
    return found


def test_alpha_of_scaled_sign_is_the_ratio_of_norms(rng):
    x = rng.standard_normal((3, 50), np.float32)
    found = measured_alpha("sign", x)
    wide = x.astype(np.float64)
    expected = np.abs(wide).sum(1) ** 2 / (50 * np.square(wide).sum(1))
    np.testing.assert_allclose(found.value, expected, rtol=1e-6)
    assert (found.error == 0).all()
    np.testing.assert_allclose(measured_pi("sign", x).value, 1 - found.value, rtol=1e-12)


def test_alpha_is_the_codec_s_own_for_one_draw(rng):
    x = rng.standard_normal(60, np.float32)
    blocks = Blocks.of([40, 20])
    found = measured_alpha("sign", x, blocks=blocks)
    assert found.value[0] == alpha(parse("sign"), x, blocks)


def test_the_zero_vector_has_no_error():
    assert measured_alpha("sign", np.zeros((1, 8), np.float32)).value[0] == 1


def test_pi_is_of_squared_norms(rng):
    x = np.array([[4, 3, 0, 0]], np.float32)
    assert measured_pi("top-k:1", x).value[0] == pytest.approx(9 / 25)
    # so top-k obeys pi = 1 - K / d, which the unsquared norm would not: 3/5 is above 1/4 too
    many = rng.standard_normal((50, 40), np.float32)
    assert (measured_pi("top-k:10", many).value <= 1 - 10 / 40).all()


@pytest.mark.parametrize(
    ("spec", "expected"), [("rand-k:5", 20 / 5 - 1), ("rand-k:20", 0.0), ("dense", 0.0)]
)
def test_omega_is_the_stated_one(rng, spec, expected):
    x = rng.standard_normal((3, 20), np.float32)
    found = measured_omega(spec, x, rounds=800)
    assert parse(spec).omega(Blocks.of([20]), 1) == pytest.approx(expected)
    assert (np.abs(found.value - expected) <= 5 * found.error + 1e-6).all()


@pytest.mark.parametrize("spec", ["natural", "qsgd:4", "rand-k:5/natural"])
def test_omega_is_at_most_the_stated_one(rng, spec):
    x = rng.standard_normal((3, 20), np.float32)
    stated = parse(spec).omega(Blocks.of([20]), 1)
    found = measured_omega(spec, x, rounds=800)
    assert (found.value <= stated + 5 * found.error).all()
    assert (found.value > 0).all()


def test_contracted_rand_k_has_alpha_k_over_d(rng):
    x = rng.standard_normal((3, 20), np.float32)
    found = measured_alpha(parse("rand-k:5").contracted(), x, rounds=800)
    assert (np.abs(found.value - 5 / 20) <= 5 * found.error).all()


def test_a_biased_compressor_has_no_omega(rng):
    with pytest.raises(ConfigError, match="biased"):
        measured_omega("sign", rng.standard_normal((1, 8), np.float32))


KINDS = ("equal", "independent", "centred")


@pytest.mark.parametrize(
    ("spec", "n", "d"),
    [
        ("perm-k", 4, 12),
        ("perm-k", 4, 14),
        ("perm-k", 12, 4),
        ("perm-k", 14, 4),
        ("perm-k", 5, 5),
        ("perm-k:blocks=3", 7, 11),
        ("rand-k:3", 4, 12),
    ],
)
def test_the_ab_inequality_is_an_equality_with_the_stated_constants(rng, spec, n, d):
    units = 3 if "blocks" in spec else d
    stated = ab_perm_k(units, n) if spec.startswith("perm-k") else ab_rand_k(d, 3, n)
    sides = [ab_sides(spec, vectors(rng, n, d, kind), rounds=250) for kind in KINDS]
    for side in sides:
        allowed = 5 * side.error + 1e-6 * side.mean_square
        assert abs(side.left - side.right(*stated)) <= allowed
        assert side.holds(*stated)
    fitted = fitted_ab(sides)
    assert fitted == pytest.approx(stated, abs=0.2)


def test_perm_k_of_equal_vectors_loses_nothing(rng):
    side = ab_sides("perm-k", vectors(rng, 8, 24, "equal"), rounds=3)
    assert side.left <= 1e-12 * side.mean_square


@pytest.mark.parametrize(
    ("spec", "base", "n", "d"),
    [
        ("natural", AB(0, 0), 4, 6),
        ("rand-k:3/natural", ab_rand_k(12, 3, 4), 4, 12),
        ("perm-k/natural", ab_perm_k(12, 4), 4, 12),
        ("perm-k/natural", ab_perm_k(2, 8), 8, 2),
    ],
)
def test_a_quantiser_obeys_the_corrected_lemma_9(rng, spec, base, n, d):
    stated = ab_quantised(base, 1 / 8, n)
    for kind in KINDS:
        side = ab_sides(spec, vectors(rng, n, d, kind), rounds=150)
        assert side.holds(*stated)
    # 4/3 lies where natural's variance is largest: 1/8 is reached.
    worst = ab_sides(spec, np.full((n, d), 4 / 3, np.float32), rounds=600)
    assert worst.holds(*stated)
    assert abs(worst.left - worst.right(*stated)) <= 5 * worst.error


def test_lemma_9_as_printed_does_not_hold(rng):
    base = ab_perm_k(2, 8)
    side = ab_sides("perm-k/natural", np.full((8, 2), 4 / 3, np.float32), rounds=600)
    assert not side.holds((1 + 1 / 8) * base.A, base.B)


def test_independent_compressors_obey_lemma_1(rng):
    x = rng.standard_normal((6, 10), np.float32)
    omega = parse("qsgd:4").omega(Blocks.of([10]), 6)
    assert ab_sides("qsgd:4", x, rounds=300).holds(*ab_of_variance(omega, 6))


def test_holds_can_fail():
    side = Sides(left=1.0, error=0.01, mean_square=2.0, square_mean=1.0)
    assert side.right(1.0, 1.0) == 1.0
    assert side.holds(1.0, 1.0)
    assert side.holds(0.99, 1.0)
    assert not side.holds(0.9, 1.0)


def test_a_fit_needs_two_kinds_of_vectors():
    one = Sides(1.0, 0.0, 2.0, 1.0)
    with pytest.raises(ConfigError, match="two sets"):
        fitted_ab([one, one])
    assert fitted_ab([one, Sides(2.0, 0.0, 2.0, 0.0)]) == pytest.approx((1.0, 1.0))


def test_refused():
    with pytest.raises(ConfigError, match="float64"):
        measured_alpha("sign", np.zeros((2, 3)))
