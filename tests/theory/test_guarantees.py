"""MARINA and EF21 with the step sizes of the theorems do what the theorems promise.

Written out in NumPy with real payloads: the constants, the compressors and the objectives
have to agree with each other for these to pass.
"""

from __future__ import annotations

import numpy as np
import pytest

from psrv.codec import Coder
from psrv.objectives import Quadratics
from psrv.theory import ab_perm_k, ab_rand_k, default_probability, ef21_step, marina_step

ROUNDS = 200


def marina(problem, spec, step, p, seed):
    """The squared norms of grad f at x_0 to x_{T-1} (Algorithm 1)."""
    n, d = problem.workers, problem.dimension
    coder, coins = Coder(spec, d, workers=n, seed=seed), np.random.default_rng(seed)
    x = problem.initial()
    gradients = problem.gradients(x, 0)
    estimate, change = gradients.mean(0), np.empty(d, np.float32)
    norms = []
    for t in range(ROUNDS):
        norms.append(float(np.sum(gradients.mean(0, dtype=np.float64) ** 2)))
        x = x - np.float32(step) * estimate
        last, gradients = gradients, problem.gradients(x, t + 1)
        if coins.random() < p:
            estimate = gradients.mean(0)
            continue
        payloads = [coder.encode(gradients[i] - last[i], t, i).copy() for i in range(n)]
        coder.reduce(payloads, change, t)
        estimate = estimate + change
    return np.array(norms), x


@pytest.mark.parametrize(
    ("spec", "n", "d"), [("perm-k", 6, 24), ("perm-k", 24, 6), ("rand-k:4", 6, 24)]
)
def test_marina_finds_a_point_as_good_as_theorem_4_says(spec, n, d):
    problem = Quadratics.generate(n, d, noise=0.5, lam=1e-2, seed=3)
    found = problem.smoothness()
    if spec == "perm-k":
        ab, p = ab_perm_k(d, n), default_probability("perm-k", d, n)
    else:
        ab, p = ab_rand_k(d, 4, n), default_probability("rand-k", d, n, k=4)
    step = marina_step(found.L_minus, found.L_plus, found.L_plus_minus, *ab, p)
    promised = 2 * (problem.loss(problem.initial()) - problem.minimum()) / (step * ROUNDS)
    norms = np.mean([marina(problem, spec, step, p, seed)[0].mean() for seed in range(2)])
    assert norms <= promised
    assert norms > promised / 1000  # the promise is not an empty one


def test_marina_converges_linearly_as_theorem_5_says():
    n, d = 4, 12
    problem = Quadratics.generate(n, d, noise=0.3, lam=0.05, seed=3)
    found, p = problem.smoothness(), default_probability("perm-k", d, n)
    ab = ab_perm_k(d, n)
    constants = found.L_minus, found.L_plus, found.L_plus_minus
    step = marina_step(*constants, *ab, p, mu=problem.lam)
    start = problem.loss(problem.initial()) - problem.minimum()
    ends = [problem.loss(marina(problem, "perm-k", step, p, s)[1]) for s in range(2)]
    assert np.mean(ends) - problem.minimum() <= (1 - step * problem.lam) ** ROUNDS * start


@pytest.mark.parametrize("mu", [None, 0.02])
def test_ef21_does_what_theorems_6_and_7_say(mu):
    n, d = 5, 24
    problem = Quadratics.generate(n, d, noise=0.5, lam=mu or 1e-2, seed=3)
    found = problem.smoothness()
    step = ef21_step(found.L_minus, found.L_plus, 3 / d, mu=mu)
    coder = Coder("top-k:3", d, workers=n)
    x = problem.initial()
    memory = problem.gradients(x, 0)  # so that G^0 = 0
    start = problem.loss(x) - problem.minimum()
    norms = []
    for t in range(ROUNDS):
        norms.append(float(np.sum(problem.gradients(x, t).mean(0, dtype=np.float64) ** 2)))
        x = x - np.float32(step) * memory.mean(0)
        gradients = problem.gradients(x, t + 1)
        for i in range(n):
            left = gradients[i] - memory[i]
            coder.encode(left, t, i)
            memory[i] = gradients[i] - left
    if mu is None:
        assert np.mean(norms) <= 2 * start / (step * ROUNDS)
    else:
        assert problem.loss(x) - problem.minimum() <= (1 - step * mu) ** ROUNDS * start
