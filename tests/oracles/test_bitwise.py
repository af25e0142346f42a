"""Every method equals the float32 transcription of its paper bit for bit, state by state."""

from __future__ import annotations

import numpy as np
import pytest

import psrv
from oracles import reference
from oracles.harness import (
    ETAS,
    GROUPED,
    LARGE,
    NAMES,
    SMALL,
    SMALL_RUN,
    Pair,
    options_of,
    same,
    states,
)
from oracles.more_methods import ALGORITHMS
from psrv.layout import Layout, Tensor
from psrv.methods import resolve

WORKERS = (1, 2, 4, 7)
SIGN_METHODS = (
    "dist-ef-sgd", "dist-ef-sgdm", "amsgrad-naive", "amsgrad-ef", "cd-adam", "double-squeeze",
    "onebit-adam",
)  # fmt: skip


def run(pair, rounds):
    for t in range(rounds):
        pair.round(pair.etas(t))
        assert pair.differences() == [], f"round {t}"


@pytest.mark.parametrize("n", WORKERS)
@pytest.mark.parametrize("method", NAMES)
def test_method_equals_its_transcription(method, n):
    run(Pair(method, SMALL, blocks=7, n=n, decay=0.01), 40)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("blocks", ["tensor", "global"])
def test_method_equals_its_transcription_with_large_blocks(method, n, blocks):
    run(Pair(method, SMALL, blocks=blocks, n=n, decay=0.01), 40)


@pytest.mark.parametrize("method", NAMES)
def test_every_state_of_the_transcription_is_compared(method):
    pair = Pair(method, n=2)
    kind = ALGORITHMS[method]
    expected = {*kind.STATE, *(f"{name}@{rank}" for name in kind.WORKER for rank in range(2))}
    assert set(states(pair.cluster)) == expected


@pytest.mark.parametrize("blocks", [32768, "tensor", "global"])
@pytest.mark.parametrize("method", NAMES)
def test_blocks_longer_than_a_chunk_of_the_norm(method, blocks):
    run(Pair(method, LARGE, blocks=blocks, n=2, decay=0.01), 6)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("method", SIGN_METHODS)
def test_default_blocks_with_one_and_seven_workers(method, n):
    run(Pair(method, LARGE, blocks=32768, n=n), 4)


@pytest.mark.parametrize("blocks", [7, "tensor"])
@pytest.mark.parametrize("method", NAMES)
def test_parameter_groups_have_their_own_step_size_and_decay(method, blocks):
    pair = Pair(method, GROUPED, blocks=blocks, n=3, decay=0.02)
    assert len(pair.job.layout.buckets) == 3
    run(pair, 40)


@pytest.mark.parametrize("method", NAMES)
def test_many_buckets(method):
    pair = Pair(method, SMALL, blocks=7, n=2, bucket_floats=40)
    assert len(pair.job.layout.buckets) > 5
    run(pair, 20)


@pytest.mark.parametrize("method", ["amsgrad", "amsgrad-naive", "amsgrad-ef", "cd-adam"])
def test_decoupled_decay_and_other_constants(method):
    run(Pair(method, n=4, decay=2.7, decoupled=True, beta1=0.5, beta2=0.9, nu=1e-4), 40)


@pytest.mark.parametrize("method", ["sgdm", "signum", "dist-ef-sgdm"])
@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_other_momentum(method, momentum):
    run(Pair(method, n=2, decay=0.1, momentum=momentum), 40)


@pytest.mark.parametrize("method", ["signsgd", "signum"])
def test_ties_are_drawn_anew_for_each_round_and_seed(method):
    """Dead units must not drift: their votes are ties, and fall to both sides."""
    pair = Pair(method, SMALL, n=2, seed=5)
    dead = ~np.concatenate([pair.gradients.alive[name].ravel() for name, *_ in reversed(SMALL)])
    moved = np.zeros(dead.sum())
    for _ in range(40):
        before = pair.cluster.replica.parameters.copy()
        pair.round([1.0])
        moved += (pair.cluster.replica.parameters - before)[dead]
    assert pair.differences() == []
    # Each is a sum of 40 fair signs: standard deviation 6.3; of their mean, 6.3 / sqrt(count).
    assert np.abs(moved).max() < 40
    assert abs(moved.mean()) < 4 * 6.3 / np.sqrt(dead.sum())
    other = Pair(method, SMALL, n=2, seed=6)
    other.round([1.0])
    assert other.differences() == []


@pytest.mark.parametrize(
    ("tensors", "blocks", "floats"),
    [(SMALL, 7, 1 << 20), (GROUPED, 7, 1 << 20), (SMALL, 7, 40), (SMALL, "tensor", 40),
     (LARGE, 32768, 1 << 20), (LARGE, 100, 5000), (SMALL, "global", 40)],
)  # fmt: skip
def test_layout_is_cut_as_specified(tensors, blocks, floats):
    layout = Layout.build([Tensor(*t) for t in tensors], blocks, 4 * floats)
    mine = [(b.start, b.stop, b.group, np.diff(b.blocks.edges).tolist()) for b in layout.buckets]
    assert mine == reference.cut(tensors, blocks, floats)


class Quadratic:
    """Gradients that pull each worker to its own point, with noise; some are exactly zero."""

    def __init__(self, d=300, n=4, seed=1):
        rng = np.random.default_rng(seed)
        self.goals = rng.standard_normal((n, d)).astype(np.float32)
        self.goals[:, ::9] = 0
        self.start = np.where(np.arange(d) % 9 == 0, 0, rng.standard_normal(d)).astype(np.float32)

    def initial(self):
        return self.start

    def gradient(self, rank, x, round):
        noise = np.random.default_rng([rank, round]).standard_normal(x.size).astype(np.float32)
        return (x - self.goals[rank]) * (1 + noise * np.float32(0.1))

    def loss(self, x):
        return float(np.square(x - self.goals, dtype=np.float64).mean())


@pytest.mark.parametrize(
    ("blocks", "n"), [*((7, n) for n in WORKERS), ("tensor", 2), ("global", 4), (32768, 1)]
)
@pytest.mark.parametrize("method", NAMES)
def test_simulate_equals_the_transcription(method, blocks, n):
    rounds, objective = 12, Quadratic(n=n)
    lr = [ETAS[t % len(ETAS)] for t in range(rounds)]
    options = SMALL_RUN.get(method, {}) | {"weight_decay": 0.01}
    mine = psrv.simulate(
        objective, method, workers=n, rounds=rounds, lr=lr, blocks=blocks, seed=9, **options
    )
    tensors = (("x", (300,), 0),)
    theirs = reference.Model(
        ALGORITHMS[method], reference.cut(tensors, blocks), objective.initial(), n, [0.01],
        seed=9, **options_of(resolve(method, **options)),
    )  # fmt: skip
    for t in range(rounds):
        x = theirs.get("x")
        theirs.round([objective.gradient(rank, x, t) for rank in range(n)], [lr[t]])
    assert same(mine.parameters, theirs.get("x"))


@pytest.mark.parametrize("method", NAMES)
def test_twice_the_same_job_gives_the_same_parameters(method):
    digests = {
        psrv.simulate(
            Quadratic(), method, workers=4, rounds=5, lr=0.1, seed=s, **SMALL_RUN.get(method, {})
        ).digest
        for s in (3, 3)
    }
    assert len(digests) == 1
