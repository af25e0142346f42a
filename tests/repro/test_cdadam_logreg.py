"""Experiment cdadam-logreg: its claims on made-up runs, and all of it on a made-up data file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psrv
from psrv.errors import DataError
from psrv.objectives import TaskObjective
from psrv.repro import cdadam_logreg as study_module
from psrv.repro import load_experiment
from psrv.repro.cdadam_logreg import EXPERIMENT, FULL, QUICK, cases
from psrv.repro.cdadam_logreg.claims import Match, claims
from psrv.repro.cdadam_logreg.found import Case, Found, Run
from psrv.repro.cdadam_logreg.race import race
from psrv.repro.cdadam_logreg.setting import METHODS, PAPER_STEPS, SETS, SHUFFLED, Setting
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict
from psrv.tasks import make_task

HELD, NOT_HELD, UNDECIDED = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED

STOPS = (2000, 3000, 4000, 6000)
FLAT = {"amsgrad": 1e-5, "amsgrad-naive": 1e-1, "amsgrad-ef": 1e-3, "cd-adam": 1.5e-5}
BITS = {"amsgrad": 1e6, "amsgrad-naive": None, "amsgrad-ef": 3e5, "cd-adam": 1e5}


def made_up(norms: dict[Any, float] = FLAT, bits: dict[str, Any] = BITS) -> Found:
    """Runs with the same norm in every round; ``norms`` by method, or by case."""
    found = Found()
    for case in cases(QUICK):
        norm = norms.get(case, norms[case.method])
        run = Run(dict.fromkeys(STOPS, norm), dict.fromkeys(STOPS, 1.0), hit=bits[case.method])
        found.runs[case] = dict.fromkeys(QUICK.steps, run)
    return found


def verdicts(found: Found, matches: tuple[Match, ...] = ()) -> dict[str, Verdict]:
    return {claim.sentence: claim.verdict for claim in claims(QUICK, found, matches)}


def about(found: dict[str, Verdict], *words: str) -> set[Verdict]:
    """The verdicts of the claims that have all of these words, of which there is one."""
    chosen = {v for sentence, v in found.items() if all(word in sentence for word in words)}
    assert chosen, words
    return chosen


def test_runs_as_the_paper_shows_them_hold_every_claim():
    match = Match(Case("phishing", "sign", "cd-adam"), 0.001, 200, "same", "same")
    found = made_up()
    assert set(verdicts(found, (match,)).values()) == {HELD}


@pytest.mark.parametrize(
    ("words", "norm"),
    [
        (("naive", "sign"), 2.1e-3),
        (("same step",), 2.1e-5),
        (("error feedback's", "1/10"), 1.1e-4),
        (("naive", "top-1"), 5.1e-2),
        (("within twice uncompressed AMSGrad's", "best steps"), 2.1e-5),
    ],
)
def test_a_worse_cd_adam_gives_not_held(words, norm):
    worse = verdicts(made_up(FLAT | {"cd-adam": norm}))
    assert about(worse, *words) == {NOT_HELD}


def test_the_papers_own_steps_are_judged_apart_where_all_of_them_were_run():
    found = made_up()
    for case, runs in found.runs.items():
        run = runs[0.001]
        found.runs[case] = dict.fromkeys(FULL.steps, run)
    case = Case("phishing", "sign", "cd-adam")
    found.runs[case] = dict.fromkeys(FULL.steps, replace(run, norms=dict.fromkeys(STOPS, 1.0)))
    found.runs[case][0.002] = run
    told = {claim.sentence: claim for claim in claims(FULL, found, ())}
    (own,) = [c for s, c in told.items() if "five steps" in s and "phishing" in s]
    assert (own.verdict, own.expected) == (NOT_HELD, None)
    assert about(verdicts(found), "naive", "phishing, sign, best steps") == {HELD}
    assert not any("five steps" in c.sentence for c in claims(QUICK, found, ()))


def test_one_bad_set_spoils_its_own_claims_only():
    norms: dict[Any, float] = FLAT | {Case("a9a", "sign", "cd-adam"): 1.0}
    found = verdicts(made_up(norms))
    assert about(found, "naive", "a9a, sign") == {NOT_HELD}
    assert about(found, "naive", "w8a, sign") == {HELD}
    assert about(found, "naive", "a9a, top-1") == {HELD}


def test_order_of_rows_is_told_apart():
    norms: dict[Any, float] = FLAT | {Case("mushrooms", "sign", "cd-adam", SHUFFLED): 1.1e-3}
    found = verdicts(made_up(norms))
    assert about(found, "shuffled rows") == {NOT_HELD}
    assert about(found, "error feedback's", "mushrooms") == {HELD}


def test_bits_are_compared_where_both_got_there():
    assert about(verdicts(made_up(bits=BITS | {"cd-adam": 2.6e5})), "quarter") == {NOT_HELD}
    assert about(verdicts(made_up(bits=BITS | {"cd-adam": None})), "quarter") == {UNDECIDED}


@pytest.mark.parametrize(
    ("diverged", "verdict", "words"),
    [
        ("cd-adam", NOT_HELD, "CD-Adam diverged with every step, the other ends at 0.1"),
        ("amsgrad-naive", HELD, "CD-Adam ends at 1.50e-5, the other diverged with every step"),
    ],
)
def test_a_method_that_diverged_with_every_step_is_the_worse_one(diverged, verdict, words):
    found = made_up()
    case = Case("a9a", "sign", diverged)
    run = replace(found.runs[case][0.001], norms={0: 1.0}, ended=7)
    found.runs[case] = dict.fromkeys(QUICK.steps, run)
    start = "CD-Adam's final gradient norm is at most 1/50"
    (claim,) = [
        c for c in claims(QUICK, found, ()) if c.sentence.startswith(start) and "a9a" in c.sentence
    ]
    assert (claim.verdict, claim.measured) == (verdict, words)


def test_a_run_that_stopped_early_is_not_said_to_have_diverged():
    found = made_up()
    case = Case("a9a", "sign", "cd-adam")
    short = replace(found.runs[case][0.001], norms={0: 1.0})
    found.runs[case] = dict.fromkeys(QUICK.steps, short)
    told = [c for c in claims(QUICK, found, ()) if "a9a, sign, best" in c.sentence]
    assert {c.measured for c in told} == {"not run to that round"}
    assert {c.verdict for c in told} == {UNDECIDED}


def test_the_ends_of_the_steps_are_known():
    found = made_up()
    case = Case("a9a", "sign", "cd-adam")
    assert [found.at_edge(case, step) for step in QUICK.steps] == [True, False, False, True]


def test_error_feedback_is_compared_in_the_round_of_the_claim():
    found = made_up()
    case = Case("a9a", "sign", "cd-adam")
    run = found.runs[case][0.001]
    found.runs[case] = {0.001: replace(run, norms={**run.norms, 6000: 1.0})}
    assert about(verdicts(found), "error feedback's", "a9a") == {NOT_HELD}
    assert about(verdicts(found), "naive", "a9a, sign") == {HELD}
    found.runs[case] = {0.001: replace(run, norms={3000: 1e-6})}
    assert about(verdicts(found), "error feedback's", "a9a") == {UNDECIDED}


def test_the_best_step_is_each_methods_own():
    found = made_up()
    case = Case("w8a", "sign", "cd-adam")
    run = found.runs[case][0.001]
    found.runs[case] = {
        0.001: replace(run, norms=dict.fromkeys(STOPS, 0.05), hit=9e5),
        0.005: replace(run, norms=dict.fromkeys(STOPS, 1e-7), hit=5e4),
    }
    assert found.best(case, 3000) == (0.005, 1e-7)
    assert found.fewest_bits(case) == (0.005, 5e4)
    assert about(verdicts(found), "naive", "w8a, sign") == {HELD}
    assert about(verdicts(found), "same step", "w8a") == {NOT_HELD}


@pytest.mark.parametrize(
    ("digest", "verdict"), [("same", HELD), ("other", NOT_HELD), (None, UNDECIDED)]
)
def test_sockets_must_end_in_the_bits_of_the_simulation(digest, verdict):
    good = Match(Case("phishing", "sign", "amsgrad"), 0.01, 200, "same", "same")
    found = verdicts(made_up(), (good, replace(good, simulation=digest)))
    assert about(found, "sockets") == {verdict}


def test_no_run_over_sockets_decides_nothing():
    assert about(verdicts(made_up()), "sockets") == {UNDECIDED}


def test_what_is_known_to_hold_is_expected_and_the_rest_is_not():
    expected = [claim.sentence for claim in claims(QUICK, made_up(), ()) if claim.expected]
    free = [claim.sentence for claim in claims(QUICK, made_up(), ()) if not claim.expected]
    assert len(expected) == 4 + 3 + 3 + 4 + 4 + 1
    assert any("shuffled" in sentence for sentence in free)
    assert not any("within twice uncompressed AMSGrad's" in sentence for sentence in expected)


def test_settings_are_the_papers():
    assert load_experiment("cdadam-logreg") is EXPERIMENT
    assert EXPERIMENT.needs == SETS
    assert QUICK.workers == FULL.workers == 20
    assert {*PAPER_STEPS, 0.01} <= set(FULL.steps)
    assert set(QUICK.steps) <= set(FULL.steps)
    for setting in (QUICK, FULL):
        assert setting.rounds_of("a9a", "sign", "cd-adam") == 6000
        assert setting.rounds_of("w8a", "sign", "amsgrad-ef") == 4000
        assert setting.rounds_of("phishing", "sign", "cd-adam") == 3000
        assert setting.against_ef("phishing") == 2000
    chosen = [c for c in cases(QUICK) if c.dataset in QUICK.socket_sets and c.order == "file"]
    assert {c.method for c in chosen if c.kind == "sign"} == set(METHODS)
    assert len(QUICK.socket_sets) >= 2


# On a made-up file


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """120 rows, 9 sparse features, labels 0 and 1, in a file called ``phishing``."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(3)
    lines = []
    for row in range(120):
        kept = np.flatnonzero(rng.random(9) < 0.5)
        label = int(row > 50)
        pairs = " ".join(f"{c + 1}:{rng.normal() + (label if c == 2 else 0):.4f}" for c in kept)
        lines.append(f"{label} {pairs}")
    (folder / "phishing").write_text("\n".join(lines) + "\n")
    return folder


