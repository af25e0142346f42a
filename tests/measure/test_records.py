from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from measure.made_up import Clock, make_step
from psrv.errors import ConfigError, DataError
from psrv.measure.meter import PARTS, StepMeter
from psrv.measure.records import BYTE_KEYS, FLUSH_NS, Recorder, read_records, to_json


def test_lines_come_back_as_they_went_in(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "worker-1.jsonl"
    step = make_step(StepMeter(clock, 1), clock, 5, {"compute": 2, "straggler": 4}, last=3)
    counts = {"payload_up": 10, "payload_down": 20, "message_up": 30, "message_down": 40}
    with Recorder(path, clock=clock) as recorder:
        recorder.start("worker", 1)
        recorder.offset(None, None)
        recorder.offset(-70, 12)
        recorder.round(step, counts)
        recorder.evaluation({"round": 5, "loss": float("nan"), "accuracy": None})
        recorder.span("encode", 1, 2, round=5)
        recorder.end(1, rounds=6)
    start, offset, round_, evaluation, end = read_records(path)
    assert {key: start[key] for key in ("type", "role", "rank", "clock_ns")} == {
        "type": "start",
        "role": "worker",
        "rank": 1,
        "clock_ns": clock.now,
    }
    assert start["pid"] > 0
    assert start["host"]
    assert offset == {"type": "offset", "offset_ns": -70, "rtt_ns": 12}
    assert (round_["type"], round_["round"], round_["straggler_rank"]) == ("round", 5, 3)
    assert tuple(round_["parts"]) == PARTS
    assert sum(round_["parts"].values()) == pytest.approx(round_["seconds"])
    assert {key: round_[key] for key in BYTE_KEYS} == {**counts, "tcp_up": None, "tcp_down": None}
    assert evaluation == {"type": "eval", "round": 5, "loss": None, "accuracy": None}
    assert end == {"type": "end", "rank": 1, "rounds": 6}


def test_spans_are_kept_only_for_a_trace(tmp_path: Path) -> None:
    for trace in (False, True):
        path = tmp_path / f"server-{int(trace)}.jsonl"
        with Recorder(path, trace=trace) as recorder:
            assert recorder.trace is trace
            recorder.span("reduce", 10, 30, round=2, bucket=1, lane="reduce")
        assert list(read_records(path)) == [
            {
                "type": "span",
                "name": "reduce",
                "bucket": 1,
                "round": 2,
                "start_ns": 10,
                "end_ns": 30,
                "lane": "reduce",
            }
        ] * int(trace)


def test_a_line_reaches_the_file_with_the_first_one_after_the_interval(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "worker-0.jsonl"
    recorder = Recorder(path, clock=clock)
    recorder.write({"type": "a"})
    assert path.read_text() == ""
    clock.pass_(FLUSH_NS)
    recorder.write({"type": "b"})
    assert [record["type"] for record in read_records(path)] == ["a", "b"]
    recorder.write({"type": "c"})
    assert [record["type"] for record in read_records(path)] == ["a", "b"]
    recorder.close()
    recorder.close()
    recorder.write({"type": "after the end"})
    assert [record["type"] for record in read_records(path)] == ["a", "b", "c"]


def test_without_a_path_nothing_is_kept() -> None:
    recorder = Recorder(None, trace=True)
    assert not recorder.trace
    recorder.start("server", 0)
    recorder.span("reduce", 0, 1, round=0)
    recorder.close()


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.jsonl"
    with Recorder(path) as recorder:

        def write(number: int) -> None:
            for value in range(200):
                recorder.write({"type": "x", "thread": number, "value": value})

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    records = list(read_records(path))
    for number in range(4):
        assert [r["value"] for r in records if r["thread"] == number] == list(range(200))


def test_a_last_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.jsonl"
    last = '{"type":"b","x":"\u00fc"}\n'.encode()
    for cut in range(len(last) + 1):
        path.write_bytes(b'{"type":"a"}\n' + last[:cut])
        types = [record["type"] for record in read_records(path)]
        # Whole but for its newline, the line counts.
        assert types == (["a", "b"] if cut >= len(last) - 1 else ["a"])


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.jsonl"
    path.write_text('{"type":"a"}\n{"type":\n{"type":"b"}\n')
    with pytest.raises(DataError, match="line 2: no JSON"):
        list(read_records(path))
    path.write_text('{"type":"a"}\n[1]\n')
    with pytest.raises(DataError, match=r'line 2.*an object with a "type"'):
        list(read_records(path))
    with pytest.raises(DataError, match="cannot read"):
        list(read_records(tmp_path / "absent.jsonl"))


def test_a_path_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot write .* choose another --out"):
        Recorder(tmp_path / "no" / "such" / "folder.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_a_clear_error() -> None:
    recorder = Recorder("/dev/full")
    recorder.write({"type": "a"})
    with pytest.raises(ConfigError, match="cannot write /dev/full: No space left"):
        recorder.close()
    recorder.close()


def test_json_has_null_for_numbers_that_are_not_finite() -> None:
    text = to_json({"a": [1.5, float("inf")], "b": {"c": float("nan")}, "d": (2, "x")})
    assert json.loads(text) == {"a": [1.5, None], "b": {"c": None}, "d": [2, "x"]}
