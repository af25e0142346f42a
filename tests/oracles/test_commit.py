"""A NaN found late leaves every state as it was, and the run can go on as if it had not been."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.harness import GROUPED, NAMES, Gradients, Pair, make_job, same, states
from psrv.codec.channel import Relay
from psrv.errors import CodecError, NonFiniteError
from psrv.messages import Push
from psrv.simulation import Cluster
from psrv.worker.replica import Replica
from psrv.worker.sender import Sender

N = 3
ROUNDS = ((0.1, 0.2), (0.05, 0.2), (0.05, 0.0), (0.2, 0.1))
SIGN_METHODS = (
    "dist-ef-sgd", "dist-ef-sgdm", "amsgrad-naive", "amsgrad-ef", "cd-adam", "double-squeeze",
)  # fmt: skip


def remembered(replica, senders, relays):
    """Every vector and step size that a later round depends on, copied and uncommitted."""
    found = {f"replica {name}": v.copy() for name, v in replica.state().items()}
    for s in senders:
        found[f"worker {s.rank} etas"] = np.array(s.uplink.last_etas, np.float32)
        for name, vector in (("momentum", s.momentum), ("memory", s.uplink.memory)):
            if vector is not None:
                found[f"worker {s.rank} {name}"] = vector.copy()
    for i, relay in enumerate(relays):
        found[f"server {i} eta"] = np.array([relay._last], np.float32)
        for name, vector in (("residual", relay.residual), ("mean", relay.mean)):
            if vector is not None:
                found[f"server {i} {name}"] = vector.copy()
    return found


def remembered_by(cluster):
    relays = [cluster.aggregator.residual(b.index) for b in cluster.layout.buckets]
    return remembered(cluster.replica, cluster.senders, relays)


def assert_unchanged(before, after):
    assert before.keys() == after.keys()
    assert [name for name in before if not same(before[name], after[name])] == []


class Core:
    """Senders, relays and replica in the processes' order: bucket by bucket, then commit."""

    def __init__(self, method):
        job = make_job(method, GROUPED, 7, decay=0.01, seed=3)
        self.layout = job.layout
        self.decays = job.decays
        self.replica = Replica(job.method, self.layout, job.seed)
        shared = self.replica.rule.state
        self.senders = [Sender(job.method, self.layout, 3, r, N, shared) for r in range(N)]
        self.relays = [Relay(job.method.up, job.method.down, b, 3, N) for b in self.layout.buckets]
        self.round = 0

    def write(self, gradients):
        for sender, g in zip(self.senders, gradients, strict=True):
            sender.gradient[:] = g

    def play(self, gradients, etas):
        self.write(gradients)
        for bucket, relay in zip(self.layout.buckets, self.relays, strict=True):
            eta = etas[bucket.group]
            payloads = [s.encode(bucket, self.round, eta).copy() for s in self.senders]
            self.replica.receive(bucket, relay.run(payloads, self.round, eta), self.round, eta)
        for part in (*self.senders, *self.relays):
            part.commit()
        self.replica.commit(etas, self.decays)
        self.round += 1

    def remembered(self):
        return remembered(self.replica, self.senders, self.relays)


def draws(seed, n=N):
    """Gradients of one round, flat."""
    source = Gradients(GROUPED, n, seed)
    layout = make_job("sgd", GROUPED, 7).layout
    x = {name: np.zeros(shape, np.float32) for name, shape, _ in GROUPED}
    rows = np.zeros((n, layout.dimension), np.float32)
    for row in rows:
        drawn = source.draw(x)
        for name, view in layout.views(row).items():
            view[...] = drawn[name]
    return rows


@pytest.mark.parametrize("method", NAMES)
def test_nan_in_the_last_bucket_of_the_last_worker_changes_no_state(method):
    core, untouched = Core(method), Core(method)
    for t, etas in enumerate(ROUNDS):
        core.play(draws(t), etas)
        untouched.play(draws(t), etas)
        before = core.remembered()
        bad = draws(100 + t)
        bad[-1, -1] = np.nan
        with pytest.raises(NonFiniteError, match=f"worker {N - 1}.*'conv'.*round {t + 1}"):
            core.play(bad, ROUNDS[(t + 1) % len(ROUNDS)])
        assert_unchanged(before, core.remembered())
    assert_unchanged(untouched.remembered(), core.remembered())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", NAMES)
