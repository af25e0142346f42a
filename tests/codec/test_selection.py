"""Exact selection against a sort: ties, hostile orders, NaN, and little room."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from guard_pages import Guarded
from psrv.codec import selection
from psrv.codec.base import address
from psrv.codec.selection import Selection

Floats = NDArray[np.float32]

ONE = np.float32(1)
HIGHEST = selection.NOT_FINITE


def reference(x: Floats, k: int) -> NDArray[np.int64]:
    """Indices of the k largest magnitudes, ties to the lower one, ascending."""
    return np.sort(np.argsort(-np.abs(x), kind="stable")[:k])


def run(
    x: Floats, k: int, residual: Floats | None = None, rho: float = 1.0, bound: int = -1
) -> Selection:
    """``select`` with its promises checked: x, the residual, and what lies beside them."""
    d = x.size
    room, other = np.full(d + 32, 7, np.float32), np.full(d + 32, 8, np.float32)
    room[16:-16] = x
    if residual is not None:
        other[16:-16] = residual
        with np.errstate(over="ignore", invalid="ignore"):
            x = x + np.float32(rho) * residual
    extra = 0 if residual is None else address(other) + 64
    found = selection.select(address(room) + 64, d, k, extra, rho, bound)
    assert (room[:16] == 7).all()
    assert (room[-16:] == 7).all()
    if residual is not None:
        assert other[16:-16].tobytes() == residual.tobytes()
    if found.bad >= 0:
        assert found.bad == np.flatnonzero(~np.isfinite(x))[0]
        assert room[16 + found.bad].tobytes() == x[found.bad].tobytes() or np.isnan(x[found.bad])
        return found
    assert np.isfinite(x).all()
    assert room[16:-16].tobytes() == x.tobytes()
    assert found.indices.dtype == np.int32
    assert found.indices.tolist() == reference(x, k).tolist()
    assert found.values.tobytes() == x[found.indices].tobytes()
    return found


def some(d: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(d).astype(np.float32)


def ties(d: int, seed: int = 0) -> Floats:
    """Seven values and two signs of zero."""
    random = np.random.default_rng(seed)
    return (random.integers(-3, 4, d) * random.choice([-1.0, 1.0], d)).astype(np.float32)


def sampled_places(d: int, k: int) -> NDArray[np.int64]:
    """The coordinates that a selection samples."""
    sample = selection.sample_size(d, k)
    assert sample > 0
    x, out = np.arange(d, dtype=np.float32), np.empty(sample, np.float32)
    selection._draw_sample(address(x), d, 0, ONE, sample, address(out))
    return out.astype(np.int64)


# Any vector


@pytest.mark.parametrize("make", [some, ties, lambda d: np.zeros(d, np.float32)])
def test_every_small_size_and_every_number(make: Callable[[int], Floats]) -> None:
    for d in range(1, 71):
        x = make(d)
        for k in range(1, d + 1):
            run(x, k)


@given(
    x=st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-45, -3e38, 0.1]), min_size=1),
    repeats=st.integers(1, 30),
    share=st.floats(0, 1),
    rho=st.sampled_from([None, 1.0, 0.3, 0.0]),
    bound=st.sampled_from([-1, 0, 1, 0x3F800000, 0x40000001, HIGHEST]),
    room=st.sampled_from([0, 10, 32_768]),
)
@example(x=[1.0], repeats=1, share=1.0, rho=None, bound=-1, room=0)
def test_ties_bounds_and_little_room(
    x: list[float], repeats: int, share: float, rho: float | None, bound: int, room: int
) -> None:
    vector = np.resize(np.array(x, np.float32), len(x) * repeats)
    k = max(1, round(share * vector.size))
    residual = None if rho is None else vector[::-1] / 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "ROOM", room)
        run(vector, k, residual, rho or 0.0, bound)


def stretch(d: int) -> int:
    """Coordinates of which one run is sampled."""
    return d * selection.RUN // selection.sample_size(d, d // 100)


def hidden(d: int) -> Floats:
    """Ascending magnitudes in sight of no sample but one of zeros."""
    x = np.arange(1, d + 1, dtype=np.float32)
    x[sampled_places(d, d // 100)] = 0
    return x


def shown(d: int) -> Floats:
    """The sample sees nothing but the largest."""
    x = some(d, 5)
    x[sampled_places(d, d // 100)] = 1e6
    return x


HOSTILE: dict[str, Callable[[int], Floats]] = {
    "ascending": lambda d: np.arange(d, dtype=np.float32),
    "descending": lambda d: -np.arange(d, dtype=np.float32)[::-1],
    "constant": lambda d: np.full(d, -1.5, np.float32),
    "zeros": lambda d: np.full(d, -0.0, np.float32),
    "denormal": lambda d: (np.arange(d) % 997).astype(np.float32) * np.float32(1e-45),
    "one denormal": lambda d: np.where(np.arange(d) == d // 3, 1e-45, 0).astype(np.float32),
    "ties": ties,
    "wide": lambda d: some(d, 1) * np.exp(20 * some(d, 2)),
    "largest": lambda d: np.full(d, np.finfo(np.float32).max),
    "one large": lambda d: np.where(np.arange(d) == d - 1, 3e38, some(d)).astype(np.float32),
    "neighbours": lambda d: (1 + (np.arange(d) * 7919 % d) / 2.0**23).astype(np.float32),
    "rows": lambda d: np.repeat(some(d // 64 + 1, 3), 64)[:d],
    "few rows": lambda d: some(d) * (np.arange(d) // 300 % 100 == 5),
    "periodic": lambda d: (np.arange(d) % stretch(d) == 0).astype(np.float32),
    "hidden": hidden,
    "shown": shown,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_vectors_that_are_sampled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for d in (20_000, 50_021):
        x = HOSTILE[name](d)
        for room in (32_768, 64):
            monkeypatch.setattr(selection, "ROOM", room)
            for k in (1, 7, d // 1000, d // 100, d // 10, d // 3, d // 2, d - 1, d):
                run(x, k)
        run(x, d // 100, some(d, 4), 0.7)


# What the sample is for, and what happens when it misleads


def test_the_common_case_is_one_pass_without_a_trim() -> None:
    for d in (100_003, 1_000_000):
        for k in (d // 1000, d // 100, d // 10):
            found = run(some(d, d + k), k)
            assert (found.passes, found.trims) == (1, 0)


def test_a_bound_that_few_reach_costs_another_pass_and_adds_the_residual_once() -> None:
    d = 100_003
    for k in (1, 100, 1000):
        for bound in (0x7F7FFFFF, HIGHEST):
            assert run(some(d), k, some(d, 1), 0.5, bound).passes == 2
            assert run(some(d), k, None, 0.5, bound).passes == 2


def test_a_sample_of_the_largest_alone_ends_in_a_pass_for_all() -> None:
    d = 100_000
    k = d // 10
    places = sampled_places(d, k)
    assert places.size < k
    x = some(d)
    x[places] += np.float32(100) * np.sign(x[places])
    found = run(x, k)
    assert found.passes == 3
    assert run(x, k, np.zeros(d, np.float32)).passes == 3
    assert run(x, places.size // 2).passes == 1


def test_candidates_beyond_the_room_are_thinned_out() -> None:
    d = 200_000
    ascending = np.arange(d, dtype=np.float32)
    found = run(ascending, 100, bound=0)
    assert found.passes == 1
    assert found.trims >= d // 40_000
    descending = run(ascending[::-1].copy(), 100, bound=0)
    assert descending.trims == 1
    assert run(np.ones(d, np.float32), 100).trims == 1  # equals do not come back


def test_the_room_is_a_small_multiple_of_k_and_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[NDArray] = []

    def array(name: str, size: int, dtype: type[np.generic]) -> NDArray:
        made.append(np.full(size + 200, 77, dtype))
        return made[-1][:size]

    monkeypatch.setattr(selection.scratch, "array", array)
    for d, k in ((1_000_000, 1000), (1000, 1), (200, 200), (200, 60), (70_000, 1)):
        monkeypatch.setattr(selection, "ROOM", 32_768 if d > 1000 else 1)
        for x in (some(d), np.arange(d, dtype=np.float32), np.ones(d, np.float32)):
            for bound in (-1, 0):
                made.clear()
                run(x, k, bound=bound)
                assert sum(each.nbytes for each in made) < 10 * (k + 32_768)
                assert all((each[-200:] == 77).all() for each in made)


def test_a_second_call_takes_the_memory_of_the_first() -> None:
    x = some(5000)
    first, again = (selection.select(address(x), 5000, 10) for _ in range(2))
    assert address(first.indices) == address(again.indices)
    assert address(first.values) == address(again.values)


def test_the_sample_is_bounded_and_left_out_of_short_vectors() -> None:
    for d in (1, 100, 1000, 10_000, 10**6, 10**8, 2**31 - 1):
        for k in {1, max(1, d // 1000), max(1, d // 2), d}:
            size = selection.sample_size(d, k)
            assert 0 <= size <= min(selection.SAMPLE, d / 16)
            assert size % selection.RUN == 0
            assert (size > 0) or d < 2**21


def test_each_stretch_is_sampled_inside() -> None:
    for d in (1600, 1999, 5000, 100_000, 1_000_003):
        runs = sampled_places(d, 1).reshape(-1, selection.RUN)
        assert (np.diff(runs) == 1).all()
        span = d // len(runs)
        assert (runs // span == np.arange(len(runs))[:, None]).all()
        assert len(set((runs[:, 0] % span).tolist())) > min(span, len(runs)) / 4  # no period


# Not finite


BAD = [np.inf, -np.inf, np.nan, -np.nan]
PATTERNS = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)


@pytest.mark.parametrize("d", [1, 2, 16, 63, 64, 65, 130, 1000])
def test_the_first_bad_coordinate_is_found_at_every_place(d: int) -> None:
    for at in range(0, d, 1 if d < 200 else 37):
        for value in (*BAD, *PATTERNS.view(np.float32)):
            x = some(d)
            x[at] = value
            for k in {1, d}:
                assert run(x, k).bad == at


@given(
    bad=st.lists(st.integers(0, 29_999), min_size=1, max_size=300),
    k=st.sampled_from([1, 3, 30, 3000, 30_000]),
    bound=st.sampled_from([-1, 0, HIGHEST]),
    fused=st.booleans(),
)
def test_of_many_bad_coordinates_the_first_is_found(
    bad: list[int], k: int, bound: int, fused: bool
) -> None:
    x = some(30_000)
    x.view(np.uint32)[bad] = np.resize(np.append(PATTERNS, [0x7F800000, 0xFF800000]), len(bad))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "ROOM", 10)
        assert run(x, k, some(30_000, 1) if fused else None, 1.0, bound).bad == min(bad)


def test_a_vector_of_nothing_but_nan_and_a_late_sample() -> None:
    """The sample sees the largest NaN; the bound stays below those that come earlier."""
    x = np.full(30_000, np.nan, np.float32)
    x.view(np.uint32)[:] = 0x7FFFFFFF
    x[0] = np.inf
    for k in (1, 300, 30_000):
        assert run(x, k).bad == 0
    x = some(30_000)
    x.view(np.uint32)[sampled_places(30_000, 300)] = 0xFFFFFFFF
    x[0] = -np.inf
    assert run(x, 300).bad == 0


def test_a_sum_that_is_not_finite_counts() -> None:
    x, residual = some(5000), some(5000, 1)
    x[4321], residual[4321] = 3e38, 3e38
    assert run(x, 50, residual).bad == 4321
    residual[77] = np.nan
    assert run(x, 50, residual, 0.0).bad == 77


# Memory and arithmetic


@pytest.mark.skipif(sys.platform == "win32", reason="no mprotect")
def test_nothing_outside_the_vectors_is_touched() -> None:
    """A touch outside ends the process."""
    size = 4 * 6000
    vectors, residuals = Guarded(size), Guarded(size)
    for d in (*range(1, 71), 127, 1000, 6000):
        for at_end in (True, False):
            x, residual = vectors.floats(d, at_end), residuals.floats(d, at_end)
            for k in {1, d // 100 or 1, d}:
                for extra in (0, address(residual)):
                    x[:] = residual[:] = some(d)
                    selection.select(address(x), d, k, extra, 0.5)


def test_a_vector_needs_no_alignment() -> None:
    for d in (70, 6000):
        room = np.zeros(4 * d + 8, np.uint8)
        for shift in (1, 2, 3):
            x = some(d, shift)
            room[shift : shift + 4 * d] = x.view(np.uint8)
            found = selection.select(address(room) + shift, d, d // 7)
            assert found.indices.tolist() == reference(x, d // 7).tolist()


def test_indices_up_to_two_to_the_31() -> None:
    """The collecting pass on the end of a vector whose beginning is not there."""
    d, count = 2**31 - 1, 1000
    first = (d - count) // 64 * 64
    x = some(d - first)
    k = x.size
    indices, values = np.empty(k + 200, np.int32), np.empty(k + 200, np.float32)
    at, held = selection._collect(
        address(x) - 4 * first,
        first,
        d,
        0,
        ONE,
        int(ONE.view(np.uint32)),
        address(indices),
        address(values),
        0,
        k,
    )
    assert at == d
    expected = np.flatnonzero(np.abs(x) >= 1)
    assert indices[:held].tolist() == (expected + first).tolist()
    assert values[:held].tolist() == x[expected].tolist()


# The threshold alone


@given(
    x=st.lists(st.integers(0, 0x7FFFFFFF) | st.integers(5000, 5003), min_size=1, max_size=300),
    share=st.floats(0, 1),
    low=st.booleans(),
)
def test_the_kth_parts_the_largest_from_the_others(x: list[int], share: float, low: bool) -> None:
    k = max(1, round(share * len(x)))
    array = np.array(x, np.uint32)
    bound, number = selection.kth(address(array), len(x), k, min(x) if low else 0)
    above, at = int((array > bound).sum()), int((array == bound).sum())
    assert above + number == k
    assert 0 <= number <= at
