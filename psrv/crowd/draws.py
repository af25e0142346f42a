"""Who sends which coordinates in a round, for all ranks in one compiled loop.

The same streams and bijections as the compressors' (``codec/rng.py``,
``codec/permutation.py``, ``codec/randk.py``), so the same coordinates, as one list: rank i's
are ``columns[offsets[i]:offsets[i + 1]]``, relative to the bucket. Where a rank sends no run
twice the order within it is that of its payload.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from psrv.codec import bijection
from psrv.codec.bijection import SMALLEST, high_size, images, low_bits, rotation, round_keys
from psrv.codec.permutation import Division, Split, groups_of
from psrv.codec.rng import Purpose, word64

JIT = {"nogil": True, "cache": True}

PERMUTATION, ASSIGNMENT = int(Purpose.PERMUTATION), int(Purpose.ASSIGNMENT)


class Owned(NamedTuple):
    """Which coordinates each rank sends.

    Attributes:
        offsets: int64[n + 1]. columns: int32[offsets[n]], inside [0, d_b).
    """

    offsets: NDArray[np.int64]
    columns: NDArray[np.int32]


@njit(**JIT)
def mix64(z):
    """``rng.mix`` for kernels, on uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(**JIT)
def prefix64(seed, purpose, round, bucket):
    """``rng.key`` without its last field, the rank: uint64 seed, int64 fields."""
    gamma = np.uint64(0x9E3779B97F4A7C15)
    k = mix64(seed + gamma)
    for part in (purpose, round, bucket):
        k = mix64((k ^ np.uint64(part)) + gamma)
    return k


@njit(**JIT)
def rank_key(prefix, rank):
    """``rng.key`` from ``prefix64`` and the rank."""
    return mix64((prefix ^ np.uint64(rank)) + np.uint64(0x9E3779B97F4A7C15))


@njit(**JIT)
def all_images(key, m, out):
    """pi(0) to pi(m - 1): int32[m]. As ``bijection.images``, in vectors for small m too.

    For small m an image is outside [0, m) too often for ``image_lanes`` to pay; here all
    take their first walk in vectors, and those outside go on alone.
    """
    if m >= SMALLEST or m < 64:
        images(key, m, 0, m, out.ctypes.data)
        return
    keys, low, high, shift = round_keys(key), low_bits(m), high_size(m), rotation(key, m)
    top, bottom = np.empty(m, np.uint32), np.empty(m, np.uint32)
    for i in range(m):
        top[i] = np.uint32(i >> low)
        bottom[i] = np.uint32(i) & np.uint32((1 << low) - 1)
    for r in range(0, bijection.ROUNDS, 2):
        a, b, c, d = keys[2 * r], keys[2 * r + 1], keys[2 * r + 2], keys[2 * r + 3]
        _two_rounds(top, bottom, a, b, c, d, np.uint32(low), np.uint32(high))
    for i in range(m):
        x = (np.int64(top[i]) << low) | np.int64(bottom[i])
        if x >= m:
            x = bijection._walk(keys, low, high, m, x)
        x += shift
        out[i] = x - m if x >= m else x


@njit(**JIT)
def _two_rounds(top, bottom, a, b, c, d, low, high):
    """Two rounds of the network, of every number."""
    factor = np.uint32(bijection.MULTIPLIER)
    rest = np.uint32(32) - low
    for i in range(top.size):
        h = np.uint32((bottom[i] ^ a) * b)
        h = np.uint32((h ^ (h >> np.uint32(15))) * factor)
        t = np.uint32(top[i] + (np.uint32((h >> np.uint32(12)) * high) >> np.uint32(20)))
        t = min(t, np.uint32(t - high))
        h = np.uint32((t ^ c) * d)
        h = np.uint32((h ^ (h >> np.uint32(15))) * factor)
        top[i] = t
        bottom[i] = bottom[i] ^ (h >> rest)


@njit(**JIT)
def first_images(prefix, m, out):
    """out[rank] = pi(0) of the bijection of every rank's own key."""
    n = out.size
    keys, low, high = np.empty(n, np.uint64), low_bits(m), high_size(m)
    top, bottom = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
    for i in range(n):
        keys[i] = rank_key(prefix, i)
    for r in range(0, bijection.ROUNDS, 2):
        _two_rounds_each(keys, r, top, bottom, np.uint32(low), np.uint32(high))
    for i in range(n):
        x = (np.int64(top[i]) << low) | np.int64(bottom[i])
        if x >= m:
            x = bijection._walk(round_keys(keys[i]), low, high, m, x)
        x += rotation(keys[i], m)
        out[i] = x - m if x >= m else x


