"""``methods``, ``tasks`` and ``warmup``, and the console that tables go to."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120


def methods() -> None:
    """A table of the methods."""
    from psrv.methods import METHODS

    rows = []
    for method in METHODS.values():
        links = (f"{link.feedback} {link.compressor}" for link in (method.up, method.down))
        rows.append((method.name, method.summary, *links, method.source))
    _print(("method", "what it does", "up", "down", "source"), rows)


def tasks() -> None:
    """A table of the built-in tasks, and what their specs may set."""
    from psrv.tasks import TASKS

    rows = []
    for name, task in TASKS.items():
        form = f"{name}:{task.argument}" if task.argument else name
        options = [
            key + ("" if option.default is None else f"={option.default}") + f": {option.help}"
            for key, option in task.options.items()
        ]
        rows.append((form, task.summary, "\n".join(options), str(task.default_rounds)))
    _print(("task", "what it trains", "options, as in quadratic:d=100,noise=0.1", "rounds"), rows)


def warmup() -> None:
    """Compile the kernels, and say how long it took."""
    start = time.monotonic()
    from psrv.worker.warm import warmup as compile_all

    count = compile_all()
    print(f"the kernels of {count} methods are compiled ({time.monotonic() - start:.1f} s)")


def console() -> Console:
    """stdout for tables. A file or a pipe has no width of its own; rich would take a narrow
    terminal's."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def _print(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, title in enumerate(titles):
        table.add_column(title, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)
