"""``repro``: run an experiment of a paper, and put its claims beside what was measured."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import typer

from psrv.commands.show import console
from psrv.config import JobConfig, limit_threads, load
from psrv.errors import ConfigError, PsrvError
from psrv.repro import EXPERIMENTS, load_experiment

BASE = Path("runs/repro")


def list_experiments(data: Path | None) -> None:
    """A table of the experiments, and which of their data files are missing."""
    from rich.table import Table
    from rich.text import Text

    folder = data_folder(data)
    table = Table()
    table.add_column("name", no_wrap=True)
    for title in ("paper", "place", "quick", "data files"):
        table.add_column(title, overflow="fold")
    for name in EXPERIMENTS:
        try:
            experiment = load_experiment(name)
        except ImportError as error:
            table.add_row(name, Text(f"cannot be loaded: {error}", "red"), "", "", "")
            continue
        missing = experiment.missing(folder)
        files = Text()
        for stem in experiment.needs:
            files.append(("\n" if files else "") + stem.replace("|", " or "))
            if stem in missing:
                files.append(" (missing)", "red")
        minutes = f"{experiment.quick_minutes:g} min"
        table.add_row(
            name, Text(experiment.paper), Text(experiment.place), minutes, files or Text("none")
        )
    console().print(table)
    where = f"Data files were looked for in {folder}" if folder else "No data folder was given"
    print(f"{where} (--data DIR or PSRV_DATA). To run one: psrv repro NAME")


def repro(
    name: str,
    *,
    full: bool = False,
    out: Path | None = None,
    data: Path | None = None,
    seeds: int | None = None,
    processes: int | None = None,
    check: bool = False,
    fresh: bool = False,
) -> None:
    """Run one experiment and print its verdicts.

    Raises:
        ConfigError, DataError: nothing was run. typer.Exit: with 1, by ``check``.
    """
    limit_threads()
    experiment = load_experiment(name)
    for flag, value in (("--seeds", seeds), ("--processes", processes)):
        if value is not None and value < 1:
            raise ConfigError(f"{flag} is {value}; expected a whole number, at least 1")
    folder = data_folder(data)
    experiment.check_data(folder)

    from psrv.repro.folder import prepare
    from psrv.repro.output import PAGE, count_line, verdict_table, write_all
    from psrv.repro.study import Study
    from psrv.repro.verdict import Verdict

    setting = "full" if full else "quick"
    target = (out or BASE / (f"{name}-full" if full else name)).absolute()
    resumed = prepare(target, name, setting, fresh=fresh)
    study = Study(experiment, target, full=full, data=folder, seeds=seeds, processes=processes)
    _say(f"{name} ({setting}): {experiment.question}")
    if resumed:
        _say(f"going on with what {target} holds; --fresh starts anew")
    started = time.monotonic()
    try:
        experiment.run(study)
    except (KeyboardInterrupt, PsrvError):
        if study.computed:
            _say(f"{study.computed} finished cells and runs are kept in {target}")
        raise
    study.stage("writing the page")
    write_all(study, _command(name, full, out, data, seeds))
    from psrv.report.units import human_seconds

    console().print(verdict_table(study.claims))
    kept = f", {study.kept} kept from before" if study.kept else ""
    print(f"{count_line(study.claims)}; {human_seconds(time.monotonic() - started)}{kept}")
    print(f"page: {target / PAGE}", flush=True)
    if check:
        failed = [
            claim
            for claim in study.claims
            if claim.verdict is Verdict.NOT_HELD and claim.expected is Verdict.HELD
        ]
        for claim in failed:
            _say(f"psrv: not held, though expected: {claim.sentence}")
        if failed:
            raise typer.Exit(1)


def data_folder(given: Path | None) -> Path | None:
    """Where data files are: ``--data``, or PSRV_DATA."""
    return load(JobConfig, {"data": given}, only={"data"}).data


def _command(name: str, full: bool, out: Path | None, data: Path | None, seeds: int | None) -> str:
    words = ["psrv", "repro", name, "--full" if full else "--quick"]
    for flag, value in (("--out", out), ("--data", data), ("--seeds", seeds)):
        if value is not None:
            words += [flag, str(value)]
    return shlex.join(words)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
