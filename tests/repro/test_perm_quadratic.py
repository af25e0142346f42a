"""Experiment perm-quadratic: the search, its claims on made-up runs, and a small study."""

from __future__ import annotations

from typing import Any

import pytest

from psrv.repro import perm_quadratic
from psrv.repro.perm_quadratic import EXPERIMENT, NOISES, cells, show
from psrv.repro.perm_quadratic.cells import COMPRESSORS, step_of
from psrv.repro.step_search import search
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict, of_means, plus_minus, spread

HELD, NOT_HELD, UNDECIDED = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED
LAM = 1e-6


# The search for a step


def runner(bits: dict[float, float | None], lost: float = float("inf")):
    """Races that need ``bits[multiplier]``; from ``lost`` on they diverge."""
    asked: list[tuple[float, int]] = []

    def run(multiplier: float, seed: int, most: float) -> dict[str, Any]:
        asked.append((multiplier, seed))
        needed = bits.get(multiplier)
        there = needed is not None and multiplier < lost and needed <= most
        return {
            "bits": needed if there else None,
            "lost": multiplier >= lost,
            "curve": [[0.0], [1.0]],
            "rounds": 10,
        }

    return run, asked


VALLEY = {2.0**k: 100.0 + 30 * abs(k - 3) for k in range(-6, 12)}


@pytest.mark.parametrize("start", [0.25, 4.0, 8.0, 16.0, 64.0])
def test_search_finds_the_power_of_two_with_the_fewest_bits(start):
    run, asked = runner(VALLEY, lost=128.0)
    found = search(run, start, 2, float("inf"))
    assert found["best"] == 8.0
    assert found["score"] == 100.0
    tried = {float(m) for m in found["tried"]}
    assert {4.0, 8.0, 16.0} <= tried, "the best has a neighbour on both sides"
    assert {seed for _, seed in asked} == {0, 1}


def test_search_comes_down_from_where_all_is_lost_and_knows_when_nothing_arrives():
    run, _ = runner(VALLEY, lost=1.0)
    found = search(run, 32.0, 1, float("inf"))
    assert found["best"] == 0.5
    run, _ = runner({}, lost=4.0)
    found = search(run, 1.0, 1, 50.0)
    assert found["score"] is None
    assert found["best"] == 2.0, "the largest that did not diverge"


def test_a_multiplier_counts_only_if_every_seed_arrives():
    def run(multiplier: float, seed: int, most: float) -> dict[str, Any]:
        late = multiplier == 2.0 and seed == 1
        return {
            "bits": None if late else 100.0 / multiplier if multiplier < 4 else 400.0,
            "lost": False,
            "curve": [[0.0], [1.0]],
            "rounds": 1,
        }

    assert search(run, 1.0, 2, float("inf"))["best"] == 1.0


# Quotients of means


def test_quotient_of_means_is_that_of_the_costs_with_its_spread():
    above, below = [6.0, 2.0, 4.0, 8.0], [1.0, 2.0, 1.0, 1.0]
    values = of_means(above, below)
    mean, reach = spread(values)
    assert mean == pytest.approx(4.0, rel=0.1), "20 / 5, less the jackknife's bias"
    assert reach > 1
    assert of_means([8.0, 8.0], [2.0, 2.0]) == [4.0, 4.0]
    assert of_means([8.0], [2.0, 4.0])[0] > of_means([8.0], [2.0, 4.0])[1] > 0
    assert of_means([8.0, None], [2.0, 2.0]) == [None]
    assert of_means([], [1.0]) == [None]
    assert of_means([6.0], [3.0]) == [2.0]
    assert plus_minus([4.0, 4.0]) == "4 (2 seeds)"
    assert plus_minus([3.0, 5.0]) == "4 ± 2 (2 seeds)"
    assert plus_minus([None]) == "no value"


# Claims


def made_up(change: dict[tuple[int, float, str], list[float | None]] | None = None):
    """What the trial found: perm-k ahead, and what is given in its place."""
    usual: dict[str, list[float | None]] = {
        "perm-k": [100.0, 101.0, 99.0, 100.0],
        "rand-k": [400.0, 404.0, 396.0, 400.0],
        "top-k": [150.0],
    }
    found, races, limits = {}, {}, {}
    for n in (10, 1000):
        for noise in NOISES:
            for compressor in COMPRESSORS:
                bits = usual[compressor]
                if compressor == "top-k" and (n == 10 or noise == 0.8):
                    bits = [50.0]
                bits = (change or {}).get((n, noise, compressor), bits)
                key = (n, noise, LAM, compressor)
                races[key] = [{"bits": b, "rounds": 7, "curve": [[0, 1], [1, 0.1]]} for b in bits]
                found[key] = {"best": 2.0, "tried": {}}
                limits[key] = 200.0 if compressor == "top-k" and n == 1000 else float("inf")
    return found, races, limits


