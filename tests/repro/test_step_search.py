"""The search for a step on made-up functions of the multiplier, and a race by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from psrv.repro.step_search import BitsTarget, race, search


def runner(bits: dict[float, float | None], lost: float = float("inf"), final=lambda m: 1.0):
    """Races that need ``bits[multiplier]``, end at ``final`` of it and diverge from ``lost`` on."""
    asked: list[tuple[float, int]] = []

    def run(multiplier: float, seed: int, most: float) -> dict[str, Any]:
        asked.append((multiplier, seed))
        needed = bits.get(multiplier)
        there = needed is not None and multiplier < lost and needed <= most
        return {
            "bits": needed if there else None,
            "lost": multiplier >= lost,
            "curve": [[0.0], [final(multiplier)]],
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
    run, asked = runner({}, lost=4.0, final=lambda m: 1 / m)
    found = search(run, 1.0, 1, 50.0)
    assert [m for m, _ in asked] == [1.0, 2.0, 4.0], "it ends where the races ended lowest"
    assert found["score"] is None
    assert found["best"] == 2.0, "the largest that did not diverge"


@pytest.mark.parametrize("start", [1.0, 8.0, 64.0])
def test_where_nothing_arrives_the_best_is_the_one_that_ended_lowest(start):
    """One that grows, and is not lost yet, is not the best for being the largest."""
    run, asked = runner({}, lost=16.0, final=lambda m: 1e5 if m > 4 else 2.0 ** -abs(m))
    found = search(run, start, 3, 50.0)
    assert (found["best"], found["score"]) == (4.0, None)
    assert {2.0, 4.0, 8.0} <= {m for m, _ in asked}
    assert found["tried"]["8"]["final"] == 1e5
    assert len(found["races"]) == 1, "one race is enough to know"


def test_one_that_arrives_is_better_than_any_that_does_not():
    run, _ = runner({1.0: 100.0}, final=lambda m: 1e-3 if m == 1 else 1e-9)
    for start in (0.5, 1.0, 2.0):
        assert search(run, start, 1, float("inf"))["best"] == 1.0


def test_the_best_multiplier_s_races_are_returned_by_seed():
    def run(multiplier: float, seed: int, most: float) -> dict[str, Any]:
        bits = 10 * multiplier + seed
        return {"bits": bits, "lost": False, "curve": [[0.0], [1.0]], "rounds": 1}

    found = search(run, 1.0, 3, float("inf"), low=0.5)
    assert (found["best"], [r["bits"] for r in found["races"]]) == (0.5, [5.0, 6.0, 7.0])


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


@pytest.mark.parametrize("start", [2.0**-4, 1.0, 2.0**9])
def test_search_ends_where_nothing_arrives(start):
    run, asked = runner({}, final=lambda m: 1 / m)
    found = search(run, start, 2, float("inf"))
    assert found["score"] is None
    assert found["best"] == max(m for m, _ in asked) == 2.0**30
    run, asked = runner({}, lost=0.0)
    found = search(run, start, 2, float("inf"))
    assert (found["best"], found["score"], found["races"]) == (None, None, [])
    assert min(m for m, _ in asked) == 2.0**-6
    assert all(one["lost"] for one in found["tried"].values())
    assert {seed for _, seed in asked} == {0}, "one race is enough to know"


def test_what_is_twice_as_bad_as_the_best_is_given_up():
    limits = []

    def run(multiplier: float, seed: int, most: float) -> dict[str, Any]:
        limits.append((multiplier, most))
        return {"bits": 100.0, "lost": False, "curve": [[0.0], [1.0]], "rounds": 1}

    search(run, 1.0, 1, 900.0)
    assert limits == [(1.0, 900.0), (2.0, 250.0), (0.5, 250.0)]
    limits.clear()
    search(run, 1.0, 1, 120.0)
    assert {most for _, most in limits} == {120.0}


# A race


class Bowl:
    """||x||^2 / 2 of d coordinates for every worker: with step 1/2 the norm halves a round."""

    dimension = 8

    def initial(self):
        return np.ones(self.dimension, np.float32)

    def gradient(self, rank, x, round):
        return x.copy()

    def loss(self, x):
        return float(np.square(x, dtype=np.float64).sum()) / 2


GRADIENT_DESCENT = {"method": "ef21", "up_compressor": "top-k:8"}
"""All of 8 coordinates: the first round is dense, 32 bytes; later ones are the same steps."""


def run_bowl(lr: float = 0.5, **given: Any) -> dict[str, Any]:
    settings = {"workers": 2, "seed": 0, "rounds": 30, "every": 1, "target": 1e-3}
    return race(Bowl(), GRADIENT_DESCENT, lr, **(settings | given))


def test_a_race_ends_in_the_first_record_at_its_target():
    result = run_bowl()
    # .25^4 = .0039, .25^5 = .00098
    assert result["rounds"] == 5
    bits, norms = result["curve"]
    assert norms == pytest.approx([0.25**t for t in range(6)])
    assert result["floor"] == norms[-1]
    assert bits[:2] == [0, 8 * 32]
    assert result["bits"] == bits[-1]
    assert not result["lost"]
    assert run_bowl(every=3)["rounds"] == 6


def test_a_race_that_runs_out_of_bits_or_rounds_has_none():
    whole = run_bowl()["curve"][0]
    short = run_bowl(most_bits=whole[3])
    assert (short["bits"], short["rounds"], short["lost"]) == (None, 4, False)
    assert run_bowl(most_bits=whole[5])["bits"] == whole[5]
    few = run_bowl(rounds=4)
    assert (few["bits"], few["lost"], few["floor"]) == (None, False, pytest.approx(0.25**3))


@pytest.mark.parametrize("lr", [11.0, 1e30])
def test_a_race_that_diverges_is_lost(lr):
    """10 times the norm a round; and out of float32's range at once."""
    result = run_bowl(lr)
    assert result["lost"]
    assert result["bits"] is None
    assert result["floor"] == 1
    if lr == 11.0:
        assert result["rounds"] == 5, "100^5 is the first above 1e8"


class Burst(Bowl):
    """Gradients at x_1 whose sum over the two workers no float32 holds, each of them finite."""

    def gradient(self, rank, x, round):
        return np.full_like(x, 3e38 if round else 1.0)

    def gradients(self, x, round):
        return np.stack([self.gradient(rank, x, round) for rank in range(2)])


def test_a_sum_that_is_not_finite_is_divergence_too():
    given = {"workers": 2, "seed": 0, "rounds": 9, "every": 5, "target": 1e-3}
    result = race(Burst(), GRADIENT_DESCENT, 0.5, **given)
    assert (result["lost"], result["bits"], result["rounds"]) == (True, None, 0)


def test_a_long_curve_keeps_its_ends_and_few_points():
    result = run_bowl(1e-4, rounds=1000)
    bits, norms = result["curve"]
    assert len(bits) == len(norms) == 160
    assert (bits[0], norms[0]) == (0, 1)
    assert norms[-1] == result["floor"]
    assert bits == sorted(bits)


def test_bits_target_is_both():
    from psrv.crowd.history import Record

    goal = BitsTarget(0.5, 80.0)
    assert not goal(Record(0, 1.0, 1.0, 0.0, 0.0))
    assert not goal(Record(1, 1.0, 1.0, 10.0, 0.0)), "80 bits are allowed"
    assert goal(Record(2, 1.0, 1.0, 11.0, 0.0))
    assert goal.reached is None
