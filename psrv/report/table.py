"""The comparison table: the same columns and cells for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psrv.report.runs import Run, baseline, clean, times_smaller
from psrv.report.units import human_bytes, human_seconds, metric, milliseconds, percent, times

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Column:
    """One column: its heading, its cell for a run, and whether it holds numbers."""

    title: str
    cell: Callable[[Run], str]
    numeric: bool = True


def comparison_columns(runs: Sequence[Run]) -> list[Column]:
    """The columns that these runs fill; accuracy and gradient norm only where some run
    has one."""
    base = baseline(runs)

    def final(key: str) -> bool:
        return any(run.number("final", key) is not None for run in runs)

    columns = [
        Column("method", lambda run: run.label, numeric=False),
        Column("compressor", lambda run: clean(run.text("compressor")), numeric=False),
        Column("task", lambda run: clean(run.text("task")), numeric=False),
        Column("workers", lambda run: run.text("workers")),
        Column("rounds", lambda run: run.text("rounds")),
        Column("final loss", lambda run: metric(run.number("final", "loss"))),
    ]
    if final("accuracy"):
        columns.append(Column("accuracy", lambda run: percent(run.number("final", "accuracy"))))
    if final("grad_norm"):
        columns.append(
            Column("gradient norm", lambda run: metric(run.number("final", "grad_norm")))
        )
    return [
        *columns,
        Column("step ms", lambda run: milliseconds(run.number("step_seconds", "mean"))),
        Column(
            "up/round", lambda run: human_bytes(run.number("bytes_per_worker_round", "payload_up"))
        ),
        Column(
            "down/round",
            lambda run: human_bytes(run.number("bytes_per_worker_round", "payload_down")),
        ),
        Column("smaller", lambda run: times(times_smaller(run, base))),
        Column("wall", lambda run: human_seconds(run.number("wall_seconds"))),
    ]


def comparison_note(runs: Sequence[Run]) -> str:
    """What up/round, down/round and smaller mean."""
    return (
        "up/round and down/round: payload bytes of one worker. "
        f"smaller: how many times less payload than {baseline(runs).label}, both ways together."
    )


def comparison_table(runs: Sequence[Run]) -> Table:
    """A rich table to print on a terminal; narrow ones fold the text columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=Text(comparison_note(runs)), caption_justify="left")
    columns = comparison_columns(runs)
    for column in columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.numeric else "left",
            no_wrap=column.numeric,
            overflow="fold",
        )
    for run in runs:
        # As Text, a name with brackets in it is shown and not taken for markup.
        table.add_row(*(Text(column.cell(run)) for column in columns))
    return table
