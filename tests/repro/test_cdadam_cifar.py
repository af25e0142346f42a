"""Experiment cdadam-cifar: formulas and claims on made-up results, and all of it in miniature."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from psrv.repro.cdadam_cifar import EXPERIMENT, study_setting
from psrv.repro.cdadam_cifar.claims import claim_bits, claim_digits, claim_images, claim_sockets
from psrv.repro.cdadam_cifar.report import late_norm, norm_within
from psrv.repro.cdadam_cifar.runs import options, warmup
from psrv.repro.cdadam_cifar.setting import QUICK, VARIANTS, Digits, Setting, formula_bits
from psrv.repro.cdadam_cifar.sockets import Sent
from psrv.repro.ladder import Ladder
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

HELD, NOT_HELD, UNDECIDED = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED


def ended(
    percent: float = 50.0, loss: float = 1.0, norm: float = 1.0, size: float = 100.0, **more: Any
) -> dict[str, Any]:
    """What ``train`` returns, as far as the claims look."""
    kept = {"kept": {"global": [0.29, 0.35]}, "most": {"global": [0.38, 0.40]}}
    return {
        "accuracy": [0.1, percent / 100],
        "loss": [2.3, loss],
        "norm": [[t, norm, 2 * size * t] for t in range(8)],
        "bytes": [size, size],
        "diverged": None,
        "contraction": kept,
    } | more


def study_in(folder: Path, seeds: int = 2) -> Study:
    return Study(EXPERIMENT, folder, seeds=seeds, processes=0)


def verdict_of(study: Study, start: str) -> Verdict:
    return next(c.verdict for c in study.claims if c.sentence.startswith(start))


def test_table_2_in_bits() -> None:
    assert formula_bits("amsgrad", 1000, 10, 0) == 32 * 1000 * 2 * 10
    assert formula_bits("cd-adam", 1000, 10, 0) == 1032 * 2 * 10
    assert formula_bits("ef21", 1000, 10, 0) == 16 * 64 * 2 * 10
    assert formula_bits("onebit-adam", 1000, 10, 3) == 32_000 * 6 + 1032 * 14
    assert formula_bits("cd-adam-blocks", 1000, 10, 0) is None


def test_the_warmup_is_a_share_of_the_run() -> None:
    assert warmup(VARIANTS["onebit-adam"], 100) == 13
    assert options(VARIANTS["onebit-adam"], 200)["warmup"] == 26
    assert warmup(VARIANTS["cd-adam"], 100) == 0
    assert "warmup" not in options(VARIANTS["cd-adam"], 100)


def test_the_late_norm_is_of_the_last_quarter() -> None:
    assert late_norm(ended(norm=3.0)) == 3.0
    norms = [[t, float(t), 0.0] for t in range(8)]
    assert late_norm(ended() | {"norm": norms}) == 6.5
    assert late_norm(ended(diverged=4)) == math.inf


def test_the_norm_within_a_budget_is_of_the_rounds_that_it_pays() -> None:
    """1-bit Adam's dense rounds cost as much as many compressed ones."""
    warming = ended() | {"norm": [[0, 9.0, 0], [2, 8.0, 2000], [4, 7.0, 4000], [6, 6.0, 4010]]}
    assert norm_within(warming, 1000) == 9.0
    assert norm_within(warming, 2000) == 8.0
    assert norm_within(warming, 4100) == 6.5
    cheap = ended() | {"norm": [[t, 10.0 - t, 100 * t] for t in range(10)]}
    assert norm_within(cheap, 800) == (10 - 7 + 10 - 8) / 2
    assert norm_within(ended(diverged=3), 800) == math.inf


@pytest.mark.parametrize(("ours", "expected"), [(3.125, HELD), (4.0, NOT_HELD)])
def test_bits_are_compared_with_a_thirty_second(
    tmp_path: Path, ours: float, expected: Verdict
) -> None:
    study = study_in(tmp_path)
    results = {
        "amsgrad": [ended(size=100.0)],
        "cd-adam": [ended(size=ours)],
        "onebit-adam": [ended(size=15.7)],
    }
    claim_bits(study, results)
    assert verdict_of(study, "CD-Adam sends around 32 times") is expected


