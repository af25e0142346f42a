"""What an experiment is given: a place for cells and runs, and for what it wants to show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from psrv.cores import cores
from psrv.errors import PsrvError
from psrv.measure.summary import write_whole
from psrv.repro.cells import CellError, compute
from psrv.repro.experiment import Experiment
from psrv.repro.panels import Claim, Panel, Table
from psrv.repro.progress import Progress
from psrv.repro.runs import RunFiles, run
from psrv.repro.store import Store, digest, name_of, plain
from psrv.repro.verdict import Verdict


class Study:
    """One run of an experiment.

    Attributes:
        experiment: what runs. full: the paper's setting, not the quick one.
        folder: absolute; everything is written below it.
        data: the data folder, absolute, or None.
        seeds: 0, 1, ...: as many as the experiment takes by default or ``--seeds`` says.
        processes: how many cells at once.
        kept, computed: cells and runs taken from disk, and done now.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        *,
        full: bool = False,
        data: Path | None = None,
        seeds: int | None = None,
        processes: int | None = None,
    ) -> None:
        self.experiment, self.full = experiment, full
        self.folder = folder.absolute()
        self.data = None if data is None else data.absolute()
        count = seeds or (experiment.full_seeds if full else experiment.quick_seeds)
        self.seeds = tuple(range(count))
        self.processes = cores() if processes is None else processes
        self.kept = self.computed = 0
        self.panels: list[Panel] = []
        self.tables: list[Table] = []
        self.claims: list[Claim] = []
        self.notes: list[str] = []
        self.figures: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.started = time.monotonic()
        self._progress = Progress()
        self._store = Store(self.folder / "cells")

    # Computing.

    def cells(
        self,
        function: Callable[..., Any],
        settings: Mapping[str, Mapping[str, Any]],
        processes: int | None = None,
        *,
        threads: int = 1,
    ) -> dict[str, Any]:
        """key -> function(**settings[key]), in the order of ``settings``.

        What an earlier run with the same settings left in the folder is taken from there; the
        rest is computed in several processes, and each result stored at once.

        Args:
            function: of a module's top level. It may call ``cell_process.progress(done,
                total)`` so that the time left is known before it has finished.
            settings: JSON-able, one dictionary of arguments a cell; so must results be.
            processes: at most as many; 0 computes in this process. None: the study's.
            threads: of linear algebra and numba in each process.

        Raises:
            CellError: the first cell that failed, by its key. Finished ones are kept.
        """
        marks = {key: digest(function, given) for key, given in settings.items()}
        results: dict[str, Any] = {}
        for key, mark in marks.items():
            there, result = self._store.load(key, mark)
            if there:
                results[key] = result
        name = function.__qualname__
        self.settings.setdefault(name, {}).update(plain(settings))
        left = {key: given for key, given in settings.items() if key not in results}
        self.kept += len(results)
        if left:
            self._compute(function, left, processes, threads, marks, results)
        return {key: results[key] for key in settings}

    def _compute(
        self,
        function: Callable[..., Any],
        left: Mapping[str, Mapping[str, Any]],
        processes: int | None,
        threads: int,
        marks: Mapping[str, str],
        results: dict[str, Any],
    ) -> None:
        count = self.processes if processes is None else processes
        count = min(count, len(left))

        def done(key: str, result: Any, seconds: float) -> None:
            name = name_of(function)
            results[key] = self._store.save(key, marks[key], name, left[key], result, seconds)
            self.computed += 1
            bar.finished += 1

        kept = f", {len(results)} kept from before" if results else ""
        where = f"{count} processes" if count > 1 else "one process"
        text = f"{len(left)} cell{'s' * (len(left) > 1)} in {where}{kept}"
        with self._progress.bar(len(left), text) as bar:
            try:
                compute(function, left, count, done, bar.at, threads)
            except CellError as error:
                raise self._explained(error) from error.__cause__

    def _explained(self, error: CellError) -> PsrvError:
        """With the traceback in a file, since the error is one line."""
        if not error.trace:
            return error
        file = write_whole(self.folder / "failed-cell.txt", f"{error}\n\n{error.trace}")
        return CellError(f"{error}; its traceback is in {file}", error.exit_code)

    def launch(self, name: str, **job: Any) -> RunFiles:
        """A run of a built-in task: server and workers as processes over sockets, here.

        Args:
            name: of its folder, ``runs/NAME``; taken from there if it is done already.
            job: options of ``psrv.config.JobConfig``; ``data`` is the study's by default.

        Raises:
            ConfigError: an option that cannot work. PsrvError: the run failed.
        """
        return self._run("launch", name, job)

    def simulate_run(self, name: str, **job: Any) -> RunFiles:
        """The same run in this process: same parameters, same files, no sockets."""
        return self._run("simulate", name, job)

    def _run(self, how: str, name: str, job: Mapping[str, Any]) -> RunFiles:
        given = {"data": self.data, **job}
        self.settings.setdefault(how, {})[name] = plain(given)
        before = self.computed

        def started() -> None:
            self.computed += 1
            self._progress.line(f"run {name}" if how == "launch" else f"simulated run {name}")

        found = run(self.folder / "runs" / name, how, given, started)
        self.kept += self.computed == before
        return found

    # Showing.

    def stage(self, text: str) -> None:
        """Say in one line what is being done now."""
        self._progress.stage(text)

    def panel(
        self,
        title: str,
        x: str,
        y: str,
        *,
        logx: bool = False,
        logy: bool = False,
        group: str = "",
    ) -> Panel:
        """Axes to put curves and bars on; panels of one ``group`` become one figure."""
        made = Panel(title, x, y, logx, logy, group)
        if any(made.name == other.name for other in self.panels):
            raise ValueError(f"there are two panels '{made.name}'; expected different titles")
        self.panels.append(made)
        return made

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
    ) -> None:
        """A table; numbers that are given as numbers get three significant digits."""
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"table '{title}': a row of {len(row)} for {len(columns)} columns")
        self.tables.append(Table(title, list(columns), [list(row) for row in rows], note))

    def claim(
        self,
        sentence: str,
        needs: str,
        measured: str,
        verdict: Verdict,
        *,
        place: str = "",
        expected: Verdict | None = None,
    ) -> None:
        """A claim of the paper, the figure it needs, what was measured, and the verdict."""
        self.claims.append(Claim(sentence, needs, measured, Verdict(verdict), place, expected))

    def note(self, text: str) -> None:
        """A sentence on what differs from the paper."""
        self.notes.append(text)

    def figure(self, name: str, value: Any) -> None:
        """A number, or numbers, for data.json."""
        self.figures[name] = plain(value)
