"""Every row of the table in server/membership.py: who gets in, and how a run begins and ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psrv.layout import Tensor
from psrv.messages import Bye, Epoch, Error, Heartbeat, Join, Welcome
from psrv.server.membership import Begin, Gone, Heard, Membership, Note, Stage, Stop, Tick
from virtual_run import SECOND, TENSORS, hello, make_job, make_terms, report, sends, stop

JOB = make_job()


def gathered(workers=2, joined=0, job=JOB, **terms) -> Membership:
    """A membership with ``workers`` members, peers "p0", ..., the first ``joined`` with a job."""
    membership = Membership(make_terms(workers, **terms))
    for rank in range(workers):
        membership.handle(Heard(f"p{rank}", hello(rank)), 0)
    for rank in range(joined):
        membership.handle(Heard(f"p{rank}", Join(rank, job.describe())), 0)
    return membership


def running(workers=2, **terms) -> Membership:
    membership = gathered(workers, workers, **terms)
    assert membership.stage is Stage.RUNNING
    return membership


def error_to(actions, peer) -> Error:
    """The one message to ``peer``, an error."""
    (message,) = [m for p, m in sends(actions) if p == peer]
    assert isinstance(message, Error)
    assert message.rank == -1
    return message


def test_welcome_carries_rank_and_terms():
    membership = Membership(make_terms(3))
    ((peer, welcome),) = sends(membership.handle(Heard("a", hello(2)), 0))
    assert peer == "a"
    assert welcome == Welcome(2, 3, 30.0, 1.0, 1 << 20, bytes(16))
    assert membership.stage is Stage.GATHERING
    assert membership.member("a").rank == 2


def test_worker_without_a_rank_gets_the_lowest_that_is_free():
    membership = Membership(make_terms(4))
    given = []
    for peer, claim in (("a", 1), ("b", -1), ("c", -1), ("d", -1)):
        ((_, welcome),) = sends(membership.handle(Heard(peer, hello(claim)), 0))
        given.append(welcome.rank)
    assert given == [1, 0, 2, 3]


def test_repeated_hello_gets_the_same_welcome():
    membership = gathered(2)
    for claim in (1, 0, -1):
        ((peer, welcome),) = sends(membership.handle(Heard("p1", hello(claim)), 0))
        assert (peer, welcome.rank) == ("p1", 1)
    assert membership.turned_away == 0


def test_last_join_begins_the_run():
    membership = gathered(3, joined=2)
    assert membership.stage is Stage.GATHERING
    begin, *rest = membership.handle(Heard("p2", Join(2, JOB.describe())), 0)
    assert isinstance(begin, Begin)
    assert begin.job.describe() == JOB.describe()
    assert sends(rest) == [(f"p{r}", Epoch(0, 0, [0, 1, 2])) for r in range(3)]
    assert membership.stage is Stage.RUNNING
    assert membership.handle(Heard("p2", Join(2, JOB.describe())), 0) == []


def test_repeated_join_does_not_count_twice():
    membership = gathered(2, joined=1)
    assert membership.handle(Heard("p0", Join(0, JOB.describe())), 0) == []
    assert membership.stage is Stage.GATHERING


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"version": "0.9"}, "version", "the worker runs psrv '0.9', the server 1.0"),
        ({"codec_digest": bytes(32)}, "version", "codec makes other payloads"),
        ({"rank": 2}, "rank", "rank 2 was claimed, the run has ranks 0 to 1"),
        ({"rank": 0}, "rank", "rank 0 was claimed, but is taken by worker 0 (process 100 on"),
    ],
)
def test_hello_that_does_not_fit_is_turned_away(change, code, text):
    membership = Membership(make_terms(2))
    membership.handle(Heard("p0", hello(0)), 0)
    actions = membership.handle(Heard("other", replace(hello(), **change)), 0)
    error = error_to(actions, "other")
    assert error.code == code
    assert text in error.text
    assert any(isinstance(a, Note) for a in actions), "the operator is told"
    assert membership.turned_away == 1
    assert sorted(membership.members) == [0]
    # Whoever fits still gets in.
    assert isinstance(sends(membership.handle(Heard("p1", hello(1)), 0))[0][1], Welcome)


@pytest.mark.parametrize("joined", [0, 1, 2])
def test_one_too_many_is_turned_away_before_and_during_the_run(joined):
    membership = gathered(2, joined)
    error = error_to(membership.handle(Heard("p2", hello()), 0), "p2")
    assert error.code == "full"
    assert "has its 2 workers (ranks 0, 1)" in error.text
    assert sorted(membership.members) == [0, 1]


OTHER_MODEL = (*TENSORS[:-1], Tensor("fc", (4, 11), 0))


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (make_job("sgd"), "method name is 'sgd', the run has 'cd-adam'"),
        (make_job("cd-adam", beta1=0.5), "method beta1 is 0.5, the run has 0.9"),
        (make_job(seed=4), "seed is 4, the run has 3"),
        (make_job(blocks=8), "blocks is 8, the run has 7"),
        (make_job(check_every=9), "check_every is 9, the run has 2"),
        (replace(JOB, decays=(0.0, 0.1)), "decays is [0.0, 0.1], the run has [0.0, 0.0]"),
        (replace(JOB, task="digits"), "task is 'digits', the run has 'made-up'"),
        (replace(JOB, options=(("lr", 0.1),)), "options lr is 0.1, the run has not given"),
        (make_job(tensors=OTHER_MODEL), "parameter 2 is 'fc' (4, 11), the run has 'fc' (4, 10)"),
        (make_job(tensors=TENSORS[:2]), "the model has 2 parameters, the run has 3"),
        (
            make_job(tensors=(replace(TENSORS[0], group=1), TENSORS[1], TENSORS[2])),
            "parameter 0 is 'conv' (5, 3) in group 1, the run has 'conv' (5, 3)",
        ),
    ],
)
def test_worker_with_another_job_is_told_the_first_difference(other, text):
    membership = gathered(2, joined=1)
    actions = membership.handle(Heard("p1", Join(1, other.describe())), 0)
    error = error_to(actions, "p1")
    assert error.code == "job"
    assert error.text == f"worker 1: {text}"
    assert membership.member("p1") is None
    assert membership.stage is Stage.GATHERING
    # Its rank is free for one that fits, which completes the run.
    membership.handle(Heard("right", hello(1)), 0)
    actions = membership.handle(Heard("right", Join(1, JOB.describe())), 0)
    assert isinstance(actions[0], Begin)


def test_description_that_is_no_job_is_refused():
    membership = gathered(2)
    for described in (
        {},
        {"tensors": []},
        JOB.describe() | {"layout": "00"},
        JOB.describe() | {"decays": [0.0]},
        JOB.describe() | {"blocks": -1},
        JOB.describe() | {"seed": True},
        JOB.describe() | {"method": {"name": "cd-adam"}},
        JOB.describe() | {"tensors": [["x", [1 << 62], 0]]},
        JOB.describe() | {"tensors": [["x", [1 << 20, 1 << 20], 0]], "blocks": "tensor"},
        JOB.describe() | {"tensors": [["x", [1 << 31], 0]], "blocks": 1},
    ):
        membership.handle(Heard("p1", hello(1)), 0)
        error = error_to(membership.handle(Heard("p1", Join(1, described)), 0), "p1")
        assert error.code == "job", described
        assert membership.member("p1") is None
    assert membership.stage is Stage.GATHERING


def test_job_whose_messages_would_be_too_large_is_refused():
    membership = Membership(replace(make_terms(1), max_payload=100))
    membership.handle(Heard("p0", hello(0)), 0)
    job = make_job("sgd", blocks=7)
    error = error_to(membership.handle(Heard("p0", Join(0, job.describe())), 0), "p0")
    assert "its largest bucket needs a payload of 160 bytes, the server accepts 100" in error.text
    assert "--max-message" in error.text


def test_run_is_fixed_anew_when_all_who_joined_have_left():
    membership = gathered(2, joined=1)
    membership.handle(Gone("p0"), 0)
    assert membership.job is None
    other = make_job("sgd")
    membership.handle(Heard("p0", hello(0)), 0)
    for rank in (1, 0):
        actions = membership.handle(Heard(f"p{rank}", Join(rank, other.describe())), 0)
    assert actions[0].job.method.name == "sgd"


def test_member_that_leaves_before_the_run_frees_its_rank():
    membership = gathered(2, joined=1)
    for event in (
        Gone("p0"),
        Heard("p0", Bye(0, report(0))),
        Heard("p0", Error("failed", "no data", 0)),
    ):
        (note,) = membership.handle(event, 0)
        assert isinstance(note, Note)
        assert "worker 0 (process 100 on 'host') left before the run began" in note.text
        assert 0 not in membership.members
        ((_, welcome),) = sends(membership.handle(Heard("p0", hello(0)), 0))
        assert welcome.rank == 0
    assert "process reported: no data" in note.text


def test_last_bye_ends_the_run_cleanly():
    membership = running(2)
    assert membership.handle(Heard("p1", Bye(1, report(1))), 0) == []
    assert membership.stage is Stage.RUNNING
    assert membership.handle(Heard("p1", Bye(1, report(1))), 0) == []
    actions = membership.handle(Heard("p0", Bye(0, report(0))), 0)
    assert sends(actions) == [("p0", Bye(-1, {})), ("p1", Bye(-1, {}))]
    assert stop(actions) == Stop()
    assert membership.stage is Stage.ENDED
    assert membership.summaries() == [report(0), report(1)]


def test_worker_that_reported_may_disconnect_or_fall_silent():
    membership = running(2)
    membership.handle(Heard("p1", Bye(1, report(1))), 0)
    assert membership.handle(Gone("p1"), 0) == []
    membership.seen("p0", 100 * SECOND)
    assert membership.handle(Tick(), 100 * SECOND) == []
    assert stop(membership.handle(Heard("p0", Bye(0, report(0))), 0)) == Stop()


def test_connection_lost_in_the_run_ends_it_and_names_the_worker():
    membership = running(3)
    membership.round = 17
    actions = membership.handle(Gone("p1"), 0)
    for peer in ("p0", "p2"):
        error = error_to(actions, peer)
        assert error.code == "lost"
        assert "worker 1 (process 101 on 'host') was lost in round 17" in error.text
        assert "its connection closed" in error.text
    assert [peer for peer, _ in sends(actions)] == ["p0", "p2"]
    assert stop(actions).code == "lost"
    assert membership.stage is Stage.ENDED
    assert membership.handle(Gone("p0"), 0) == []
    assert membership.handle(Tick(), 999 * SECOND) == []


def test_silence_past_the_lease_is_a_loss():
    membership = running(2)
    membership.seen("p0", 20 * SECOND)
    assert membership.handle(Tick(), 30 * SECOND) == []
    actions = membership.handle(Tick(), 30 * SECOND + 1)
    assert "worker 1" in stop(actions).text
    assert "last sign of life was 30 s ago, the lease is 30 s" in stop(actions).text
    assert [peer for peer, _ in sends(actions)] == ["p0"]


def test_any_message_renews_the_lease():
    membership = running(1)
    membership.handle(Heard("p0", Join(0, JOB.describe())), 29 * SECOND)
    assert membership.handle(Tick(), 58 * SECOND) == []
    membership.seen("p0", 58 * SECOND)
    assert membership.handle(Tick(), 87 * SECOND) == []
    membership.seen("stranger", 88 * SECOND)
    assert stop(membership.handle(Tick(), 89 * SECOND)) is not None


def test_silence_before_the_run_only_frees_the_rank():
    membership = gathered(2, joined=1)
    membership.seen("p0", 25 * SECOND)
    (note,) = membership.handle(Tick(), 31 * SECOND)
    assert "worker 1" in note.text
    assert sorted(membership.members) == [0]
    assert membership.stage is Stage.GATHERING


def test_error_of_a_worker_ends_the_run_for_the_others():
    membership = running(3)
    report = Error("nonfinite", "worker 2: the gradient of 'fc' is not finite", 2)
    actions = membership.handle(Heard("p2", report), 0)
    assert [peer for peer, _ in sends(actions)] == ["p0", "p1"]
    assert error_to(actions, "p0") == Error("nonfinite", report.text, -1)
    assert stop(actions) == Stop("nonfinite", report.text)


def test_error_without_a_code_is_no_clean_end():
    membership = running(2)
    assert stop(membership.handle(Heard("p1", Error("", "it broke", 1)), 0)).code


@pytest.mark.parametrize(
    ("joined", "text"),
    [(0, "0 did (ranks: none)"), (1, "1 did (ranks: 0)"), (2, "2 did (ranks: 0, 1)")],
)
def test_deadline_for_joining(joined, text):
    membership = gathered(3, joined)
    for rank in range(3):
        membership.seen(f"p{rank}", 59 * SECOND)
    assert membership.handle(Tick(), 60 * SECOND) == []
    actions = membership.handle(Tick(), 60 * SECOND + 1)
    assert stop(actions).code == "timeout"
    assert stop(actions).text == f"waited 60 s for 3 workers to join; {text}"
    assert [peer for peer, _ in sends(actions)] == ["p0", "p1", "p2"]
    assert membership.stage is Stage.ENDED


def test_deadline_says_who_was_turned_away_last():
    membership = gathered(2, joined=1)
    membership.handle(Heard("p1", Join(1, make_job("sgd").describe())), 0)
    membership.seen("p0", 59 * SECOND)
    text = stop(membership.handle(Tick(), 61 * SECOND)).text
    assert "1 did (ranks: 0)" in text
    assert "worker 1: method name is 'sgd', the run has 'cd-adam'" in text


def test_deadline_counts_from_the_first_event():
    membership = Membership(make_terms(2))
    membership.handle(Tick(), 500 * SECOND)
    assert membership.handle(Tick(), 560 * SECOND) == []
    assert stop(membership.handle(Tick(), 561 * SECOND)).code == "timeout"


@pytest.mark.parametrize(
    "message",
    [Join(0, JOB.describe()), Bye(0, report(0)), Error("failed", "me too", 0), Heartbeat(0, 0, 0)],
    ids=lambda m: type(m).__name__,
)
def test_strangers_are_told_to_say_hello(message):
    membership = running(1)
    error = error_to(membership.handle(Heard("stranger", message), 0), "stranger")
    assert error.code == "protocol"
    assert "say Hello first" in error.text
    assert membership.stage is Stage.RUNNING
    assert membership.handle(Gone("stranger"), 0) == []


def test_nothing_follows_the_end():
    membership = running(2)
    membership.end("lost", "why")
    assert membership.end("lost", "again") == []
    assert membership.handle(Heard("p0", Bye(0, report(0))), 0) == []
    assert membership.handle(Heard("p0", Error("x", "y", 0)), 0) == []
    assert membership.handle(Heard("p0", Join(0, JOB.describe())), 0) == []
    assert error_to(membership.handle(Heard("late", hello()), 0), "late").code == "full"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.data())
def test_no_description_of_a_job_breaks_the_server(data):
    """A peer's Join holds any plain values: it is a job, or it is refused."""
    described = JOB.describe()
    place = described
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not (isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans())):
            break
        place = place[key]
    if isinstance(place, dict) and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(plain)
    membership = gathered(2, joined=data.draw(st.integers(0, 1)))
    actions = membership.handle(Heard("p1", Join(1, described)), 0)
    if membership.member("p1") is None:
        assert error_to(actions, "p1").code == "job"
    assert all(isinstance(a, Begin | Note) or a.message for a in actions)


def test_replicas_that_differ_at_the_end_fail_the_run_for_everyone():
    membership = running(2)
    membership.handle(Heard("p0", Bye(0, report(0, "ab" * 32))), 0)
    actions = membership.handle(Heard("p1", Bye(1, report(1, "cd" * 32))), 0)
    assert stop(actions).code == "diverged"
    assert [(peer, type(m)) for peer, m in sends(actions)] == [("p0", Error), ("p1", Error)]


@pytest.mark.parametrize("summary", [{}, {"rank": 1}, report(0)], ids=["empty", "bare", "other's"])
def test_report_that_is_none_fails_the_run_and_names_the_worker(summary):
    actions = running(2).handle(Heard("p1", Bye(1, summary)), 0)
    assert stop(actions).code == "protocol"
    assert "worker 1 left with a report that is none" in stop(actions).text
