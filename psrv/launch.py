"""Start a server and its workers on this machine, watch them, and leave none behind.

    server, address file -> workers -> (all end well) -> trace, report
                                    -> (one fails) -> grace -> the others are ended, one error

A worker that fails is known to the server, which tells the others; so the others get a
few seconds to end by themselves, with that in their logs, before they are ended.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from psrv.commands.children import TICK, Child, Crew, Signals, caught_signals
from psrv.commands.rundir import JOB_FILE, LOGS, default_folder, prepare, write_job
from psrv.config import ConnectConfig, JobConfig, ServerConfig, child_environment
from psrv.errors import ConfigError, LostError, PsrvError, note
from psrv.links import Links
from psrv.measure.records import worker_file
from psrv.measure.summary import SUMMARY_FILE
from psrv.progress import Bar, Tail

START_SECONDS = 60.0
"""For the server to say where it listens: it imports and may compile first."""

GRACE_SECONDS = 5.0
"""For the others to end by themselves after a failure."""

FINISH_SECONDS = 15.0
"""For the server to end after the last worker."""


@dataclass(frozen=True)
class Launch:
    """A local run.

    Attributes:
        job: what to train; ``workers``, ``trace`` and ``out`` also hold for a command.
        server: how to start the server; address, folder and workers are filled in here.
        connect: how workers connect; likewise.
        command: the user's own training command, in place of a built-in task.
        force: replace a finished run in the same folder.
        quiet: no progress line.
    """

    job: JobConfig
    server: ServerConfig
    connect: ConnectConfig
    command: tuple[str, ...] = ()
    force: bool = False
    quiet: bool = False

    def run(self) -> Path:
        """Do it, from checking the options to the report.

        Returns:
            The run's folder.

        Raises:
            PsrvError: what went wrong, with the exit code of the process that failed first.
        """
        title, command, method = self._check()
        folder = prepare(self.job.out or default_folder(*title), force=self.force)
        server = self.server.model_copy(update={"link": self.job.link})
        write_job(folder, self.job, server=server, command=self.command, method=method)
        with caught_signals() as signals, ExitStack() as stack:
            crew = Crew(prefixed=self.job.workers > 1, links=self._links(stack))
            bar = Bar(" on ".join(title), self._rounds(), shown=not (self.quiet or command))
            try:
                with bar:
                    address = self._start_server(crew, folder, signals)
                    self._start_workers(crew, folder, address, command)
                    self._watch(crew, folder, signals, bar)
            finally:
                crew.end(hurry=lambda: signals.count > 1)
                crew.close()
            signals.check()
        if not (folder / SUMMARY_FILE).exists():
            raise PsrvError(f"the run ended, but the server left no {SUMMARY_FILE} in {folder}")
        return folder

    def _links(self, stack: ExitStack) -> Links | None:
        """An emulated host for every process, if links of some rate are asked for."""
        if self.job.link is None:
            return None
        hosts = self.job.servers + self.job.workers
        return stack.enter_context(Links(hosts, self.job.link))

    def _check(self) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, object] | None]:
        """What the run is called, the resolved command, and the method's description."""
        if self.command:
            return (Path(_script(self.command)).stem,), resolve_command(self.command), None
        if self.job.task is None:
            raise ConfigError(
                "nothing to train: give --task NAME ('psrv tasks' lists them), "
                "or a command after --, such as: psrv launch -n 4 -- python train.py"
            )
        from psrv.methods import resolve
        from psrv.tasks import task_class
        from psrv.worker.warm import warmup

        task_class(self.job.task)
        method = resolve(self.job.method, **self.job.method_options())
        note(method.remarks(self.job.workers))
        warmup([method])  # once here, and not at the same time in every process
        return (self.job.method, self.job.task), (), method.describe()

    def _rounds(self) -> int | None:
        if self.command or self.job.task is None:
            return None
        from psrv.tasks import task_class

        return self.job.rounds or task_class(self.job.task).default_rounds

    def _start_server(self, crew: Crew, folder: Path, signals: Signals) -> str:
        """Start the server and return its address."""
        file = folder / "address"
        arguments = ["--address-file", file, "--out", folder]
        if crew.links is None:
            arguments += ["--bind", self.server.bind]
        else:  # the network is this run's own: nobody else is on it
            arguments += ["--bind", f"tcp://{crew.links.address(0)}:*", "--insecure"]
        server = self._start(crew, folder, "server", 0, arguments)
        limit = time.monotonic() + START_SECONDS
        while not file.exists():
            crew.look()
            signals.check()
            if server.code is not None:
                raise _failure(server, folder)
            if time.monotonic() > limit:
                raise LostError(
                    f"the server did not say where it listens within {START_SECONDS:.0f} s; "
                    f"its log is {server.log}"
                )
        address = file.read_text(encoding="utf-8").strip()
        file.unlink()
        return address

    def _start_workers(
        self, crew: Crew, folder: Path, address: str, command: tuple[str, ...]
    ) -> None:
        timeout = self.connect.connect_timeout
        for rank in range(self.job.workers):
            if not command:
                flags = ["--server", address, "--rank", rank, "--out", folder]
                flags += ["--connect-timeout", timeout]
                self._start(crew, folder, "worker", rank, flags)
                continue
            environment = child_environment(
                {
                    "server": address,
                    "rank": rank,
                    "workers": self.job.workers,
                    "out": folder,
                    "trace": self.job.trace,
                    "connect_timeout": timeout,
                }
            )
            # What a script prints is to be seen when it prints it, as without a pipe.
            environment.setdefault("PYTHONUNBUFFERED", "1")
            crew.start("worker", rank, command, environment, _log(folder, rank), relay=True)

    @staticmethod
    def _start(
        crew: Crew, folder: Path, role: str, index: int, arguments: Sequence[object]
    ) -> Child:
        command = [sys.executable, "-m", "psrv", role, "--config", folder / JOB_FILE, *arguments]
        return crew.start(
            role, index, list(map(str, command)), child_environment({}), _log(folder, index, role)
        )

    def _watch(self, crew: Crew, folder: Path, signals: Signals, bar: Bar) -> None:
        """Until all have ended well. Raises for the first that did not."""
        tail = Tail(folder / worker_file(0))
        limit: float | None = None
        while crew.running():
            crew.look(TICK)
            bar.follow(tail)
            signals.check()
            if crew.failures():
                limit = limit or time.monotonic() + GRACE_SECONDS
                if time.monotonic() > limit:
                    break
            elif not crew.running("worker"):
                limit = limit or time.monotonic() + FINISH_SECONDS
                if time.monotonic() > limit:
                    raise self._unfinished(folder)
        if crew.failures():
            crew.drain()
            raise _failure(crew.failures()[0], folder)

    def _unfinished(self, folder: Path) -> PsrvError:
        reason = f"the server still waited for one {FINISH_SECONDS:.0f} s later"
        if self.command:
            hint = "does the script call psrv.connect(), and end without os._exit?"
        else:
            hint = f"its log is in {folder / LOGS}"
        return LostError(f"all {self.job.workers} workers ended well, but {reason}; {hint}")


def resolve_command(command: Sequence[str]) -> tuple[str, ...]:
    """The user's command, ready to run; a bare ``python`` is the one psrv runs under.

    Raises:
        ConfigError: there is no such program.
    """
    program, *arguments = command
    if program in ("python", "python3"):
        return (sys.executable, *arguments)
    if shutil.which(program) is None:
        hint = f"; to run a script: python {program}" if Path(program).exists() else ""
        raise ConfigError(f"cannot run '{program}': no such program, or not executable{hint}")
    return (program, *arguments)


def _script(command: Sequence[str]) -> str:
    """The word of a command that says best what it does: the first that is a Python file."""
    return next((word for word in command if word.endswith(".py")), command[0])


def _log(folder: Path, index: int, role: str = "worker") -> Path:
    return folder / LOGS / f"{role}-{index}.log"


def _failure(child: Child, folder: Path) -> PsrvError:
    """The one error of a run in which ``child`` failed first."""
    said = child.last_error()
    error = PsrvError(
        f"{child.name} (process {child.process.pid}) {child.ending}"
        f"{': ' + said if said else ''}; logs are in {folder / LOGS}"
    )
    error.exit_code = child.exit_code
    return error
