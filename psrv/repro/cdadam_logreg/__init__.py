"""``cdadam-logreg``: what compression does to AMSGrad on nonconvex logistic regression.

race.py      runs side by side, for the choice of step sizes
setting.py   the sets, methods and step sizes, quick and in full
found.py     what the runs left    claims.py   the verdicts    report.py   figures and tables

Source: Wang, Lin and Chen 2022 (CD-Adam), section 7.1, Figure 2; supplement E.1, Figure 4.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from psrv.repro.cdadam_logreg.claims import Match, claims
from psrv.repro.cdadam_logreg.found import Case, Found, Run
from psrv.repro.cdadam_logreg.race import race
from psrv.repro.cdadam_logreg.report import report, sockets
from psrv.repro.cdadam_logreg.setting import (
    COMPRESSORS,
    FULL,
    LANES,
    METHODS,
    QUICK,
    SETS,
    SHUFFLED,
    Setting,
)
from psrv.repro.experiment import Experiment
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study


def run(study: Study) -> None:
    """The whole experiment in the study's setting."""
    experiment(study, FULL if study.full else QUICK)


def experiment(study: Study, setting: Setting) -> None:
    """Choose the steps in simulation, send the chosen runs over sockets, report."""
    study.stage("step sizes, in simulation")
    found = simulated(study, setting)
    matches, runs = launched(study, setting, found)
    report(study, setting, found)
    sockets(study, matches, runs)
    for claim in claims(setting, found, matches):
        study.claim(
            claim.sentence, claim.needs, claim.measured, claim.verdict,
            place=claim.place, expected=claim.expected,
        )  # fmt: skip
    for text in _notes(setting):
        study.note(text)


def cases(setting: Setting) -> Iterator[Case]:
    """Every method on every set, with both compressors; uncompressed once."""
    for dataset in setting.sets:
        for kind in COMPRESSORS:
            for method in METHODS:
                if method != "amsgrad" or kind == "sign":
                    yield Case(dataset, kind, method)
    if setting.shuffled:
        for method in ("amsgrad-ef", "cd-adam"):
            yield Case(setting.shuffled, "sign", method, SHUFFLED)


def simulated(study: Study, setting: Setting) -> Found:
    """All runs with all step sizes, up to eight of one set and length in a cell."""
    bundles: dict[tuple[str, str, int], list[tuple[Case, float]]] = defaultdict(list)
    for case in cases(setting):
        rounds = setting.rounds_of(case.dataset, case.kind, case.method, case.order)
        bundle = bundles[case.dataset, case.order, rounds]
        bundle.extend((case, step) for step in setting.steps)
    cells: dict[str, dict[str, Any]] = {}
    members: dict[str, dict[str, tuple[Case, float]]] = {}
    for (dataset, order, rounds), bundle in bundles.items():
        for first in range(0, len(bundle), LANES):
            key = f"{dataset}-{order}-{rounds}-{first // LANES}"
            inside = {_name(case, step): (case, step) for case, step in bundle[first:][:LANES]}
            members[key] = inside
            cells[key] = {
                "task": _task(dataset, order),
                "data": str(study.data),
                "workers": setting.workers,
                "runs": [
                    {
                        "name": name,
                        "method": case.method,
                        "compressor": _compressor(case),
                        "lr": step,
                    }
                    for name, (case, step) in inside.items()
                ],
                "rounds": rounds,
                "every": setting.every,
                "marks": sorted(
                    {setting.socket_rounds, setting.rounds, setting.against_ef(dataset)}
                ),
            }
    # The longest first, so that no process is left alone with one at the end.
    order_of_work = dict(sorted(cells.items(), key=lambda item: -item[1]["rounds"]))
    found = Found()
    for key, result in study.cells(race, order_of_work).items():
        for name, (case, step) in members[key].items():
            made = Run.of(result["rounds"], result["runs"][name])
            found.runs.setdefault(case, {})[step] = made
    return found


