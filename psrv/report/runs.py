"""Find runs on disk and make what the report needs of them: labels, history, baseline."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psrv.errors import DataError
from psrv.measure.summary import SUMMARY_FILE, read_summary
from psrv.report.units import number_or_none

FULL_PRECISION = "dense"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation; ``sent`` is payload bytes per worker so far, both directions."""

    round: float
    sent: float | None
    seconds: float | None
    loss: float | None
    accuracy: float | None
    grad_norm: float | None


@dataclass(frozen=True)
class Run:
    """One run: its summary, its job description (may be empty) and a short unique label."""

    path: Path
    label: str
    summary: dict[str, Any]
    job: dict[str, Any]

    def text(self, key: str) -> str:
        return str(self.summary[key])

    def number(self, *keys: str) -> float | None:
        """The number at ``summary[keys[0]][keys[1]]...``, or None if there is none."""
        value: Any = self.summary
        for key in keys:
            if not isinstance(value, dict):
                return None
            value = value.get(key)
        return number_or_none(value)

    @property
    def payload_per_round(self) -> float | None:
        """Payload bytes of one worker in one round, both directions."""
        up = self.number("bytes_per_worker_round", "payload_up")
        down = self.number("bytes_per_worker_round", "payload_down")
        return None if up is None or down is None else up + down

    @property
    def history(self) -> list[Evaluation]:
        """The evaluations in order; entries without a round are passed over."""
        found = []
        for entry in self.summary.get("history") or []:
            if not isinstance(entry, dict):
                continue
            round_ = number_or_none(entry.get("round"))
            if round_ is None:
                continue
            up = number_or_none(entry.get("payload_up"))
            down = number_or_none(entry.get("payload_down"))
            found.append(
                Evaluation(
                    round=round_,
                    sent=None if up is None or down is None else up + down,
                    seconds=number_or_none(entry.get("seconds")),
                    loss=number_or_none(entry.get("loss")),
                    accuracy=number_or_none(entry.get("accuracy")),
                    grad_norm=number_or_none(entry.get("grad_norm")),
                )
            )
        return found


def load_runs(paths: Sequence[Path | str]) -> list[Run]:
    """The runs at ``paths``, in the order given; each path is a run's directory or a
    directory of such (taken by name).

    Raises:
        DataError: a path holds no run, or a damaged one.
    """
    directories: list[Path] = []
    for given in map(Path, paths):
        if not given.exists():
            raise DataError(f"{given} does not exist; expected the directory of a run")
        if given.name == SUMMARY_FILE:
            found = [given.parent]
        elif (given / SUMMARY_FILE).exists() or not given.is_dir():
            found = [given]
        else:
            found = sorted((f.parent for f in given.glob(f"*/{SUMMARY_FILE}")), key=_by_name)
            if not found:
                raise DataError(
                    f"{given} holds no {SUMMARY_FILE}, nor does a directory in it; "
                    "expected runs that ended normally"
                )
        directories.extend(found)
    unique = list(dict.fromkeys(directory.resolve() for directory in directories))
    if not unique:
        raise DataError("no runs given; name one or more run directories")
    return label_runs([Run(path, "", read_summary(path), _job(path)) for path in unique])


def _by_name(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts run-2 before run-10."""
    return [(int(p) if p.isdecimal() else -1, p) for p in re.split(r"([0-9]+)", path.name)]


def _job(directory: Path) -> dict[str, Any]:
    """job.json, or nothing if it is missing: the summary alone makes a report."""
    file = directory / "job.json"
    try:
        job = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}; expected a JSON object") from error
    if not isinstance(job, dict):
        raise DataError(f"{file} is damaged: expected a JSON object")
    return job


def label_runs(runs: Sequence[Run]) -> list[Run]:
    """Runs under the shortest labels that tell them apart: the method, with whatever
    differs within that method, else the directory's name, else that and a number."""

    def distinct(labels: Sequence[str]) -> bool:
        return len(set(labels)) == len(labels)

    labels = [clean(run.text("method")) for run in runs]
    for key, form in (
        ("compressor", "{} {}"),
        ("task", "{} {}"),
        ("workers", "{} n={}"),
        ("seed", "{} seed {}"),
    ):
        if distinct(labels):
            break
        values: dict[str, set[str]] = {}
        for label, run in zip(labels, runs, strict=True):
            values.setdefault(label, set()).add(run.text(key))
        labels = [
            form.format(label, clean(run.text(key))) if len(values[label]) > 1 else label
            for label, run in zip(labels, runs, strict=True)
        ]
    if not distinct(labels):
        repeated = Counter(labels)
        labels = [
            f"{label} ({clean(run.path.name)})" if repeated[label] > 1 else label
            for label, run in zip(labels, runs, strict=True)
        ]
    if not distinct(labels):
        labels = [f"{label} #{number}" for number, label in enumerate(labels, start=1)]
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def clean(text: str) -> str:
    """``text`` on one line, without characters that XML forbids."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def baseline(runs: Sequence[Run]) -> Run:
    """The run that payloads are compared with: the first in full precision, else the first."""
    return next((run for run in runs if run.text("compressor") == FULL_PRECISION), runs[0])


def times_smaller(run: Run, base: Run) -> float | None:
    """How many times less payload than ``base`` a round of ``run`` moves; None where
    that says nothing (another number of parameters, or nothing sent)."""
    mine, theirs = run.payload_per_round, base.payload_per_round
    if not mine or theirs is None or run.summary["dimension"] != base.summary["dimension"]:
        return None
    return theirs / mine


def default_output(paths: Sequence[Path | str]) -> Path:
    """Where the page goes when nobody says: into the one directory given, else beside the runs
    if they lie together, else here."""
    directories = [path if path.is_dir() else path.parent for path in map(Path, paths)]
    if len(directories) == 1:
        return directories[0] / REPORT_FILE
    parents = {directory.resolve().parent for directory in directories}
    return (parents.pop() if len(parents) == 1 else Path()) / REPORT_FILE