def runs_of(*names: str) -> list[dict[str, Any]]:
    compressors = {"amsgrad": None, "cd-adam": "top-k:2"}
    return [
        {"name": n, "method": n, "compressor": compressors.get(n, "sign"), "lr": 0.01}
        for n in names
    ]


def test_side_by_side_each_run_is_what_it_is_alone(data):
    pytest.importorskip("scipy")
    shown = {"task": "libsvm:phishing", "data": str(data), "workers": 7, "every": 3}
    together = race(runs=runs_of(*METHODS), rounds=10, marks=[4, 10], **shown)
    assert together["rounds"] == [0, 3, 4, 6, 9, 10]
    task = make_task("libsvm:phishing", workers=7, data=data)
    for run in runs_of(*METHODS):
        alone = psrv.simulate(
            TaskObjective(task), run["method"], workers=7, rounds=10,
            lr=run["lr"], compressor=run["compressor"], blocks="global",
        )  # fmt: skip
        found = Run.of(together["rounds"], together["runs"][run["name"]])
        assert found.digests[10] == alone.digest
        assert set(found.digests) == {4, 10}
        norms = [found.norms[t] for t in (0, 3, 4, 6, 9)]
        assert norms == pytest.approx(alone.history["grad_norm"][[0, 3, 4, 6, 9]], rel=1e-6)
        sent = alone.history["payload_up"] + alone.history["payload_down"]
        assert found.bits[6] == pytest.approx(8 * sent[:6].sum())
        below = np.flatnonzero(alone.history["grad_norm"] <= 1e-2 * norms[0])
        assert found.hit_round == (below[0] if below.size else None)


