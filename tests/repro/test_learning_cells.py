"""Training runs as cells: the simulation's bits, falling steps, and runs that diverge."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from psrv.options import JobConfig
from psrv.repro import learning
from psrv.repro.learning import (
    differences,
    in_percent,
    last_loss,
    mean_curve,
    percent,
    train,
)
from psrv.repro.store import plain, restored
from psrv.simulated_run import run_simulation

SYNTHETIC: dict[str, Any] = {"task": "synthetic:300", "workers": 2, "rounds": 6, "lr": 0.01}


def ended(accuracy: list[float], diverged: int | None = None) -> dict[str, Any]:
    loss = [1.0] * len(accuracy)
    return {"accuracy": accuracy, "loss": loss, "round": [1, 2, 3], "diverged": diverged}


@pytest.mark.parametrize("method", ["sgdm", "dist-ef-sgdm", "cd-adam"])
@pytest.mark.parametrize("lr_drops", [None, "0.3,0.5"])
def test_a_cell_has_the_parameters_and_bytes_of_a_simulated_run(
    tmp_path: Path, method: str, lr_drops: str | None
) -> None:
    given = {**SYNTHETIC, "method": method, "blocks": "tensor", "lr_drops": lr_drops}
    found = train(**given)
    run_simulation(JobConfig(**given, out=tmp_path))
    expected = json.loads((tmp_path / "summary.json").read_text())
    sent = expected["bytes_per_worker_round"]
    assert found["digest"] == expected["replica_digest"]
    assert found["loss"][-1] == expected["final"]["loss"]
    assert found["bytes"] == [sent["payload_up"], sent["payload_down"]]
    assert found["bits"][-1] == 8 * 6 * sum(found["bytes"])
    assert restored(plain(found)) == found


def test_a_falling_step_changes_the_run_from_there_on() -> None:
    plain_run = train(**SYNTHETIC, method="dist-ef-sgd", evaluations=6)
    falling = train(**SYNTHETIC, method="dist-ef-sgd", evaluations=6, lr_drops="0.5")
    assert falling["loss"][:3] == plain_run["loss"][:3]
    assert falling["loss"][3] != plain_run["loss"][3]


def test_a_run_that_diverges_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(self: Any, sender: Any, round: int, batch: object) -> None:
        sender.gradient[:] = math.nan if round == 3 else 1.0

    monkeypatch.setattr(learning.TaskGradient, "compute", explode)
    found = train(**SYNTHETIC, method="sgd", evaluations=6)
    assert found["diverged"] == 3
    assert found["round"] == [1, 2, 3]
    assert percent(found) == -math.inf
    assert in_percent(-math.inf) == "diverged"
    assert last_loss(found) == math.inf


def test_curves_over_seeds_end_where_the_shortest_run_does() -> None:
    mean, low, high = mean_curve([ended([0.1, 0.5, 0.9]), ended([0.3, 0.7])], "accuracy", 100)
    assert mean == pytest.approx([20, 60])
    assert low == pytest.approx([10, 50])
    assert high == pytest.approx([30, 70])
    assert mean_curve([ended([])], "accuracy") == ([], [], [])


def test_a_difference_to_a_run_that_diverged_is_infinite() -> None:
    assert differences([3.0, None, 1.0], [1.0, 1.0, None]) == [2.0, None, None]
    bad = -math.inf
    assert differences([3.0, bad, bad], [bad, 1.0, bad]) == [math.inf, -math.inf, None]
