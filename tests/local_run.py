"""Runs over real loopback sockets: in threads of this process where that is enough, else in
processes that end with their test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from psrv.job import Job
from psrv.launch import Launch
from psrv.measure.summary import read_summary
from psrv.options import ConnectConfig, JobConfig, ServerConfig
from psrv.server.membership import Stop
from psrv.server.process import ServerProcess
from psrv.simulated_run import run_simulation
from psrv.worker.loop import run_worker
from psrv.worker.session import Session

LIMIT = 90.0
"""Seconds for anything to happen; far more than it takes on a quiet machine."""

PSRV = [sys.executable, "-m", "psrv"]
ANY_PORT = "tcp://127.0.0.1:*"


def wait_until(condition: Callable[[], Any], what: str, limit: float = LIMIT) -> Any:
    """The first true value of ``condition()``."""
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"{limit:.0f} s passed without {what}"
        time.sleep(0.01)
    return value


class Started:
    """A function that runs in a thread."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.error: BaseException | None = None
        self._value: Any = None

        def run() -> None:
            try:
                self._value = function(*args, **kwargs)
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True, name=f"test-{function}")
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, limit: float = LIMIT) -> BaseException | None:
        """Its error, or None if it ended well."""
        self._thread.join(limit)
        assert not self._thread.is_alive(), f"still running after {limit:.0f} s: {self._thread}"
        return self.error

    def result(self, limit: float = LIMIT) -> Any:
        error = self.wait(limit)
        if error is not None:
            raise error
        return self._value


class LocalServer:
    """A server in a thread of this process."""

    def __init__(self, workers: int = 2, **options: Any) -> None:
        self.process = ServerProcess(ServerConfig(bind=ANY_PORT, workers=workers, **options))
        self.address = self.process.address
        self.thread = Started(self._serve)

    @property
    def core(self):
        return self.process.core

    def _serve(self) -> None:
        try:
            self.process.serve()
        finally:
            self.process.close()

    def connect(self, rank: int | None = None, **options: Any) -> Session:
        config = ConnectConfig(server=self.address, rank=rank, **options)
        return Session(config)

    def stop(self) -> None:
        self.process._stop = self.process._stop or Stop("stopped", "the test ended")
        self.thread.wait()


@contextmanager
def serving(workers: int = 2, **options: Any) -> Iterator[LocalServer]:
    """A server that has ended when the block has, at the latest."""
    server = LocalServer(workers, **options)
    try:
        yield server
    finally:
        server.stop()


def begin(session: Session, job: Job, start: float = 1.0):
    """Join with a made-up model; returns the trainer."""
    parameters = np.full(job.layout.dimension, start, np.float32)
    return session.begin(job, parameters, np.zeros(0, np.uint8))


def step(trainer, gradient, etas=(0.1, 0.1)) -> None:
    """One round of a script without torch."""
    if not trainer.meter.in_step:
        trainer.meter.begin_step(trainer.round)
    trainer.gradient[:] = gradient
    trainer.step(etas[: trainer.layout.groups])


def threaded(job: JobConfig, folder: Path, **server: Any) -> dict[str, Any]:
    """A run of a built-in task with server and workers as threads: its summary."""
    with serving(job.workers, out=folder, **server) as running:
        workers = [
            Started(run_worker, job, ConnectConfig(server=running.address, rank=rank, out=folder))
            for rank in range(job.workers)
        ]
        for worker in workers:
            worker.result()
        running.thread.result()
    return read_summary(folder)


def launched(job: JobConfig, folder: Path, **server: Any) -> dict[str, Any]:
    """A run of a built-in task with real processes: its summary."""
    job = job.model_copy(update={"out": folder})
    settings = ServerConfig(bind=ANY_PORT, workers=job.workers, **server)
    return read_summary(Launch(job, settings, ConnectConfig(connect_timeout=LIMIT)).run())


def simulated(job: JobConfig, folder: Path) -> dict[str, Any]:
    """The same in the simulation."""
    folder.mkdir(parents=True, exist_ok=True)
    run_simulation(job.model_copy(update={"out": folder}))
    return read_summary(folder)


def rounds_done(folder: Path, rank: int) -> int:
    """Rounds that a worker has noted so far; its lines reach the file now and then."""
    return sum(record["type"] == "round" for record in lines_of(folder / f"worker-{rank}.jsonl"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that may still grow, or not be there yet."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Spawned:
    """A process that is killed at the end of ``spawned``, if it still runs."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{time.monotonic_ns()}.log"
        with open(self.log, "wb") as file:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | environment,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def error(self) -> str:
        """Its one line of error."""
        lines = [t for t in self.output().splitlines() if t.startswith("psrv: error: ")]
        assert len(lines) == 1, self.output()
        return lines[0].removeprefix("psrv: error: ")

    def code(self, limit: float = LIMIT) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {limit:.0f} s: {self.output()}") from None

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
            self.popen.wait()


class Crew(list):
    """Processes of one test."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def spawn(self, *arguments: object, **environment: str) -> Spawned:
        """``psrv ARGUMENTS``, or another program if the first argument is its path."""
        words = list(map(str, arguments))
        command = words if os.path.isabs(words[0]) else [*PSRV, *words]
        process = Spawned(command, self.folder / "processes", **environment)
        self.append(process)
        return process

    def server(self, workers: int = 2, **options: object) -> tuple[Spawned, str]:
        """A server process, and its address."""
        file = self.folder / f"address-{len(self)}"
        flags = [str(x) for name, v in options.items() for x in (f"--{name.replace('_', '-')}", v)]
        process = self.spawn(
            *("server", "--bind", ANY_PORT, "--address-file", file, "--workers", workers), *flags
        )
        wait_until(lambda: file.exists() or process.popen.poll() is not None, "an address")
        assert file.exists(), process.output()
        return process, file.read_text()


@contextmanager
def crew(folder: Path) -> Iterator[Crew]:
    """Start processes; none is left at the end of the block."""
    found = Crew(folder)
    try:
        yield found
    finally:
        for process in found:
            process.kill()


def digest_of(summary: Mapping[str, Any]) -> str:
    """The replicas' digest, after checking that every worker has it."""
    digests = {d["digest"] for d in summary["workers_detail"]}
    assert digests == {summary["replica_digest"]}
    return summary["replica_digest"]
