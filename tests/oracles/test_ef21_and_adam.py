"""EF21 one and two ways, 1-bit Adam and DoubleSqueeze with other options than their presets'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from oracles.harness import ETAS, GROUPED, LARGE, SMALL, Pair, make_job, same, states
from oracles.operators import heads
from oracles.test_float64 import Twin
from psrv.simulation import Cluster

D = 239
"""Coordinates of ``SMALL``."""

MARKOV = ("top-k:0.1", "top-k:20", "top-k:0.1/bf16", "top-k:0.05/natural", "rand-k:0.2", "perm-k")


def run(pair, rounds=20):
    for t in range(rounds):
        pair.round(pair.etas(t))
        assert pair.differences() == [], f"round {t}"


@pytest.mark.parametrize("init", ["dense", "compressed"])
@pytest.mark.parametrize("spec", MARKOV)
def test_ef21_equals_its_transcription(spec, init):
    """Unbiased compressors are used as C / (1 + omega): unscaled they are contractive."""
    run(Pair("ef21", SMALL, n=4, decay=0.01, up_compressor=spec, init=init))


@pytest.mark.parametrize("init", ["dense", "compressed"])
@pytest.mark.parametrize(
    ("up", "down"),
    [("top-k:0.1", "top-k:0.1"), ("top-k:0.05", "rand-k:0.3"), ("perm-k", "top-k:9/natural")],
)
def test_ef21_two_ways_equals_its_transcription(up, down, init):
    options = {"up_compressor": up, "down_compressor": down, "init": init}
    run(Pair("ef21-two-way", SMALL, n=3, decay=0.01, **options))


@pytest.mark.parametrize("init", ["dense", "compressed"])
@pytest.mark.parametrize("method", ["ef21", "ef21-two-way"])
@pytest.mark.parametrize(("tensors", "n"), [(SMALL, 5), (GROUPED, 9), (LARGE, 2)])
def test_ef21_agrees_with_float64(method, tensors, n, init):
    twin = Twin(method, tensors, 7, n, init=init)
    for t in range(1, 4 if tensors is LARGE else 10):
        twin.compare_round(twin.etas(t))


@pytest.mark.parametrize("method", ["ef21", "ef21-two-way"])
def test_the_first_round_decides_where_ef21_starts(method):
    """Dense, the first step is gradient descent's; compressed, the memory starts from zero."""
    dense, small, sgd = (
        Pair(name, SMALL, n=3, **options)
        for name, options in ((method, {}), (method, {"init": "compressed"}), ("sgd", {}))
    )
    for pair in (dense, small, sgd):
        pair.round([0.1])
    assert same(dense.cluster.replica.parameters, sgd.cluster.replica.parameters)
    k = round(0.1 * D)
    for sender in small.cluster.senders:
        assert np.count_nonzero(sender.uplink.memory) <= k
    moved = np.count_nonzero(states(small.cluster)["x"] != Pair(method).reference.get("x"))
    assert 0 < moved <= (k if method == "ef21-two-way" else 3 * k)


def bound(d, k):
    """The most bytes that top-k may take (DESIGN section 6)."""
    return 4 * k + math.ceil(k * math.ceil(math.log2(d)) / 8)


@pytest.mark.parametrize("init", ["dense", "compressed"])
@pytest.mark.parametrize("method", ["ef21", "ef21-two-way"])
def test_payloads_of_ef21_are_those_of_the_formula(method, init):
    pair = Pair(method, SMALL, n=3, init=init)
    k = round(0.1 * D)
    for t in range(8):
        whole = t == 0 and init == "dense"
        for sent, compressed in zip(pair.round([0.1]), (True, method != "ef21"), strict=True):
            if whole or not compressed:
                assert sent == 4 * D
            else:
                assert 4 * k < sent <= bound(D, k)


@pytest.mark.parametrize(
    ("spec", "n", "share"),
    [
        ("perm-k", 3, 4 * D / 3),
        ("perm-k", 300, 4 * D / 300),  # 61 workers are idle
        ("perm-k:blocks=2", 9, 4 * 4 * D / 9),  # q = 4 owners of each coordinate
        ("perm-k:groups=2", 9, 2 * 4 * D / 9),
        ("perm-k/bf16", 3, 2 * D / 3),
        ("rand-k:0.1", 3, 4 * 24),
        ("rand-k:20/natural", 3, 20 + 3),
    ],
)
def test_payloads_of_marina_are_those_of_the_formula(spec, n, share):
    """Dense rounds 4d; compressed ones 4 bytes for each own coordinate. Down it is 4d always."""
    pair = Pair("marina", SMALL, n=n, up_compressor=spec, probability=0.3, seed=3)
    for t in range(10):
        pair.draw()
        up, down = pair.cluster.step([0.1])
        assert down == 4 * D
        assert int(up) == (4 * D if t == 0 or heads(3, t, 0.3) else int(share))


