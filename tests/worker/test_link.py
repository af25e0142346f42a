"""Every row of the table in worker/protocol.py, on virtual time."""

from __future__ import annotations

import pytest

from psrv.errors import (
    CodecError,
    DivergedError,
    LostError,
    NonFiniteError,
    PsrvError,
    RefusedError,
    WireError,
)
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
    Welcome,
)
from psrv.worker.protocol import (
    Clock,
    Closed,
    Deliver,
    Fail,
    Garbled,
    Link,
    Received,
    Say,
    Send,
    Stage,
    Tick,
)
from virtual_run import MS, SECOND, hello

WELCOME = Welcome(1, 2, 30.0, 1.0, 1 << 20, bytes(16))
EPOCH = Epoch(0, 0, [0, 1])
STATE = State(0, 0, 0, 0, 4, bytes(4))
COLLECTED = Collected(0, 1, bytes(4))
REPLY = HeartbeatReply(5, 50)
BYE = Bye(-1, {})


def result(round=0, bucket=0, epoch=0) -> Result:
    return Result(epoch, round, bucket, b"", 1, 2, 0, 3, 4)


def push(round=0) -> Push:
    return Push(0, round, 0, 1, 0.1, b"", b"")


def link_in(stage: Stage, now=0) -> Link:
    """A link that has come to ``stage`` in the usual way."""
    link = Link("tcp://there:1", 30.0)
    link.handle(Say(hello(1)), now)
    steps = {
        Stage.GREETING: (),
        Stage.WELCOMED: (Received(WELCOME),),
        Stage.JOINING: (Say(Join(1, {})),),
        Stage.TRAINING: (Received(EPOCH),),
        Stage.LEAVING: (Say(Bye(1, {})),),
        Stage.ENDED: (Received(BYE),),
    }
    for at, events in steps.items():
        for event in events:
            link.handle(event, now)
        assert link.stage is at
        if at is stage:
            return link
    raise AssertionError


def failure(actions) -> PsrvError:
    (fail,) = actions
    assert isinstance(fail, Fail)
    return fail.error


def test_usual_life():
    link = Link("tcp://there:1", 30.0)
    assert link.handle(Say(hello(1)), 0) == [Send(hello(1))]
    assert link.handle(Received(WELCOME), 7) == [Deliver(WELCOME, 7)]
    assert link.handle(Say(Join(1, {})), 8) == [Send(Join(1, {}))]
    assert link.stage is Stage.JOINING
    assert link.handle(Received(EPOCH), 9) == [Deliver(EPOCH, 9)]
    for message in (STATE, COLLECTED, result()):
        assert link.handle(Received(message), 10) == [Deliver(message, 10)]
    assert link.handle(Say(push()), 11) == [Send(push())]
    assert link.handle(Say(Bye(1, {})), 12) == [Send(Bye(1, {}))]
    assert link.stage is Stage.LEAVING
    assert link.handle(Received(BYE), 13) == [Deliver(BYE, 13)]
    assert link.stage is Stage.ENDED


EVERYTHING = (WELCOME, EPOCH, STATE, result(), COLLECTED, REPLY, BYE)
ALLOWED = {
    Stage.GREETING: (WELCOME,),
    Stage.WELCOMED: (WELCOME, REPLY),
    Stage.JOINING: (EPOCH, REPLY),
    Stage.TRAINING: (STATE, result(), COLLECTED, REPLY),
    Stage.LEAVING: (BYE, REPLY, result()),
    Stage.ENDED: EVERYTHING,
}