def test_first_round_below_the_target_is_found_with_its_bits(data):
    pytest.importorskip("scipy")
    runs = [{"name": "x", "method": "amsgrad", "compressor": None, "lr": 0.03}]
    result = race("libsvm:phishing", str(data), 4, runs, rounds=400, every=1, marks=[])
    run = Run.of(result["rounds"], result["runs"]["x"])
    first = next(t for t, norm in run.norms.items() if norm <= 1e-2 * run.norms[0])
    assert 0 < first == run.hit_round
    assert run.hit == run.bits[first] == 8 * 2 * 4 * 9 * first


class Unplugged(Study):
    """Its runs over sockets are simulated: they leave the same files, without TCP bytes."""

    def launch(self, name, **job):
        return self.simulate_run(name, **job)


def test_whole_study_in_miniature(data, tmp_path):
    pytest.importorskip("scipy")
    tiny = Setting(
        sets=("phishing",), rounds=12, top_rounds=8, longer={"phishing": 16}, steps=(0.001, 0.01),
        shuffled="phishing", socket_sets=("phishing",), socket_rounds=6, socket_kinds=("sign",),
        workers=2, every=5,
    )  # fmt: skip
    study = Unplugged(EXPERIMENT, tmp_path, data=data, processes=0)
    study_module.experiment(study, tiny)
    told = {claim.sentence: claim for claim in study.claims}
    (sockets,) = [claim for sentence, claim in told.items() if "sockets" in sentence]
    assert sockets.verdict is HELD, sockets.measured
    assert sockets.measured == "4 of 4 runs equal"
    assert UNDECIDED not in {c.verdict for s, c in told.items() if "hundredth" not in s}
    assert [panel.group for panel in study.panels] == [
        "figure-2-rounds", "figure-2-bits", "figure-4-rounds", "figure-4-bits",
    ]  # fmt: skip
    assert {curve.label for curve in study.panels[0].curves} == set(METHODS.values())
    finals = study.tables[0]
    assert [row[:3] for row in finals.rows[:3]] == [
        ["phishing", "uncompressed", 12],
        ["phishing", "naive", 12],
        ["phishing", "error feedback", 12],
    ]
    assert finals.rows[3][:3] == ["phishing", "error feedback", 16]
    again = Unplugged(EXPERIMENT, tmp_path, data=data, processes=0)
    study_module.experiment(again, tiny)
    assert again.computed == 0
    assert [c.verdict for c in again.claims] == [c.verdict for c in study.claims]


def test_missing_file_is_named_before_anything_runs(data):
    with pytest.raises(DataError, match="mushrooms"):
        EXPERIMENT.check_data(data)
