"""``methods``, ``compressors``, ``tasks`` and ``warmup``, and the console that tables go to."""

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


def compressors() -> None:
    """A table of the compressors: how to name them, what they send, what they promise."""
    from psrv.codec import COMPRESSORS, Blocks, parse
    from psrv.layout import BLOCK

    blocks, workers = Blocks.of([BLOCK] * 32), 4
    rows = []
    for kind in COMPRESSORS.values():
        shown = {"top-k": "top-k:0.01", "rand-k": "rand-k:0.01"}.get(kind.name, kind.examples[0])
        compressor = parse(shown)
        bits = 8 * compressor.payload_bound(blocks, workers) / blocks.dimension
        omega = compressor.omega(blocks, workers)
        if compressor.lossless:
            promise = "exact"
        elif omega is not None:
            promise = f"unbiased, omega = {omega:.3g}"
        else:
            promise = "shrinks the error" if compressor.contractive else "neither"
        numbers = f"{bits:.3g} ({shown})" if shown != kind.grammar else f"{bits:.3g}"
        rows.append((kind.grammar, kind.summary, numbers, promise))
    _print(("compressor", "what it sends", "bits a coordinate", "C(x)"), rows)
    print(
        "K is a count, such as 20, or a fraction, such as 0.01; FORMAT is float32, bf16, fp16 or "
        "natural; OPTION is run, groups or blocks. Bits and omega are for "
        f"{blocks.dimension:,} coordinates in blocks of {BLOCK:,} and {workers} workers; "
        "of top-k they are a bound."
    )


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