def test_cluster_steps_again_after_a_refused_round(method, value):
    pair = Pair(method, GROUPED, blocks=7, n=N, decay=0.01)
    for t in range(12):
        states(pair.cluster)  # commits the round that is over
        before = remembered_by(pair.cluster)
        state = pair.gradients.rng.bit_generator.state
        pair.draw()
        pair.cluster.senders[t % N].gradient[-1 - 20 * t] = value
        with pytest.raises(NonFiniteError, match=f"worker {t % N}.*round {t}"):
            pair.cluster.step(pair.etas(t))
        assert_unchanged(before, remembered_by(pair.cluster))
        pair.gradients.rng.bit_generator.state = state
        pair.round(pair.etas(t))
        assert pair.differences() == []


@pytest.mark.parametrize("method", NAMES)
def test_nan_is_found_in_a_round_with_step_size_zero(method):
    """A silent channel sends nothing, but local momentum would be poisoned."""
    pair = Pair(method, GROUPED, blocks=7, n=N)
    pair.round([0.1, 0.1])
    states(pair.cluster)
    before = remembered_by(pair.cluster)
    pair.draw()
    pair.cluster.senders[1].gradient[-1] = np.nan
    with pytest.raises(NonFiniteError, match=r"worker 1: the gradient of 'conv'.*\[4, 6\]"):
        pair.cluster.step([0.0, 0.0])
    assert_unchanged(before, remembered_by(pair.cluster))


@pytest.mark.parametrize("method", SIGN_METHODS)
def test_magnitudes_that_sum_beyond_float32_are_refused(method):
    pair = Pair(method, GROUPED, blocks=7, n=N)
    pair.round([0.1, 0.1])
    states(pair.cluster)
    before = remembered_by(pair.cluster)
    pair.draw()
    pair.cluster.senders[0].gradient[-7:] = 3e38
    with pytest.raises(NonFiniteError, match=r"worker 0.*'conv'"):
        pair.cluster.step([0.1, 0.1])
    assert_unchanged(before, remembered_by(pair.cluster))


def test_sum_over_workers_beyond_float32_is_refused():
    """Each gradient is finite, their sum is not: only the server can see it."""
    pair = Pair("sgdm", GROUPED, blocks=7, n=N)
    pair.round([0.1, 0.1])
    states(pair.cluster)
    before = remembered_by(pair.cluster)
    pair.draw()
    for sender in pair.cluster.senders:
        sender.gradient[-1] = 3e38
    with pytest.raises(CodecError, match="sum over workers is not finite in round 1"):
        pair.cluster.step([0.1, 0.1])
    assert_unchanged(before, remembered_by(pair.cluster))


@pytest.mark.parametrize("method", SIGN_METHODS)
def test_server_keeps_its_state_until_the_next_round_is_pushed(method):
    """A result that went out proves nothing: some worker may yet refuse the round."""
    cluster = Cluster(make_job(method, GROUPED, 7), N)
    before = remembered_by(cluster)
    for sender, g in zip(cluster.senders, draws(0), strict=True):
        sender.gradient[:] = g
    cluster.step((0.1, 0.2))
    after = remembered_by(cluster)
    server = {name for name in before if name.startswith("server")}
    assert_unchanged({k: before[k] for k in server}, {k: after[k] for k in server})
    cluster.senders[0].gradient[:] = 1
    payload = cluster.senders[0].encode(cluster.layout.buckets[0], 1, 0.1)
    cluster.aggregator.handle(Push(0, 1, 0, 0, 0.1, b"", payload), 0)
    pushed = remembered_by(cluster)
    changed = {name for name in pushed if not same(pushed[name], after[name])}
    assert changed == {"server 0 eta", "server 0 residual"} & server
