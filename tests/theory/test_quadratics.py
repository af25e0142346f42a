from __future__ import annotations

import numpy as np
import pytest

from psrv.errors import ConfigError
from psrv.objectives import Quadratics, TaskObjective
from psrv.simulation import Objective
from psrv.tasks import make_task
from psrv.theory import quadratic_smoothness


def dense(problem):
    """All A_i, (n, d, d), and b_i, (n, d), built as Algorithm 2 is written."""
    d = problem.dimension
    base = (2 * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)) / 4
    matrices = np.array([nu * base for nu in problem.scales])
    matrices += (problem.lam - np.linalg.eigvalsh(matrices.mean(0))[0]) * np.eye(d)
    vectors = np.zeros((problem.workers, d))
    vectors[:, 0] = problem.linear
    return matrices, vectors


@pytest.fixture
def problem():
    return Quadratics.generate(7, 20, noise=0.6, lam=1e-3, seed=4)


def test_the_stream_is_the_documented_one(problem):
    draws = np.random.default_rng(4).standard_normal((7, 2))
    np.testing.assert_allclose(problem.scales, 1 + 0.6 * draws[:, 0])
    np.testing.assert_allclose(problem.linear, problem.scales / 4 * (0.6 * draws[:, 1] - 1))
    more = Quadratics.generate(9, 20, noise=0.6, lam=1e-3, seed=4)
    assert np.array_equal(more.scales[:7], problem.scales)


def test_gradients_are_those_of_the_dense_matrices(problem, rng):
    matrices, vectors = dense(problem)
    x = rng.standard_normal(20).astype(np.float32)
    expected = matrices @ x.astype(np.float64) - vectors
    found = problem.gradients(x, 0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-7)
    for rank in range(7):
        assert np.array_equal(problem.gradient(rank, x, 0), found[rank])


def test_gradients_go_chunk_by_chunk_into_what_is_given(rng):
    problem = Quadratics.generate(200, 900, noise=0.3)
    x = rng.standard_normal(900).astype(np.float32)
    out = np.empty((200, 900), np.float32)
    assert problem.gradients(x, 0, out) is out
    for rank in (0, 71, 72, 73, 199):
        assert np.array_equal(out[rank], problem.gradient(rank, x))


def test_loss_is_the_mean_of_the_functions_and_the_gradient_its_slope(problem, rng):
    matrices, vectors = dense(problem)
    x = rng.standard_normal(20).astype(np.float32)
    wide = x.astype(np.float64)
    values = [wide @ a @ wide / 2 - wide @ b for a, b in zip(matrices, vectors, strict=True)]
    assert problem.loss(x) == pytest.approx(np.mean(values))
    slope = problem.gradients(x).mean(0)
    for j in (0, 9, 19):
        step = np.zeros_like(x)
        step[j] = 2.0**-7
        width = float((x + step)[j]) - float((x - step)[j])
        change = problem.loss(x + step) - problem.loss(x - step)
        assert change / width == pytest.approx(slope[j], abs=1e-5)


@pytest.mark.parametrize("scales", [None, [-1.0, 0.5, -2.0]])
def test_constants_and_minimum_match_dense_ones(problem, scales):
    if scales:  # a mean below 0: the spectrum turns around
        problem = Quadratics(scales, [0.1, 0.2, 0.3], dimension=15, lam=0.02)
    matrices, vectors = dense(problem)
    found, expected = problem.smoothness(), quadratic_smoothness(matrices)
    for name in ("L_minus", "L_plus", "L_plus_minus", "L_workers"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    mean, b = matrices.mean(0), vectors.mean(0)
    assert np.linalg.eigvalsh(mean)[0] == pytest.approx(problem.lam, rel=1e-9)
    lowest = np.linalg.solve(mean, b)
    assert problem.minimum() == pytest.approx(-b @ lowest / 2, rel=1e-9)
    assert problem.loss(lowest.astype(np.float32)) == pytest.approx(problem.minimum(), rel=1e-5)


def test_gradient_descent_reaches_the_minimum(problem):
    x, step = problem.initial(), np.float32(1 / problem.smoothness().L_minus)
    assert x[0] == np.float32(np.sqrt(20))
    assert not x[1:].any()
    for t in range(8000):
        x = x - step * problem.gradients(x, t).mean(0)
    assert problem.loss(x) == pytest.approx(problem.minimum(), rel=1e-5)


def test_noise_sets_the_hessian_variance():
    assert Quadratics.generate(9, 1000).smoothness().L_plus_minus == 0
    many = Quadratics.generate(10_000, 1000, noise=0.8)
    assert many.smoothness().L_plus_minus == pytest.approx(0.8, rel=0.03)


def test_groups_of_equal_functions_have_no_variance_inside():
    # Appendix M: two groups, in each all matrices are equal.
    whole = Quadratics([1.0] * 3 + [2.0] * 3, [-0.25] * 6, 10, 1e-3)
    assert whole.smoothness().L_plus_minus > 0.4
    assert Quadratics([1.0] * 3, [-0.25] * 3, 10, 1e-3).smoothness().L_plus_minus == 0


def test_it_is_an_objective(problem):
    assert isinstance(problem, Objective)
    assert isinstance(TaskObjective(make_task("quadratic:d=5", workers=2)), Objective)


def test_refused():
    with pytest.raises(ConfigError, match="workers is 0"):
        Quadratics.generate(0)
    with pytest.raises(ConfigError, match="lam 0"):
        Quadratics.generate(2, lam=0)
    with pytest.raises(ConfigError, match="one number for each worker"):
        Quadratics([1.0, 2.0], [1.0])


def test_a_task_as_an_objective_computes_the_task_s_bits(rng):
    task = make_task("quadratic:d=12,noise=0.3", workers=4, seed=2)
    objective = TaskObjective(task)
    x = rng.standard_normal(12).astype(np.float32)
    out = np.empty_like(x)
    rows = objective.gradients(x, 0)
    for rank in range(4):
        task.gradient(rank, x, 0, None, out)
        assert np.array_equal(objective.gradient(rank, x, 0), out)
        assert np.array_equal(rows[rank], out)
    assert objective.loss(x) == task.loss(x)
    assert np.array_equal(objective.initial(), task.initial())


def test_a_task_with_several_tensors_is_refused():
    class Two:
        name, tensors = "two", (1, 2)

    with pytest.raises(ConfigError, match="has 2 tensors"):
        TaskObjective(Two())
