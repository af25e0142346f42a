"""Experiment ef-wallclock: claims on made-up runs, and one pair of real runs in miniature."""

from dataclasses import replace
from pathlib import Path

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
    grouped,
    seconds_to,
    study_setting,
)
from psrv.repro.ladder import Ladder
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

CASE = Case("made-7", "digits", 2, 8, 8, 2, ("sgdm", "dist-ef-sgdm"), {})


def made_up(folder: Path, milliseconds: float, seconds: list[float], payload: float) -> RunFiles:
    """A run with so much communication in a round, and evaluations at such times."""
    parts = dict.fromkeys(COMMUNICATION, milliseconds / 1e3)
    parts |= {"data": 1.0, "compute": 9.0, "update": 2.0, "straggler": 5.0, "other": 0.5}
    accuracies = [0.1, 0.8, 0.9]
    evaluations = [
        {"round": 4 * i, "accuracy": a, "seconds": s}
        for i, (a, s) in enumerate(zip(accuracies, seconds, strict=True))
    ]
    sent = {"payload_up": payload, "payload_down": payload}
    summary = {"breakdown_seconds": parts, "bytes_per_worker_round": sent}
    return RunFiles(summary, evaluations, folder)


def test_communication_is_five_parts_of_a_round(tmp_path: Path) -> None:
    found = made_up(tmp_path, 2, [0, 1, 2], 1.0)
    assert communication(found) == pytest.approx(0.010)
    expected = {"compute": 12.0, "communication": 0.010, "waiting": 5.0, "other": 0.5}
    assert grouped(found) == pytest.approx(expected)


def test_another_method_runs_first_with_every_seed() -> None:
    case = replace(CASE, methods=("a", "b", "c"))
    assert [case.order(seed) for seed in range(4)] == [
        ("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b"), ("a", "b", "c"),
    ]  # fmt: skip


def test_time_to_accuracy_is_that_of_the_first_evaluation_that_has_it(tmp_path: Path) -> None:
    found = made_up(tmp_path, 1, [0, 1.5, 4], 1.0)
    assert seconds_to(found.evaluations, 0.8) == 1.5
    assert seconds_to(found.evaluations, 0.81) == 4
    assert seconds_to(found.evaluations, 0.95) is None
    assert common_accuracy([found, found]) == 0.9


def test_verdicts_of_a_case(tmp_path: Path) -> None:
    dense = [made_up(tmp_path, ms, [0, 2, 4], 4000) for ms in (8, 9, 8)]
    fast = [made_up(tmp_path, ms, [0, 1, s], 128) for ms, s in ((2, 2), (3, 2.5), (2, 2))]
    for seeds, held in ((3, Verdict.HELD), (1, Verdict.UNDECIDED)):
        study = Study(EXPERIMENT, tmp_path)
        claims(study, CASE, {"sgdm": dense[:seeds], "dist-ef-sgdm": fast[:seeds]})
        found = [(c.verdict, c.measured) for c in study.claims]
        assert found[0][0] is Verdict.HELD  # bytes do not depend on a seed
        assert found[0][1].startswith("31.25 times")
        assert [verdict for verdict, _ in found[1:]] == [held, held]
    assert "10.0 against 40.0 ms" in found[1][1]
    assert found[2][1] == "0.50 times"


def test_slower_communication_is_not_held(tmp_path: Path) -> None:
    dense = made_up(tmp_path, 2, [0, 2, 4], 4000)
    slow = made_up(tmp_path, 3, [0, 3, 6], 2000)
    study = Study(EXPERIMENT, tmp_path)
    claims(study, CASE, {"sgdm": [dense, dense], "dist-ef-sgdm": [slow, slow]})
    assert [c.verdict for c in study.claims] == [Verdict.NOT_HELD] * 3


def test_the_whole_experiment_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated where it would start processes: the files are the same, links take no time."""
    pytest.importorskip("torch", reason="task digits needs PyTorch")
    pytest.importorskip("sklearn", reason="task digits needs scikit-learn")
    monkeypatch.setattr(Study, "launch", Study.simulate_run)
    tuned = replace(CASE, workers=1)
    fixed = replace(tuned, name="fixed-2", workers=2, most_seeds=1, steps={"dist-ef-sgdm": 0.03})
    study = Study(EXPERIMENT, tmp_path, processes=0, seeds=2)
    ladders = {method: Ladder((0.02,), 0.02) for method in CASE.methods}
    study_setting(study, Setting((tuned, fixed), 2, ladders))
    assert [c.verdict for c in study.claims][::3] == [Verdict.HELD] * 2
    assert [c.verdict for c in study.claims][4:] == [Verdict.UNDECIDED] * 2
    parts = study.figures["made-7, sgdm: breakdown_seconds by seed"]
    assert [each["compute"] > 0 for each in parts] == [True, True]
    runs = [run.name for run in (tmp_path / "runs").iterdir()]
    assert sorted(runs) == [
        "loopback-fixed-2-dist-ef-sgdm-seed0", "loopback-fixed-2-sgdm-seed0",
        *(f"loopback-made-7-{m}-seed{seed}" for m in ("dist-ef-sgdm", "sgdm") for seed in (0, 1)),
    ]  # fmt: skip
    rows = study.tables[0].rows
    assert [row[2].partition(":")[0] for row in rows] == [
        "0.02", "0.02", "as for made-7", "not tuned",
    ]  # fmt: skip
    assert rows[0][3] == "0.02 (the outermost tried)"
    assert rows[3][3] == "0.03"
    assert any("One seed only of fixed-2" in note for note in study.notes)


def test_every_case_has_a_step_for_every_method() -> None:
    for setting in (QUICK, FULL):
        for case in setting.cases:
            assert set(case.methods) <= {*case.steps, *setting.ladders} <= set(METHODS)
            assert case.methods[:2] == ("sgdm", "dist-ef-sgdm")