class Claims:
    """Takes the place of a study."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[Verdict, Verdict | None, str]] = {}

    def claim(self, sentence, needs, measured, verdict, *, place="", expected=None):
        self.made[sentence] = (verdict, expected, measured)


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.setattr(cells, "step_of", lambda n, noise, lam, c: {"perm-k": 2.0}.get(c, 1.0))

    def make(change=None) -> dict[str, tuple[Verdict, Verdict | None, str]]:
        study = Claims()
        show.claims(study, *made_up(change), LAM)
        return study.made

    return make


def test_what_the_trial_found_holds(claims):
    made = claims()
    assert {verdict for verdict, _, _ in made.values()} == {HELD}
    assert {s for s, (_, e, _) in made.items() if e is HELD} == {
        *(f"perm-k needs fewer bits than rand-k, n = 1,000, noise {n:g}" for n in NOISES),
        *(f"perm-k needs fewer bits than top-k, n = 1,000, noise {n:g}" for n in (0.0, 0.1)),
        "top-k needs fewer bits than perm-k, n = 1,000, noise 0.8",
        "for n = 10 top-k needs the fewest bits, at every noise scale, lambda 1e-06",
    }


@pytest.mark.parametrize(
    ("bits", "verdict"),
    [
        ([290.0, 291.0, 289.0, 290.0], NOT_HELD),  # 2.9 times, and 3 are needed
        ([100.0, 900.0, 200.0, 250.0], UNDECIDED),
        ([400.0, None, 400.0, 400.0], UNDECIDED),
        ([310.0, 311.0, 309.0, 310.0], HELD),
    ],
)
def test_rand_k_must_need_three_times_as_many_bits_where_workers_agree(claims, bits, verdict):
    made = claims({(1000, 0.0, "rand-k"): bits})
    assert made["perm-k needs fewer bits than rand-k, n = 1,000, noise 0"][0] is verdict


def test_a_top_k_that_did_not_arrive_is_a_lower_bound(claims):
    made = claims({(1000, 0.0, "top-k"): [None]})
    verdict, _, text = made["perm-k needs fewer bits than top-k, n = 1,000, noise 0"]
    assert verdict is HELD
    assert text.startswith("at least 2")
    slow = {(1000, 0.8, "top-k"): [None]}
    assert claims(slow)["top-k needs fewer bits than perm-k, n = 1,000, noise 0.8"][0] is UNDECIDED


def test_one_noise_scale_is_enough_against_top_k_of_ten_workers(claims):
    made = claims({(10, 0.2, "top-k"): [120.0]})
    sentence = "for n = 10 top-k needs the fewest bits, at every noise scale, lambda 1e-06"
    assert made[sentence][0] is NOT_HELD


# All of it


def test_small_study_from_the_search_to_the_claims(tmp_path, monkeypatch):
    """Ten workers, twenty coordinates, and neither sockets nor other processes."""
    monkeypatch.setattr(cells, "DIMENSION", 20)
    monkeypatch.setattr(cells, "TARGET", 1e-2)
    monkeypatch.setattr(perm_quadratic, "WORKERS", {False: (10,)})
    monkeypatch.setattr(perm_quadratic, "NOISES", (0.0, 0.1))
    monkeypatch.setattr(perm_quadratic, "ROUNDS", {False: 2000})
    monkeypatch.setattr(perm_quadratic, "SOCKETS", {False: ()})
    cells.problem.cache_clear()
    study = Study(EXPERIMENT, tmp_path, full=False, seeds=2, processes=0)
    try:
        EXPERIMENT.run(study)
    finally:
        cells.problem.cache_clear()
    by_name = {claim.sentence: claim for claim in study.claims}
    assert "for n = 10 top-k needs the fewest bits, at every noise scale, lambda 1e-06" in by_name
    assert by_name["perm-k needs fewer bits than rand-k, n = 10, noise 0"].measured != "no value"
    (table,) = study.tables
    assert len(table.rows) == 6
    assert {panel.group for panel in study.panels} == {
        "Figure 1 (lambda 1e-06)", "Figure 4 (lambda 1e-06)", "Figure 6 (lambda 1e-06)",
    }  # fmt: skip
    again = Study(EXPERIMENT, tmp_path, full=False, seeds=2, processes=0)
    EXPERIMENT.run(again)
    assert again.computed == 0, "all of it was kept"
    assert [c.verdict for c in again.claims] == [c.verdict for c in study.claims]


def test_theorem_s_step_is_the_one_that_the_runs_take():
    """Theorem 4 with A = B = 1, p = 1 / n: 1 / (L- + sqrt(n - 1) L+-)."""
    known = cells.problem(10, 0.1, LAM).smoothness()
    expected = 1 / (known.L_minus + 3 * known.L_plus_minus)
    assert step_of(10, 0.1, LAM, "perm-k") == pytest.approx(expected)
    assert step_of(10, 0.1, LAM, "rand-k") < step_of(10, 0.0, LAM, "perm-k")
