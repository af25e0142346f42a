"""Where a step's time went: the parts add up, and what is slow shows up under its name."""

from __future__ import annotations

import pytest

from local_run import lines_of
from psrv.measure.meter import PARTS

pytestmark = pytest.mark.process

SLEEP = 0.05


def check_sums(summary) -> None:
    """The parts add up to the step, in the mean, for every worker and in every round."""
    parts, step = summary["breakdown_seconds"], summary["step_seconds"]["mean"]
    assert set(parts) == set(PARTS)
    assert all(seconds >= 0 for seconds in parts.values())
    assert sum(parts.values()) == pytest.approx(step, rel=0.01)
    assert parts["other"] <= 0.05 * step
    for detail in summary["workers_detail"]:
        total = sum(detail["breakdown_seconds"].values())
        assert total == pytest.approx(detail["step_seconds"]["mean"], rel=0.01)
        lines = lines_of(summary["folder"] / f"worker-{detail['rank']}.jsonl")
        rounds = [line for line in lines if line["type"] == "round"]
        assert len(rounds) == summary["rounds"]
        for line in rounds:
            assert sum(line["parts"].values()) == pytest.approx(line["seconds"], rel=0.01)


@pytest.mark.torch
def test_parts_add_up_on_a_network(runs):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    summary = runs.launched("cd-adam", "digits", rounds=60)
    check_sums(summary)
    assert summary["breakdown_seconds"]["compute"] > 0
    assert summary["breakdown_seconds"]["data"] > 0


def test_slow_worker_is_the_straggler_of_all_others(runs):
    task = f"synthetic:100k,slow={SLEEP},slow_rank=1"
    summary = runs.launched("cd-adam", task, rounds=30, workers=3)
    check_sums(summary)
    by_rank = {d["rank"]: d for d in summary["workers_detail"]}
    for rank in (0, 2):
        parts = by_rank[rank]["breakdown_seconds"]
        assert max(parts, key=parts.get) == "straggler"
        # At least, since the others may be late themselves on a busy machine.
        assert 0.6 * SLEEP <= parts["straggler"] <= summary["step_seconds"]["mean"]
        waited = by_rank[rank]["straggler_seconds"]
        assert max(waited, key=waited.get) == "1"
        assert by_rank[rank]["straggler_counts"]["1"] >= 24
    own = by_rank[1]["breakdown_seconds"]
    assert own["compute"] >= SLEEP
    assert own["straggler"] < 0.5 * SLEEP
    assert max(summary["stragglers"], key=lambda r: summary["stragglers"][r]["seconds"]) == "1"
    assert summary["stragglers"]["1"]["share"] >= 0.8


def test_slow_server_shows_up_as_server(runs):
    slow = (("slow_ms", 1000 * SLEEP),)
    summary = runs.launched("cd-adam", "synthetic:100k", rounds=20, server=slow)
    check_sums(summary)
    for detail in summary["workers_detail"]:
        parts = detail["breakdown_seconds"]
        assert max(parts, key=parts.get) == "server"
        assert parts["server"] >= 0.6 * SLEEP


def test_time_of_a_computation_is_compute(runs):
    summary = runs.launched("sgd", f"synthetic:1200k,compute={SLEEP}", rounds=10)
    check_sums(summary)
    parts = summary["breakdown_seconds"]
    assert parts["compute"] >= SLEEP
    for part in ("encode", "decode", "update"):
        assert parts[part] > 0
