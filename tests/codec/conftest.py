"""Every registered compressor in turn, in every form of it."""

from __future__ import annotations

import pytest

from codec_pair import FORMS, Pair
from psrv import codec


def _name(form: tuple[str, bool]) -> str:
    return f"{form[0]}, contracted" if form[1] else form[0]


@pytest.fixture(scope="session", params=FORMS, ids=_name)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair.of(*request.param)


@pytest.fixture(scope="session", params=codec.EXAMPLES + codec.OF_SEVERAL)
def parsed(request: pytest.FixtureRequest) -> Pair:
    """Every example as ``parse`` gives it."""
    return Pair.of(request.param)
