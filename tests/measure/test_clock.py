from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psrv.measure.clock import OffsetEstimator


def test_equal_ways_give_the_offset_exactly() -> None:
    estimator = OffsetEstimator()
    assert estimator.offset_ns is None
    assert estimator.to_local(123) == 123
    assert estimator.add(sent_ns=1_000, server_ns=51_100, received_ns=1_200)
    assert (estimator.offset_ns, estimator.rtt_ns) == (50_000, 200)
    assert estimator.to_local(50_007) == 7


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=40),
)
def test_the_error_is_at_most_half_the_shortest_round_trip(
    offset: int, ways: list[tuple[int, int]]
) -> None:
    estimator = OffsetEstimator(window=64)
    now = 0
    for up, down in ways:
        estimator.add(now, now + up + offset, now + up + down)
        now += 10**9
    assert estimator.rtt_ns == min(up + down for up, down in ways)
    assert abs(estimator.offset_ns - offset) <= estimator.rtt_ns / 2 + 1


def test_the_best_exchange_leaves_with_its_window() -> None:
    estimator = OffsetEstimator(window=2)
    estimator.add(0, 1_000, 10)
    estimator.add(100, 1_200, 200)
    assert estimator.rtt_ns == 10
    estimator.add(300, 1_400, 350)
    assert (estimator.rtt_ns, estimator.offset_ns) == (50, 1_075)


def test_of_equal_round_trips_the_newest_counts() -> None:
    estimator = OffsetEstimator()
    estimator.add(0, 105, 10)
    estimator.add(100, 207, 110)
    assert estimator.offset_ns == 102


def test_an_answer_before_its_question_is_refused() -> None:
    estimator = OffsetEstimator()
    assert not estimator.add(10, 5, 9)
    assert estimator.offset_ns is None


def test_a_window_holds_at_least_one_exchange() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        OffsetEstimator(0)
