"""What the tests of theory and objectives share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

# Read here, since no test sees PSRV_ variables.
FOLDER = os.environ.get("PSRV_DATA")


@pytest.fixture
def data() -> Path:
    """The folder with real data sets."""
    if not FOLDER:
        pytest.skip("PSRV_DATA names no folder with real data sets")
    return Path(FOLDER)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
