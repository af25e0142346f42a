from __future__ import annotations

import numpy as np
import pytest

from psrv.errors import ConfigError
from psrv.tasks.shards import Shards, permutation


def epoch(shards: Shards, rank: int, number: int) -> np.ndarray:
    rounds = range(number * shards.rounds_per_epoch, (number + 1) * shards.rounds_per_epoch)
    return np.concatenate([shards.batch(rank, t) for t in rounds])


def test_shards_are_disjoint_and_cover_all_samples():
    shards = Shards(103, workers=4, batch=5, seed=7, task="t")
    rows = [shards.rows(r) for r in range(4)]
    assert sorted(r.size for r in rows) == [25, 26, 26, 26]
    assert np.array_equal(np.sort(np.concatenate(rows)), np.arange(103))


def test_each_sample_comes_at_most_once_an_epoch_and_from_its_own_shard():
    shards = Shards(103, workers=4, batch=8, seed=7, task="t")
    assert shards.rounds_per_epoch == 3
    for rank in range(4):
        for number in range(3):
            seen = epoch(shards, rank, number)
            assert seen.size == 24
            assert np.unique(seen).size == 24
            assert np.isin(seen, shards.rows(rank)).all()


def test_order_changes_every_epoch_and_all_samples_get_their_turn():
    shards = Shards(40, workers=2, batch=6, seed=1, task="t")
    orders = [epoch(shards, 0, number) for number in range(20)]
    assert not np.array_equal(orders[0], orders[1])
    assert set(np.concatenate(orders).tolist()) == set(shards.rows(0).tolist())


def test_orders_differ_between_ranks_and_seeds():
    positions = []
    for seed in (0, 1):
        shards = Shards(64, workers=2, batch=32, seed=seed, task="t")
        for rank in range(2):
            rows = shards.rows(rank)
            order = epoch(shards, rank, 0)
            positions.append(tuple(np.argsort(rows)[np.searchsorted(np.sort(rows), order)]))
    assert len(set(positions)) == 4


def test_rounds_may_be_asked_for_in_any_order():
    forward, other = (Shards(50, workers=2, batch=4, seed=3, task="t") for _ in range(2))
    batches = {t: forward.batch(1, t) for t in range(20)}
    for t in (19, 0, 7, 6, 13, 0):
        assert np.array_equal(other.batch(1, t), batches[t])


def test_order_is_the_same_with_every_numpy():
    # Raw Philox words, sorted: NumPy promises the words, so this may never change.
    assert permutation(8, 1, 0, 0, 0).tolist() == [2, 0, 1, 4, 5, 6, 7, 3]


def test_more_workers_than_samples_is_refused():
    with pytest.raises(ConfigError, match="3 training samples for 4 workers"):
        Shards(3, workers=4, batch=1, seed=0, task="t")


@pytest.mark.parametrize("batch", [0, -1, 11])
def test_batch_that_no_shard_can_fill_is_refused(batch):
    with pytest.raises(ConfigError, match=r"shard holds 10 of the 43 .* 1 to 10"):
        Shards(43, workers=4, batch=batch, seed=0, task="t")


def test_batch_of_another_size_depends_on_the_key_alone():
    shards, other = (Shards(103, workers=4, batch=5, seed=7, task="t") for _ in range(2))
    wanted = [(rank, t, size) for rank in range(4) for t in (0, 1, 9) for size in (1, 6, 25)]
    found = {key: shards.batch(*key) for key in wanted}
    for key in reversed(wanted):
        rank, t, size = key
        assert np.array_equal(other.batch(*key), found[key])
        assert found[key].shape == (size,)
        assert np.unique(found[key]).size == size
        assert np.isin(found[key], shards.rows(rank)).all()
        assert np.array_equal(found[key], found[rank, t, 25][:size])
    assert len({tuple(found[rank, t, 6]) for rank, t, _ in wanted}) == 12


def test_batch_of_another_size_leaves_the_epochs_as_they_are():
    plain, mixed = (Shards(60, workers=2, batch=4, seed=3, task="t") for _ in range(2))
    for t in range(20):
        mixed.batch(1, t, 11)
        assert np.array_equal(mixed.batch(1, t), plain.batch(1, t))
        assert np.array_equal(mixed.batch(1, t, 4), plain.batch(1, t))


def test_all_of_a_shard_is_a_batch_and_more_is_refused():
    shards = Shards(43, workers=4, batch=2, seed=0, task="t")
    assert np.array_equal(np.sort(shards.batch(3, 5, 10)), np.sort(shards.rows(3)))
    for size in (0, -1, 11):
        with pytest.raises(ConfigError, match=r"task t: a batch of .* holds 10 .* 1 to 10"):
            shards.batch(0, 0, size)
