"""Experiment ef-wallclock: claims on made-up runs, and one pair of real runs in miniature."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from psrv.repro.ef_wallclock import (
    COMMUNICATION,
    EXPERIMENT,
    FULL,
    METHODS,
    QUICK,
    Case,
    Setting,
    claims,
    common_accuracy,
    communication,
    seconds_to,
    study_setting,
)
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

CASE = Case("made-7", "digits", 2, 8, 8, 2, ("sgdm", "dist-ef-sgdm"), {})


def made_up(
    folder: Path, milliseconds: list[float], seconds: list[float], payload: float
) -> RunFiles:
    """A run of two workers and eight rounds, with its workers' files."""
    folder.mkdir()
    for rank in range(2):
        lines: list[dict[str, Any]] = [{"type": "start"}]
        for round, each in enumerate(milliseconds):
            parts = dict.fromkeys(COMMUNICATION, each / 1e3) | {"compute": 9.0, "straggler": 5.0}
            lines.append({"type": "round", "round": round, "parts": parts})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"worker-{rank}.jsonl").write_text(text)
    accuracies = [0.1, 0.8, 0.9]
    evaluations = [
        {"round": 4 * i, "accuracy": a, "seconds": s}
        for i, (a, s) in enumerate(zip(accuracies, seconds, strict=True))
    ]
    sent = {"payload_up": payload, "payload_down": payload}
    return RunFiles({"workers": 2, "bytes_per_worker_round": sent}, evaluations, folder)


def test_communication_is_five_parts_of_a_round_by_quarter(tmp_path: Path) -> None:
    found = made_up(tmp_path / "run", [1, 3, 2, 2, 4, 4, 5, 7], [0, 1, 2], 1.0)
    assert communication(found, 8) == pytest.approx([0.010, 0.010, 0.020, 0.030])


def test_time_to_accuracy_is_that_of_the_first_evaluation_that_has_it(tmp_path: Path) -> None:
    found = made_up(tmp_path / "run", [1] * 8, [0, 1.5, 4], 1.0)
    assert seconds_to(found.evaluations, 0.8) == 1.5
    assert seconds_to(found.evaluations, 0.81) == 4
    assert seconds_to(found.evaluations, 0.95) is None
    assert common_accuracy([found, found]) == 0.9


def test_verdicts_of_a_case(tmp_path: Path) -> None:
    dense = made_up(tmp_path / "dense", [8, 8, 8, 9, 8, 8, 8, 7], [0, 2, 4], 4000)
    fast = made_up(tmp_path / "fast", [2, 2, 2, 3, 2, 2, 2, 2], [0, 1, 2], 128)
    study = Study(EXPERIMENT, tmp_path)
    claims(study, CASE, {"sgdm": [dense], "dist-ef-sgdm": [fast]})
    found = [(c.verdict, c.measured) for c in study.claims]
    assert found[0] == (Verdict.HELD, "31.25 times")
    assert found[1][0] is Verdict.HELD
    assert "10.6 against 40.0 ms" in found[1][1]
    assert found[2] == (Verdict.UNDECIDED, "0.50 times")  # one run each


def test_slower_communication_is_not_held(tmp_path: Path) -> None:
    dense = made_up(tmp_path / "dense", [2] * 8, [0, 2, 4], 4000)
    slow = made_up(tmp_path / "slow", [3] * 8, [0, 3, 6], 2000)
    study = Study(EXPERIMENT, tmp_path)
    claims(study, CASE, {"sgdm": [dense, dense], "dist-ef-sgdm": [slow, slow]})
    assert [c.verdict for c in study.claims] == [Verdict.NOT_HELD] * 3


def test_the_whole_experiment_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated where it would start processes: the files are the same, links take no time."""
    pytest.importorskip("torch", reason="task digits needs PyTorch")
    pytest.importorskip("sklearn", reason="task digits needs scikit-learn")
    monkeypatch.setattr(Study, "launch", Study.simulate_run)
    one = replace(CASE, workers=1)
    study = Study(EXPERIMENT, tmp_path, processes=0)
    study_setting(study, Setting((one,), 2, {"sgdm": (0.02,), "dist-ef-sgdm": (0.02,)}))
    assert [c.verdict for c in study.claims][:2] == [Verdict.HELD, Verdict.UNDECIDED]
    assert study.figures["made-7, sgdm: breakdown_seconds"]["compute"] > 0
    assert (tmp_path / "runs" / "loopback-made-7-sgdm-seed0" / "summary.json").exists()


def test_every_case_has_a_step_for_every_method() -> None:
    for setting in (QUICK, FULL):
        for case in setting.cases:
            assert set(case.methods) <= {*case.steps, *setting.grids} <= set(METHODS)
            assert case.methods[:2] == ("sgdm", "dist-ef-sgdm")
