"""A crowd takes the steps of a cluster of senders, bit for bit, and sends as many bytes."""

from __future__ import annotations

import numpy as np
import pytest

from crowd.conftest import InParts, Linear, job_of
from psrv.crowd import Crowd, covers
from psrv.simulation import Cluster

ETAS = (0.1, 0.05, 0.0, 0.2, 0.1, 0.03)
DOWN = (("plain", "dense"), ("ef", "sign"), ("markov", "sign"), ("markov", "top-k:0.1"))
SIZES = (  # workers, dimension, blocks: n that divides d and one that does not, n > d, blocks
    (7, 133, 32),
    (5, 140, "global"),
    (150, 133, "global"),
)
UP = {
    "plain": ("dense", "sign", "top-k:0.04", "top-k:0.45", "rand-k:0.04", "perm-k"),
    "ef": ("dense", "sign", "top-k:0.04", "top-k:0.45", "rand-k:0.04", "perm-k"),
    "markov": ("dense", "sign", "top-k:0.04", "top-k:0.45", "rand-k:0.04", "perm-k"),
    "marina": ("dense", "rand-k:0.04", "rand-k:0.001", "perm-k"),
}
CASES = [
    (up, compressor)
    for up, compressors in UP.items()
    for compressor in compressors
    if (up, compressor) != ("marina", "dense")  # runs as a cluster
]


def compare(job, workers, kind, rounds=6):
    """Step both; return the crowd."""
    dimension = job.layout.dimension
    objective = kind(workers, dimension)
    assert covers(job)
    cluster, crowd = Cluster(job, workers), Crowd(job, workers, objective)
    for engine in (cluster, crowd):
        engine.replica.parameters[:] = objective.initial()
    for t in range(rounds):
        rows = Linear.gradients(objective, cluster.replica.parameters, t)
        for sender, row in zip(cluster.senders, rows, strict=True):
            sender.gradient[:] = row
        eta = ETAS[t % len(ETAS)]
        _, down = cluster.step([eta])
        assert crowd.step([eta]) == (cluster.sent / workers, down)
        assert np.array_equal(crowd.replica.parameters, cluster.replica.parameters), t
    assert not np.array_equal(crowd.replica.parameters, objective.initial())
    return crowd


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("up", "compressor"), CASES)
def test_crowd_takes_the_steps_of_a_cluster(up, compressor, size):
    workers, dimension, blocks = size
    down, back = DOWN[(CASES.index((up, compressor)) + SIZES.index(size)) % len(DOWN)]
    job = job_of(workers, dimension, up, compressor, down, back, blocks)
    compare(job, workers, Linear)


@pytest.mark.parametrize("compressor", ["rand-k:0.04", "rand-k:0.001", "perm-k", "perm-k:run=16"])
@pytest.mark.parametrize("up", ["plain", "markov", "marina"])
def test_partial_gradients_give_the_same_steps(up, compressor):
    for workers, dimension, blocks in SIZES:
        crowd = compare(job_of(workers, dimension, up, compressor, blocks=blocks), workers, InParts)
        assert crowd.objective.asked > 0


@pytest.mark.parametrize("compressor", ["perm-k:groups=2", "perm-k:blocks=2", "perm-k:run=16"])
@pytest.mark.parametrize("up", ["plain", "markov"])
def test_every_form_of_perm_k(up, compressor):
    compare(job_of(6, 70, up, compressor), 6, Linear)


@pytest.mark.parametrize("compressor", ["dense", "sign", "top-k:0.04", "perm-k"])
def test_rescaled_errors_follow_the_step_size(compressor):
    back = "sign" if compressor == "perm-k" else compressor
    compare(job_of(4, 133, "ef", compressor, "ef", back, rescaled=True), 4, Linear)


@pytest.mark.parametrize("opening", ["dense", "compressed"])
@pytest.mark.parametrize("compressor", ["top-k:0.04", "sign", "perm-k"])
def test_both_openings_of_markov_memory(compressor, opening):
    compare(job_of(4, 133, "markov", compressor, init=opening), 4, Linear)


def test_both_coins_fall():
    job = job_of(7, 133, "marina", "perm-k")
    assert {job.method.up.dense(t, job.seed) for t in range(1, 6)} == {True, False}


def test_two_buckets():
    job = job_of(3, 1_200_000, "markov", "perm-k", blocks=1 << 15)
    assert len(job.layout.buckets) == 2
    compare(job, 3, InParts, rounds=2)


def test_several_threads_take_the_same_steps():
    """From 2^18 coordinates of all ranks on there are two threads."""
    for up, compressor in (("markov", "top-k:0.001"), ("marina", "dense"), ("ef", "sign")):
        job, objective = job_of(64, 4200, up, compressor), Linear(64, 4200)
        alone, both = (Crowd(job, 64, objective, threads=threads) for threads in (1, 3))
        assert len(both.rows.team.ranges) == 3
        for t in range(3):
            for crowd in (alone, both):
                crowd.step([0.1])
            assert alone.gradient_norm() == both.gradient_norm()
            assert np.array_equal(alone.replica.parameters, both.replica.parameters), t


@pytest.mark.parametrize(("up", "compressor"), [c for c in CASES if c[1] != "top-k:0.45"])
def test_workers_with_the_same_function_share_a_row(up, compressor):
    class Classes(InParts):
        classes = np.array([2, 0, 1, 1, 0, 2, 1])

        def __init__(self, workers, dimension):
            super().__init__(workers, dimension)
            self.a, self.b = (rows[[1, 2, 0]][self.classes] for rows in (self.a, self.b))

        def class_gradients(self, x, round, out):
            first = [1, 2, 0]  # of each class
            out[:] = self.a[first] * x - self.b[first]
            return out

    crowd = compare(job_of(7, 133, up, compressor, "ef", "sign"), 7, Classes)
    drawn = compressor.startswith(("rand-k", "perm-k")) and up in ("ef", "markov")
    assert crowd.rows.count == (7 if drawn else 3)


def test_what_is_not_covered():
    assert not covers(job_of(3, 70, "plain", "top-k:0.1/bf16"))
    assert not covers(job_of(3, 70, "plain", "qsgd:4"))
    assert not covers(job_of(3, 70, "plain", "sign-unscaled"))
