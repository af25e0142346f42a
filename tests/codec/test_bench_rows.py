"""How ``psrv bench`` times, and how it judges what it found."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from psrv.bench import timing
from psrv.bench.rows import LARGE, Row, Target, log2_choices, misses

# Timing


def test_steps_are_timed_in_turn_after_what_they_need() -> None:
    told: list[str] = []
    first, second = timing.in_turn(
        [(lambda: told.append("a"), None), (lambda: told.append("b"), lambda: told.append("!"))],
        seconds=1e-9,
    )
    # A first round that takes longer than asked for is counted.
    assert told == ["a", "!", "b"] * timing.LEAST
    assert len(first) == len(second) == timing.LEAST


def test_the_first_round_is_not_counted_and_rounds_are_bounded() -> None:
    calls: list[int] = []
    (took,) = timing.in_turn([(lambda: calls.append(1), None)], seconds=60.0)
    assert len(took) == timing.MOST
    assert len(calls) == timing.MOST + 1


def test_a_ratio_is_the_median_of_the_pairs() -> None:
    assert timing.ratio([1.0, 30.0, 4.0], [1.0, 10.0, 2.0]) == 2.0


# Targets


@pytest.mark.parametrize(
    ("label", "operation", "figures", "said"),
    [
        (
            "sign",
            "encode+ef",
            {"of_memcpy": 0.594, "times_numpy": 15},
            "0.594 of memcpy, target 0.6",
        ),
        (
            "sign",
            "encode+ef",
            {"of_memcpy": 0.6, "times_numpy": 14.9},
            "14.9 times NumPy, target 15",
        ),
        (
            "top-k:0.01",
            "encode+ef",
            {"times_numpy": 4, "times_torch": 19.5},
            "19.5 times torch, target 20",
        ),
        (
            "top-k:0.01",
            "decode_onto",
            {"entries": 1000, "seconds": 15.1e-6},
            "15.1 ns an entry, target 15",
        ),
        (
            "top-k:0.001",
            "encode",
            {"entries": 1, "index_bytes": 3},
            "1.09 times the fewest index bits, target 1.05",
        ),
        ("perm-k", "encode+ef", {"of_memcpy": 0.3333}, "0.333 of memcpy, target 0.333"),
        ("rand-k:0.01", "encode", {"of_memcpy": 1.5}, "1.5 of memcpy, target 2"),
    ],
)
def test_a_figure_on_the_wrong_side_of_its_bound_is_a_miss(
    label: str, operation: str, figures: dict[str, float], said: str
) -> None:
    row = Row(label, operation, LARGE, 1.0, 1.0, 9.0, 3, 1)
    assert misses([replace(row, **figures)]) == [  # type: ignore[arg-type]
        f"{label} {operation} at {LARGE:,}: {said}"
    ]


def test_a_figure_on_the_right_side_is_none() -> None:
    row = Row("sign", "encode+ef", LARGE, 1.0, 1.0, 0.6, 3, 1, times_numpy=15.0)
    assert misses([row]) == []
    row = Row("top-k:0.01", "decode_onto", LARGE, 14.9e-6, 1.0, 0.1, 3, 1, entries=1000)
    assert misses([row]) == []


def test_targets_apply_to_vectors_that_no_cache_holds() -> None:
    slow = Row("sign", "decode", LARGE - 1, 1.0, 1.0, 0.1, 3, 1)
    assert misses([slow]) == []
    assert len(misses([replace(slow, dimension=LARGE)])) == 1


def test_what_was_not_measured_is_no_miss() -> None:
    assert misses([Row("top-k:0.01", "encode+ef", LARGE, 1.0, 1.0, 0.1, 3, 1)]) == []


def test_a_target_knows_which_side_is_bad() -> None:
    assert Target("x", "encode", "of_memcpy", 0.5).met(0.5)
    assert not Target("x", "encode", "of_memcpy", 0.5).met(0.49)
    assert Target("x", "encode", "ns_per_entry", 0.5).met(0.49)
    assert not Target("x", "encode", "ns_per_entry", 0.5).met(0.51)


def test_the_bound_of_index_bits_is_the_logarithm_of_the_number_of_sets() -> None:
    for d, k in ((10, 3), (1000, 10), (1000, 999), (5, 5)):
        assert log2_choices(d, k) == pytest.approx(math.log2(math.comb(d, k)), abs=1e-9)
    row = Row("top-k:0.01", "encode", 1000, 1.0, 1.0, 1.0, 3, 57, entries=10, index_bytes=17)
    assert row.index_ratio == pytest.approx(13.6 / (math.log2(math.comb(1000, 10)) / 10))