def launched(study: Study, setting: Setting, found: Found) -> tuple[list[Match], list[RunFiles]]:
    """The chosen runs as processes over sockets."""
    chosen = []
    for case in cases(setting):
        there = case.dataset in setting.socket_sets and case.kind in setting.socket_kinds
        last = setting.top_rounds if case.kind == "top-1" else setting.rounds
        best = found.best(case, last)
        # Processes would end with an error in the round where the simulated run diverged.
        if there and case.order == "file" and best is not None and math.isfinite(best[1]):
            chosen.append((case, best[0]))
    matches, runs = [], []
    for number, (case, step) in enumerate(chosen, 1):
        study.stage(f"{setting.workers} processes over sockets: run {number} of {len(chosen)}")
        rounds = setting.socket_rounds
        files = study.launch(
            _name(case, step),
            task=_task(case.dataset, case.order),
            workers=setting.workers,
            method=case.method,
            compressor=_compressor(case),
            blocks="global",
            lr=step,
            rounds=rounds,
            eval_every=rounds,
        )
        simulated_run = found.run(case, step)
        expected = simulated_run.digests.get(rounds) if simulated_run else None
        matches.append(Match(case, step, rounds, files.summary["replica_digest"], expected))
        runs.append(files)
    return matches, runs


def _task(dataset: str, order: str) -> str:
    return f"libsvm:{dataset}" + ("" if order == "file" else f",order={order}")


def _compressor(case: Case) -> str | None:
    return None if case.method == "amsgrad" else COMPRESSORS[case.kind]


def _name(case: Case, step: float) -> str:
    order = "" if case.order == "file" else f"-{case.order}"
    return f"{case.dataset}{order}-{case.kind}-{case.method}-{step:g}"


def _notes(setting: Setting) -> Iterator[str]:
    steps = ", ".join(f"{step:g}" for step in setting.steps)
    yield (
        "The paper's step sizes are .001 and on by .002 up to .01, so five; here each method's "
        f"best is taken of {steps}, by the norm in the round of the claim. Which steps are tried "
        "matters: where a step is too large CD-Adam's norm does not fall but swings, so that its "
        "last value is a matter of luck."
    )
    if set(setting.steps) < set(FULL.steps):
        yield (
            f"These are {len(setting.steps)} of the ten steps of --full, picked because the best "
            "ones of CD-Adam that we know are among them; the best ones of the others may not be, "
            "which favours CD-Adam (docs/cd-adam.md says what the others change). The table marks "
            "where an end of the range is best: it is the paper's range, and nothing beyond it was "
            "tried."
        )
    yield (
        "With the sign, naive compression, error feedback and CD-Adam send the same bits a round: "
        "claims after as many rounds are claims for the same communication budget."
    )
    yield (
        "The paper does not say how many rounds its figures show, nor the order of the rows: here "
        f"{setting.rounds:,} rounds ({setting.top_rounds:,} with top-1; error feedback and CD-Adam "
        "as many as their claim names), and rows in file order but where it says shuffled."
    )
    yield (
        "Gradients, memories and parameters are float32. In float64 CD-Adam falls further where it "
        "is stable; in float32 its norm stops near 1e-7, and on phishing with step .001 it rises "
        "again after some 2,000 rounds. A plain float32 transcription of Algorithm 1 does the same."
    )
    yield (
        "Factors are of the gradient norm, the axis of Figures 2 and 4, not of its square; bits "
        "are payload bits sent by and to one worker."
    )
    if setting.socket_rounds < setting.rounds:
        sets = " and ".join(setting.socket_sets)
        yield (
            f"Over sockets go the sign runs on {sets}, for {setting.socket_rounds} rounds, to show "
            "that they take the simulation's steps; --full sends all chosen runs, whole."
        )


EXPERIMENT = Experiment(
    name="cdadam-logreg",
    paper="Wang, Lin and Chen 2022 (CD-Adam)",
    place="7.1, Figure 2; E.1, Figure 4",
    question=(
        "Does AMSGrad on nonconvex logistic regression reach the same gradient norm when Markov "
        "memory compresses both directions, where naive compression and error feedback stop early?"
    ),
    quick=(
        "Four sets, 20 workers, full gradients, 3,000 rounds (2,000 with top-1), step sizes .001, "
        ".002, .007 and .01 in simulation; the chosen sign runs on phishing and mushrooms over "
        "sockets for 100 rounds."
    ),
    full=(
        "The paper's setting, with all of .001 to .01 by .001, which contains its five step sizes; "
        "every chosen run over sockets for 3,000 rounds. The paper names no number of rounds."
    ),
    needs=SETS,
    run=run,
)
