from __future__ import annotations

from math import inf

import numpy as np
import pytest

from psrv.errors import ConfigError
from psrv.objectives import Quadratics
from psrv.theory import Watched, local_smoothness
from psrv.theory import adaptive as module


def test_the_definition(rng, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 15)  # three workers at once
    before, after = rng.standard_normal((2, 8, 5)).astype(np.float32)
    x0, x1 = rng.standard_normal((2, 5)).astype(np.float32)
    found = local_smoothness(before, after, x0, x1)
    change = after.astype(np.float64) - before
    length = np.sum((x1.astype(np.float64) - x0) ** 2)
    plus, minus = np.mean(np.sum(change**2, 1)) / length, np.sum(change.mean(0) ** 2) / length
    assert found.L_plus_squared == pytest.approx(plus)
    assert found.L_minus_squared == pytest.approx(minus)
    assert found.L_plus_minus_squared == pytest.approx(plus - minus)
    assert found.ratio == pytest.approx(plus / (plus - minus))


def test_equal_workers_have_an_infinite_ratio(rng):
    x = rng.standard_normal((2, 4)).astype(np.float32)
    same = np.tile(x[0], (3, 1))
    assert local_smoothness(same, 2 * same, x[0], x[1]).ratio == inf


def test_equal_points_and_other_shapes_are_refused(rng):
    g = rng.standard_normal((3, 4)).astype(np.float32)
    with pytest.raises(ConfigError, match="equal"):
        local_smoothness(g, g, g[0], g[0])
    with pytest.raises(ConfigError, match="shapes"):
        local_smoothness(g, g[:2], g[0], g[1])


def descend(watched, rounds, step):
    x = watched.initial()
    points = []
    for t in range(rounds):
        points.append(x)
        x = x - np.float32(step) * watched.gradients(x, t).mean(0)
    return points


def test_a_watched_run_stays_below_the_problem_s_constants():
    problem = Quadratics.generate(6, 20, noise=0.5, lam=1e-2, seed=1)
    watched = Watched(problem)
    stated = problem.smoothness()
    points = descend(watched, 12, 0.5 / stated.L_minus)
    assert sorted(watched.local) == list(range(11))
    for local in watched.local.values():
        assert local.L_minus_squared <= stated.L_minus**2 * (1 + 1e-4)
        assert local.L_plus_squared <= stated.L_plus**2 * (1 + 1e-4)
        assert local.L_plus_minus_squared <= stated.L_plus_minus**2 * (1 + 1e-4)
        assert local.ratio >= 1
    direct = local_smoothness(
        problem.gradients(points[3]), problem.gradients(points[4]), points[3], points[4]
    )
    assert watched.local[3] == direct


def test_only_wanted_rounds_are_recorded():
    watched = Watched(Quadratics.generate(3, 6, noise=0.5), wanted=lambda t: t % 4 == 1)
    x = descend(watched, 8, 0.1)[-1]
    assert sorted(watched.local) == [1, 5]
    assert watched.loss(x) == watched.objective.loss(x)
    assert np.array_equal(watched.gradient(1, x, 0), watched.objective.gradient(1, x, 0))


def test_a_second_call_in_a_round_changes_nothing():
    watched = Watched(Quadratics.generate(3, 6, noise=0.5))
    x = watched.initial()
    y = x + np.float32(1)
    watched.gradients(x, 0)
    watched.gradients(y, 1)
    kept = dict(watched.local)
    watched.gradients(x, 1)  # MARINA may ask for the last point again
    assert watched.local == kept
    assert list(kept) == [0]


def test_an_objective_without_gradients_cannot_be_watched():
    with pytest.raises(ConfigError, match="no gradients"):
        Watched(object())
