"""A run's folder: where it is, that it is free, and its ``job.json``.

job.json      the resolved options, the versions and the machine; also a --config file
*.jsonl       what every process measured
summary.json  the run in numbers; its presence says that the run ended well
trace.json, report.html, logs/
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psrv.config import JobConfig, ServerConfig
from psrv.cores import cores
from psrv.errors import ConfigError
from psrv.job import Job
from psrv.measure.records import to_json
from psrv.measure.summary import SUMMARY_FILE, write_whole
from psrv.options import COMMAND_OPTIONS

JOB_FILE = "job.json"
LOGS = "logs"
_OURS = (
    JOB_FILE,
    SUMMARY_FILE,
    "trace.json",
    "report.html",
    "address*",
    "worker-*.jsonl",
    "server-*.jsonl",
    f"{LOGS}/*.log",
)
_PACKAGES = ("psrv", "numpy", "numba", "pyzmq", "msgpack", "pydantic", "torch", "scikit-learn")
# Said anew each time: a job.json copied elsewhere must not lead back here.
_NOT_KEPT = frozenset({"out", "bind", "address_file"})


def default_folder(*words: str) -> Path:
    """``runs/<date>-<time>-<words>``, with a number behind it if that is taken."""
    name = "-".join([f"{datetime.now():%Y%m%d-%H%M%S}", *words])
    base = Path("runs") / re.sub(r"[^\w.+-]+", "-", name)
    candidates = (base.with_name(f"{base.name}-{i}") if i else base for i in range(1000))
    return next(folder for folder in candidates if not folder.exists())


def prepare(folder: Path, *, force: bool = False) -> Path:
    """Make the folder ready for a run and return its absolute path.

    What a run that did not end left behind is cleared; a finished one only with ``force``.
    Files that psrv does not write are not touched.

    Raises:
        ConfigError: it holds a finished run, or cannot be written.
    """
    folder = folder.absolute()
    if (folder / SUMMARY_FILE).exists() and not force:
        raise ConfigError(
            f"{folder} already holds a finished run; choose another --out, or replace it "
            "with --force"
        )
    try:
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        for pattern in _OURS:
            for file in folder.glob(pattern):
                file.unlink()
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from None
    return folder


def write_job(
    folder: Path,
    job: JobConfig,
    *,
    server: ServerConfig | None = None,
    command: Sequence[str] = (),
    method: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``job.json``.

    Args:
        folder: the run's folder.
        job: the resolved options.
        server: how the server was started, if there was one.
        command: the user's own command, if the run is one.
        method: ``Method.describe()``, if psrv chose the method.
    """
    config = job.model_dump(mode="json", include=set(COMMAND_OPTIONS) if command else None)
    if server is not None:
        config |= server.model_dump(mode="json")
    content = _content(config, command, method)
    return write_whole(folder / JOB_FILE, to_json(content, indent=2) + "\n")


def write_server_job(folder: Path, server: ServerConfig, job: Job) -> Path:
    """Write ``job.json`` for a server that was started by itself: what its workers agreed on."""
    config = server.model_dump(mode="json") | dict(job.options)
    config |= {"method": job.method.name, "seed": job.seed, "blocks": job.blocks}
    config |= {"check_every": job.check_every}
    if job.task != "script":
        config["task"] = job.task
    content = _content(config, (), job.method.describe())
    return write_whole(folder / JOB_FILE, to_json(content, indent=2) + "\n")


def _content(
    config: Mapping[str, Any], command: Sequence[str], method: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "config": {k: v for k, v in config.items() if k not in _NOT_KEPT and v is not None},
        "command": list(command) or None,
        "method": method,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run computes; absent if not installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, cores that this process may use, memory in bytes, and the kernel."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    return {
        "cpu": _processor(),
        "cores": cores(),
        "memory_bytes": memory,
        "kernel": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()
