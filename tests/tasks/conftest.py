"""What the task tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psrv.layout import Layout
from psrv.tasks import Task, make_task

# Read here, since no test sees PSRV_ variables.
FOLDER = os.environ.get("PSRV_DATA")


@pytest.fixture
def bound() -> Callable[..., Task]:
    """Build a task and bind it to the default layout."""

    def build(spec: str, **setup: Any) -> Task:
        task = make_task(spec, **{"workers": 4, **setup})
        task.bind(Layout.build(task.tensors))
        return task

    return build


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with real data sets."""
    if not FOLDER:
        pytest.skip("PSRV_DATA names no folder with real data sets")
    return Path(FOLDER)