@pytest.mark.parametrize("warmup", [1, 5, 40])
@pytest.mark.parametrize("n", [1, 3])
def test_onebit_adam_equals_its_transcription(warmup, n):
    run(Pair("onebit-adam", SMALL, blocks=7, n=n, decay=0.01, warmup=warmup), 15)


@pytest.mark.parametrize("tensors", [SMALL, GROUPED])
def test_onebit_adam_with_other_constants(tensors):
    options = {"beta1": 0.5, "beta2": 0.9, "eps": 1e-4, "decoupled": True}
    run(Pair("onebit-adam", tensors, blocks=7, n=4, decay=2.7, **options), 15)


def test_onebit_adam_is_dense_in_the_warm_up_and_one_bit_after_it():
    pair = Pair("onebit-adam", SMALL, blocks="global", n=3, warmup=4)
    bits = 4 + math.ceil(D / 8)
    found = [pair.round([0.01]) for _ in range(8)]
    assert found == [(4 * D, 4 * D)] * 4 + [(bits, bits)] * 4


def test_variance_stays_frozen_and_coordinates_without_one_stay_where_they_are():
    """Dead units: their v is 0, and a sign over eps alone would be a step of 1e8 scales."""
    pair = Pair("onebit-adam", SMALL, blocks="global", n=3, warmup=4, eps=1e-8)
    dead = ~np.concatenate([pair.gradients.alive[name].ravel() for name, *_ in reversed(SMALL)])
    assert dead.sum() > 20
    start = pair.cluster.replica.parameters.copy()
    for t in range(12):
        pair.round([0.01])
        if t == 3:
            frozen = states(pair.cluster)["v"].copy()
    held = states(pair.cluster)
    assert same(held["v"], frozen)
    assert (frozen[dead] == 0).all()
    assert (held["m"][dead] == 0).all()
    assert (held["x"][dead] == start[dead]).all()
    assert np.abs(held["x"] - start).max() < 1
    assert (held["e@0"][dead] != 0).any(), "nothing was sent of dead coordinates"


class PlainAdam:
    """Adam without bias correction in float64, lambda x in the gradient; v frozen after T_1."""

    def __init__(self, x, decay, warmup):
        self.x, self.m, self.v = x.astype(np.float64), np.zeros(x.size), np.zeros(x.size)
        self.decay, self.warmup, self.t = decay, warmup, 0

    def step(self, g, alpha):
        g = g + self.decay * self.x
        self.m = 0.9 * self.m + 0.1 * g
        if self.t < self.warmup:
            self.v = 0.99 * self.v + 0.01 * g * g
        self.x = self.x - alpha * self.m / (np.sqrt(self.v) + 1e-8)
        self.t += 1


def test_weight_decay_is_that_of_adam_where_nothing_is_compressed():
    """After the warm-up (1 - beta_1) lambda x is added to what was received, the momentum."""
    job = make_job("onebit-adam", (("w", (50,), 0),), 7, decay=0.3, compressor="dense")
    cluster, rng = Cluster(job, 3), np.random.default_rng(5)
    x = cluster.replica.parameters
    x[:] = rng.standard_normal(50)
    plain = PlainAdam(x, 0.3, job.method.warmup)
    for t in range(12):
        g = rng.standard_normal((3, 50)).astype(np.float32)
        for sender, row in zip(cluster.senders, g, strict=True):
            sender.gradient[:] = row
        cluster.step([ETAS[t % 10]])
        plain.step(g.mean(0, dtype=np.float64), ETAS[t % 10])
    assert np.abs(x - plain.x).max() < 1e-4
    assert np.abs(x).max() > 0.1


@pytest.mark.parametrize("blocks", [7, "tensor", "global"])
@pytest.mark.parametrize("n", [2, 5])
def test_double_squeeze_equals_its_transcription(n, blocks):
    """Step sizes change, and errors are not rescaled."""
    run(Pair("double-squeeze", GROUPED if blocks != "global" else SMALL, blocks, n, decay=0.1))
