"""Every row of the table in server/aggregator.py, and what a round's payloads become."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from psrv.errors import CodecError, NonFiniteError, ProtocolError
from psrv.methods import METHODS
from psrv.server.aggregator import Aggregator, Answer, Reduce, Refuse
from virtual_run import Pushes, feed, make_job


def state(aggregator: Aggregator) -> list[bytes | None]:
    """The bytes that the relays remember, bucket by bucket."""
    relays = [aggregator.residual(b.index) for b in aggregator.job.layout.buckets]
    vectors = [v for relay in relays for v in (relay.residual, relay.mean)]
    return [None if v is None else v.tobytes() for v in vectors]


def refusal(actions) -> Refuse:
    (refuse,) = actions
    assert isinstance(refuse, Refuse)
    return refuse


def test_last_push_asks_for_the_reduction_and_all_get_the_result():
    job = make_job()
    aggregator = Aggregator(job, 3)
    pushes = Pushes(job, 3).round(0)[1]
    assert aggregator.handle(pushes[2], 10) == []
    assert aggregator.waiting_for() == (0, [0, 1, 2])  # other buckets lack all
    assert aggregator.open()
    assert aggregator.handle(pushes[0], 20) == []
    assert aggregator.handle(pushes[1], 30) == [Reduce(0, 1)]
    assert not aggregator.open()
    payload = aggregator.reduce(Reduce(0, 1))
    answers = aggregator.reduced(Reduce(0, 1), payload, 40, 50)
    assert [a.rank for a in answers] == [0, 1, 2]
    for answer, arrived in zip(answers, (20, 30, 10), strict=True):
        result = answer.result
        assert (result.epoch, result.round, result.bucket) == (0, 0, 1)
        assert (result.arrived_ns, result.last_ns, result.last_rank) == (arrived, 30, 1)
        assert (result.start_ns, result.done_ns) == (40, 50)
        assert bytes(result.payload) == bytes(payload)


def test_missing_ranks_are_those_some_bucket_still_lacks():
    job = make_job()
    aggregator = Aggregator(job, 2)
    pushes = Pushes(job, 2).round(0)
    assert aggregator.waiting_for() == (-1, [])
    for bucket in pushes:
        aggregator.handle(bucket[0], 0)
    assert aggregator.waiting_for() == (0, [1])
    for bucket in pushes[:-1]:
        feed(aggregator, bucket[1:])
    assert aggregator.waiting_for() == (0, [1])
    feed(aggregator, pushes[-1][1:])
    assert aggregator.waiting_for() == (0, [])
    assert aggregator.round() == 0


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_order_of_arrival_gives_the_same_bytes(method):
    job = make_job(method)
    found = set()
    for order in permutations(range(3)):
        aggregator, source = Aggregator(job, 3), Pushes(job, 3)
        payloads = [
            feed(aggregator, [bucket[rank] for rank in order]).tobytes()
            for t in range(3)
            for bucket in source.round(t)
        ]
        found.add(b"".join(payloads))
    assert len(found) == 1


def test_sum_is_in_rank_order():
    """With these three numbers every order of summing gives another float32."""
    job = make_job("sgd")
    values = (np.float32(1e8), np.float32(1.0), np.float32(-1e8))
    source = Pushes(job, 3, lambda rank, d, t: np.full(d, values[rank], np.float32))
    expected = ((values[0] + values[1]) + values[2]) * np.float32(1 / 3)
    other = ((values[0] + values[2]) + values[1]) * np.float32(1 / 3)
    assert expected != other
    (push_0, push_1, push_2), *_ = source.round(0)
    payload = feed(Aggregator(job, 3), [push_2, push_0, push_1])
    assert (payload.view("<f4") == expected).all()


def test_repeated_push_counts_once_and_the_first_stands():
    job = make_job("sgd")
    pushes = Pushes(job, 2).round(0)[0]
    alone = feed(Aggregator(job, 2), pushes)
    aggregator = Aggregator(job, 2)
    aggregator.handle(pushes[0], 0)
    forged = replace(pushes[0], payload=bytes(len(pushes[0].payload)))
    assert aggregator.handle(pushes[0], 1) == []
    assert aggregator.handle(forged, 2) == []
    assert aggregator.repeated == 2
    assert (feed(aggregator, pushes[1:]) == alone).all()


def test_repeat_during_the_reduction_is_answered_by_its_end():
    job = make_job()
    aggregator = Aggregator(job, 2)
    pushes = Pushes(job, 2).round(0)[0]
    aggregator.handle(pushes[0], 0)
    (reduce,) = aggregator.handle(pushes[1], 0)
    assert aggregator.handle(pushes[0], 0) == []
    assert aggregator.repeated == 1
    answers = aggregator.reduced(reduce, aggregator.reduce(reduce), 0, 0)
    assert [a.rank for a in answers] == [0, 1]


def test_repeat_after_the_end_gets_the_kept_result():
    job = make_job()
    aggregator = Aggregator(job, 2)
    pushes = Pushes(job, 2).round(0)[0]
    payload = feed(aggregator, pushes, now=5)
    before = state(aggregator)
    (answer,) = aggregator.handle(replace(pushes[1], payload=b"other"), 99)
    assert isinstance(answer, Answer)
    assert answer.rank == 1
    assert bytes(answer.result.payload) == payload.tobytes()
    assert (answer.result.arrived_ns, answer.result.last_ns) == (5, 5)
    assert aggregator.repeated == 1
    assert state(aggregator) == before


def test_push_of_a_round_that_is_over_is_dropped():
    job = make_job()
    aggregator, source = Aggregator(job, 2), Pushes(job, 2)
    old = source.round(0)[0]
    feed(aggregator, old)
    new = source.round(1)[0]
    aggregator.handle(new[0], 0)
    before = state(aggregator)
    for push in old:
        assert aggregator.handle(push, 0) == []
    assert aggregator.stale == 2
    assert state(aggregator) == before
    assert aggregator.waiting_for()[1] == [0, 1]
    feed(aggregator, new[1:])


def test_other_epochs():
    job = make_job()
    aggregator = Aggregator(job, 2, epoch=4, first_round=7)
    push = replace(Pushes(job, 2).round(0)[0][0], epoch=4, round=7)
    assert aggregator.handle(replace(push, epoch=3), 0) == []
    assert aggregator.stale == 1
    refuse = refusal(aggregator.handle(replace(push, epoch=5), 0))
    assert refuse.code == "protocol"
    assert "expected epoch 4" in refuse.text
    assert aggregator.handle(push, 0) == []
    assert aggregator.round() == 7
    assert refusal(aggregator.handle(replace(push, round=9), 0)).code == "protocol"


def test_rounds_to_come_are_refused():
    job = make_job()
    aggregator, source = Aggregator(job, 2), Pushes(job, 2)
    pushes = source.round(0)
    refuse = refusal(aggregator.handle(replace(pushes[0][0], round=1), 0))
    assert (refuse.rank, refuse.code) == (0, "protocol")
    assert "worker 0, round 1, bucket 0" in refuse.text
    assert "a round up to 0" in refuse.text
    aggregator.handle(pushes[0][1], 0)
    for phase in ("collecting", "reducing"):
        refuse = refusal(aggregator.handle(replace(pushes[0][1], round=1), 0))
        assert "round 0 is not over" in refuse.text, phase
        assert aggregator.round() == 0
        actions = aggregator.handle(pushes[0][0], 0)
    assert actions == []  # it had come: the reduction goes on


def test_unknown_bucket_is_refused_also_where_another_server_holds_it():
    job = make_job()
    aggregator = Aggregator(job, 1, buckets=[0, 2])
    pushes = Pushes(job, 1).round(0)
    feed(aggregator, pushes[0])
    feed(aggregator, pushes[2])
    for bucket in (1, 3, 99):
        refuse = refusal(aggregator.handle(replace(pushes[1][0], bucket=bucket), 0))
        assert "does not hold that bucket" in refuse.text


@pytest.mark.parametrize("change", [-1, 1, None])
def test_wrong_size_is_refused_and_changes_nothing(change):
    job = make_job()
    aggregator, source = Aggregator(job, 2), Pushes(job, 2)
    feed(aggregator, source.round(0)[0])
    push, other = source.round(1)[0]
    before = state(aggregator)
    size = 0 if change is None else len(push.payload) + change
    refuse = refusal(aggregator.handle(replace(push, payload=bytes(size)), 0))
    assert (refuse.rank, refuse.code) == (0, "payload")
    assert f"{size} bytes, expected {len(push.payload)}" in refuse.text
    assert "worker 0, round 1, bucket 0" in refuse.text
    assert state(aggregator) == before
    assert aggregator.round() == 0
    feed(aggregator, [push, other])


def test_step_sizes_must_agree():
    job = make_job("sgd")
    aggregator = Aggregator(job, 3)
    pushes = Pushes(job, 3).round(0)[0]
    aggregator.handle(pushes[1], 0)
    refuse = refusal(aggregator.handle(replace(pushes[2], eta=0.2), 0))
    assert (refuse.rank, refuse.code) == (2, "step-size")
    assert "step size is 0.2, worker 1 has 0.1" in refuse.text
    assert aggregator.handle(pushes[2], 0) == []
    assert aggregator.handle(pushes[0], 0) == [Reduce(0, 0)]


def test_rounds_with_a_step_size_of_zero_carry_nothing_in_a_rescaled_channel():
    job = make_job("dist-ef-sgd")
    aggregator, source = Aggregator(job, 2), Pushes(job, 2)
    feed(aggregator, source.round(0)[0])
    before = state(aggregator)
    silent = source.round(1, eta=0.0)[0]
    assert [len(p.payload) for p in silent] == [0, 0]
    full = replace(silent[0], payload=bytes(40))
    assert "40 bytes, expected 0" in refusal(aggregator.handle(full, 0)).text
    assert feed(aggregator, silent).size == 0
    after = feed(aggregator, source.round(2)[0])
    assert after.size
    assert state(aggregator)[0] != before[0]


def test_replica_that_differs_is_named():
    job = make_job()
    a, b = bytes(32), bytes(range(32))
    for digests, odd in (((a, a, b), "2"), ((b, a, a), "0"), ((b"", a, b), "2")):
        aggregator = Aggregator(job, 3)
        *first, last = Pushes(job, 3).round(0)[0]
        for push in first:
            assert aggregator.handle(replace(push, digest=digests[push.sender]), 0) == []
        refuse = refusal(aggregator.handle(replace(last, digest=digests[2]), 0))
        assert refuse.code == "diverged"
        assert f"the parameters of worker {odd} are not those of the others" in refuse.text
        assert "before round 0" in refuse.text


def test_replicas_that_agree_or_say_nothing_pass():
    job = make_job()
    for digests in ((b"", b"", b""), (bytes(32), b"", bytes(32)), (bytes(32),) * 3):
        aggregator = Aggregator(job, 3)
        pushes = Pushes(job, 3).round(0)[0]
        feed(aggregator, [replace(p, digest=d) for p, d in zip(pushes, digests, strict=True)])


@pytest.mark.parametrize("method", ["dist-ef-sgd", "amsgrad-ef", "cd-adam"])
def test_residual_becomes_the_state_with_the_next_rounds_first_push(method):
    job = make_job(method)
    aggregator, source = Aggregator(job, 2), Pushes(job, 2)
    start = state(aggregator)
    pushes = source.round(0)
    for bucket in pushes:
        feed(aggregator, bucket)
    for bucket in pushes:  # repeats prove nothing
        aggregator.handle(bucket[0], 0)
    assert state(aggregator) == start
    following = source.round(1)
    refusal(aggregator.handle(replace(following[0][0], payload=b""), 0))
    assert state(aggregator) == start
    aggregator.handle(following[0][0], 0)
    after = state(aggregator)
    changed = [a != b for a, b in zip(after, start, strict=True)]
    assert changed[0]
    assert not any(changed[2:]), "each bucket waits for its own push"


def test_payload_that_cannot_be_decoded_names_its_worker_and_changes_nothing():
    job = make_job()
    aggregator = Aggregator(job, 3)
    pushes = Pushes(job, 3).round(0)[0]
    before = state(aggregator)
    scales = np.frombuffer(pushes[1].payload, np.uint8).copy()
    scales[:4] = np.array([np.nan], "<f4").view(np.uint8)
    for push in (pushes[0], replace(pushes[1], payload=scales.tobytes())):
        aggregator.handle(push, 0)
    (reduce,) = aggregator.handle(pushes[2], 0)
    with pytest.raises(CodecError, match="worker 1, round 0, bucket 0: ") as caught:
        aggregator.reduce(reduce)
    assert not isinstance(caught.value, NonFiniteError)
    assert state(aggregator) == before


def test_sum_that_overflows_is_said_to_be_the_sum():
    job = make_job("sgd")
    source = Pushes(job, 2, lambda rank, d, t: np.full(d, 3e38, np.float32))
    aggregator = Aggregator(job, 2)
    first, second = source.round(0)[2]
    aggregator.handle(first, 0)
    (reduce,) = aggregator.handle(second, 0)
    with pytest.raises(CodecError, match="the sum over workers is not finite in round 0, bucket 2"):
        aggregator.reduce(reduce)


def test_reduction_that_was_not_asked_for_is_our_bug():
    job = make_job()
    aggregator = Aggregator(job, 1)
    with pytest.raises(ProtocolError, match="bucket 0 is done in round -1"):
        aggregator.reduced(Reduce(0, 0), np.zeros(1, np.uint8), 0, 0)
    feed(aggregator, Pushes(job, 1).round(0)[0])
    with pytest.raises(ProtocolError, match="round 0 was not asked for"):
        aggregator.reduced(Reduce(0, 0), np.zeros(1, np.uint8), 0, 0)
