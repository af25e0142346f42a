"""Experiment ef-cifar: its claims on made-up results, and all of it in miniature on digits."""

from pathlib import Path
from typing import Any

import pytest

from psrv.repro.agreement import Agreement
from psrv.repro.ef_cifar import EXPERIMENT, study_setting
from psrv.repro.ef_cifar.claims import claim_accuracy, claim_contraction, claim_sockets
from psrv.repro.ef_cifar.runs import contraction_step
from psrv.repro.ef_cifar.setting import FULL, METHODS, QUICK, Setting
from psrv.repro.ladder import Ladder
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

HELD, NOT_HELD, UNDECIDED = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED

TINY = Setting(
    task="digits", workers=2, rounds={4: 6, 8: 6}, main=8, tune_rounds=3,
    ladders={
        "sgd": Ladder((0.1,), 0.1), "sgdm": Ladder((0.02, 0.05), 0.02),
        "signsgd": Ladder((0.001,), 0.001), "signum": Ladder((0.001,), 0.001),
    },
    side_methods=("sgdm", "dist-ef-sgdm", "signsgd"), delta_task="digits", delta_batch=8,
    delta_rounds=6, delta_epoch=3, delta_workers=2, evaluations=2,
)  # fmt: skip


def study_in(folder: Path, seeds: int = 3) -> Study:
    return Study(EXPERIMENT, folder, seeds=seeds, processes=0)


def ended(percent: float | None, bytes_each_way: float = 4e6) -> dict[str, Any]:
    """What ``train`` returns, as far as the claims look."""
    diverged = 5 if percent is None else None
    accuracy = [] if percent is None else [percent / 100]
    return {"accuracy": accuracy, "diverged": diverged, "bytes": [bytes_each_way] * 2}


def verdicts(study: Study) -> dict[str, Verdict]:
    return {claim.sentence: claim.verdict for claim in study.claims}


