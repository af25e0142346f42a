"""Figures 2 and 4 redrawn, and the tables of what the runs left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from psrv.repro.cdadam_logreg.claims import Match
from psrv.repro.cdadam_logreg.found import Case, Found
from psrv.repro.cdadam_logreg.setting import COMPRESSORS, METHODS, SHUFFLED, Setting
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import number

FIGURES = {"sign": "figure-2", "top-1": "figure-4"}


def report(study: Study, setting: Setting, found: Found) -> None:
    """All figures and tables but that of the socket runs."""
    for kind in COMPRESSORS:
        for axis in ("rounds", "bits"):
            for dataset in setting.sets:
                _panel(study, setting, found, kind, dataset, axis)
    for kind in COMPRESSORS:
        _finals(study, setting, found, kind)
    _bits(study, setting, found)


def _panel(
    study: Study, setting: Setting, found: Found, kind: str, dataset: str, axis: str
) -> None:
    """||grad f|| of each method at its best step."""
    last = setting.top_rounds if kind == "top-1" else setting.rounds
    words = {"rounds": "rounds", "bits": "bits sent by and to one worker"}
    panel = study.panel(
        dataset, words[axis], "||grad f||", logx=axis == "bits", logy=True,
        group=f"{FIGURES[kind]}-{axis}",
    )  # fmt: skip
    for method, label in METHODS.items():
        case = Case(dataset, kind, method)
        best = found.best(case, last)
        run = found.run(case, best[0]) if best else None
        if best is None or run is None or math.isinf(best[1]):
            continue
        rounds = [t for t in run.norms if t <= last and (t or axis == "rounds")]
        xs = rounds if axis == "rounds" else [run.bits[t] for t in rounds]
        panel.curve(label, xs, [run.norms[t] for t in rounds])
        if method == "amsgrad-naive":
            panel.hline(best[1], f"naive ends at {number(best[1])}")


def _finals(study: Study, setting: Setting, found: Found, kind: str) -> None:
    """Final norms by method, set and step."""
    orders = [(dataset, "file") for dataset in setting.sets]
    if kind == "sign" and setting.shuffled:
        orders.append((setting.shuffled, SHUFFLED))
    rows: list[list[Any]] = []
    for dataset, order in orders:
        for method, label in METHODS.items():
            case = Case(dataset, kind, method, order)
            if order == SHUFFLED and case not in found.runs:
                continue
            last = setting.top_rounds if kind == "top-1" else setting.rounds
            stops = {last, setting.rounds_of(dataset, kind, method, order)}
            if kind == "sign" and order == "file" and method in ("amsgrad-ef", "cd-adam"):
                stops.add(setting.against_ef(dataset))
            for at in sorted(stops):
                norms = [_finite(found.norm(case, step, at)) for step in setting.steps]
                best = found.best(case, at)
                name = f"{dataset}, {order} order" if order == SHUFFLED else dataset
                rows.append([name, label, at, *norms, _chosen(found, case, best)])
    study.table(
        f"||grad f|| by method, set and step: {kind}",
        ["set", "method", "rounds", *(f"step {step:g}" for step in setting.steps), "best step"],
        rows,
        "A run that met a gradient that is not finite has no value. The steps at both ends are "
        "marked where they are best: beyond them nothing was tried.",
    )


def _finite(norm: float | None) -> float | None:
    return norm if norm is not None and math.isfinite(norm) else None


def _chosen(found: Found, case: Case, best: tuple[float, float] | None) -> str:
    """The best step in words, and whether it is an end of those that were tried."""
    if best is None or math.isinf(best[1]):
        return "none"
    return f"{best[0]:g}" + (" (an end)" if found.at_edge(case, best[0]) else "")


def _bits(study: Study, setting: Setting, found: Found) -> None:
    rows: list[list[Any]] = []
    for kind in COMPRESSORS:
        for dataset in setting.sets:
            for method, label in METHODS.items():
                if method == "amsgrad" and kind != "sign":
                    continue
                case = Case(dataset, kind, method)
                fewest = found.fewest_bits(case)
                run = found.run(case, fewest[0]) if fewest else None
                rows.append(
                    [
                        dataset,
                        "none" if method == "amsgrad" else kind,
                        label,
                        f"{fewest[0]:g}" if fewest else "none",
                        f"{run.hit_round:,}" if run and run.hit_round is not None else "never",
                        fewest[1] if fewest else None,
                    ]
                )
    study.table(
        "bits to a hundredth of the first gradient norm",
        ["set", "compressor", "method", "step", "round", "bits"],
        rows,
        "Payload bits sent by and to one worker, with the step that needs the fewest.",
    )


def sockets(study: Study, matches: Sequence[Match], runs: Sequence[RunFiles]) -> None:
    """The table of the runs over sockets."""
    rows = []
    for match, run in zip(matches, runs, strict=True):
        moved = run.summary["bytes_per_worker_round"]
        rows.append(
            [
                match.case.dataset,
                match.case.kind,
                METHODS[match.case.method],
                f"{match.step:g}",
                match.rounds,
                run.summary["final"]["grad_norm"],
                moved["payload_up"],
                moved["payload_down"],
                _both(moved),
                1e3 * run.summary["step_seconds"]["median"],
                "equal" if match.same else "differ",
            ]
        )
    study.table(
        "runs of processes over sockets",
        [
            "set", "compressor", "method", "step", "rounds", "final ||grad f||",
            "payload bytes up", "payload bytes down", "TCP bytes both ways", "ms a round",
            "bits of the simulation",
        ],
        rows,
        "Bytes of one worker and round. All processes share this machine's cores.",
    )  # fmt: skip


def _both(moved: dict[str, Any]) -> float | None:
    up, down = moved["tcp_up"], moved["tcp_down"]
    return None if up is None or down is None else up + down
