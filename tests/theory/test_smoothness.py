from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from psrv.errors import ConfigError
from psrv.tasks.libsvm_file import read_rows
from psrv.theory import (
    gram_matrices,
    linear_regression_smoothness,
    logistic_smoothness,
    quadratic_smoothness,
    scaled_smoothness,
    tridiagonal_ends,
)


def toeplitz(d, diagonal, off):
    return diagonal * np.eye(d) + off * (np.eye(d, k=1) + np.eye(d, k=-1))


def power_iteration(matrix, rng):
    v = rng.standard_normal(len(matrix))
    for _ in range(5000):
        v = matrix @ v
        v /= np.linalg.norm(v)
    return float(v @ matrix @ v)


def ratios(gradients, x, y):
    """(L-, L+, L+-, all L_i) that one pair of points shows; gradients(x) is (n, d)."""
    change = gradients(x) - gradients(y)
    length = np.sum((x - y) ** 2)
    plus = np.mean(np.sum(change**2, 1))
    minus = np.sum(change.mean(0) ** 2)
    each = np.sqrt(np.sum(change**2, 1) / length)
    return *np.sqrt(np.maximum([minus, plus, plus - minus], 0) / length), each


def none_exceeds(found, gradients, pairs):
    for x, y in pairs:
        minus, plus, variance, each = ratios(gradients, x, y)
        assert minus <= found.L_minus * (1 + 1e-9)
        assert plus <= found.L_plus * (1 + 1e-9)
        assert variance <= found.L_plus_minus * (1 + 1e-9) + 1e-7
        assert (each <= found.L_workers * (1 + 1e-9)).all()


def lemma_2_holds(found):
    mean = np.mean(found.L_workers)
    square = np.mean(found.L_workers**2)
    slack = 1 + 1e-12
    return (
        found.L_minus <= found.L_plus * slack
        and found.L_minus <= mean * slack
        and found.L_plus**2 <= square * slack
        and found.L_plus**2 - found.L_minus**2 <= found.L_plus_minus**2 * slack
        and found.L_plus_minus <= found.L_plus * slack
    )


def test_dense_quadratics_match_power_iteration(rng):
    a = rng.standard_normal((5, 7, 7))
    a = a + a.transpose(0, 2, 1)
    found = quadratic_smoothness(a)
    mean, second = a.mean(0), (a @ a).mean(0)
    assert found.L_minus == pytest.approx(sqrt(power_iteration(mean @ mean, rng)))
    assert found.L_plus == pytest.approx(sqrt(power_iteration(second, rng)))
    variance = power_iteration(second - mean @ mean, rng)
    assert found.L_plus_minus == pytest.approx(sqrt(variance))
    assert not found.bounds
    assert lemma_2_holds(found)


def test_random_pairs_never_exceed_the_constants_of_quadratics(rng):
    a = rng.standard_normal((4, 6, 6))
    a = a + a.transpose(0, 2, 1)
    found = quadratic_smoothness(a)
    pairs = rng.standard_normal((200, 2, 6))
    none_exceeds(found, lambda x: a @ x, pairs)
    # and the eigenvectors reach them
    vector = np.linalg.eigh((a @ a).mean(0))[1][:, -1]
    assert ratios(lambda x: a @ x, vector, 0 * vector)[1] == pytest.approx(found.L_plus)


def test_only_the_symmetric_part_of_a_hessian_matters(rng):
    a = rng.standard_normal((3, 4, 4))
    skewed = quadratic_smoothness(a)
    straight = quadratic_smoothness((a + a.transpose(0, 2, 1)) / 2)
    assert skewed.L_plus_minus == pytest.approx(straight.L_plus_minus)


def test_equal_hessians_have_no_hessian_variance(rng):
    a = rng.standard_normal((6, 6)) * 1e3
    found = quadratic_smoothness([a] * 5)
    assert found.L_plus_minus < 1e-12 * found.L_plus  # a difference of squares leaves 1e-8
    assert found.L_plus == pytest.approx(found.L_minus)


@pytest.mark.parametrize("shift", [0.3, -0.7, 0.0])
def test_scaled_matrices_match_dense_ones(rng, shift):
    scales, shifts = rng.standard_normal(6), shift + rng.standard_normal(6)
    base = toeplitz(9, 0.5, -0.25)
    dense = quadratic_smoothness(
        [s * base + c * np.eye(9) for s, c in zip(scales, shifts, strict=True)]
    )
    found = scaled_smoothness(scales, shifts, *tridiagonal_ends(9, 0.5, -0.25))
    for name in ("L_minus", "L_plus", "L_plus_minus", "L_workers"):
        np.testing.assert_allclose(getattr(found, name), getattr(dense, name), rtol=1e-12)


@pytest.mark.parametrize("off", [0.4, -0.4])
def test_tridiagonal_ends_are_the_ends_of_the_spectrum(off):
    values = np.linalg.eigvalsh(toeplitz(12, 0.1, off))
    assert tridiagonal_ends(12, 0.1, off) == pytest.approx((values[0], values[-1]))


