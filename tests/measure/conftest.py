"""Fixtures of the measurement tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from measure.made_up import Clock, make_run


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000)


@pytest.fixture
def run_maker(tmp_path: Path) -> Callable[..., Path]:
    """``make_run`` under ``tmp_path``; returns the run's directory."""

    def make(name: str, method: str = "cd-adam", **options: Any) -> Path:
        make_run(tmp_path / name, method, **{"rounds": 20, **options})
        return tmp_path / name

    return make
