"""The keyed bijection: one, the one that is specified, and hardly told from a random one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from codec_reference import key_of, mix, word_of
from psrv.codec import bijection
from psrv.codec.base import address
from reference_permk import images_of, scramble

KEY = key_of(1, 4, 2, 3, 0)
LARGE = (1023, 1024, 1025, 2047, 4097, 65536, 698_373, 11_173_962, (1 << 24) + 1, (1 << 31) - 1)
LARGEST = 1 << 31


def images(key: int, m: int, first: int, count: int, shift: int = 0) -> NDArray[np.int32]:
    """What the kernel writes, at ``shift`` bytes behind a cache line, and nothing around it."""
    room = np.full(4 * count + 256, 0xAB, np.uint8)
    inside = room[64 + shift : 64 + shift + 4 * count]
    bijection.images(np.uint64(key), m, first, count, address(inside))
    assert (room[: 64 + shift] == 0xAB).all()
    assert (room[64 + shift + 4 * count :] == 0xAB).all()
    return inside.view(np.int32).copy()


def excess(observed: NDArray[np.int64], expected: float | NDArray) -> float:
    """Chi-square beyond its mean, in standard deviations."""
    freedom = observed.size - 1
    chi = float(((observed - expected) ** 2 / expected).sum())
    return (chi - freedom) / math.sqrt(2 * freedom)


# What it is


def test_the_vectors_of_the_documentation() -> None:
    """``docs/payloads.md``; the same key is that of group 0 in round 2 of bucket 3, seed 1."""
    assert KEY == 0xBF6B0D6CEF7C6F1B
    vectors: dict[int, Sequence[int]] = {
        1: [0],
        2: [1, 0],
        5: [0, 4, 2, 3, 1],
        12: [6, 5, 0, 7, 8],
        1000: [414, 166, 858, 906, 22],
        1025: [148, 891, 583, 631, 735],
        11_173_962: [11_072_993, 3_457_058, 9_350_124, 4_425_514, 7_288_266],
        LARGEST: [648_326_922, 1_511_646_027, 13_130_660, 722_363_343, 963_814_482],
    }
    for m, expected in vectors.items():
        assert [bijection.image(KEY, m, i) for i in range(len(expected))] == expected
        assert images(KEY, m, 0, len(expected)).tolist() == expected


def test_it_is_a_bijection_for_every_m_to_300() -> None:
    for m in range(1, 301):
        key = (0, KEY, (1 << 64) - 1)[m % 3]
        found = images(key, m, 0, m)
        assert sorted(found.tolist()) == list(range(m))
        assert found.tolist() == images_of(key, m, range(m)).tolist()
        for i in range(0, m, 1 + m // 10):
            assert bijection.image(key, m, i) == found[i]
            assert bijection.preimage(key, m, int(found[i])) == i


@pytest.mark.parametrize("m", [1024, 1025, 1500, 4097, 65_536, 100_003])
def test_it_is_a_bijection_for_larger_m(m: int) -> None:
    assert np.array_equal(np.sort(images(KEY, m, 0, m)), np.arange(m))


@pytest.mark.parametrize("m", [*LARGE, LARGEST])
def test_stretches_of_a_large_one_are_as_transcribed_and_distinct(m: int) -> None:
    size = min(m // 3, 3000)
    starts = (0, m // 2 - size // 2, m - size)
    numbers = np.concatenate([np.arange(s, s + size) for s in starts])
    found = np.concatenate([images(KEY, m, s, size) for s in starts])
    assert np.array_equal(found, images_of(KEY, m, numbers))
    assert np.unique(found).size == 3 * size
    assert found.min() >= 0
    for i in range(0, 3 * size, 97):
        assert bijection.image(KEY, m, int(numbers[i])) == found[i]
        assert bijection.preimage(KEY, m, int(found[i])) == numbers[i]


@pytest.mark.parametrize("m", [300, 1025, 698_373])
def test_any_stretch_is_cut_from_the_same_permutation(m: int) -> None:
    whole = images_of(KEY, m, range(300))
    for first in (0, 1, 7, 16, 101):
        for count in (*range(36), 199):
            shift = (first + count) % 7
            assert np.array_equal(images(KEY, m, first, count, shift), whole[first:][:count])


def test_a_number_outside_is_refused() -> None:
    for m, i in ((5, 5), (5, -1), (0, 0), (LARGEST + 1, 0)):
        for function in (bijection.image, bijection.preimage):
            with pytest.raises(ValueError, match="is not in"):
                function(KEY, m, i)


# How good it is. Keys are fixed, so that these cannot fail by chance.


def table(m: int, keys: int) -> NDArray[np.int64]:
    """Permutations of [0, m) as rows, one a key."""
    rows = np.empty((keys, m), np.int32)
    for k in range(keys):
        bijection.images(np.uint64(mix(k)), m, 0, m, address(rows[k]))
    return rows.astype(np.int64)


def test_each_image_is_uniform_whatever_the_rounds_do() -> None:
    """Over all rotations each image is taken once; and over keys as often as expected."""
    for m in (1, 7, 1000, 1025):
        for i in {0, m // 2, m - 1}:
            walked = np.array([i], np.uint64)
            while (walked := scramble(KEY, m, walked))[0] >= m:
                pass
            turn = word_of(KEY, 6) % m
            assert bijection.image(KEY, m, i) == (int(walked[0]) + turn) % m
    for m in (2, 3, 10, 40):
        rows = table(m, 5000)
        for i in (0, 1, m - 1):
            assert abs(excess(np.bincount(rows[:, i], minlength=m), 5000 / m)) < 4, (m, i)


@pytest.mark.parametrize("m", [3, 5, 8, 16, 33, 100])
def test_differences_of_images_are_uniform(m: int) -> None:
    keys = 10_000
    rows = table(m, keys)
    for i, j in {(0, 1), (0, m // 2), (m - 2, m - 1)}:
        difference = (rows[:, j] - rows[:, i]) % m
        observed = np.bincount(difference, minlength=m)[1:]
        if m > 2:
            assert abs(excess(observed, keys / (m - 1))) < 4, (m, i, j)


@pytest.mark.parametrize("m", [1000, 1024, 1025, 2048])
def test_differences_are_uniform_where_there_is_no_walk_to_help(m: int) -> None:
    """Numbers that differ in one half alone are where a network of too few rounds shows."""
    low = 32
    for i, j in ((0, 1), (0, low), (5, 5 + 16 * low), (1, m - 1)):
        keys = 20_000
        found = np.empty((keys, 2), np.int64)
        for k in range(keys):
            key = mix(k)
            found[k] = bijection.image(key, m, i), bijection.image(key, m, j)
        difference = (found[:, 1] - found[:, 0]) % m
        observed = np.bincount(difference, minlength=m)[1:]
        assert abs(excess(observed, keys / (m - 1))) < 4, (m, i, j)


def test_all_orders_of_four_are_equally_likely() -> None:
    keys = 12_000
    codes = table(4, keys) @ np.array([64, 16, 4, 1])
    names = [int(np.dot(p, [64, 16, 4, 1])) for p in permutations(range(4))]
    observed = np.array([(codes == name).sum() for name in names])
    assert observed.sum() == keys
    assert abs(excess(observed, keys / 24)) < 4


def test_a_quarter_of_a_large_one_is_spread_like_a_random_quarter() -> None:
    """How many of each 64 neighbours are chosen: the hypergeometric mean and variance."""
    m, counts = 698_368, []
    for k in range(4):
        chosen = np.zeros(m, bool)
        chosen[images(mix(k), m, 0, m // 4)] = True
        counts.append(chosen.reshape(-1, 64).sum(1))
    per = np.concatenate(counts)
    assert per.mean() == 16
    spread = 64 * 0.25 * 0.75 * (m - 64) / (m - 1)
    assert per.var() == pytest.approx(spread, rel=5 * math.sqrt(2 / per.size))


def test_the_rounds_of_two_keys_have_nothing_in_common() -> None:
    """Keys that differ in one bit: images agree as often as those of two random orders."""
    m = 50_000
    base = images(KEY, m, 0, m)
    for bit in (0, 31, 32, 63):
        equal = int((images(KEY ^ 1 << bit, m, 0, m) == base).sum())
        assert equal <= 8  # Poisson with mean 1
