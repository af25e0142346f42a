"""The comparison table: the same columns and cells for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psrv.report.runs import Run, baseline, clean, times_smaller
from psrv.report.units import human_bytes, human_seconds, metric, milliseconds, percent, times

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table
    from rich.text import Text

_LEAST_NEEDED = ("compressor", "step ms", "wall", "rounds", "workers", "gradient norm", "task")
"""Columns that a narrow console does without, the first of them first."""


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


def comparison_table(runs: Sequence[Run]) -> ComparisonTable:
    """What ``rich.print`` or ``Console.print`` shows as a table, fitted to the console's width."""
    return ComparisonTable(runs)


class ComparisonTable:
    """A rich renderable. On a console that is too narrow for all columns, those that are
    the same in every run become the table's title; then some are left out, and said to be.
    Only where even the rest is too wide do names break."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | Text]:
        from rich.text import Text

        columns = comparison_columns(self._runs)
        shared = [column for column in columns if self._is_shared(column)]
        rest = [column for column in columns if column not in shared]
        layouts = [(columns, True), (rest, True), (rest, False)]
        for name in _LEAST_NEEDED:
            layouts.append(([c for c in layouts[-1][0] if c.title != name], False))
        unbounded = options.update(width=1000)
        for chosen, spaced in layouts:
            table = self._table(chosen, spaced)
            if console.measure(table, options=unbounded).maximum <= options.max_width:
                break
        else:
            table.columns[0].no_wrap = False
        if shared and chosen is not columns:
            title = ", ".join(f"{column.title} {column.cell(self._runs[0])}" for column in shared)
            yield Text(title, style="bold")
        yield table
        shown = columns if chosen is columns else [*shared, *chosen]
        if left_out := [column.title for column in columns if column not in shown]:
            yield Text(f"too narrow for {', '.join(left_out)}", style="dim")
        yield Text(comparison_note(self._runs), style="dim")

    def _is_shared(self, column: Column) -> bool:
        constant = len({column.cell(run) for run in self._runs}) == 1
        return constant and column.title in ("compressor", "task", "workers", "rounds")

    def _table(self, columns: Sequence[Column], spaced: bool) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            collapse_padding=True,
            padding=(0, 1 if spaced else 0),
        )
        for column in columns:
            table.add_column(
                # As Text, here and below, a name with brackets in it is not taken for markup.
                Text("\n".join(column.title.rsplit(" ", 1)).replace("/", "/\n")),
                justify="right" if column.numeric else "left",
                no_wrap=True,
                overflow="fold",
                vertical="bottom",
            )
        for run in self._runs:
            table.add_row(*(Text(column.cell(run)) for column in columns))
        return table
