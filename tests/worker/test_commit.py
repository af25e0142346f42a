"""What a sender and a replica remember changes with a commit, and with nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from psrv.errors import CodecError, NonFiniteError
from psrv.methods import METHODS
from psrv.simulation import Cluster
from psrv.worker.replica import Replica
from psrv.worker.rules import make_rule
from psrv.worker.sender import Sender
from virtual_run import a_result, made_up_gradient, make_job

ETAS = [0.1, 0.2]


def remembered(sender: Sender) -> list[bytes]:
    vectors = (sender.uplink.memory, sender.momentum)
    return [b"" if v is None else v.tobytes() for v in vectors]


def state(replica: Replica) -> dict[str, bytes]:
    return {name: vector.tobytes() for name, vector in replica.state().items()}


def fill(cluster: Cluster, t: int) -> None:
    for sender in cluster.senders:
        sender.gradient[:] = made_up_gradient(sender.rank, cluster.layout.dimension, t)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_encoding_without_a_commit_leaves_no_trace(method):
    job = make_job(method)
    shared = make_rule(job.method, job.layout.dimension).state
    sender, twin = (Sender(job.method, job.layout, 1, 0, 1, shared) for _ in range(2))
    d = job.layout.dimension
    for t in range(3):
        for _ in range(3):  # rounds that are left
            sender.gradient[:] = made_up_gradient(9, d, t)
            before = remembered(sender)
            for bucket in job.layout.buckets[: t + 1]:
                sender.encode(bucket, t, ETAS[bucket.group])
            assert remembered(sender) == before
        payloads = []
        for each in (sender, twin):
            each.gradient[:] = made_up_gradient(0, d, t)
            payloads.append(
                [each.encode(b, t, ETAS[b.group]).tobytes() for b in job.layout.buckets]
            )
            each.commit()
        assert payloads[0] == payloads[1]
        assert remembered(sender) == remembered(twin)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_number_that_is_not_finite_is_named_and_changes_nothing(method, bad):
    """In the last bucket of the last worker, so that all else was encoded already."""
    job = make_job(method)
    cluster, twin = Cluster(job, 3), Cluster(job, 3)
    for t in range(2):
        for each in (cluster, twin):
            fill(each, t)
            each.step(ETAS)
    fill(cluster, 7)
    last = job.layout.buckets[-1]
    at = job.layout.offsets["conv"] + 3 * 2 + 1  # conv[2, 1], in layout order behind fc and bias
    assert last.start <= at < last.stop
    cluster.senders[2].gradient[at] = bad
    before = state(cluster.replica), [remembered(s) for s in cluster.senders]
    text = r"worker 2: the gradient of 'conv' is not finite in round 2, at element \[2, 1\]"
    with pytest.raises(NonFiniteError, match=text) as caught:
        cluster.step(ETAS)
    assert caught.value.coordinate == at
    assert (state(cluster.replica), [remembered(s) for s in cluster.senders]) == before
    assert cluster.round == 2
    # The round can be taken again, and goes on as if nothing had been.
    for each in (cluster, twin):
        for t in (2, 3):
            fill(each, t)
            each.step(ETAS)
    assert state(cluster.replica) == state(twin.replica)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_result_that_is_no_payload_changes_nothing(method):
    job = make_job(method)
    cluster = Cluster(job, 1)
    fill(cluster, 0)
    cluster.step(ETAS)
    replica, bucket = cluster.replica, job.layout.buckets[0]
    before = state(replica)
    good = a_result(job, bucket, 1)
    for payload in (np.append(good, np.uint8(0)), good[:-1]):
        with pytest.raises(CodecError):
            replica.receive(bucket, payload, 1, ETAS[0])
    assert state(replica) == before
    replica.receive(bucket, good, 1, ETAS[0])
    assert state(replica) == before, "decoded, and not yet applied"


def test_replica_state_is_all_a_peer_needs():
    """A replica that is given another's vectors goes on with the same bits."""
    for method in sorted(METHODS):
        job = make_job(method)
        cluster = Cluster(job, 2)
        for t in range(3):
            fill(cluster, t)
            cluster.step(ETAS)
        late = Replica(job.method, job.layout, 1)
        for name, vector in cluster.replica.state().items():
            late.state()[name][:] = vector
        late.round = cluster.replica.round  # which an epoch says
        for bucket in job.layout.buckets:
            payload = a_result(job, bucket, 3)
            for replica in (cluster.replica, late):
                replica.receive(bucket, payload, 3, ETAS[bucket.group])
        for replica in (cluster.replica, late):
            replica.commit(ETAS, job.decays)
        assert state(late) == state(cluster.replica), method
