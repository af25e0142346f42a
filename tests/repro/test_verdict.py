"""The rule: held, not held, undecided."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psrv.repro.verdict import (
    Verdict,
    all_of,
    center,
    decide,
    measured,
    number,
    of_means,
    plus_minus,
    ratios,
    spread,
)

HELD, NOT, OPEN = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED
OPPOSITE = {HELD: NOT, NOT: HELD, OPEN: OPEN}
values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)
positive = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=8)
bounds = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("given_values", "bound", "least", "verdict"),
    [
        # mean 4, s = 1 / sqrt(3): two of them reach to 2.845 and 5.155
        ([3, 4, 5], 2.84, True, HELD),
        ([3, 4, 5], 2.85, True, OPEN),
        ([3, 4, 5], 5.15, True, OPEN),
        ([3, 4, 5], 5.16, True, NOT),
        ([3, 4, 5], 5.16, False, HELD),
        ([3, 4, 5], 2.84, False, NOT),
        ([2, 2], 2, True, HELD),
        ([2, 2], 2, False, HELD),
        ([0.1] * 3, 0.1, True, HELD),  # whose floating-point mean is another number
        ([0.1] * 3, 0.1, False, HELD),
        ([9], 2, True, OPEN),
        ([], 2, True, OPEN),
        ([9, None, 9], 2, True, OPEN),
        ([9, math.nan], 2, True, OPEN),
        ([9, math.inf], 2, True, HELD),
        ([1, math.inf], 2, True, OPEN),
        ([1, -math.inf], 2, True, NOT),
        ([9, math.inf], 2, False, NOT),
    ],
)
def test_rule(given_values, bound, least, verdict):
    assert decide(given_values, bound, least=least) is verdict


def test_one_value_decides_only_what_no_seed_changes():
    assert decide([3], 2, least=True) is OPEN
    assert decide([3], 2, least=True, deterministic=True) is HELD
    assert decide([3], 4, least=True, deterministic=True) is NOT
    assert decide([math.inf], 4, least=True, deterministic=True) is HELD
    assert decide([None], 4, least=True, deterministic=True) is OPEN


@given(values, bounds)
def test_at_least_and_at_most_are_mirror_images(found, bound):
    mirrored = decide([-v for v in found], -bound, least=False)
    assert decide(found, bound, least=True) is mirrored


@given(positive, st.floats(1e-6, 1e6))
def test_a_ratio_and_its_reciprocal_get_opposite_bounds_and_one_verdict(found, bound):
    turned = decide([1 / v for v in found], 1 / bound, least=False, ratio=True)
    straight = decide(found, bound, least=True, ratio=True)
    # Rounding may only matter where the spread ends at the bound itself.
    assert straight is turned or decide(found, bound * (1 + 1e-9), least=True, ratio=True) is turned


@given(values, bounds, st.floats(0, 1e6))
def test_a_claim_that_holds_also_holds_with_a_lower_bound(found, bound, less):
    if decide(found, bound, least=True) is HELD:
        assert decide(found, bound - less, least=True) is HELD
    if decide(found, bound, least=True) is NOT:
        assert decide(found, bound + less, least=True) is NOT


@given(values, bounds)
def test_held_needs_a_mean_that_meets_the_bound(found, bound):
    verdict = decide(found, bound, least=True)
    mean = center(found)
    slack = 1e-9 * (abs(bound) + max(map(abs, found)))
    if verdict is HELD:
        assert mean >= bound - slack
        assert len(found) > 1
    if verdict is NOT:
        assert mean < bound + slack


@given(positive, st.integers(0, 7), bounds)
def test_a_missing_value_leaves_it_undecided(found, place, bound):
    found.insert(place, None)
    assert decide(found, bound, least=True) is OPEN


@given(st.lists(st.sampled_from(list(Verdict))))
def test_all_of_several_cases(verdicts):
    together = all_of(verdicts)
    assert (together is NOT) == (NOT in verdicts)
    assert (together is HELD) == (bool(verdicts) and set(verdicts) == {HELD})


def test_ratios_by_seed():
    assert ratios([6, 1, 0, None, 2], [3, 0, 0, 1, math.nan]) == [2, math.inf, None, None, None]
    with pytest.raises(ValueError, match="ratio"):
        decide([-1, 2], 1, least=True, ratio=True)
    with pytest.raises(ValueError, match="bound"):
        decide([1, 2], 0, least=True, ratio=True)


def test_quotient_of_means_is_that_of_the_costs():
    # Left out in turn: 14 / 4, 18 / 3, 16 / 4, 12 / 4; pseudo-values 4 * 4 - 3 times those.
    found = of_means([6.0, 2.0, 4.0, 8.0], [1.0, 2.0, 1.0, 1.0])
    assert found == pytest.approx([5.5, -2.0, 4.0, 7.0])
    assert of_means([6.0], [3.0]) == [2.0]
    assert of_means([], [1.0]) == of_means([], []) == [None]
    for missing in (None, math.nan):
        assert of_means([8.0, missing], [2.0, 2.0]) == [None]
        assert of_means([8.0, 8.0], [missing]) == [None]


@given(positive, st.floats(1e-3, 1e3))
def test_quotient_over_a_constant_is_the_mean_of_the_quotients(above, below):
    """Then it is linear, and pseudo-values are the values themselves."""
    expected = [a / below for a in above]
    scale = 1e-9 * max(expected) * len(above)
    assert of_means(above, [below]) == pytest.approx(expected, abs=scale)
    assert of_means(above, [below] * len(above)) == of_means(above, [below])


@given(st.lists(st.floats(1, 100), min_size=2, max_size=8), st.floats(1e-3, 1e3))
def test_what_both_sides_have_in_common_is_no_spread(below, factor):
    """Costs that are a multiple of the others', seed by seed: the quotient is known."""
    mean, reach = spread(of_means([factor * b for b in below], below))
    assert mean == pytest.approx(factor)
    assert reach <= 1e-6 * factor


def test_spread_of_a_quotient_is_near_what_repetition_shows():
    """Standard error from one set of 64 seeds against that over 2,000 sets."""
    stream = np.random.default_rng(7)
    sets = [(10 + stream.exponential(4, 64), 5 + stream.exponential(1, 64)) for _ in range(2000)]
    quotients = [a.mean() / b.mean() for a, b in sets]
    errors = [spread(of_means(a.tolist(), b.tolist()))[1] / 2 for a, b in sets[:50]]
    assert np.median(errors) == pytest.approx(np.std(quotients), rel=0.15)


def test_plus_minus_in_words():
    assert plus_minus([4.0, 4.0]) == "4 (2 seeds)"
    assert plus_minus([3.0, 5.0]) == "4 ± 2 (2 seeds)"
    assert plus_minus([2.5]) == "2.5"
    assert plus_minus([None]) == plus_minus([]) == plus_minus([3.0, None]) == "no value"


def test_in_words():
    assert measured([3.9, 4.31, 4.8]) == "4.34 (3.9 to 4.8, 3 seeds)"
    assert measured([2, 8], ratio=True) == "4 (2 to 8, 2 seeds)"
    assert measured([2, 2]) == "2 (all 2, 2 seeds)"
    assert measured([5.0]) == "5"
    assert measured([5.0, None]) == "5 (1 missing)"
    assert measured([]) == "no value"
    assert [number(v) for v in (0.01234, 45.61, 12345, 1.234e-9, 1.2e7, math.inf, None)] == [
        "0.0123", "45.6", "12,300", "1.23e-9", "1.20e7", "inf", "–",
    ]  # fmt: skip
