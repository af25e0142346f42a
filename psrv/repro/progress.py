"""How far an experiment is: lines for its stages, and a bar with the time left over cells.

On stderr. Where that is no terminal, one plain line a stage and none of the bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psrv.progress import REDRAW_SECONDS
from psrv.report.units import human_seconds


class CellBar:
    """The bar over one set of cells.

    Attributes:
        finished: cells that are done.
    """

    def __init__(self, total: int) -> None:
        self.finished, self.total = 0, total
        self._started = time.monotonic()
        self._drawn = 0.0
        self._shown: Any = None

    def open(self) -> None:
        """Show it."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._shown = Progress(
            TextColumn("  "),
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._shown.add_task(self.text(0.0), total=1.0)
        self._shown.start()

    def at(self, share: float) -> None:
        """Draw, with ``share`` of the whole done; often asked, seldom drawn."""
        if self._shown is None or time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        (task,) = self._shown.tasks
        self._shown.update(task.id, completed=share, description=self.text(share))
        self._shown.refresh()

    def text(self, share: float) -> str:
        """Cells done, and the time left if the rest goes as fast as what was done."""
        words = f"{self.finished}/{self.total} cells"
        spent = time.monotonic() - self._started
        if share > 0.01 and spent > 1:
            left = spent * (1 - share) / share
            words += f", about {f'{left:.0f} s' if left < 120 else human_seconds(left)} left"
        return words

    def close(self) -> None:
        """Take it away."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None


class Progress:
    """Everything a study says while it runs."""

    def stage(self, text: str) -> None:
        """A stage begins."""
        self._say(text)

    def line(self, text: str) -> None:
        """A part of a stage begins."""
        self._say(f"  {text}")

    @contextmanager
    def bar(self, total: int, text: str) -> Iterator[CellBar]:
        """A bar over ``total`` cells."""
        self.line(text)
        bar = CellBar(total)
        if sys.stderr.isatty():
            bar.open()
        try:
            yield bar
        finally:
            bar.close()

    @staticmethod
    def _say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
