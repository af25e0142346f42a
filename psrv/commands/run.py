"""``launch``, ``simulate``, ``server`` and ``worker``: from flags to a running process."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from psrv.commands.children import Stopped
from psrv.config import (
    ConnectConfig,
    JobConfig,
    ServerConfig,
    child_environment,
    flag_of,
    limit_threads,
    load,
)
from psrv.errors import ConfigError, note
from psrv.options import COMMAND_OPTIONS

Flags = Mapping[str, object]

_ANY_PORT = "tcp://127.0.0.1:*"


def launch(flags: Flags, file: Path | None, command: Sequence[str], force: bool) -> None:
    """A server and its workers on this machine."""
    from psrv.commands.report import finish
    from psrv.launch import Launch

    if command:
        _refuse_job_options(flags)
    job = load(JobConfig, flags, file=file)
    folder = Launch(
        job,
        load(ServerConfig, {**flags, "bind": _ANY_PORT}, file=file),
        load(ConnectConfig, flags, file=file, only={"connect_timeout"}),
        tuple(command),
        force=force,
    ).run()
    finish(folder, trace=job.trace)


def simulate(flags: Flags, file: Path | None, force: bool) -> None:
    """The same job in one process, without sockets."""
    limit_threads()
    job = load(JobConfig, flags, file=file)
    if job.task is None:
        raise ConfigError("nothing to simulate: give --task NAME ('psrv tasks' lists them)")
    from psrv.commands.report import finish
    from psrv.commands.rundir import default_folder, prepare, write_job
    from psrv.methods import resolve
    from psrv.progress import Bar
    from psrv.simulated_run import run_simulation
    from psrv.tasks import task_class

    task_class(job.task)
    method = resolve(job.method, **job.method_options())
    note(method.remarks(job.workers))
    out = job.out or default_folder(job.method, job.task, "simulated")
    job = job.model_copy(update={"out": prepare(out, force=force)})
    assert job.out is not None
    write_job(job.out, job, method=method.describe())
    with Bar(f"{job.method} on {job.task}", job.rounds) as bar:
        run_simulation(job, bar.at)
    if job.trace:
        print("psrv: no trace.json: a simulation has one process and no waiting", file=sys.stderr)
    finish(job.out, trace=False)


def server(flags: Flags, file: Path | None, force: bool) -> None:
    """One server process, until its run has ended.

    A launcher (which gives ``--address-file``) prepares the run's folder itself, and
    finishes it; a server that stands alone does both.
    """
    config = load(ServerConfig, flags, file=file)
    _end_on_sigterm("server")
    from psrv.commands.report import finish
    from psrv.commands.rundir import prepare, write_server_job
    from psrv.server.process import run_server

    if config.out is None or config.address_file is not None:
        run_server(config)
        return
    folder = prepare(config.out, force=force)
    config = config.model_copy(update={"out": folder})
    run_server(config, lambda job: write_server_job(folder, config, job))
    finish(folder, trace=config.trace)


def worker(flags: Flags, file: Path | None, command: Sequence[str]) -> None:
    """One worker of a built-in task, or the user's command in this process's place."""
    connect = load(ConnectConfig, flags, file=file)
    if command:
        _refuse_job_options(flags)
        _become(command, connect)
    limit_threads()
    _end_on_sigterm("worker")
    job = load(JobConfig, flags, file=file, defaults={"workers": connect.workers})
    if job.task is None:
        raise ConfigError(
            "nothing to train: give --task NAME ('psrv tasks' lists them), "
            "or a command after --, such as: psrv worker -- python train.py"
        )
    from psrv.worker.loop import run_worker

    run_worker(job, connect)


def _become(command: Sequence[str], connect: ConnectConfig) -> None:
    """Replace this process by the user's command, which finds its run in the environment."""
    from psrv.launch import resolve_command

    program, *arguments = resolve_command(command)
    environment = child_environment(connect.model_dump())
    sys.stdout.flush()
    try:
        os.execvpe(program, [program, *arguments], environment)
    except OSError as error:
        raise ConfigError(f"cannot run '{program}': {error.strerror}") from None


def _end_on_sigterm(role: str) -> None:
    """Leave with the sockets closed and the files whole. In a container this process may be
    the first, and the kernel then drops a SIGTERM that has no handler."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number, f"{role} stopped")

    signal.signal(signal.SIGTERM, stop)


def _refuse_job_options(flags: Flags) -> None:
    for name, value in flags.items():
        if value is not None and name in JobConfig.model_fields and name not in COMMAND_OPTIONS:
            raise ConfigError(
                f"{flag_of(name)} is for built-in tasks; with a command of your own, "
                f"set {name} where the script makes its DistributedOptimizer"
            )
