from __future__ import annotations

import numpy as np
import pytest

from psrv.tasks import make_task


def dense(task):
    """All A_i, (n, d, d), and b_i, (n, d), built as Algorithm 2 is written."""
    d = task.dimension
    base = (2 * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)) / 4
    matrices = np.array([nu * base for nu in task.scales])
    smallest = np.linalg.eigvalsh(matrices.mean(0))[0]
    matrices += (task.settings["lam"] - smallest) * np.eye(d)
    vectors = np.zeros((task.workers, d))
    vectors[:, 0] = task.linear
    return matrices, vectors


@pytest.fixture
def task(bound):
    return bound("quadratic:d=30,noise=0.4,lam=1e-3", workers=5, seed=3)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=30).astype(np.float32)


def test_gradient_is_that_of_the_dense_matrices(task, x):
    matrices, vectors = dense(task)
    out = np.empty_like(x)
    before = x.copy()
    for rank in range(5):
        task.gradient(rank, x, 0, None, out)
        expected = matrices[rank] @ x.astype(np.float64) - vectors[rank]
        np.testing.assert_allclose(out, expected, rtol=2e-7, atol=1e-7)
    assert np.array_equal(x, before)


def test_gradient_agrees_with_finite_differences_of_the_loss(task, x):
    out = np.empty_like(x)
    task.gradient(2, x, 0, None, out)
    for j in (0, 1, 17, 29):
        step = np.zeros_like(x)
        step[j] = 2.0**-7
        up = task.evaluate(2, x + step)["loss_sum"]
        down = task.evaluate(2, x - step)["loss_sum"]
        # A central difference is exact for a quadratic, but x + step is rounded to float32.
        width = float((x + step)[j]) - float((x - step)[j])
        assert (up - down) / width == pytest.approx(float(out[j]), abs=1e-5)


def test_noise_follows_algorithm_2(task):
    assert task.scales.shape == task.linear.shape == (5,)
    assert np.unique(task.scales).size == np.unique(task.linear).size == 5
    many = make_task("quadratic:d=2,noise=0.4", workers=20000)
    assert many.scales.mean() == pytest.approx(1, abs=0.02)
    assert many.scales.std() == pytest.approx(0.4, rel=0.02)
    inner = 4 * many.linear / many.scales + 1
    assert inner.std() == pytest.approx(0.4, rel=0.02)
    assert abs(np.corrcoef(inner, many.scales)[0, 1]) < 0.03


@pytest.mark.parametrize("noise", ["0", "0.05", "0.8", "40"])
def test_mean_hessian_has_lambda_as_its_smallest_eigenvalue(noise):
    linalg = pytest.importorskip("scipy.linalg")
    task = make_task(f"quadratic:d=1000,noise={noise}", workers=3, seed=1)
    mean = task.scales.mean()
    diagonal = np.full(1000, mean / 2 + task.shift)
    ends = linalg.eigvalsh_tridiagonal(diagonal, np.full(999, -mean / 4))
    assert ends[0] == pytest.approx(1e-6, abs=1e-13 * max(1, abs(mean)))


def test_a_negative_mean_scale_still_gives_a_convex_mean():
    seeds = [
        s
        for s in range(40)
        if make_task("quadratic:d=9,noise=9", workers=1, seed=s).scales.mean() < 0
    ]
    task = make_task("quadratic:d=9,noise=9", workers=1, seed=seeds[0])
    assert np.linalg.eigvalsh(dense(task)[0].mean(0))[0] == pytest.approx(1e-6, abs=1e-12)


def test_constants_are_those_of_the_dense_matrices(task):
    matrices, _ = dense(task)
    mean = matrices.mean(0)
    second = (matrices @ matrices).mean(0)
    found = task.constants()
    assert found["L_minus"] == pytest.approx(np.linalg.norm(mean, 2))
    assert found["L_plus"] == pytest.approx(np.sqrt(np.linalg.eigvalsh(second)[-1]))
    assert found["L_pm"] == pytest.approx(np.sqrt(np.linalg.eigvalsh(second - mean @ mean)[-1]))


def test_all_gradients_together_have_the_bits_of_each_alone(bound):
    task = bound("quadratic:d=3000,noise=0.3", workers=900)  # spans several chunks
    x = np.random.default_rng(1).normal(size=3000).astype(np.float32)
    together = task.gradients(x, 0)
    assert together.dtype == np.float32
    assert together.shape == (900, 3000)
    out = np.empty_like(x)
    for rank in (0, 1, 348, 349, 350, 899):
        task.gradient(rank, x, 0, None, out)
        assert np.array_equal(together[rank], out)


def test_full_gradients_average_to_the_gradient_of_the_mean(task, x):
    matrices, vectors = dense(task)
    rows = np.empty((5, 30), np.float32)
    assert all(task.full_gradient(rank, x, rows[rank]) for rank in range(5))
    expected = matrices.mean(0) @ x.astype(np.float64) - vectors.mean(0)
    np.testing.assert_allclose(rows.mean(0), expected, rtol=1e-6, atol=1e-6)


def test_loss_is_the_mean_over_ranks(task, x):
    matrices, vectors = dense(task)
    wide = x.astype(np.float64)
    expected = np.mean(
        [wide @ a @ wide / 2 - wide @ b for a, b in zip(matrices, vectors, strict=True)]
    )
    sums = [task.evaluate(rank, x) for rank in range(5)]
    assert sum(s["loss_sum"] for s in sums) / sum(s["count"] for s in sums) == pytest.approx(
        expected
    )
    assert task.loss(x) == pytest.approx(expected)


def test_starting_point_is_the_papers():
    x = make_task("quadratic", workers=1).initial()
    assert x.dtype == np.float32
    assert x.shape == (1000,)
    assert x[0] == np.float32(np.sqrt(1000))
    assert not x[1:].any()


def test_without_noise_all_workers_agree(bound):
    task = bound("quadratic:d=8", workers=3)
    rows = task.gradients(task.initial(), 0)
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])
    assert task.constants()["L_pm"] == 0


def test_one_dimension_works(bound):
    task = bound("quadratic:d=1,lam=0.5", workers=1)
    x, out = np.array([3.0], np.float32), np.empty(1, np.float32)
    task.gradient(0, x, 0, None, out)
    assert out[0] == pytest.approx(0.5 * 3 + 0.25)
