"""What the papers prove about the states, checked on psrv's own states in float64.

Lemmas 1 and 3 of dist-EF: the error-corrected iterate
    x~_t = x_t - eta_{t-1} (e~_t + mean_i e_{t,i})
obeys the uncompressed recurrence x~_{t+1} = x~_t - eta_t mean_i v_{t,i}, where v is g (Lemma 1)
or mu m + g (Lemma 3), also with changing step sizes; eta_{t-1} is the last one that was not 0.

CD-Adam: the server's single residual is g-hat - g-tilde, with g-hat = mean_i g-hat^(i).
"""

from __future__ import annotations

import numpy as np
import pytest

from oracles.harness import ETAS, GROUPED, SMALL, Gradients, Pair, make_job, states
from psrv.simulation import Cluster

TOLERANCE = 4 * 2.0**-24
"""Four float32 roundings a round, relative to the sum of the magnitudes of all terms."""


class ErrorCorrected:
    """A cluster whose error-corrected iterate is followed in float64."""

    def __init__(self, method, tensors, n, **options):
        self.job = make_job(method, tensors, 7, **options)
        self.cluster = Cluster(self.job, n)
        self.gradients = Gradients(tensors, n, seed=1)
        self.last = np.zeros(self.job.layout.dimension)
        start = self.gradients.start()
        for name, view in self.views(self.cluster.replica.parameters).items():
            view[...] = start[name]

    def views(self, flat):
        return self.job.layout.views(flat)

    def iterate(self):
        """x~_t, and the sum of the magnitudes of its terms."""
        held = {name: v.astype(np.float64) for name, v in states(self.cluster).items()}
        errors = [held[f"e@{i}"] for i in range(self.cluster.workers)]
        corrected = held["x"] - self.last * (held["e_server"] + np.mean(errors, axis=0))
        size = np.abs(held["e_server"]) + np.mean(np.abs(errors), axis=0)
        return corrected, np.abs(held["x"]) + self.last * size

    def round(self, etas):
        """One round; returns eta_t, the mean of what went out, and its mean magnitude."""
        x = self.views(self.cluster.replica.parameters)
        sent = []
        for sender in self.cluster.senders:
            drawn = self.gradients.draw(x)
            for name, view in self.views(sender.gradient).items():
                view[...] = drawn[name]
            sent.append(sender.gradient.astype(np.float64))
        self.cluster.step(etas)
        if self.job.method.outgoing == "nesterov":
            mu = self.job.method.momentum
            for v, sender in zip(sent, self.cluster.senders, strict=True):
                v += mu * sender.momentum
        eta = np.empty(self.last.size)
        for bucket in self.job.layout.buckets:
            eta[bucket.slice] = etas[bucket.group]
        self.last = np.where(eta == 0, self.last, eta)
        return eta, np.mean(sent, axis=0), np.mean(np.abs(sent), axis=0)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
@pytest.mark.parametrize("tensors", [SMALL, GROUPED], ids=["one-group", "two-groups"])
@pytest.mark.parametrize("method", ["dist-ef-sgd", "dist-ef-sgdm"])
def test_error_corrected_iterate_obeys_the_uncompressed_recurrence(method, tensors, n):
    run = ErrorCorrected(method, tensors, n)
    before, size = run.iterate()
    start, total, allowed = before, np.zeros(before.size), np.zeros(before.size)
    for t in range(60):
        etas = [ETAS[(t + k) % len(ETAS)] for k in range(len(run.job.decays))]
        eta, sent, magnitude = run.round(etas)
        after, size_after = run.iterate()
        room = TOLERANCE * (size + size_after + 2 * eta * magnitude)
        assert (np.abs(after - before + eta * sent) <= room).all(), f"round {t}"
        total += eta * sent
        allowed += room
        before, size = after, size_after
    assert (np.abs(before - (start - total)) <= allowed).all()


def test_without_the_factor_the_lemma_does_not_hold():
    """DoubleSqueeze (rho = 1): the recurrence breaks when the step size changes, only then."""
    options = {"uplink": "ef", "downlink": "ef", "compressor": "sign"}
    for etas, holds in (((0.1, 0.1, 0.1), True), ((0.1, 0.1, 0.05), False)):
        run = ErrorCorrected("sgd", SMALL, 2, **options)
        for eta in etas[:-1]:
            run.round([eta])
        before, size = run.iterate()
        eta, sent, _ = run.round(etas[-1:])
        after, _ = run.iterate()
        far = np.abs(after - before + eta * sent) > 1e-5 * size
        assert far.any() != holds


def test_a_round_with_step_size_zero_keeps_both_errors_and_sends_nothing():
    run = ErrorCorrected("dist-ef-sgdm", SMALL, 3)
    for eta in (0.1, 0.2):
        run.round([eta])
    before = {name: v.copy() for name, v in states(run.cluster).items()}
    for sender in run.cluster.senders:
        sender.gradient[:] = 1
    assert run.cluster.step([0.0]) == (0, 0)
    after = states(run.cluster)
    for name in ("x", "e_server", "e@0", "e@1", "e@2"):
        assert np.array_equal(before[name], after[name]), name
    # Line 5 is not the channel's: local momentum takes in the gradient all the same.
    assert not np.array_equal(before["m_local@0"], after["m_local@0"])


@pytest.mark.parametrize("n", [1, 2, 4])
def test_single_residual_is_exactly_the_difference_on_dyadic_numbers(n):
    """Small integers, blocks of two and n a power of two: no float32 operation rounds."""
    cluster = Cluster(make_job("cd-adam", (("w", (64,), 0),), 2), n)
    rng = np.random.default_rng(4)
    for _ in range(10):
        for sender in cluster.senders:
            sender.gradient[:] = rng.integers(-8, 9, 64)
        cluster.step([0.1])
        held = {name: v.astype(np.float64) for name, v in states(cluster).items()}
        g_hat = sum(held[f"h@{i}"] for i in range(n)) / n
        assert np.array_equal(g_hat - held["g_tilde"], held["r"])
        assert held["r"].any() == (n > 1)  # one worker's signs are compressed without loss


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_single_residual_is_the_difference_to_a_few_roundings_a_round(n):
    pair = Pair("cd-adam", SMALL, blocks=7, n=n)
    room = np.zeros(pair.job.layout.dimension)
    for t in range(100):
        pair.draw()
        pair.cluster.step([0.1])
        held = {name: v.astype(np.float64) for name, v in states(pair.cluster).items()}
        h = [held[f"h@{i}"] for i in range(n)]
        size = np.mean(np.abs(h), axis=0) + np.abs(held["g_tilde"]) + 2 * np.abs(held["r"])
        room += TOLERANCE * size
        assert (np.abs(np.mean(h, axis=0) - held["g_tilde"] - held["r"]) <= room).all(), t
