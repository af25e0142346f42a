from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measure.made_up import Clock, make_step
from psrv.errors import ConfigError, DataError, DivergedError, WireError
from psrv.measure.meter import PARTS, StepMeter
from psrv.measure.records import BYTE_KEYS
from psrv.measure.summary import (
    WorkerTotals,
    build_summary,
    quantile,
    read_summary,
    write_summary,
)

JOB = {
    "method": "cd-adam",
    "compressor": "sign",
    "task": "digits",
    "workers": 2,
    "servers": 1,
    "dimension": 100,
    "seed": 3,
    "version": "0.1.0",
}
COUNTS = {
    "payload_up": 20,
    "payload_down": 24,
    "message_up": 50,
    "message_down": 54,
    "tcp_up": 60,
    "tcp_down": 64,
}


def detail(
    rank: int,
    compute_ms: list[float],
    *,
    straggler: int = 1,
    counts: dict[str, int | None] = COUNTS,
    digest: str = "aa" * 32,
) -> dict[str, Any]:
    """Totals of a worker with these compute times, 2 ms of straggler time a step."""
    clock = Clock()
    meter = StepMeter(clock, rank)
    totals = WorkerTotals(rank)
    for round_, milliseconds in enumerate(compute_ms):
        parts = {"compute": milliseconds, "straggler": 0 if rank == straggler else 2}
        totals.add(make_step(meter, clock, round_, parts, straggler), counts)
    if rank == 0:
        totals.add_evaluation(
            {"round": len(compute_ms), "loss": 0.5, "accuracy": 0.9, "grad_norm": None}
        )
    return totals.detail(digest=digest, wall_seconds=1.0 + rank, offset_ns=5, rtt_ns=10)


def test_a_summary_has_the_contracts_keys_and_means_over_workers_and_rounds() -> None:
    summary = build_summary(JOB, [detail(1, [3, 5]), detail(0, [10, 20])])
    assert list(summary)[:9] == [
        "method",
        "compressor",
        "task",
        "workers",
        "servers",
        "rounds",
        "dimension",
        "seed",
        "wall_seconds",
    ]
    assert {key: summary[key] for key in JOB} == JOB
    assert (summary["rounds"], summary["wall_seconds"]) == (2, 2.0)
    assert summary["step_seconds"] == pytest.approx(
        {"mean": 0.0105, "median": 0.0105, "p90": (0.021 + 0.0048) / 2}
    )
    assert tuple(summary["breakdown_seconds"]) == PARTS
    assert summary["breakdown_seconds"]["compute"] == pytest.approx(0.0095)
    assert summary["breakdown_seconds"]["straggler"] == pytest.approx(0.001)
    assert summary["bytes_per_worker_round"] == COUNTS
    assert summary["final"] == {"loss": 0.5, "accuracy": 0.9, "grad_norm": None}
    assert summary["replica_digest"] == "aa" * 32
    assert summary["stragglers"] == {"1": {"seconds": pytest.approx(0.001), "share": 1.0}}
    assert summary["tcp_source"] == "kernel (TCP_INFO)"
    assert summary["history"][0]["round"] == 2
    assert [entry["rank"] for entry in summary["workers_detail"]] == [0, 1]


steps = st.lists(st.floats(0, 1e4), min_size=1, max_size=8)


@given(st.lists(steps, min_size=1, max_size=5))
def test_the_breakdown_sums_to_the_mean_step(computes: list[list[float]]) -> None:
    details = [detail(rank, times) for rank, times in enumerate(computes)]
    for entry in details:
        parts = math.fsum(entry["breakdown_seconds"].values())
        assert parts == pytest.approx(entry["step_seconds"]["mean"], rel=1e-12)
    summary = build_summary(JOB, details)
    parts = math.fsum(summary["breakdown_seconds"].values())
    assert parts == pytest.approx(summary["step_seconds"]["mean"], rel=1e-12)


def test_a_detail_survives_msgpack() -> None:
    entry = detail(0, [10, 20])
    assert msgpack.unpackb(msgpack.packb(entry)) == entry


def test_without_tcp_counts_the_summary_says_so() -> None:
    counts = {**COUNTS, "tcp_up": None, "tcp_down": None}
    summary = build_summary(JOB, [detail(0, [1], counts=counts), detail(1, [1])])
    assert summary["bytes_per_worker_round"]["tcp_up"] is None
    assert summary["bytes_per_worker_round"]["payload_up"] == 20
    assert summary["tcp_source"] == "not measured; messages are counted"
    told = build_summary({**JOB, "tcp_source": "simulation"}, [detail(0, [1], counts=counts)])
    assert told["tcp_source"] == "simulation"


