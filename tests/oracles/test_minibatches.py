"""MARINA on minibatches: both gradients of a compressed round are taken on one batch."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from oracles.harness import same
from oracles.more_methods import Marina
from oracles.operators import heads
from psrv.measure.summary import read_summary
from psrv.options import JobConfig
from psrv.plan import Plan
from psrv.simulated_run import run_simulation

N, ROUNDS, SEED, BATCH, ANCHOR = 3, 14, 4, 8, 30

pytestmark = pytest.mark.torch


class MinibatchMarina(Marina):
    """What ``previous`` is in line 8: this round's batch, at the last round's parameters."""

    def step_on(self, gradient, eta):
        """``gradient(rank, x, dense)`` is that of the round's batch."""
        dense = self.t == 0 or heads(self.seed, self.t, self.p)
        at, last = self.x, getattr(self, "last", None)
        if not dense:
            self.previous = [gradient(i, last, dense) for i in range(self.n)]
        self.round([gradient(i, at, dense) for i in range(self.n)], eta)
        self.last = at


@pytest.mark.parametrize("spec", ["perm-k", "rand-k:0.1/natural"])
def test_a_run_on_minibatches_is_its_transcription(tmp_path, spec):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    job = JobConfig(
        method="marina", task="digits", workers=N, rounds=ROUNDS, seed=SEED, batch=BATCH,
        anchor_batch=ANCHOR, probability=0.3, up_compressor=spec, lr=0.05, out=tmp_path,
    )  # fmt: skip
    run_simulation(job)
    plan = Plan.of(job)
    task, layout = plan.task, plan.job.layout
    sizes = np.diff(layout.buckets[0].blocks.edges).tolist()
    assert len(layout.buckets) == 1
    marina = MinibatchMarina(
        task.initial(), sizes, N, seed=SEED, up=spec, probability=0.3, init="dense"
    )

    def gradient(rank, x, dense):
        out = np.zeros_like(x)
        batch = task.batch(rank, marina.t, ANCHOR if dense else None)
        task.gradient(rank, x.copy(), marina.t, batch, out)
        return out

    whole = 0
    for t in range(ROUNDS):
        whole += t == 0 or heads(SEED, t, 0.3)
        marina.step_on(gradient, 0.05)
    assert 1 < whole < ROUNDS
    digest = hashlib.sha256(marina.x.astype("<f4").tobytes()).hexdigest()
    assert read_summary(tmp_path)["replica_digest"] == digest
    assert not same(marina.x, task.initial())