@njit(**JIT)
def _two_rounds_each(keys, r, top, bottom, low, high):
    """Two rounds of the network, with every number's own key."""
    factor, half = np.uint32(bijection.MULTIPLIER), np.uint64(32)
    rest = np.uint32(32) - low
    for i in range(top.size):
        word, next_word = word64(keys[i], r), word64(keys[i], r + 1)
        h = np.uint32(
            (bottom[i] ^ np.uint32(word)) * np.uint32(np.uint32(word >> half) | np.uint32(1))
        )
        h = np.uint32((h ^ (h >> np.uint32(15))) * factor)
        t = np.uint32(top[i] + (np.uint32((h >> np.uint32(12)) * high) >> np.uint32(20)))
        t = min(t, np.uint32(t - high))
        h = np.uint32(
            (t ^ np.uint32(next_word)) * np.uint32(np.uint32(next_word >> half) | np.uint32(1))
        )
        h = np.uint32((h ^ (h >> np.uint32(15))) * factor)
        top[i] = t
        bottom[i] = bottom[i] ^ (h >> rest)


class RandomSets:
    """rand-k: every rank's own K of d coordinates; owns what it returns."""

    def __init__(self, dimension: int, k: int, workers: int) -> None:
        self._d, self._k = dimension, k
        self._owned = Owned(
            np.arange(workers + 1, dtype=np.int64) * k, np.empty(workers * k, np.int32)
        )

    def of(self, seed: int, round: int, bucket: int) -> Owned:
        """The sets of a round, valid until the next call."""
        _random_sets(
            np.uint64(seed),
            int(Purpose.CHOICE),
            round,
            bucket,
            self._d,
            self._k,
            self._owned.columns,
        )
        return self._owned


@njit(**JIT)
def _random_sets(seed, purpose, round, bucket, d, k, columns):
    prefix = prefix64(seed, purpose, round, bucket)
    if k == 1:
        first_images(prefix, d, columns)
        return
    for rank in range(columns.size // k):
        images(rank_key(prefix, rank), d, 0, k, columns.ctypes.data + 4 * k * rank)


class Shares:
    """perm-k: the division of d coordinates among all ranks; owns what it returns."""

    def __init__(self, dimension: int, workers: int, division: Division) -> None:
        self._groups = groups_of(workers, division.groups)
        self._splits: list[Split] = division.splits(dimension, workers)
        most = sum(max(s.dimension, s.members * s.most if not s.each else 0) for s in self._splits)
        self._offsets = np.zeros(workers + 1, np.int64)
        self._columns = np.empty(most, np.int32)
        self._runs = np.empty(max(s.runs for s in self._splits), np.int32)
        self._places = np.empty(max(s.members for s in self._splits), np.int32)
        self.gains = np.repeat([s.gain for s in self._splits], [s.members for s in self._splits])
        """float64[n]: what each rank's values are multiplied by in the unbiased form."""

    def of(self, seed: int, round: int, bucket: int) -> Owned:
        """The shares of a round, valid until the next call."""
        total = 0
        for group, s in zip(self._groups, self._splits, strict=True):
            total = _share(
                np.uint64(seed), round, bucket, group.index, s.dimension, s.members,
                s.length, s.runs, s.each, s.over, s.owners, self._runs, self._places,
                self._offsets[group.first :], self._columns, total,
            )  # fmt: skip
        return Owned(self._offsets, self._columns[:total])


@njit(**JIT)
def _append(run, d, length, runs, columns, total):
    """The coordinates of a run or part behind the others."""
    if length == 1:
        columns[total] = run
        return total + 1
    if length:
        start, stop = run * length, min(d, run * length + length)
    else:
        start, stop = run * d // runs, (run + 1) * d // runs
    for c in range(start, stop):
        columns[total] = c
        total += 1
    return total


@njit(**JIT)
def _share(
    seed, round, bucket, group, d, members, length, runs, each, over, owners, drawn, places,
    offsets, columns, total,
):  # fmt: skip
    """One group's members, in order; the table is in ``codec/permutation.py``."""
    if over or not each:
        prefix = prefix64(seed, ASSIGNMENT, round, bucket)
        all_images(rank_key(prefix, group), members, places)
    if each:
        prefix = prefix64(seed, PERMUTATION, round, bucket)
        all_images(rank_key(prefix, group), runs, drawn)
    if each == 1 and length == 1 and not over:
        for i in range(members):
            columns[total + i] = drawn[i]
            offsets[i + 1] = total + i + 1
        return total + members
    for i in range(members):
        if each:
            for j in range(each * i, each * i + each):
                total = _append(np.int64(drawn[j]), d, length, runs, columns, total)
            if over and places[i] < over:
                run = np.int64(drawn[each * members + places[i]])
                total = _append(run, d, length, runs, columns, total)
        elif places[i] < owners * runs:
            total = _append(np.int64(places[i]) // owners, d, length, runs, columns, total)
        offsets[i + 1] = total
    return total
