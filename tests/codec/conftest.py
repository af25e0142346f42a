"""Every registered compressor in turn."""

from __future__ import annotations

import pytest

from codec_pair import Pair
from psrv.codec import COMPRESSORS


@pytest.fixture(scope="session", params=sorted(COMPRESSORS))
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair.of(request.param)
