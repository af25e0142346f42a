from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from measure.made_up import Clock, make_step
from psrv.errors import ProtocolError
from psrv.measure.meter import LOCAL_PARTS, PARTS, WAIT_PARTS, StepMeter, split_wait

times = st.integers(-(10**15), 10**15)
gaps = st.integers(0, 10**10)


@given(times, gaps, times, times, times)
def test_the_four_parts_of_a_wait_sum_to_it_whatever_the_server_says(
    start: int, length: int, arrived: int, last: int, done: int
) -> None:
    parts = split_wait(start, start + length, arrived, last, done)
    assert sum(parts) == length
    assert min(parts) >= 0


@given(times, gaps, gaps, gaps, gaps)
def test_timestamps_in_order_inside_the_wait_are_taken_as_they_are(
    start: int, up: int, straggler: int, server: int, down: int
) -> None:
    arrived = start + up
    last = arrived + straggler
    done = last + server
    assert split_wait(start, done + down, arrived, last, done) == (up, straggler, server, down)


def test_a_result_that_was_ready_before_the_wait_is_all_downlink() -> None:
    assert split_wait(100, 150, 10, 20, 30) == (0, 0, 0, 50)


def test_a_push_that_seems_to_arrive_after_its_result_is_all_uplink() -> None:
    assert split_wait(100, 150, 900, 20, 30) == (50, 0, 0, 0)


def test_a_wait_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ProtocolError, match="ends before it starts"):
        split_wait(10, 9, 0, 0, 0)


laps = st.tuples(st.just("lap"), st.sampled_from([*LOCAL_PARTS, "other"]), gaps)
waits = st.tuples(st.just("wait"), st.tuples(times, times, times, st.integers(0, 3)), gaps)
flights = st.tuples(st.just("flight"), st.tuples(times, gaps), gaps)
excludes = st.tuples(st.sampled_from(["exclude", "skip"]), st.none(), gaps)


@given(st.lists(st.one_of(laps, waits, flights, excludes), max_size=30), gaps)
def test_parts_sum_to_the_step_exactly_whatever_happens_in_it(
    events: list[tuple[str, object, int]], rest: int
) -> None:
    clock = Clock(5)
    meter = StepMeter(clock, rank=0)
    meter.begin_step(7)
    counted = 0
    for kind, detail, gap in events:
        if kind == "exclude":
            with meter.exclude():
                clock.pass_(gap)
            continue
        clock.pass_(gap)
        if kind == "skip":
            counted -= clock.now - meter.mark_ns - gap  # what no lap had claimed yet
            meter.skip()
            continue
        counted += gap
        if kind == "lap":
            meter.lap(detail)
        elif kind == "wait":
            meter.wait(*detail)
        else:
            meter.flight(detail[0], detail[0] + detail[1])
    clock.pass_(rest)
    record = meter.end_step()
    assert record.total_ns == counted + rest == sum(record.part_ns.values())
    assert tuple(record.part_ns) == PARTS
    assert min(record.part_ns.values()) >= 0
    assert sum(record.parts.values()) == pytest.approx(record.seconds)
    assert sum(record.straggler_ns.values()) == record.part_ns["straggler"]
    waited = sum(record.part_ns[part] for part in WAIT_PARTS)
    assert 0 <= record.hidden_ns <= record.end_ns - record.start_ns
    assert waited <= record.total_ns


def test_laps_go_to_their_parts_and_the_rest_to_other(clock: Clock) -> None:
    step = make_step(
        StepMeter(clock, 0),
        clock,
        3,
        {
            "data": 1,
            "compute": 20,
            "encode": 2,
            "uplink": 3,
            "straggler": 4,
            "server": 5,
            "downlink": 6,
            "decode": 7,
            "update": 8,
            "other": 9,
        },
        last=2,
    )
    milliseconds = {part: ns / 1e6 for part, ns in step.part_ns.items()}
    assert milliseconds == {
        "data": 1,
        "compute": 20,
        "encode": 2,
        "uplink": 3,
        "straggler": 4,
        "server": 5,
        "downlink": 6,
        "decode": 7,
        "update": 8,
        "other": 9,
    }
    assert step.other == pytest.approx(0.009)
    assert step.seconds == pytest.approx(0.065)
    assert (step.round, step.straggler_rank) == (3, 2)


def test_the_straggler_is_the_rank_waited_for_longest_in_the_step(clock: Clock) -> None:
    meter = StepMeter(clock, rank=0)
    meter.begin_step(0)
    for last, length in ((2, 30), (1, 50), (2, 30)):
        start = clock.now
        clock.pass_(length)
        meter.wait(start, clock.now, clock.now, last)
    record = meter.end_step()
    assert record.straggler_rank == 2
    assert record.straggler_ns == {1: 50, 2: 60}