@pytest.mark.parametrize("message", EVERYTHING, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("stage", list(Stage))
def test_message_at_the_wrong_time_is_the_servers_fault(stage, message):
    link = link_in(stage)
    actions = link.handle(Received(message), 3)
    if message in ALLOWED[stage]:
        assert not any(isinstance(a, Fail) for a in actions)
        return
    error = failure(actions)
    assert isinstance(error, WireError)
    assert "tcp://there:1 sent" in str(error)
    assert type(message).__name__ in str(error)
    assert stage.value in str(error)
    assert link.stage is Stage.ENDED


def test_result_of_a_round_that_is_over_is_dropped():
    link = link_in(Stage.TRAINING)
    link.handle(Say(push(4)), 0)
    assert link.handle(Received(result(3)), 1) == []
    assert link.handle(Received(result(4)), 1) == [Deliver(result(4), 1)]
    link = link_in(Stage.JOINING)
    link.handle(Received(Epoch(2, 0, [0, 1])), 0)
    assert link.handle(Received(result(9, epoch=1)), 1) == []


def test_results_are_dropped_once_the_worker_leaves():
    link = link_in(Stage.LEAVING)
    assert link.handle(Received(result(10**6)), 1) == []
    assert link.stage is Stage.LEAVING


def test_heartbeat_reply_compares_clocks():
    for stage in (Stage.WELCOMED, Stage.JOINING, Stage.TRAINING, Stage.LEAVING, Stage.ENDED):
        assert link_in(stage).handle(Received(REPLY), 99) == [Clock(5, 50, 99)]


def test_heartbeats_go_out_at_the_servers_pace_from_the_welcome_on():
    link = link_in(Stage.GREETING)
    assert link.handle(Tick(), SECOND) == []
    link.handle(Received(Welcome(1, 2, 30.0, 0.25, 1 << 20, bytes(16))), SECOND)
    sent = []
    for now in range(SECOND, 2 * SECOND, 10 * MS):
        sent += [(now, a.message) for a in link.handle(Tick(), now)]
        link.handle(Received(REPLY), now)
    assert [now for now, _ in sent] == [SECOND + i * 250 * MS for i in range(4)]
    assert all(m == Heartbeat(1, 0, now) for now, m in sent)


def test_heartbeat_says_which_round_it_is():
    link = link_in(Stage.TRAINING)
    link.handle(Say(push(12)), 0)
    assert link.handle(Tick(), SECOND) == [Send(Heartbeat(1, 12, SECOND))]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("lost", LostError),
        ("diverged", DivergedError),
        ("nonfinite", NonFiniteError),
        ("payload", CodecError),
        ("wire", WireError),
        ("job", RefusedError),
        ("version", RefusedError),
        ("anything", RefusedError),
    ],
)
@pytest.mark.parametrize("stage", [s for s in Stage if s is not Stage.ENDED])
def test_servers_error_ends_the_worker_with_the_servers_text(stage, code, kind):
    link = link_in(stage)
    error = failure(link.handle(Received(Error(code, "because", -1)), 0))
    assert type(error) is kind
    assert str(error) == "server: because"
    assert link.stage is Stage.ENDED
    assert link.handle(Received(Error(code, "again", -1)), 0) == []


def test_no_answer_within_the_connect_timeout():
    link = Link("tcp://there:1", 2.0)
    link.handle(Say(hello(1)), 5 * SECOND)
    assert link.handle(Tick(), 7 * SECOND) == []
    error = failure(link.handle(Tick(), 7 * SECOND + 1))
    assert isinstance(error, LostError)
    assert "no server answered at tcp://there:1 within 2 s" in str(error)
    assert link.handle(Tick(), 99 * SECOND) == []


@pytest.mark.parametrize(
    ("stage", "waits"),
    [
        (Stage.JOINING, "the other workers to join"),
        (Stage.TRAINING, "the results of round 4"),
        (Stage.LEAVING, "the other workers to finish"),
    ],
)
def test_silence_and_a_closed_connection_say_what_was_waited_for(stage, waits):
    for event, now, text in (
        (Tick(), 30 * SECOND + 1, "has been silent for 30 s (its lease is 30 s)"),
        (Closed(), 0, "closed the connection"),
    ):
        link = link_in(stage)
        link.round = 4
        assert not any(isinstance(a, Fail) for a in link.handle(Tick(), 30 * SECOND))
        error = failure(link.handle(event, now))
        assert isinstance(error, LostError)
        assert text in str(error)
        assert f"waited for {waits}" in str(error)
        assert link.stage is Stage.ENDED


def test_any_message_is_a_sign_of_life():
    link = link_in(Stage.TRAINING)
    link.handle(Received(REPLY), 29 * SECOND)
    assert not any(isinstance(a, Fail) for a in link.handle(Tick(), 58 * SECOND))
    assert isinstance(failure(link.handle(Tick(), 60 * SECOND)), LostError)


@pytest.mark.parametrize("stage", [s for s in Stage if s is not Stage.ENDED])
def test_bytes_that_are_no_message_end_the_worker_and_are_told_back(stage):
    link = link_in(stage)
    send, fail = link.handle(Garbled("header of 7 elements"), 0)
    assert isinstance(fail.error, WireError)
    assert "cannot read what the server at tcp://there:1 sent: header of 7 el" in str(fail.error)
    assert send == Send(Error("wire", str(fail.error), link._rank))
    assert link.stage is Stage.ENDED
    assert link.handle(Garbled("more"), 1) == []


def test_connection_may_break_before_the_welcome_and_after_the_end():
    for stage in (Stage.GREETING, Stage.ENDED):
        assert link_in(stage).handle(Closed(), 0) == []


def test_reporting_an_error_ends_the_worker():
    link = link_in(Stage.TRAINING)
    report = Error("failed", "it broke", 1)
    assert link.handle(Say(report), 0) == [Send(report)]
    assert link.stage is Stage.ENDED
    assert link.handle(Closed(), 1) == []
    assert link.handle(Tick(), 99 * SECOND) == []


@pytest.mark.parametrize(
    "message", [push(1), Collect(0, 1, 1, bytes(4)), Bye(1, {})], ids=lambda m: type(m).__name__
)
def test_speaking_after_the_end_fails_and_does_not_wait(message):
    """A script that catches an error and goes on must not hang."""
    for event in (Say(Error("failed", "it broke", 1)), Received(Error("lost", "why", -1))):
        link = link_in(Stage.TRAINING)
        link.handle(event, 0)
        error = failure(link.handle(Say(message), 1))
        assert isinstance(error, LostError)
        assert "the run has ended" in str(error)