def made_up(**at: list[float | None]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Results at the main batch, by method, 98 % where nothing is said; one seed elsewhere."""
    runs = {}
    for method in METHODS:
        size = 4e6 if method.startswith("sgd") else 1.25e5
        given = at.get(method.replace("-", "_"), [98.0, 98.1, 97.9])
        runs[method, QUICK.main] = [ended(p, size) for p in given]
        for batch in QUICK.rounds:
            runs.setdefault((method, batch), [ended(given[0], size)])
    return runs


def test_equal_accuracies_hold_where_equality_is_claimed(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    claim_accuracy(study, QUICK, made_up())
    found = verdicts(study)
    assert found["dist-EF-blockSGDM is as accurate as SGDM (batch 32)"] is HELD
    assert found["signum is far below SGDM (batch 32)"] is NOT_HELD
    assert found["dist-EF-blockSGDM sends nearly 32 times less than SGDM"] is HELD
    assert found["signSGD degrades with smaller batches"] is UNDECIDED  # one seed


@pytest.mark.parametrize(
    ("compressed", "expected"),
    [
        ([97.7, 97.8, 97.5], HELD),
        ([97.3, 97.4, 97.2], NOT_HELD),
        ([97.9, 97.4, 97.3], UNDECIDED),
        ([97.9, None, 97.9], UNDECIDED),
        ([None, None, None], NOT_HELD),  # each of them diverged
    ],
)
def test_half_a_point_is_the_bound(
    tmp_path: Path, compressed: list[float | None], expected: Verdict
) -> None:
    study = study_in(tmp_path)
    claim_accuracy(study, QUICK, made_up(dist_ef_sgdm=compressed))
    claim = next(c for c in study.claims if c.sentence.startswith("dist-EF-blockSGDM is as acc"))
    assert claim.verdict is expected
    assert claim.expected is HELD


def test_nothing_is_said_where_both_diverge(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    claim_accuracy(study, QUICK, made_up(dist_ef_sgdm=[None] * 3, sgdm=[None] * 3))
    assert verdicts(study)["dist-EF-blockSGDM is as accurate as SGDM (batch 32)"] is UNDECIDED


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({}, HELD), ({"digest": "cd" * 32}, NOT_HELD), ({"bytes": [3.0, 5.0]}, NOT_HELD),
     ({"loss": [0.9, 0.6]}, NOT_HELD)],
)  # fmt: skip
def test_a_run_over_sockets_has_to_be_the_simulated_one(
    tmp_path: Path, changed: dict[str, Any], expected: Verdict
) -> None:
    summary = {
        "replica_digest": "ab" * 32, "final": {"loss": 0.5},
        "bytes_per_worker_round": {"payload_up": 3.0, "payload_down": 4.0},
    }  # fmt: skip
    simulated = {"digest": "ab" * 32, "loss": [0.9, 0.5], "bytes": [3.0, 4.0]} | changed
    study = study_in(tmp_path)
    agreement = Agreement(simulated, RunFiles(summary, [], tmp_path))
    claim_sockets(study, QUICK, {"dist-ef-sgdm": agreement, "sgdm": None})
    assert [claim.verdict for claim in study.claims] == [expected, UNDECIDED]
    words = study.claims[0].measured
    assert (words == "both digest abababab, test loss 0.50000, 7 bytes a round") == (not changed)
    assert words.count("digest") == (2 if changed else 1)


def test_figure_1_takes_the_tuned_step_where_the_task_is_the_same() -> None:
    assert contraction_step(FULL, {"sgdm": 0.2}) == 0.2
    assert contraction_step(QUICK, {"sgdm": 0.2}) == 0.05


def curves(tensor: list[float], whole: list[float]) -> dict[str, Any]:
    by_rule = {"tensor": tensor, "32768": tensor, "global": whole}
    variation = {rule: [0.8, 0.9] for rule in by_rule}
    return {"contraction": {"phi": by_rule, "kept": by_rule, "variation": variation}}


def test_delta_of_blocks_has_to_be_above_in_every_epoch(tmp_path: Path) -> None:
    sentence = "delta of tensors as blocks is above that of the whole vector"
    above = [curves([0.3, 0.25], [0.14, 0.12]), curves([0.31, 0.2], [0.13, 0.13])]
    below_once = [curves([0.3, 0.1], [0.14, 0.12]), curves([0.31, 0.1], [0.13, 0.13])]
    for runs, expected in ((above, HELD), (below_once, NOT_HELD)):
        study = study_in(tmp_path, seeds=2)
        claim_contraction(study, {"tensor": runs, "global": runs[:1]})
        assert verdicts(study)[sentence] is expected
        assert (
            verdicts(study)["absolute gradients in a block concentrate around their mean"] is HELD
        )


def test_the_whole_experiment_in_miniature_and_again_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated where it would start processes: the files are the same."""
    pytest.importorskip("torch", reason="task digits needs PyTorch")
    pytest.importorskip("sklearn", reason="task digits needs scikit-learn")
    monkeypatch.setattr(Study, "launch", Study.simulate_run)
    first = study_in(tmp_path, seeds=1)
    study_setting(first, TINY)
    assert len(first.claims) == 14
    found = verdicts(first)
    assert next(v for words, v in found.items() if "over sockets" in words) is HELD
    assert first.figures["steps"].keys() == TINY.ladders.keys()
    again = study_in(tmp_path, seeds=1)
    study_setting(again, TINY)
    assert (again.kept, again.computed) == (first.computed, 0)
    assert [c.measured for c in again.claims] == [c.measured for c in first.claims]


def test_both_settings_name_runs_that_the_claims_look_at() -> None:
    for setting in (QUICK, FULL):
        assert setting.main in setting.rounds
        assert {"sgdm", "dist-ef-sgdm", "signsgd"} <= set(setting.side_methods) <= set(METHODS)
        assert set(setting.ladders) == {"sgd", "sgdm", "signsgd", "signum"}
        assert set(setting.over_sockets) <= set(METHODS)
