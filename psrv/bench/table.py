"""The rows of ``psrv bench codec`` for a terminal of 80 columns: three tables.

Every operation; what each entry of a sparse payload costs; and each target beside what was
reached, at the sizes that it applies to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from psrv.bench.rows import FIGURES, HUGE, LARGE, Row, Target
from psrv.report.units import ABSENT, human_count, significant

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

MISSED = "bold red"


def tables(rows: Sequence[Row]) -> Group:
    """All that there is to show."""
    from rich.console import Group

    shown: list[Table | str] = []
    for d in dict.fromkeys(row.dimension for row in rows):
        shown += [operations([row for row in rows if row.dimension == d]), ""]
    if any(row.entries for row in rows):
        shown += [entries(rows), ""]
    if any(LARGE <= row.dimension < HUGE for row in rows):
        shown += [targets(rows), ""]
    for row in rows:
        if row.of_one_memcpy is not None:
            shown.append(
                f"{row.operation} at {row.dimension:,}: {row.of_memcpy:.2f} of a copy on "
                f"{row.threads} threads, {row.of_one_memcpy:.2f} of one on one thread."
            )
    return Group(*shown)


def operations(rows: Sequence[Row]) -> Table:
    """Every operation at one size."""
    sides = [side for side in ("numpy", "torch") if any(_times(row, side) for row in rows)]
    words = {"numpy": "times\nNumPy", "torch": "times\ntorch"}
    shown = _table(
        ("compressor", "operation"),
        (
            "ns per\ncoord",
            "GB/s",
            "of\nmemcpy",
            "target",
            *(words[side] for side in sides),
            "bits",
        ),
        f"{human_count(rows[0].dimension)} coordinates",
    )
    previous = None
    for row in rows:
        new = row.compressor != previous
        if previous is not None and new:
            shown.add_section()
        previous = row.compressor
        wanted = [t for t, _ in row.verdicts() if t.figure == "of_memcpy"]
        shown.add_row(
            row.compressor if new else "",
            row.operation,
            _short(row.ns_per_coordinate),
            _short(row.gigabytes_per_second),
            f"{row.of_memcpy:.2f}",
            f"{wanted[0].bound:.2f}" if wanted else ABSENT,
            *(_factor(_times(row, side)) for side in sides),
            _short(row.payload_bits) if new else "",
            style=None if all(t.met(value) for t, value in row.verdicts()) else MISSED,
        )
    return shown


def entries(rows: Sequence[Row]) -> Table:
    """What an entry of a sparse payload costs, in time and in bits."""
    shown = _table(
        ("compressor",),
        (
            "coordinates",
            "entries",
            "encode\nns",
            "onto\nns",
            "index\nbits",
            "log2 C\n/ K",
            "ratio",
        ),
        "Entries of a payload: nanoseconds and bits of each",
    )
    by_name = {(row.compressor, row.dimension, row.operation): row for row in rows}
    previous = None
    for row in sorted(rows, key=lambda row: row.compressor):
        if row.entries is None or row.operation != "encode":
            continue
        onto = by_name.get((row.compressor, row.dimension, "decode_onto"))
        shown.add_row(
            row.compressor if row.compressor != previous else "",
            human_count(row.dimension),
            human_count(row.entries),
            _number(row.ns_per_entry),
            _number(onto.ns_per_entry if onto else None),
            _number(row.index_bits),
            _number(row.fewest_index_bits),
            _number(row.index_ratio),
        )
        previous = row.compressor
    return shown


def targets(rows: Sequence[Row]) -> Table:
    """Each target, and what was reached at each size that it applies to."""
    sizes = list(dict.fromkeys(row.dimension for row in rows if LARGE <= row.dimension < HUGE))
    shown = _table(
        ("compressor", "operation", "figure"),
        ("wanted", *(f"{human_count(d)}" for d in sizes)),
        "Targets",
    )
    reached: dict[Target, dict[int, float]] = {}
    for row in rows:
        for target, value in row.verdicts():
            reached.setdefault(target, {})[row.dimension] = value
    for target, values in reached.items():
        shown.add_row(
            target.compressor,
            target.operation,
            FIGURES[target.figure].words,
            f"{'≤' if target.most else '≥'} {target.bound:.3g}",
            *(_cell(target, values.get(d)) for d in sizes),
        )
    return shown


def _cell(target: Target, value: float | None) -> str:
    if value is None:
        return ABSENT
    text = significant(value)
    return text if target.met(value) else f"[{MISSED}]{text}[/]"


def _table(words: Sequence[str], numbers: Sequence[str], title: str) -> Table:
    from rich import box
    from rich.table import Table

    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=0,
    )
    for heading in words:
        shown.add_column(heading, no_wrap=True, vertical="bottom")
    for heading in numbers:
        shown.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    return shown


def _times(row: Row, side: str) -> float | None:
    return row.times_numpy if side == "numpy" else row.times_torch


def _factor(value: float | None) -> str:
    return ABSENT if value is None else f"{significant(value, 2)}×"


def _short(value: float) -> str:
    """At most five characters, of what can be measured."""
    return significant(value, 3 if value >= 0.1 else 2)


def _number(value: float | None) -> str:
    return ABSENT if value is None else significant(value)
