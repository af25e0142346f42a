"""The grid search of the permutation paper's experiments, and one race."""

from __future__ import annotations

import math

import pytest

from psrv.objectives import Quadratics
from psrv.repro.step_search import race, search


def landscape(bits, calls):
    """A race whose bits depend on the multiplier alone: a number, None (too slow) or "lost"."""

    def run(multiplier, seed, most_bits):
        calls.append((multiplier, seed))
        found = bits.get(multiplier, "lost")
        there = isinstance(found, (int, float)) and found <= most_bits
        return {
            "bits": found if there else None,
            "lost": found == "lost",
            "curve": [[0], [1 / multiplier]],  # larger steps get further
        }

    return run


@pytest.mark.parametrize(
    ("bits", "start", "best"),
    [
        ({1: 80, 2: 40, 4: 20, 8: 30, 16: "lost"}, 2.0, 4),
        ({1: 80, 2: 40, 4: 20}, 4.0, 4),
        ({0.5: 70, 1: 60, 2: 90}, 8.0, 1),
        ({0.25: 50, 0.5: 60, 1: 80, 2: 90}, 2.0, 0.25),
        ({1: None, 2: None, 4: 10}, 1.0, 4),
        ({1: None, 2: None}, 1.0, 2),
        ({}, 1.0, None),
    ],
)
def test_search_finds_the_fewest_bits(bits, start, best):
    calls = []
    found = search(landscape(bits, calls), start, 2, math.inf)
    assert found["best"] == best
    assert found["score"] == (None if best is None else bits[best])
    assert len(calls) <= 16
    if found["score"] is not None:
        assert {seed for multiplier, seed in calls if multiplier == best} == {0, 1}


def test_race_counts_the_bits_to_its_target():
    problem = Quadratics.generate(10, 30, 0.1, lam=0.01)
    method = {"method": "marina", "up_compressor": "perm-k"}
    options = {"workers": 10, "seed": 1, "rounds": 5000, "every": 5}
    found = race(problem, method, "theory*2", target=1e-6, **options)
    assert found["floor"] <= 1e-6
    assert not found["lost"]
    assert found["bits"] == found["curve"][0][-1]
    dense = found["bits"] - 32 * 3 * found["rounds"]  # a dense round sends 27 numbers more
    assert dense > 0
    assert dense % (32 * 27) == 0
    short = race(problem, method, "theory*2", target=1e-6, most_bits=found["bits"] / 2, **options)
    assert short["bits"] is None
    assert short["rounds"] < found["rounds"]
    wild = race(problem, method, "theory*512", target=1e-6, **options)
    assert wild["lost"]
    assert wild["bits"] is None