def test_claims_on_images(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    results = {name: [ended(50.0), ended(50.2)] for name in VARIANTS}
    results["onebit-adam"] = [ended(52.0, norm=0.5), ended(52.3, norm=0.6)]
    results["ef21"] = [ended(40.0, norm=2.0), ended(41.0, norm=2.2)]
    claim_images(study, results, 100_000)
    assert verdict_of(study, "CD-Adam keeps the accuracy of AMSGrad") is HELD
    assert verdict_of(study, "CD-Adam is ahead of 1-bit Adam") is NOT_HELD
    assert verdict_of(study, "CD-Adam is ahead of EF21") is HELD
    assert verdict_of(study, "CD-Adam gets to a smaller gradient norm than EF21") is HELD
    assert verdict_of(study, "CD-Adam gets to a smaller gradient norm than 1-bit") is NOT_HELD
    in_rounds = "CD-Adam gets to a smaller gradient norm than EF21 in as many rounds"
    assert verdict_of(study, in_rounds) is HELD
    assert verdict_of(study, "the scaled sign's pi") is HELD
    assert verdict_of(study, "pi lies between") is HELD
    assert study.figures["pi"]["largest"] == pytest.approx([0.71, 0.71])
    assert study.figures["pi"]["least"] == pytest.approx([0.6, 0.6])


@pytest.mark.parametrize(("tested", "expected"), [(1000, UNDECIDED), (100_000, NOT_HELD)])
def test_accuracies_as_close_as_the_test_images_allow_decide_nothing(
    tmp_path: Path, tested: int, expected: Verdict
) -> None:
    """Two seeds that are behind by the same 0.2 points have no spread."""
    study = study_in(tmp_path)
    results = {name: [ended(25.0), ended(26.0)] for name in VARIANTS}
    results["ef21"] = [ended(25.7), ended(26.7)]
    claim_images(study, results, tested)
    assert verdict_of(study, "CD-Adam is ahead of EF21") is expected


def test_norms_are_compared_with_as_many_bits_too(tmp_path: Path) -> None:
    """1-bit Adam is ahead by rounds, and has hardly begun when CD-Adam's bits are spent."""
    study = study_in(tmp_path)
    results = {name: [ended(), ended()] for name in VARIANTS}
    dense = [[t, 2.0 if t < 4 else 0.5, 6400.0 * t] for t in range(8)]
    results["onebit-adam"] = [ended() | {"norm": dense}] * 2
    claim_images(study, results, 10_000)
    start = "CD-Adam gets to a smaller gradient norm than 1-bit Adam"
    assert verdict_of(study, f"{start} in as many rounds") is NOT_HELD
    assert verdict_of(study, f"{start} with as many bits") is HELD


@pytest.mark.parametrize(
    ("kept", "most", "order", "inside"),
    [(0.29, 0.40, HELD, HELD), (0.20, 0.39, HELD, NOT_HELD), (0.06, 0.37, NOT_HELD, NOT_HELD)],
)
def test_pi_is_judged_by_its_spread_and_the_papers_range_apart(
    tmp_path: Path, kept: float, most: float, order: Verdict, inside: Verdict
) -> None:
    study = study_in(tmp_path)
    seen = {"kept": {"global": [kept]}, "most": {"global": [most]}}
    results = {name: [ended(contraction=seen)] * 2 for name in VARIANTS}
    claim_images(study, results, 10_000)
    assert verdict_of(study, "the scaled sign's pi is of a constant order") is order
    assert verdict_of(study, "pi lies between") is inside


class Agreeing:
    """An agreement of a made-up verdict."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def words(self) -> str:
        return "both the same"


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([HELD, HELD], HELD),
        ([HELD, NOT_HELD], NOT_HELD),
        ([HELD, None], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_every_run_over_sockets_must_agree(
    tmp_path: Path, verdicts: list[Verdict | None], expected: Verdict
) -> None:
    study = study_in(tmp_path)
    runs: list[Any] = [Sent("cd-adam", 8, 48, None if v is None else Agreeing(v)) for v in verdicts]
    claim_sockets(study, runs)
    assert verdict_of(study, "over sockets") is expected


def digit_results(**given: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    good = [ended(98.9, 0.05), ended(98.8, 0.06)]
    names = {"amsgrad": good, "onebit_4": good, "onebit_8": good, "ef21": good} | given
    keys = {"onebit_4": "onebit-1e-4", "onebit_8": "onebit-1e-8"}
    return {keys.get(name, name): found for name, found in names.items()}


@pytest.mark.parametrize(
    ("given", "start", "expected"),
    [
        ({}, "1-bit Adam with eps 1e-4", HELD),
        ({"onebit_4": [ended(98.0), ended(97.9)]}, "1-bit Adam with eps 1e-4", NOT_HELD),
        ({}, "1-bit Adam with eps 1e-8", HELD),
        ({"onebit_8": [ended(loss=math.inf)] * 2}, "1-bit Adam with eps 1e-8", NOT_HELD),
        ({"onebit_8": [ended(), ended(diverged=9)]}, "1-bit Adam with eps 1e-8", NOT_HELD),
        ({"onebit_8": [ended()]}, "1-bit Adam with eps 1e-8", UNDECIDED),
        ({"ef21": [ended(94.0)]}, "EF21 two-way", UNDECIDED),
        ({"ef21": [ended(98.0), ended(91.9)]}, "EF21 two-way", NOT_HELD),
        ({"ef21": [ended(94.0), ended(94.1)]}, "EF21 two-way", HELD),
        ({"ef21": [ended(91.0), ended(91.1)]}, "EF21 two-way", NOT_HELD),
    ],
)
def test_claims_on_mnist(
    tmp_path: Path, given: dict[str, Any], start: str, expected: Verdict
) -> None:
    study = study_in(tmp_path)
    claim_digits(study, Digits(), digit_results(**given))
    assert verdict_of(study, start) is expected
    assert all(claim.expected is HELD for claim in study.claims)


def test_the_whole_experiment_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated where it would start processes, which leave the same files."""
    monkeypatch.setattr(Study, "launch", Study.simulate_run)
    pytest.importorskip("torch", reason="task digits needs PyTorch")
    pytest.importorskip("sklearn", reason="task digits needs scikit-learn")
    images = replace(
        QUICK.images, task="digits", workers=1, batch=8, rounds=8, evaluations=2, tune_rounds=2,
        ladders={"adam": Ladder((1e-3,), 1e-3), "sgd": Ladder((0.1,), 0.1)}, epoch=4,
        variants=tuple(VARIANTS), timed_rounds=2, timed_workers=1, ablation=((2, 8), (1, 4)),
    )  # fmt: skip
    setting = Setting(
        images,
        Digits(task="digits", workers=2, batch=8, rounds=8, small_eps_rounds=8, ef21_rounds=8),
    )
    study = study_in(tmp_path, seeds=1)
    study_setting(study, setting)
    assert len(study.claims) == 18
    assert verdict_of(study, "over sockets the same runs") is HELD
    sent = next(t for t in study.tables if t.title == "Runs of processes over sockets")
    assert [row[:3] for row in sent.rows] == [
        ["CD-Adam", 1, 8],
        ["AMSGrad, uncompressed", 1, 2],
        ["EF21 two-way, top-k", 1, 2],
        ["1-bit Adam", 1, 2],
        ["CD-Adam", 1, 2],
    ]
    steps = next(t for t in study.tables if t.title == "Step sizes")
    assert all("outermost" in row[2] for row in steps.rows)
    table = next(t for t in study.tables if t.title.startswith("Table 2"))
    measured_bits = {row[0]: row[-1] for row in table.rows}
    by_formula = {row[0]: row[-2] for row in table.rows}
    for label in ("AMSGrad, uncompressed", "CD-Adam", "1-bit Adam"):
        assert measured_bits[label] == pytest.approx(by_formula[label], rel=1e-3)
    assert measured_bits["EF21 two-way, top-k"] < by_formula["EF21 two-way, top-k"]