@pytest.mark.parametrize(("last", "length"), [(0, 30), (1, 0), (None, 30)])
def test_no_straggler_when_it_is_this_worker_or_nobody_was_waited_for(
    clock: Clock, last: int | None, length: int
) -> None:
    meter = StepMeter(clock, rank=0)
    meter.begin_step(0)
    start = clock.now
    clock.pass_(length)
    meter.wait(start, clock.now, clock.now, last)
    record = meter.end_step()
    assert record.straggler_rank is None
    assert record.part_ns["straggler"] == length


def test_a_wait_may_end_before_now_and_the_next_lap_starts_there(clock: Clock) -> None:
    meter = StepMeter(clock)
    meter.begin_step(0)
    start = clock.now
    clock.pass_(100)
    meter.wait(start + 10, start + 20, start + 30, 1, end_ns=start + 60)
    assert meter.lap("decode") == 40
    parts = meter.end_step().part_ns
    assert [parts[part] for part in (*WAIT_PARTS, "decode")] == [10, 10, 10, 30, 40]


def test_hidden_communication_is_what_no_wait_covers(clock: Clock) -> None:
    meter = StepMeter(clock)
    meter.begin_step(0)
    start = clock.now
    clock.pass_(100)
    meter.lap("compute")
    clock.pass_(50)
    meter.wait(0, 0, 0, None)
    meter.flight(start + 20, start + 60)  # all of it during compute
    meter.flight(start + 40, start + 150)  # from compute into the wait
    meter.flight(start - 500, start + 5)  # sent in the step before
    assert meter.end_step().hidden_ns == (100 - 20) + 5


def test_excluded_time_is_in_no_step_and_not_in_training_time(clock: Clock) -> None:
    meter = StepMeter(clock)
    with meter.exclude():
        clock.pass_(1_000)
    assert meter.elapsed_seconds == 0
    meter.begin_step(0)
    clock.pass_(10)
    meter.lap("compute")
    with meter.exclude():
        clock.pass_(500)
        with meter.exclude():
            clock.pass_(500)
        assert meter.elapsed_seconds == pytest.approx(10e-9)
    clock.pass_(5)
    meter.lap("update")
    record = meter.end_step()
    with meter.exclude():
        clock.pass_(100)
    clock.pass_(3)
    assert (record.total_ns, record.part_ns["compute"], record.part_ns["update"]) == (15, 10, 5)
    assert record.end_ns - record.start_ns == 1_015
    assert meter.elapsed_seconds == pytest.approx(18e-9)


def test_steps_can_follow_each_other_without_a_gap(clock: Clock) -> None:
    meter = StepMeter(clock)
    meter.begin_step(0)
    clock.pass_(10)
    first = meter.end_step()
    clock.pass_(7)
    meter.begin_step(1, start_ns=meter.mark_ns)
    clock.pass_(3)
    meter.lap("data")
    second = meter.end_step()
    assert (first.total_ns, second.total_ns, second.part_ns["data"]) == (10, 10, 10)


def test_every_lap_and_each_part_of_a_wait_is_a_span(clock: Clock) -> None:
    spans: list[tuple[object, ...]] = []

    def keep(name: str, start: int, end: int, **more: object) -> None:
        spans.append((name, end - start, more["round"], more["bucket"], more["lane"]))

    make_step(
        StepMeter(clock, 0, keep),
        clock,
        4,
        {"compute": 2, "encode": 1, "uplink": 3, "downlink": 1},
        last=1,
    )
    named = [(name, length / 1e6, bucket) for name, length, _, bucket, _ in spans if length]
    assert named == [
        ("compute", 2, None),
        ("encode", 1, 0),
        ("uplink", 3, 0),
        ("downlink", 1, 0),
    ]
    assert {(round_, lane) for _, _, round_, _, lane in spans} == {(4, "train")}


def test_misuse_is_a_protocol_error(clock: Clock) -> None:
    meter = StepMeter(clock)
    with pytest.raises(ProtocolError, match="outside a step"):
        meter.lap("data")
    meter.begin_step(0)
    with pytest.raises(ProtocolError, match="step 1 begins while step 0 is open"):
        meter.begin_step(1)
    with pytest.raises(ProtocolError, match="unknown part 'network'"):
        meter.lap("network")
    with meter.exclude(), pytest.raises(ProtocolError, match="inside exclude"):
        meter.lap("data")
    meter.abandon_step()
    assert not meter.in_step
    meter.begin_step(0)
    assert meter.end_step().total_ns == 0
