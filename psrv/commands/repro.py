"""``repro``: run an experiment of a paper, and put its claims beside what was measured."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from psrv.commands.show import console
from psrv.config import JobConfig, limit_threads, load
from psrv.errors import ConfigError, PsrvError
from psrv.repro import EXPERIMENTS, load_experiment

if TYPE_CHECKING:
    from psrv.repro.panels import Claim

BASE = Path("runs/repro")


def list_experiments(data: Path | None) -> None:
    """A table of the experiments, and which of their data files are missing."""
    from rich.table import Table
    from rich.text import Text

    folder = data_folder(data)
    table = Table()
    table.add_column("name", no_wrap=True)
    for title in ("paper", "place", "data files"):
        table.add_column(title, overflow="fold")
    for name in EXPERIMENTS:
        try:
            experiment = load_experiment(name)
        except ImportError as error:
            table.add_row(name, Text(f"cannot be loaded: {error}", "red"), "", "")
            continue
        missing = experiment.missing(folder)
        files = Text()
        for stem in experiment.needs:
            files.append(("\n" if files else "") + stem.replace("|", " or "))
            if stem in missing:
                files.append(" (missing)", "red")
        table.add_row(name, Text(experiment.paper), Text(experiment.place), files or Text("none"))
    console().print(table)
    where = f"Data files were looked for in {folder}" if folder else "No data folder was given"
    print(f"{where} (--data DIR or PSRV_DATA).")
    print("To run one: psrv repro NAME (at most 5 minutes on 2 cores; --full: up to days)")


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
    # The folder as it was found: PSRV_DATA may not be set where the command is repeated.
    write_all(study, _command(name, full, out, folder if experiment.needs else None, seeds))
    from psrv.report.units import human_seconds

    console().print(verdict_table(study.claims))
    kept = f", {study.kept} kept from before" if study.kept else ""
    print(f"{count_line(study.claims)}; {human_seconds(time.monotonic() - started)}{kept}")
    print(f"page: {target / PAGE}", flush=True)
    if check:
        _check(study.claims)


def data_folder(given: Path | None) -> Path | None:
    """Where data files are: ``--data``, or PSRV_DATA."""
    return load(JobConfig, {"data": given}, only={"data"}).data


def _check(claims: Sequence[Claim]) -> None:
    """Name every claim that should hold and was not seen to.

    An undecided one fails too: what could not be measured was not checked.

    Raises:
        typer.Exit: with 1, if there is one.
    """
    from psrv.repro.verdict import Verdict

    failed = [
        claim
        for claim in claims
        if claim.expected is Verdict.HELD and claim.verdict is not Verdict.HELD
    ]
    for claim in failed:
        _say(f"psrv: {claim.verdict}, though it should hold: {claim.sentence}")
    if failed:
        raise typer.Exit(1)


def _command(name: str, full: bool, out: Path | None, data: Path | None, seeds: int | None) -> str:
    words = ["psrv", "repro", name, "--full" if full else "--quick"]
    for flag, value in (("--out", out), ("--data", data), ("--seeds", seeds)):
        if value is not None:
            words += [flag, str(value)]
    return shlex.join(words)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