def test_a_count_missing_in_one_round_is_unknown_for_the_run(clock: Clock) -> None:
    totals = WorkerTotals(0)
    meter = StepMeter(clock, 0)
    for round_, tcp in enumerate((60, None, 60)):
        totals.add(make_step(meter, clock, round_, {}, 0), {**COUNTS, "tcp_up": tcp})
    means = totals.detail(digest="", wall_seconds=0)["bytes_per_round"]
    assert means == {**COUNTS, "tcp_up": None}
    assert totals.payload() == (60, 72)


def test_a_run_that_ended_before_its_first_round_has_a_summary() -> None:
    summary = build_summary(JOB, [WorkerTotals(0).detail(digest="00", wall_seconds=0.1)])
    assert summary["rounds"] == 0
    assert summary["step_seconds"]["mean"] == 0
    assert summary["final"] == {"loss": None, "accuracy": None, "grad_norm": None}


def test_replicas_that_differ_are_named() -> None:
    details = [detail(rank, [1], digest="bb" * 32 if rank == 2 else "aa" * 32) for rank in range(4)]
    with pytest.raises(DivergedError) as caught:
        build_summary({**JOB, "workers": 4}, details)
    assert "ranks 0, 1, 3 hold aaaaaaaaaaaa; rank 2 holds bbbbbbbbbbbb" in str(caught.value)


def test_impossible_input_is_refused() -> None:
    with pytest.raises(DataError, match="no worker handed over"):
        build_summary(JOB, [])
    with pytest.raises(DataError, match="each rank once"):
        build_summary(JOB, [detail(0, [1]), detail(0, [1])])
    with pytest.raises(DataError, match="lacks method, seed"):
        build_summary({k: v for k, v in JOB.items() if k not in ("method", "seed")}, [])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("rank"),
        lambda d: d.update(rank=-1),
        lambda d: d.update(rounds="3"),
        lambda d: d.update(digest=b"aa"),
        lambda d: d.update(wall_seconds=float("nan")),
        lambda d: d.pop("step_seconds"),
        lambda d: d["breakdown_seconds"].pop("uplink"),
        lambda d: d["breakdown_seconds"].update(uplink=None),
        lambda d: d["bytes_per_round"].update(tcp_up="many"),
        lambda d: d.update(straggler_seconds={"x": 1.0}),
        lambda d: d.update(history={"round": 1}),
        lambda d: d.update(final=[1]),
    ],
)
def test_totals_that_are_not_what_a_worker_makes_are_the_workers_fault(
    spoil: Callable[[dict[str, Any]], object],
) -> None:
    entry = copy.deepcopy(detail(0, [1]))
    spoil(entry)
    with pytest.raises(WireError):
        build_summary(JOB, [entry])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    summary = build_summary(JOB, [detail(0, [1]), detail(1, [2])])
    summary["final"]["loss"] = float("nan")
    path = write_summary(tmp_path, summary)
    assert path == tmp_path / "summary.json"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
    expected = {**summary, "final": {**summary["final"], "loss": None}}
    assert read_summary(tmp_path) == read_summary(path) == expected


def test_a_summary_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_summary(tmp_path / "absent", {})


def test_a_missing_or_damaged_summary_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"summary\.json does not exist"):
        read_summary(tmp_path)
    path = tmp_path / "summary.json"
    whole = json.dumps(build_summary(JOB, [detail(0, [1])]))
    path.write_text(whole[:-40])
    with pytest.raises(DataError, match="is damaged"):
        read_summary(tmp_path)
    path.write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object"):
        read_summary(tmp_path)
    path.write_text(json.dumps({"method": "sgd"}))
    with pytest.raises(DataError, match="lacks compressor, task"):
        read_summary(tmp_path)
    broken = json.loads(whole)
    del broken["breakdown_seconds"]["server"]
    path.write_text(json.dumps(broken))
    with pytest.raises(DataError, match="'breakdown_seconds' lacks server"):
        read_summary(path)


def test_quantiles_are_linear_between_neighbours() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert [quantile(values, q) for q in (0, 0.5, 1)] == [1, 3, 8]
    assert quantile(values, 0.9) == pytest.approx(6.8)
    assert quantile([], 0.5) == 0
    assert quantile([7.0], 0.9) == 7


def test_byte_keys_are_the_contracts() -> None:
    assert set(BYTE_KEYS) == {
        f"{kind}_{way}" for kind in ("payload", "message", "tcp") for way in ("up", "down")
    }
