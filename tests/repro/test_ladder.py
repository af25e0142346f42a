"""Step sizes by short runs: the best lies inside what was tried, or the words say otherwise."""

import math
from pathlib import Path
from typing import Any

import pytest

from psrv.repro import ladder
from psrv.repro.experiment import Experiment
from psrv.repro.ladder import Ladder, Search, tuned
from psrv.repro.study import Study

RUNGS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
EXPERIMENT = Experiment("x", "p", "1", "q", "q", "f", (), lambda study: None)


def ended(accuracy: float | None) -> dict[str, Any]:
    if accuracy is None:
        return {"accuracy": [], "diverged": 3}
    return {"accuracy": [accuracy], "diverged": None}


def peaked(lr: float, best: float, diverges: float) -> dict[str, Any]:
    """A cell: the accuracy falls on both sides of a best step, and there is none above another."""
    return ended(None if lr >= diverges else 1 - abs(math.log(lr / best)) / 10)


def search(study: Study, start: float, best: float, diverges: float = math.inf) -> Search:
    common = {"m": {"best": best, "diverges": diverges}}
    return tuned(study, {"m": Ladder(RUNGS, start)}, common)["m"]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(ladder, "train", peaked)
    return Study(EXPERIMENT, tmp_path, processes=0)


@pytest.mark.parametrize("start", RUNGS)
def test_the_search_goes_on_until_the_best_lies_inside(study: Study, start: float) -> None:
    found = search(study, start, 0.1)
    assert found.best == 0.1
    assert not found.at_edge
    assert {0.05, 0.1, 0.2} <= set(found.results)
    assert found.taken() == "0.1"


def test_three_steps_are_enough_where_the_first_is_the_best(study: Study) -> None:
    assert sorted(search(study, 0.1, 0.1).results) == [0.05, 0.1, 0.2]


@pytest.mark.parametrize("best", [1e-4, 10.0])
def test_the_end_of_the_ladder_is_named(study: Study, best: float) -> None:
    found = search(study, 0.05, best)
    assert found.best == (RUNGS[0] if best < 1 else RUNGS[-1])
    assert found.taken() == f"{found.best:g} (the outermost tried)"


def test_steps_that_diverge_are_left_behind(study: Study) -> None:
    found = search(study, 0.5, 0.02, diverges=0.09)
    assert (found.best, found.at_edge) == (0.02, False)
    assert found.tried() == (
        "0.01: 93.1 %, 0.02: 100.0 %, 0.05: 90.8 %, 0.1: diverged, 0.2: diverged, 0.5: diverged"
    )


def test_of_equals_the_smaller_is_taken() -> None:
    runs = {0.2: ended(0.9), 0.1: ended(0.9), 0.05: ended(0.5), 0.5: ended(None)}
    assert Search(Ladder(RUNGS, 0.1), runs).best == 0.1
    assert Search(Ladder(RUNGS, 0.1), {0.2: ended(None), 0.1: ended(None)}).best == 0.1
