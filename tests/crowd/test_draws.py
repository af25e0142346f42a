"""The coordinates that a crowd draws are those of the compressors."""

from __future__ import annotations

import numpy as np
import pytest

from psrv.codec.base import Blocks, Draw
from psrv.codec.bijection import image
from psrv.codec.registry import parse
from psrv.codec.rng import Purpose, key
from psrv.crowd.draws import RandomSets, Shares, all_images, prefix64, rank_key

SEED, BUCKET = 2**63 + 5, 3


def test_keys_are_those_of_the_generator():
    for seed in (0, 7, SEED):
        prefix = np.uint64(prefix64(np.uint64(seed), int(Purpose.CHOICE), 11, BUCKET))
        for rank in (0, 1, 4096):
            assert int(rank_key(np.uint64(prefix), rank)) == key(
                seed, Purpose.CHOICE, 11, BUCKET, rank
            )


@pytest.mark.parametrize("m", [1, 2, 10, 63, 64, 65, 1000, 1023, 1024, 1025, 5000])
def test_all_images_are_those_of_the_bijection(m):
    out = np.empty(m, np.int32)
    all_images(np.uint64(99), m, out)
    assert out.tolist() == [image(99, m, i) for i in range(m)]


@pytest.mark.parametrize("k", [1, 4, 133])
def test_random_sets_are_those_of_rand_k(k):
    drawn, compressor = RandomSets(133, k, 9), parse(f"rand-k:{k}")
    for t in range(4):
        owned = drawn.of(SEED, t, BUCKET)
        for rank in range(9):
            expected = np.empty(k, np.int32)
            draw = Draw(SEED, t, BUCKET, rank, 9)
            compressor.points(None, Blocks.of([133]), draw, expected)
            found = owned.columns[owned.offsets[rank] : owned.offsets[rank + 1]]
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("spec", "dimension", "workers"),
    [
        ("perm-k", 1000, 1000), ("perm-k", 1000, 10), ("perm-k", 133, 7), ("perm-k", 10, 33),
        ("perm-k", 70_000, 3), ("perm-k:groups=2", 133, 9), ("perm-k:blocks=3", 133, 10),
        ("perm-k:run=16", 133, 5), ("perm-k", 1, 1),
    ],
)  # fmt: skip
def test_shares_are_those_of_perm_k(spec, dimension, workers):
    division = parse(spec).division
    drawn = Shares(dimension, workers, division)
    for t in range(3):
        owned = drawn.of(SEED, t, BUCKET)
        for rank in range(workers):
            deal, member = division.deal(dimension, Draw(SEED, t, BUCKET, rank, workers))
            starts, length = deal.starts(member)
            expected = [c for s in starts.tolist() for c in range(s, min(dimension, s + length))]
            found = owned.columns[owned.offsets[rank] : owned.offsets[rank + 1]]
            assert found.tolist() == expected
