"""The files of a finished study, and the table of verdicts.

data.json      settings, machine, versions, figures, claims, tables, notes
curves.csv     panel,curve,x,y,low,high: every curve and bar that is drawn
FIGURE.png     one for each group of panels
report.html    all of it to read (page.py)
verdicts.txt   the table of verdicts, as on the terminal
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psrv.errors import ConfigError
from psrv.measure.summary import write_whole
from psrv.repro.figures import draw, groups, spoken
from psrv.repro.page import Picture, render
from psrv.repro.panels import Claim, Panel
from psrv.repro.store import plain
from psrv.repro.verdict import Verdict, number

if TYPE_CHECKING:
    from rich.table import Table

    from psrv.repro.study import Study

DATA, CURVES, PAGE, VERDICTS = "data.json", "curves.csv", "report.html", "verdicts.txt"
COLOURS = {Verdict.HELD: "green", Verdict.NOT_HELD: "red", Verdict.UNDECIDED: "yellow"}
WIDTH = 80


def write_all(study: Study, command: str) -> None:
    """Everything, into the study's folder.

    Args:
        command: that repeats it.

    Raises:
        ConfigError: a file cannot be written.
    """
    about = describe(study, command)
    write_whole(study.folder / DATA, json.dumps(plain(about), indent=1, allow_nan=False) + "\n")
    write_whole(study.folder / CURVES, curves_csv(study.panels))
    pictures = []
    for name, panels in groups(study.panels).items():
        file = f"{file_name(name)}.png"
        content = draw(panels)
        try:
            (study.folder / file).write_bytes(content)
        except OSError as error:
            raise ConfigError(f"cannot write {study.folder / file}: {error.strerror}") from None
        pictures.append(Picture(name, file, content, spoken(panels), bool(panels[0].group)))
    write_whole(study.folder / PAGE, render(study, about, pictures))
    write_whole(study.folder / VERDICTS, verdicts_text(study.claims))


def describe(study: Study, command: str) -> dict[str, Any]:
    """What data.json holds."""
    from psrv.commands.rundir import machine, versions

    experiment = study.experiment
    return {
        "experiment": experiment.name,
        "paper": experiment.paper,
        "place": experiment.place,
        "question": experiment.question,
        "setting": "full" if study.full else "quick",
        "setting_in_words": experiment.full if study.full else experiment.quick,
        "command": command,
        "ended": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - study.started, 1),
        "computed": study.computed,
        "kept": study.kept,
        "seeds": list(study.seeds),
        "machine": machine(),
        "versions": versions(),
        "claims": [
            {
                "sentence": claim.sentence,
                "place": claim.place,
                "needs": claim.needs,
                "measured": claim.measured,
                "verdict": str(claim.verdict),
                "expected": None if claim.expected is None else str(claim.expected),
            }
            for claim in study.claims
        ],
        "figures": study.figures,
        "tables": [
            {"title": t.title, "columns": t.columns, "rows": t.rows, "note": t.note}
            for t in study.tables
        ],
        "notes": study.notes,
        "cells": study.settings,
    }


def curves_csv(panels: Sequence[Panel]) -> str:
    """Curves and bars as rows; what is not a number is left empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["panel", "curve", "x", "y", "low", "high"])

    def cell(values: Sequence[Any] | None, i: int) -> Any:
        if values is None:
            return ""
        value = values[i]
        return value if isinstance(value, str) or math.isfinite(value) else ""

    for panel in panels:
        for curve in panel.curves:
            for i, (x, y) in enumerate(zip(curve.xs, curve.ys, strict=True)):
                row = [cell([x], 0), cell([y], 0), cell(curve.low, i), cell(curve.high, i)]
                writer.writerow([panel.name, curve.label, *row])
        for block in panel.blocks:
            for i, (at, y) in enumerate(zip(block.at, block.heights, strict=True)):
                row = [at, cell([y], 0), cell(block.low, i), cell(block.high, i)]
                writer.writerow([panel.name, block.label, *row])
    return buffer.getvalue()


def file_name(name: str) -> str:
    """A figure's title as the stem of a file."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:60] or "figure"


def count_line(claims: Sequence[Claim]) -> str:
    """How many claims held: ``5 held, 1 not held, 2 undecided``."""
    counts = [(sum(c.verdict is verdict for c in claims), verdict) for verdict in Verdict]
    return ", ".join(f"{count} {verdict}" for count, verdict in counts if count) or "no claims"


def verdict_table(claims: Sequence[Claim]) -> Table:
    """The claims as a table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False, expand=False)
    table.add_column("claim", ratio=5, min_width=20)
    table.add_column("needs", ratio=2, min_width=9)
    table.add_column("measured", ratio=3, min_width=12)
    table.add_column("verdict", no_wrap=True)
    for claim in claims:
        sentence = f"{claim.sentence} ({claim.place})" if claim.place else claim.sentence
        style = f"bold {COLOURS[claim.verdict]}"
        table.add_row(
            Text(sentence), Text(claim.needs), Text(claim.measured), Text(claim.verdict, style)
        )
    return table


def verdicts_text(claims: Sequence[Claim], width: int = WIDTH) -> str:
    """The table as plain text."""
    from rich.console import Console

    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(verdict_table(claims))
    lines = [line.rstrip() for line in buffer.getvalue().splitlines()]
    return "\n".join([*lines, count_line(claims), ""])


def shown(value: Any) -> str:
    """A table's cell as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)
