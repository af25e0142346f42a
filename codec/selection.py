"""The k coordinates of largest magnitude, exactly, in one pass over the vector and no sort.

Of x (after x <- x + rho * residual, which the same pass does) the k largest magnitudes, ties
to the lower index, in ascending order of index:

1. A bound from a sample: runs of four coordinates, one at a random place in each of equal
   stretches, and an order statistic of them that somewhat more than k coordinates reach.
2. One pass that collects every coordinate whose magnitude reaches the bound.
3. Where more are collected than there is room for, all but the k largest go, and the bound
   rises above the least of these: with k at hand another matters only if it is larger, since
   of equals the lower index wins. So every bound that at least k coordinates reach gives the
   exact answer, whatever the vector holds, in room for some more than k.
4. Where fewer than k coordinates reach the bound, the sample misled. The pass is repeated,
   without the residual, from a lower bound, and at last from 0, which all reach.

The k-th largest of a set of magnitudes comes from histograms of their bits, each over a range
that holds the answer and is a thousand times narrower than the one before.

Every NaN and infinity is a candidate, since their magnitude bits are above those of all
finite numbers and the bound never is; and none is dropped unseen.

Cost: one pass at the speed of memory, then some nanoseconds a candidate. At worst, where
magnitudes ascend and the sample saw none of them, every coordinate is a candidate: some
nanoseconds a coordinate, which is still less than ``np.argpartition`` takes.

Source: the bound from a sample follows Floyd and Rivest 1975 (SELECT); the rest is ours.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from psrv.codec import scratch
from psrv.codec.rng import word64
from psrv.codec.vector import load_float, store_float
from psrv.codec.words import (
    add_large_bits,
    large_bits,
    largest_lanes,
    load_bits,
    load_int,
    low_zeros,
    near_bits,
    ones,
    store_int,
)

JIT = {"nogil": True, "cache": True}

NOT_FINITE = 0x7F800000
"""The magnitude bits of infinity; those of a NaN are larger."""

SAMPLE = 65_536
"""Most coordinates sampled."""

RUN = 4
"""Coordinates sampled side by side: a read from memory brings sixteen, but neighbours are alike."""

ROOM = 32_768
"""Candidates held beyond 2 k before they are thinned out; fewer where x has fewer."""

GROUP = 3
"""Candidates taken from 64 coordinates at a time, whether they are there or not."""

SLACK = 128
"""Entries behind the room: the last 64 coordinates' candidates, and a group's excess."""

BINS_LOG = 11
"""log2 of the bins of a histogram: 8 KiB, which stays in the L1 cache."""


class Selection(NamedTuple):
    """What ``select`` found.

    Attributes:
        bad: the first coordinate that is NaN or infinite, or -1. Where there is one, the
            arrays hold nothing, and x + rho * residual is done for a part of x only, which
            the bad coordinate belongs to.
        indices: int32[k], ascending.
        values: float32[k], the coordinates at those indices.
        passes: how often the whole vector was read; more than 1 where the sample misled.
        trims: how often there were more candidates than room.
    """

    bad: int
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    passes: int
    trims: int


def select(
    x: int, d: int, k: int, residual: int = 0, rho: float = 1.0, bound: int = -1
) -> Selection:
    """The k coordinates of x + rho * residual that are largest in magnitude.

    Args:
        x: address of float32[d]. With a residual, x + rho * residual is left there, rounded
            after the product and after the sum; without one, x is only read.
        d, k: 1 <= k <= d < 2^31.
        residual: address of float32[d], or 0.
        rho: rounded to float32.
        bound: the magnitude bits that the first pass collects from; -1 for the sample's.

    Returns:
        Arrays in this thread's scratch: the next call overwrites them.
    """
    room = min(d, 2 * k + ROOM)
    sample = sample_size(d, k)
    indices = scratch.array("selection.indices", room + SLACK, np.int32)
    values = scratch.array("selection.values", room + SLACK, np.float32)
    sampled = scratch.array("selection.sample", sample, np.float32)
    counts = np.zeros(2, np.int64)
    bad = select_kernel(
        x,
        d,
        k,
        residual,
        np.float32(rho),
        bound,
        _address(indices),
        _address(values),
        room,
        _address(sampled),
        sample,
        counts,
    )
    return Selection(int(bad), indices[:k], values[:k], int(counts[0]), int(counts[1]))


def sample_size(d: int, k: int) -> int:
    """How many coordinates to sample, a multiple of ``RUN``; 0 where sampling does not pay.

    A sample of m finds about k (1 + 4 sqrt(d / (k m)) + 8 d / (k m)) candidates. Where a
    sampled coordinate, which is rarely in a cache, costs as much as three candidates, the
    sum of both costs is least near the larger of (2 k d)^(1/3) and sqrt(6 d).
    """
    size = min(int(max((2.0 * k * d) ** (1 / 3), sqrt(6.0 * d))), SAMPLE) // RUN * RUN
    return size if d >= 16 * size else 0


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


@njit(**JIT)
def _sum(x, residual, rho, i):
    value = load_float(x + 4 * i)
    return value + rho * load_float(residual + 4 * i) if residual else value


@njit(**JIT)
def _magnitude(x, i):
    return load_bits(x + 4 * i) & 0x7FFFFFFF


@njit(**JIT)
def _draw_sample(x, d, residual, rho, sample, out):
    """float32[sample] at ``out`` = runs of x + rho * residual, one in each stretch.

    A run's place in its stretch is random, so that no period of x goes unseen. The result of
    a selection does not depend on it.
    """
    runs = sample // RUN
    span = d // runs
    for run in range(runs):
        chance = np.int64(word64(np.uint64(0), run) >> np.uint64(33))
        first = run * span + (chance * (span - RUN + 1) >> 31)
        for i in range(RUN):
            store_float(_sum(x, residual, rho, first + i), out + 4 * (RUN * run + i))


@njit(**JIT)
def _largest(x, count):
    """The largest magnitude bits of float32[count], count >= 1."""
    lanes = np.empty(16, np.int32)
    largest_lanes(x, count // 16, lanes.ctypes.data)
    most = np.int64(0)
    for lane in range(16):
        most = max(most, np.int64(lanes[lane]))
    for i in range(count // 16 * 16, count):
        most = max(most, _magnitude(x, i))
    return most


@njit(**JIT)
def kth(x, count, k, low):
    """What parts the k largest magnitudes from the others.

    Args:
        x: address of float32[count], count >= k >= 1.
        low: magnitude bits that all of them reach.

    Returns:
        A bound and a number: the k largest are those above the bound, and that many of those
        at the bound.
    """
    bins = np.empty(1 << BINS_LOG, np.int32)
    span = _largest(x, count) - low
    width = 0
    while span >> width:
        width += 1
    inside = count
    while True:
        # The answer is one of ``inside`` magnitudes from low to low + 2^width - 1.
        shift = max(0, width - BINS_LOG)
        bins[:] = 0
        if inside == count:
            for i in range(count):
                bins[np.uint64(_magnitude(x, i) - low) >> np.uint64(shift)] += 1
        else:
            size = np.int64(1) << width
            whole = count // 64
            for i in range(whole):
                word = near_bits(x + 256 * i, low, size)
                while word:
                    place = 64 * i + low_zeros(word)
                    word &= word - np.uint64(1)
                    bins[np.uint64(_magnitude(x, place) - low) >> np.uint64(shift)] += 1
            for i in range(64 * whole, count):
                above = _magnitude(x, i) - low
                if 0 <= above < size:
                    bins[np.uint64(above) >> np.uint64(shift)] += 1
        place = bins.size - 1
        while bins[place] < k:
            k -= bins[place]
            place -= 1
        low += np.int64(place) << shift
        inside = bins[place]
        if shift == 0:
            return low, k
        if inside == k:
            return low - 1, np.int64(0)
        width = shift


@njit(**JIT)
def _through(x, count, magnitude, number):
    """How many of float32[count] to go through to meet ``number`` of that magnitude."""
    if number == 0:
        return 0
    whole = count // 64
    for i in range(whole):
        word = near_bits(x + 256 * i, magnitude, 1)
        found = ones(word)
        if found >= number:
            for _ in range(number - 1):
                word &= word - np.uint64(1)
            return 64 * i + low_zeros(word) + 1
        number -= found
    for i in range(64 * whole, count):
        if _magnitude(x, i) == magnitude:
            number -= 1
            if number == 0:
                return i + 1
    return count


@njit(**JIT)
def _keep(indices, values, first, last, bound, kept):
    """Move the candidates first .. last - 1 that reach the bound to place ``kept`` and on."""
    for j in range(first, last):
        bits = load_bits(values + 4 * j)
        store_int(load_int(indices + 4 * j), indices + 4 * kept)
        store_int(bits, values + 4 * kept)
        kept += bits & 0x7FFFFFFF >= bound
    return kept


@njit(**JIT)
def _trim(indices, values, held, k, low):
    """Keep the k largest of the candidates, ties to the earlier one, in their order.

    Returns:
        The bound that a further coordinate has to reach to matter; or -1 - (the first
        coordinate that is not finite).
    """
    if _largest(values, held) >= NOT_FINITE:
        for j in range(held):
            if _magnitude(values, j) >= NOT_FINITE:
                return -1 - load_int(indices + 4 * j)
    if held == k:
        return low
    bound, ties = kth(values, held, k, low)
    middle = _through(values, held, bound, ties)
    kept = _keep(indices, values, 0, middle, bound, 0)
    _keep(indices, values, middle, held, bound + 1, kept)
    return bound + 1


@njit(**JIT)
def _collect(x, at, d, residual, rho, bound, indices, values, held, room):
    """Append the coordinates from ``at`` on that reach the bound; x gets its residual.

    64 coordinates make a word of bits, and its ones are taken in groups without a look at
    whether there are any left: a branch for each would be mispredicted too often. What a
    group writes in excess is overwritten by the next, or lies behind the held ones.

    Returns:
        Where it stopped: d, or earlier because more than ``room`` are held; and how many
        are held.
    """
    whole = d // 64 * 64
    while at < whole and held <= room:
        if residual:
            word = add_large_bits(x + 4 * at, residual + 4 * at, rho, bound)
        else:
            word = large_bits(x + 4 * at, bound)
        found = held + ones(word)
        while True:
            for s in range(GROUP):
                index = at + (low_zeros(word) & 63)
                word &= word - np.uint64(1)
                store_int(index, indices + 4 * (held + s))
                store_int(load_bits(x + 4 * index), values + 4 * (held + s))
            held += GROUP
            if held >= found:
                break
        held = found
        at += 64
    while at < d and held <= room:
        if residual:
            store_float(_sum(x, residual, rho, at), x + 4 * at)
        if _magnitude(x, at) >= bound:
            store_int(at, indices + 4 * held)
            store_int(load_bits(x + 4 * at), values + 4 * held)
            held += 1
        at += 1
    return at, held


@njit(**JIT)
def select_kernel(x, d, k, residual, rho, bound, indices, values, room, sampled, sample, counts):
    """``select`` with its scratch; returns ``Selection.bad``."""
    if sample:
        _draw_sample(x, d, residual, rho, sample, sampled)
    # The sample has k m / d of the k largest, give or take the root of that: four of those,
    # and a few for small k, make too few candidates rare.
    share = sample * np.float64(k) / d
    want = np.int64(share + 4 * np.sqrt(share) + 8)
    if bound < 0:
        bound = _sample_bound(sampled, sample, want)
    counts[0], counts[1] = 0, 0
    while True:
        counts[0] += 1
        at, held = np.int64(0), np.int64(0)
        while True:
            at, held = _collect(x, at, d, residual, rho, bound, indices, values, held, room)
            if at == d and held < k:
                break
            bound = _trim(indices, values, held, k, max(0, bound - 1))
            if bound < 0:
                return -1 - bound
            if at == d:
                return np.int64(-1)
            held = k
            counts[1] += 1
        residual = 0
        bound = _sample_bound(sampled, sample, 2 * want) if counts[0] == 1 else np.int64(0)


@njit(**JIT)
def _sample_bound(sampled, sample, want):
    """Magnitude bits that ``want`` of the sample reach, at most those of infinity; or 0."""
    if want >= sample:
        return np.int64(0)
    return min(kth(sampled, sample, want, 0)[0], NOT_FINITE)
