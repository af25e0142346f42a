"""The server as a whole: who may say what, and how runs whose workers wait for one another end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from psrv.messages import (
    Bye,
    Collect,
    Collected,
    Epoch,
    Error,
    Heartbeat,
    HeartbeatReply,
    Join,
    Push,
    Result,
    State,
)
from psrv.server.aggregator import Reduce
from psrv.server.core import Gone, Heard, Invalid, Note, ServerCore, Tick
from psrv.server.membership import Stage
from virtual_run import (
    MS,
    SECOND,
    Pushes,
    hello,
    make_job,
    make_terms,
    report,
    running_core,
    sends,
    stop,
)

JOB = make_job()
SIZE = 4 * JOB.layout.dimension


def vector(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def push_round(core: ServerCore, pushes, now=0, ranks=None):
    """All buckets of a round; returns the last actions."""
    actions = []
    for bucket in pushes:
        for push in bucket:
            if ranks is None or push.sender in ranks:
                actions = core.handle(Heard(f"p{push.sender}", push), now)
                if actions and isinstance(actions[0], Reduce):
                    payload = core.aggregator.reduce(actions[0])
                    actions = core.reduced(actions[0], payload, now, now)
    return actions


def snapshot(core: ServerCore):
    """All that a message may change, but for what counts, tells and limits complaints."""
    kept = {
        k: v for k, v in vars(core).items() if k not in ("invalid", "_warned", "_greeted", "terms")
    }
    told = ("turned_away", "last_refusal")
    membership = {k: v for k, v in vars(kept.pop("membership")).items() if k not in told}
    kept["aggregator"] = kept["aggregator"] and {
        i: {k: v for k, v in vars(slot).items() if k != "relay"}
        for i, slot in kept["aggregator"]._slots.items()
    }
    collection = kept.pop("_collection")
    kept["collection"] = collection and (collection.serial, sorted(collection.vectors))
    return repr((kept, membership))


def from_stranger() -> list[object]:
    payload = Pushes(JOB, 1).round(0)[0][0]
    return [
        hello(1),
        hello(-1),
        Join(1, JOB.describe()),
        payload,
        replace(payload, sender=1),
        State(0, 0, 0, 0, SIZE, bytes(SIZE)),
        Collect(0, 1, 1, vector(1.0)),
        Heartbeat(1, 0, 0),
        Bye(1, report(1)),
        Error("lost", "all is lost", 1),
        Epoch(0, 0, [0, 1]),
        Result(0, 0, 0, b"", 0, 0, 0, 0, 0),
    ]


@pytest.mark.parametrize("message", from_stranger(), ids=lambda m: type(m).__name__)
def test_stranger_never_changes_a_run(message):
    core = running_core(JOB, 2, now=5)
    push_round(core, Pushes(JOB, 2).round(0), 5, ranks=[0])
    core.handle(Heard("p1", Collect(0, 1, 1, vector(1.0))), 5)
    before = snapshot(core)
    actions = core.handle(Heard("stranger", message), 6)
    assert snapshot(core) == before
    ((peer, error),) = sends(actions)
    assert peer == "stranger"
    assert isinstance(error, Error)
    assert core.handle(Gone("stranger"), 7) == []
    assert snapshot(core) == before


@pytest.mark.parametrize("message", from_stranger()[2:], ids=lambda m: type(m).__name__)
def test_stranger_never_changes_who_is_in_before_a_run(message):
    core = ServerCore(make_terms(2))
    core.handle(Heard("p0", hello(0)), 0)
    core.handle(Heard("p0", Join(0, JOB.describe())), 0)
    before = snapshot(core)
    ((peer, error),) = sends(core.handle(Heard("stranger", message), 1))
    assert (peer, error.code) == ("stranger", "protocol")
    assert snapshot(core) == before


def test_replies_to_a_stranger_are_limited_and_all_are_counted():
    core = running_core(JOB, 2)
    push = Pushes(JOB, 2).round(0)[0][0]
    answered = [bool(core.handle(Heard("stranger", push), i * 100 * MS)) for i in range(21)]
    assert [i for i, answer in enumerate(answered) if answer] == [0, 10, 20]
    assert core.invalid == 21
    assert core.handle(Heard("another", push), 0)


@pytest.mark.parametrize("peer", ["p1", "stranger"])
def test_bytes_that_are_no_message_are_told_back_and_change_nothing(peer):
    core = running_core(JOB, 2)
    before = snapshot(core)
    actions = core.handle(Invalid(peer, "header of 70000 bytes; the limit is 65536"), 1)
    ((to, error),) = sends(actions)
    assert (to, error.code) == (peer, "wire")
    assert "the limit is 65536" in error.text
    (note,) = [a for a in actions if isinstance(a, Note)]
    assert ("worker 1" if peer == "p1" else "a stranger") in note.text
    assert snapshot(core) == before
    assert core.invalid == 1


@pytest.mark.parametrize(
    "message",
    [
        Pushes(JOB, 2).round(0)[0][0],
        Collect(0, 1, 0, vector(1.0)),
        State(0, 0, 0, 0, SIZE, bytes(SIZE)),
        Heartbeat(0, 0, 0),
        Bye(0, report(0)),
        Join(0, JOB.describe()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_member_cannot_speak_for_another(message):
    core = running_core(JOB, 2)
    before = snapshot(core)
    ((peer, error),) = sends(core.handle(Heard("p1", message), 0))
    assert (peer, error.code) == ("p1", "protocol")
    assert "in the name of worker 0 came from worker 1" in error.text
    assert snapshot(core) == before


def test_rounds_wait_for_the_run_to_begin_and_stop_with_it():
    core = ServerCore(make_terms(2))
    core.handle(Heard("p0", hello(0)), 0)
    core.handle(Heard("p0", Join(0, JOB.describe())), 0)
    push = Pushes(JOB, 2).round(0)[0][0]
    ((_, error),) = sends(core.handle(Heard("p0", push), 0))
    assert error.text == "Push before the run has begun, or after its end"
    core = running_core(JOB, 2)
    core.handle(Gone("p1"), 0)
    assert "after its end" in sends(core.handle(Heard("p0", push), 0))[0][1].text


def test_heartbeat_is_answered_at_once_and_keeps_the_lease():
    core = running_core(JOB, 2)
    for second in range(1, 100):
        for peer, rank in (("p0", 0), ("p1", 1)):
            now = second * SECOND
            ((to, reply),) = sends(core.handle(Heard(peer, Heartbeat(rank, 0, 7)), now))
            assert (to, reply) == (peer, HeartbeatReply(7, now))
        assert core.handle(Tick(), second * SECOND) == []
    actions = core.handle(Tick(), 130 * SECOND)
    assert stop(actions).code == "lost"


def test_heartbeats_are_answered_before_the_run_too():
    core = ServerCore(make_terms(2))
    core.handle(Heard("p0", hello(0)), 0)
    ((_, reply),) = sends(core.handle(Heard("p0", Heartbeat(0, 0, 1)), 9))
    assert reply == HeartbeatReply(1, 9)


def test_results_go_to_all_members():
    core = running_core(JOB, 2)
    actions = push_round(core, Pushes(JOB, 2).round(0))
    assert [(peer, type(m)) for peer, m in sends(actions)] == [("p0", Result), ("p1", Result)]


def test_push_that_cannot_go_on_ends_the_run_for_all():
    core = running_core(JOB, 2)
    first, second = Pushes(JOB, 2).round(0)[0]
    core.handle(Heard("p0", first), 0)
    actions = core.handle(Heard("p1", replace(second, eta=0.7)), 0)
    assert stop(actions).code == "step-size"
    assert [peer for peer, _ in sends(actions)] == ["p0", "p1"]
    for _, error in sends(actions):
        assert "its step size is 0.7, worker 0 has 0.1" in error.text


def test_reduction_that_fails_ends_the_run_for_all():
    core = running_core(JOB, 2)
    actions = core.failed("payload", "worker 1, round 0: its payload cannot be decoded")
    assert stop(actions).code == "payload"
    assert [peer for peer, _ in sends(actions)] == ["p0", "p1"]
    assert core.failed("payload", "again") == []


def test_state_of_rank_0_reaches_all_others_unread():
    core = running_core(JOB, 3)
    chunks = [State(0, 0, 0, at, SIZE, bytes(40)) for at in range(0, SIZE - 39, 40)]
    for chunk in chunks:
        assert sends(core.handle(Heard("p0", chunk), 0)) == [("p1", chunk), ("p2", chunk)]
    buffers = State(0, 0, 1, 0, 12, bytes(12))
    assert len(sends(core.handle(Heard("p0", buffers), 0))) == 2


@pytest.mark.parametrize(
    ("rank", "state", "text"),
    [
        (1, State(0, 1, 0, 0, SIZE, bytes(4)), "state may come from worker 0 only"),
        (0, State(0, 0, 0, 0, SIZE + 4, bytes(4)), f"state of {SIZE + 4} bytes, expected {SIZE}"),
        (0, State(0, 0, 0, 4, SIZE, bytes(4)), "a chunk of state at 4, expected it at 0"),
        (0, State(0, 0, 1, 8, 16, bytes(8)), "a chunk of state at 8, expected it at 0 of 16"),
    ],
)
def test_state_that_does_not_fit_is_turned_down(rank, state, text):
    core = running_core(JOB, 2)
    ((peer, error),) = sends(core.handle(Heard(f"p{rank}", state), 0))
    assert (peer, error.code) == (f"p{rank}", "protocol")
    assert text in error.text
    assert core.membership.stage is Stage.RUNNING


def test_state_comes_before_the_first_round():
    core = running_core(JOB, 2)
    core.handle(Heard("p1", Pushes(JOB, 2).round(0)[0][1]), 0)
    ((_, error),) = sends(core.handle(Heard("p0", State(0, 0, 0, 0, SIZE, bytes(SIZE))), 0))
    assert "before the first round" in error.text


def test_average_is_taken_in_rank_order_and_goes_to_all():
    core = running_core(JOB, 3)
    for rank, value in ((2, -1e8), (0, 1e8)):
        assert core.handle(Heard(f"p{rank}", Collect(0, 1, rank, vector(value, rank))), 0) == []
    assert core.handle(Heard("p0", Collect(0, 1, 0, vector(9, 9))), 0) == [], "a repeat"
    actions = core.handle(Heard("p1", Collect(0, 1, 1, vector(3, 4))), 0)
    assert [peer for peer, _ in sends(actions)] == ["p0", "p1", "p2"]
    for _, collected in sends(actions):
        assert isinstance(collected, Collected)
        assert bytes(collected.payload) == vector(1.0, 2.0)
    # In float64: in float32 the 3 would be lost beside 1e8.
    assert core.handle(Heard("p1", Collect(0, 1, 1, vector(3, 4))), 0) == []
    assert core.handle(Heard("p1", Collect(0, 2, 1, vector(3))), 0) == []


def test_vectors_of_different_sizes_cannot_be_averaged():
    core = running_core(JOB, 2)
    core.handle(Heard("p0", Collect(0, 1, 0, vector(1.0, 2.0))), 0)
    actions = core.handle(Heard("p1", Collect(0, 1, 1, vector(1.0))), 0)
    assert stop(actions).code == "protocol"
    assert "worker 1 gave 4 bytes to be averaged, others gave {8}" in stop(actions).text


def test_worker_that_needs_more_rounds_than_one_that_left():
    core = running_core(JOB, 2)
    source = Pushes(JOB, 2)
    for t in range(2):
        push_round(core, source.round(t))
    assert core.handle(Heard("p0", Bye(0, report(0))), 0) == []
    actions = push_round(core, source.round(2)[:1], ranks=[1])
    assert stop(actions).code == "uneven"
    text = "worker 0 finished after 2 rounds, others went on; every worker needs the same number"
    assert text in stop(actions).text
    assert [peer for peer, _ in sends(actions)] == ["p0", "p1"]


def test_worker_that_leaves_while_others_wait_for_it():
    core = running_core(JOB, 3)
    source = Pushes(JOB, 3)
    push_round(core, source.round(0))
    push_round(core, source.round(1), ranks=[0, 2])
    actions = core.handle(Heard("p1", Bye(1, report(1))), 0)
    assert stop(actions).code == "uneven"
    assert "worker 1 finished after 1 rounds" in stop(actions).text


def test_average_that_a_worker_left_before():
    core = running_core(JOB, 2)
    push_round(core, Pushes(JOB, 2).round(0))
    core.handle(Heard("p1", Bye(1, report(1))), 0)
    actions = core.handle(Heard("p0", Collect(0, 1, 0, vector(1.0))), 0)
    assert stop(actions).code == "uneven"
    assert "worker 1 finished after 1 rounds" in stop(actions).text


def test_round_that_waits_too_long_names_who_is_missing():
    core = running_core(JOB, 3, round_timeout=10.0)
    push_round(core, Pushes(JOB, 3).round(0), now=SECOND, ranks=[0, 2])
    for rank in range(3):
        core.handle(Heard(f"p{rank}", Heartbeat(rank, 0, 0)), 5 * SECOND)
    assert core.handle(Tick(), 11 * SECOND) == []
    actions = core.handle(Tick(), 11 * SECOND + 1)
    assert stop(actions).code == "timeout"
    assert "round 0 has waited 10 s for worker 1, the round timeout is 10 s" in stop(actions).text
    assert len(sends(actions)) == 3, "also the one that is stuck"


def test_time_before_the_first_round_counts_too():
    core = running_core(JOB, 2, now=3 * SECOND, round_timeout=10.0)
    assert core.handle(Tick(), 13 * SECOND) == []
    assert "for worker 0, 1" in stop(core.handle(Tick(), 14 * SECOND)).text


def test_workers_that_wait_for_one_another_are_told_soon():
    core = running_core(JOB, 2)
    source = Pushes(JOB, 2)
    push_round(core, source.round(0), now=SECOND)
    core.handle(Heard("p0", Collect(0, 1, 0, vector(1.0))), SECOND)
    push_round(core, source.round(1), now=2 * SECOND, ranks=[1])
    assert core.handle(Tick(), 3 * SECOND) == []
    actions = core.handle(Tick(), 3 * SECOND + 100 * MS)
    assert stop(actions).code == "timeout"
    assert "worker 0 waits for an average while the others wait for it in round 1" in (
        stop(actions).text
    )


def test_slow_worker_is_not_taken_for_one_that_waits():
    core = running_core(JOB, 3)
    source = Pushes(JOB, 3)
    push_round(core, source.round(0), now=SECOND)
    # Rank 2 still computes; rank 0 is ahead in the averages of the same place in the script.
    push_round(core, source.round(1), now=SECOND, ranks=[0, 1])
    for rank in range(3):
        core.handle(Heard(f"p{rank}", Heartbeat(rank, 0, 0)), 20 * SECOND)
    assert core.handle(Tick(), 25 * SECOND) == []


def test_lost_worker_is_named_with_the_round_it_was_lost_in():
    core = running_core(JOB, 2)
    source = Pushes(JOB, 2)
    for t in range(3):
        push_round(core, source.round(t))
    push_round(core, source.round(3), ranks=[0])
    actions = core.handle(Gone("p1"), 0)
    assert "worker 1 (process 101 on 'host') was lost in round 3" in stop(actions).text


def test_clean_end():
    core = running_core(JOB, 2)
    push_round(core, Pushes(JOB, 2).round(0))
    assert core.handle(Heard("p0", Bye(0, report(0))), 0) == []
    actions = core.handle(Heard("p1", Bye(1, report(1))), 0)
    assert stop(actions).code == ""
    assert core.membership.summaries() == [report(0), report(1)]
    assert core.handle(Tick(), 10**6 * SECOND) == []


def test_push_after_the_last_round_of_another_worker_is_not_a_round():
    """A repeat that comes after its worker's Bye opens nothing."""
    core = running_core(JOB, 2)
    pushes = Pushes(JOB, 2).round(0)
    push_round(core, pushes)
    core.handle(Heard("p0", Bye(0, report(0))), 0)
    actions = core.handle(Heard("p0", pushes[0][0]), 0)
    assert [type(m) for _, m in sends(actions)] == [Result]
    assert isinstance(pushes[0][0], Push)
    assert stop(core.handle(Heard("p1", Bye(1, report(1))), 0)).code == ""