def test_pessimistic_constants_are_those_of_the_experiments():
    found = scaled_smoothness([1.0, 3.0], 0.0, 0.0, 1.0).pessimistic()
    assert found.L_plus == found.L_plus_minus == pytest.approx(sqrt(5))
    assert found.L_minus == 2
    assert found.bounds == {"L_plus", "L_plus_minus"}


def penalty(x, l2, nonconvex):
    return l2 * x + nonconvex * 2 * x / (1 + x * x) ** 2


@pytest.mark.parametrize(("l2", "nonconvex"), [(0, 0), (0.3, 0), (0, 0.1), (0.2, 0.5)])
def test_linear_regression(rng, l2, nonconvex):
    features = [rng.standard_normal((m, 4)) for m in (5, 3, 9)]
    found = linear_regression_smoothness(features, l2=l2, nonconvex=nonconvex)
    grams = np.array(gram_matrices(features))
    pairs = [s * rng.standard_normal((2, 4)) for s in (1e-4, 1e-2, 1.0, 10.0) for _ in range(60)]
    none_exceeds(found, lambda x: grams @ x + penalty(x, l2, nonconvex), pairs)
    assert found.bounds == ({"L_plus"} if nonconvex else set())
    # Reached at 0, along the eigenvectors there.
    at_zero = quadratic_smoothness(grams + (l2 + 2 * nonconvex) * np.eye(4))
    assert found.L_minus == pytest.approx(at_zero.L_minus)
    assert found.L_plus_minus == pytest.approx(at_zero.L_plus_minus)
    np.testing.assert_allclose(found.L_workers, at_zero.L_workers)
    if not nonconvex:
        assert found.L_plus == pytest.approx(at_zero.L_plus)


@pytest.mark.parametrize(("l2", "nonconvex"), [(0, 0), (0.3, 0), (0, 0.1)])
def test_logistic_regression(rng, l2, nonconvex):
    features = [3 * rng.standard_normal((m, 4)) for m in (5, 3, 9)]
    found = logistic_smoothness(features, l2=l2, nonconvex=nonconvex)

    def gradients(x):
        parts = [-a.T @ (1 / (1 + np.exp(a @ x))) / len(a) for a in features]
        return np.array(parts) + penalty(x, l2, nonconvex)

    pairs = [s * rng.standard_normal((2, 4)) for s in (1e-4, 1e-2, 1.0, 10.0) for _ in range(60)]
    none_exceeds(found, gradients, pairs)
    assert found.bounds == {"L_plus", "L_plus_minus"}
    assert lemma_2_holds(found)
    # L- and L_i are reached at 0; there the others are at most what is stated.
    zero = np.zeros(4)
    grams = gram_matrices(features, 1 / 4)
    vector = np.linalg.eigh(sum(grams))[1][:, -1]
    assert ratios(gradients, 1e-5 * vector, zero)[0] == pytest.approx(found.L_minus, rel=1e-5)
    at_zero = quadratic_smoothness(grams)
    assert at_zero.L_plus_minus <= found.L_plus_minus
    assert at_zero.L_plus + l2 + 2 * nonconvex <= found.L_plus * (1 + 1e-12)


def test_sparse_features_give_what_dense_ones_give(rng):
    sparse = pytest.importorskip("scipy.sparse")
    dense = [(rng.random((6, 5)) < 0.4) * rng.standard_normal((6, 5)) for _ in range(3)]
    one = logistic_smoothness(dense)
    other = logistic_smoothness([sparse.csr_array(a) for a in dense])
    assert other.L_plus_minus == pytest.approx(one.L_plus_minus)


def test_refused():
    with pytest.raises(ConfigError, match="no worker"):
        quadratic_smoothness([])
    with pytest.raises(ConfigError, match=r"expected \(d, d\)"):
        quadratic_smoothness([np.zeros((2, 3))])
    with pytest.raises(ConfigError, match="nonconvex"):
        logistic_smoothness([np.eye(2)], nonconvex=-1)


def test_the_constants_that_the_paper_states_for_mg(data):
    # A.8.1: L+ = 3609.6653 and L+- = 34.58 for a random split in two. L- depends on none.
    rows = read_rows(data / "mg.gz")
    x = np.zeros((rows.labels.size, rows.features))
    x[np.repeat(np.arange(len(x)), np.diff(rows.starts)), rows.columns] = rows.values
    found = []
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(len(x))
        split = [x[order[:692]], x[order[692:]]]
        found.append(linear_regression_smoothness(split, mean=False))
    assert found[0].L_minus == pytest.approx(3609.538, abs=1e-3)
    plus, variance = [f.L_plus for f in found], [f.L_plus_minus for f in found]
    assert min(plus) < 3609.6653 < max(plus)
    assert min(variance) < 34.58 < max(variance)
