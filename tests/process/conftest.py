"""Runs that several tests look at, each started once: ``runs(method, task, ...)``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from local_run import launched, simulated
from psrv.options import JobConfig


class Runs:
    """Summaries of runs by their job; ``again`` makes another of the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[Any, dict[str, Any]] = {}

    def _job(self, method: str, task: str, options: dict[str, Any]) -> JobConfig:
        return JobConfig(**{"method": method, "task": task, "workers": 2} | options)

    def launched(self, method, task, again=0, server=(), **options):
        """Real processes; ``server`` are pairs of its options."""
        key = (method, task, again, server, tuple(sorted(options.items())))
        if key not in self._found:
            folder = self._folder / f"launched-{len(self._found)}"
            job = self._job(method, task, options)
            self._found[key] = launched(job, folder, **dict(server)) | {"folder": folder}
        return self._found[key]

    def simulated(self, method, task, **options):
        key = (method, task, "simulated", tuple(sorted(options.items())))
        if key not in self._found:
            folder = self._folder / f"simulated-{len(self._found)}"
            self._found[key] = simulated(self._job(method, task, options), folder)
        return self._found[key]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))
