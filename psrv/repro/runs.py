"""A built-in task's run over sockets or in simulation, taken from disk if it is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psrv.errors import ConfigError, DataError
from psrv.measure.records import read_records, worker_file
from psrv.measure.summary import read_summary, write_whole
from psrv.options import ConnectConfig, JobConfig, ServerConfig
from psrv.repro.store import plain, text_of

SETTINGS_FILE = "repro-settings.json"


@dataclass(frozen=True)
class RunFiles:
    """What a run left.

    Attributes:
        summary: summary.json.
        evaluations: round, loss, accuracy, grad_norm, seconds, payload_up, payload_down of
            each evaluation, as worker 0 wrote them; payloads are bytes of one worker so far.
        folder: the run's.
    """

    summary: dict[str, Any]
    evaluations: list[dict[str, Any]]
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """From a run's folder.

        Raises:
            DataError: it holds no run that ended, or a damaged one.
        """
        summary = read_summary(folder)
        records = [r for r in read_records(folder / worker_file(0)) if r.get("type") == "eval"]
        return cls(summary, records, folder)


def run(
    folder: Path,
    how: str,
    job: Mapping[str, Any],
    started: Callable[[], None] = lambda: None,
) -> RunFiles:
    """The run of these options in this folder: from disk if it is there, else done now.

    Args:
        folder: its own. how: "launch" (processes, sockets) or "simulate".
        job: options of ``JobConfig``, without ``out``.
        started: called when it has to be done.

    Raises:
        ConfigError: an option that cannot work. PsrvError: the run failed.
    """
    from psrv import __version__

    config = JobConfig.model_validate({**job, "out": folder})
    settings = config.model_dump(mode="json", exclude={"out"})
    mark = text_of({"how": how, "job": plain(settings), "version": __version__})
    file = folder / SETTINGS_FILE
    if _text(file) == mark:
        try:
            return RunFiles.read(folder)
        except DataError as error:
            print(f"psrv: warning: {error}; the run is done anew", file=sys.stderr)
    started()
    with suppress(OSError):
        file.unlink()
    if how == "launch":
        _launch(config)
    else:
        _simulate(config, folder)
    found = RunFiles.read(folder)
    write_whole(file, mark + "\n")
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _launch(config: JobConfig) -> None:
    from psrv.launch import Launch

    server = ServerConfig(bind="tcp://127.0.0.1:*", workers=config.workers)
    Launch(config, server, ConnectConfig(), force=True).run()


def _simulate(config: JobConfig, folder: Path) -> None:
    from psrv.commands.rundir import prepare, write_job
    from psrv.methods import resolve
    from psrv.progress import Bar
    from psrv.simulated_run import run_simulation

    if config.task is None:
        raise ConfigError("a run needs a task")
    method = resolve(config.method, **config.method_options())
    prepare(folder, force=True)
    write_job(folder, config, method=method.describe())
    with Bar(f"{config.method} on {config.task}", config.rounds) as bar:
        run_simulation(config, bar.at)
