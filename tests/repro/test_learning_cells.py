"""Training runs as cells: the simulation's bits, falling steps, and runs that diverge."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from psrv.options import JobConfig
from psrv.repro import learning
from psrv.repro.learning import (
    best_step,
    differences,
    last_loss,
    mean_curve,
    percent,
    step_size,
    train,
)
from psrv.repro.store import plain, restored
from psrv.simulated_run import run_simulation

SYNTHETIC: dict[str, Any] = {"task": "synthetic:300", "workers": 2, "rounds": 6, "lr": 0.01}


def ended(accuracy: list[float], diverged: int | None = None) -> dict[str, Any]:
    loss = [1.0] * len(accuracy)
    return {"accuracy": accuracy, "loss": loss, "round": [1, 2, 3], "diverged": diverged}


@pytest.mark.parametrize("method", ["sgdm", "dist-ef-sgdm", "cd-adam"])
def test_a_cell_has_the_parameters_and_bytes_of_a_simulated_run(
    tmp_path: Path, method: str
) -> None:
    found = train(**SYNTHETIC, method=method, blocks="tensor")
    run_simulation(JobConfig(**SYNTHETIC, method=method, blocks="tensor", out=tmp_path))
    expected = json.loads((tmp_path / "summary.json").read_text())
    sent = expected["bytes_per_worker_round"]
    assert found["digest"] == expected["replica_digest"]
    assert found["loss"][-1] == expected["final"]["loss"]
    assert found["bytes"] == [sent["payload_up"], sent["payload_down"]]
    assert found["bits"][-1] == 8 * 6 * sum(found["bytes"])
    assert restored(plain(found)) == found


def test_the_step_falls_where_the_paper_lets_it_fall() -> None:
    drops = [(0.5, 0.1), (0.75, 0.1)]
    steps = [step_size(1.0, drops, t, 200) for t in (0, 99, 100, 149, 150, 199)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [step_size(2.0, (), t, 3) for t in range(3)] == [2.0] * 3


def test_a_falling_step_changes_the_run_from_there_on() -> None:
    plain_run = train(**SYNTHETIC, method="dist-ef-sgd", evaluations=6)
    falling = train(**SYNTHETIC, method="dist-ef-sgd", evaluations=6, drops=[(0.5, 0.1)])
    assert falling["loss"][:3] == plain_run["loss"][:3]
    assert falling["loss"][3] != plain_run["loss"][3]


def test_a_run_that_diverges_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(self: Any, sender: Any, round: int, batch: object) -> None:
        sender.gradient[:] = math.nan if round == 3 else 1.0

    monkeypatch.setattr(learning.TaskGradient, "compute", explode)
    found = train(**SYNTHETIC, method="sgd", evaluations=6)
    assert found["diverged"] == 3
    assert found["round"] == [1, 2, 3]
    assert percent(found) is None
    assert last_loss(found) == math.inf


def test_the_best_step_is_the_most_accurate_and_of_equals_the_smaller() -> None:
    runs = {0.1: ended([0.5]), 0.2: ended([0.9]), 0.4: ended([0.9]), 0.8: ended([1.0], diverged=2)}
    assert best_step(runs) == 0.2
    assert best_step({0.2: ended([], 1), 0.1: ended([], 1)}) == 0.1


def test_curves_over_seeds_end_where_the_shortest_run_does() -> None:
    mean, low, high = mean_curve([ended([0.1, 0.5, 0.9]), ended([0.3, 0.7])], "accuracy", 100)
    assert mean == pytest.approx([20, 60])
    assert low == pytest.approx([10, 50])
    assert high == pytest.approx([30, 70])
    assert mean_curve([ended([])], "accuracy") == ([], [], [])


def test_a_missing_value_has_no_difference() -> None:
    assert differences([3.0, None, 1.0], [1.0, 1.0, None]) == [2.0, None, None]
