from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psrv.errors import DataError
from psrv.measure.records import Recorder, server_file, worker_file
from psrv.measure.trace import _Span, _tracks, write_trace


def load(path: Path) -> tuple[dict[tuple[int, int], tuple[str, str]], list[dict[str, Any]]]:
    """((pid, tid) -> (process, lane), complete events) of a trace file."""
    trace = json.loads(path.read_text())
    assert set(trace) == {"displayTimeUnit", "traceEvents"}
    named = [e for e in trace["traceEvents"] if e["ph"] == "M"]
    process = {e["pid"]: e["args"]["name"] for e in named if e["name"] == "process_name"}
    lanes = {
        (e["pid"], e["tid"]): (process[e["pid"]], e["args"]["name"])
        for e in named
        if e["name"] == "thread_name"
    }
    return lanes, [e for e in trace["traceEvents"] if e["ph"] != "M"]


def test_a_run_becomes_processes_with_lanes(run_maker: Callable[..., Path]) -> None:
    run = run_maker("a", rounds=5, workers=3, trace=True)
    with Recorder(run / server_file(0), trace=True) as server:
        server.start("server", 0)
        server.span("reduce", 2_000_000, 3_000_000, round=0, bucket=0, lane="reduce")
    assert write_trace(run) == run / "trace.json"
    lanes, events = load(run / "trace.json")
    assert sorted(lanes.values()) == [
        ("server 0", "reduce"),
        *((f"worker {rank}", lane) for rank in range(3) for lane in ("steps", "train")),
    ]
    assert {event["ph"] for event in events} == {"X"}
    assert all((event["pid"], event["tid"]) in lanes for event in events)
    starts = [event["ts"] for event in events]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert min(event["dur"] for event in events) >= 0
    encodes = [e for e in events if e["name"] == "encode"]
    assert len(encodes) == 15
    assert encodes[0]["args"] == {"round": 0, "bucket": 0}
    steps = [e for e in events if lanes[e["pid"], e["tid"]] == ("worker 1", "steps")]
    assert [e["name"] for e in steps] == [f"step {round_}" for round_ in range(5)]
    train = [e for e in events if lanes[e["pid"], e["tid"]] == ("worker 1", "train")]
    assert sum(e["dur"] for e in train) == pytest.approx(sum(e["dur"] for e in steps))


def test_offsets_bring_all_processes_onto_the_servers_clock(tmp_path: Path) -> None:
    for name, role, rank, start, offsets in (
        (server_file(0), "server", 0, 1_000_000, []),
        (worker_file(0), "worker", 0, 500_000_000, [(-400_000_000, 90), (-499_002_000, 30)]),
        (worker_file(1), "worker", 1, 5_000, [(999_000, 7)]),
    ):
        with Recorder(tmp_path / name, trace=True) as recorder:
            recorder.start(role, rank)
            for offset, rtt in offsets:
                recorder.offset(offset, rtt)
            recorder.span("work", start, start + 1_500, round=0, lane="io")
    lanes, events = load(write_trace(tmp_path, tmp_path / "out.json"))
    found = {lanes[e["pid"], e["tid"]][0]: (e["ts"], e["dur"]) for e in events}
    assert found == {"worker 0": (0, 1.5), "server 0": (2, 1.5), "worker 1": (6, 1.5)}


def test_spans_that_overlap_go_to_further_lanes(tmp_path: Path) -> None:
    with Recorder(tmp_path / worker_file(0), trace=True) as recorder:
        for bucket, (start, end) in enumerate([(0, 100), (10, 20), (50, 150), (120, 130)]):
            recorder.span("flight", start, end, round=0, bucket=bucket, lane="io")
    lanes, events = load(write_trace(tmp_path))
    by_lane = defaultdict(list)
    for event in events:
        by_lane[lanes[event["pid"], event["tid"]]].append(event["args"]["bucket"])
    assert by_lane == {("worker 0", "io"): [0, 1, 3], ("worker 0", "io 2"): [2]}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=30))
def test_within_a_track_spans_are_apart_or_nested(pairs: list[tuple[int, int]]) -> None:
    spans = [_Span("x", start, start + length, {}) for start, length in pairs]
    tracks = _tracks(spans)
    assert sorted((s.start_ns, s.end_ns) for t in tracks for s in t) == sorted(
        (s.start_ns, s.end_ns) for s in spans
    )
    for track in tracks:
        for place, a in enumerate(track):
            for b in track[place + 1 :]:
                apart = a.end_ns <= b.start_ns
                nested = a.start_ns <= b.start_ns and b.end_ns <= a.end_ns
                assert apart or nested


def test_workers_come_in_order_of_rank_after_the_servers(tmp_path: Path) -> None:
    for name in (worker_file(10), worker_file(2), server_file(0)):
        with Recorder(tmp_path / name, trace=True) as recorder:
            recorder.span("x", 0, 1, round=0)
    lanes, _ = load(write_trace(tmp_path))
    assert [name for _, (name, _) in sorted(lanes.items())] == ["server 0", "worker 2", "worker 10"]


def test_a_half_line_of_a_killed_worker_does_not_spoil_the_trace(tmp_path: Path) -> None:
    with Recorder(tmp_path / worker_file(0), trace=True) as recorder:
        recorder.span("x", 0, 1, round=0)
    with (tmp_path / worker_file(0)).open("a") as file:
        file.write('{"type":"span","na')
    _, events = load(write_trace(tmp_path))
    assert len(events) == 1


def test_what_cannot_become_a_trace_is_a_clear_error(
    tmp_path: Path, run_maker: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match="is it a run"):
        write_trace(tmp_path)
    with pytest.raises(DataError, match="run it with --trace"):
        write_trace(run_maker("plain", rounds=2))
    (tmp_path / worker_file(0)).write_text('{"type":"span","name":"x"}\n')
    with pytest.raises(DataError, match="'span' line"):
        write_trace(tmp_path)
