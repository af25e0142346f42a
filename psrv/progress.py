"""A line on the terminal while a run trains: rounds, loss, bytes, rounds a second.

Read from the file that worker 0 writes anyway, so that watching costs the run nothing.
Silent when stderr is no terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress

REDRAW_SECONDS = 0.2
"""Drawing costs milliseconds of a core that the run may want."""


class Tail:
    """The new whole lines of a JSON-lines file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read(self) -> list[dict[str, Any]]:
        """Records written since the last call; none while the file does not exist."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._position)
                text = file.read()
        except OSError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        records = []
        for line in whole.splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the reader of the finished file complains, not the one who watches
            if isinstance(record, dict):
                records.append(record)
        return records


@dataclass
class State:
    """How far a run is.

    Attributes:
        rounds: done.
        total: to do in all, or None if unknown.
        payload: bytes of one worker so far, both directions.
        loss, accuracy: of the last evaluation.
    """

    rounds: int = 0
    total: int | None = None
    payload: int = 0
    loss: float | None = None
    accuracy: float | None = None

    def take(self, record: Mapping[str, Any]) -> None:
        """Follow one line of a worker's file."""
        if record.get("type") == "round":
            self.rounds += 1
            self.payload += (record.get("payload_up") or 0) + (record.get("payload_down") or 0)
        elif record.get("type") == "eval":
            self.loss, self.accuracy = record.get("loss"), record.get("accuracy")

    def text(self) -> str:
        """Loss, accuracy and bytes, as far as they are known."""
        from psrv.report.units import human_bytes, metric, percent

        parts = []
        if self.loss is not None:
            parts.append(f"loss {metric(self.loss)}")
        if self.accuracy is not None:
            parts.append(f"accuracy {percent(self.accuracy, 1)}")
        if self.payload:
            parts.append(f"{human_bytes(self.payload)} a worker")
        return "  ".join(parts)


class Bar:
    """The line itself; does nothing where stderr is no terminal.

    Args:
        title: what runs.
        total: rounds to do, or None if unknown.
        shown: False keeps it silent on a terminal too.
    """

    def __init__(self, title: str, total: int | None = None, *, shown: bool = True) -> None:
        self.state = State(total=total)
        self._title = title
        self._progress: Progress | None = None
        self._shown = shown and sys.stderr.isatty()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if not self._shown:
            return self
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rounds]}", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._progress.add_task(self._title, total=self.state.total, rounds="starting", text="")
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def show(self) -> None:
        """Draw the state as it is now, if the last time was long enough ago."""
        if self._progress is None or time.monotonic() - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        (task,) = self._progress.tasks
        self._progress.update(task.id, completed=self.state.rounds, total=self.state.total)
        if self.state.rounds:
            total = f"/{self.state.total}" if self.state.total is not None else ""
            speed = f"  {task.speed:.1f} rounds/s" if task.speed else ""
            self._progress.update(
                task.id, rounds=f"{self.state.rounds}{total}{speed}", text=self.state.text()
            )
        self._progress.refresh()

    def follow(self, tail: Tail) -> None:
        """Take in what a worker wrote since the last time, and draw."""
        if self._progress is not None:
            for record in tail.read():
                self.state.take(record)
            self.show()

    def at(self, rounds: int, total: int, record: Mapping[str, Any]) -> None:
        """Take in one round of a simulation, and draw."""
        if self._progress is None:
            return
        self.state.rounds, self.state.total = rounds, total
        if "loss" in record:
            self.state.loss, self.state.accuracy = record["loss"], record.get("accuracy")
        self.state.payload = (record.get("payload_up") or 0) + (record.get("payload_down") or 0)
        self.show()
