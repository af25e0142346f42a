"""Reductions on threads: each one's outcome comes back, and the loop is told."""

import select
import threading

import numpy as np
import pytest

from psrv.errors import CodecError
from psrv.server.aggregator import Reduce
from psrv.server.pool import Pool

LIMIT = 20.0


def await_finished(pool, count):
    found = []
    while len(found) < count:
        assert select.select([pool.descriptor], [], [], LIMIT)[0], "the loop was never told"
        found += pool.finished()
    return found


@pytest.fixture
def pool_of():
    pools = []

    def make(reduce, threads=2):
        pools.append(Pool(reduce, threads))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def test_every_outcome_comes_back_with_its_action(pool_of):
    pool = pool_of(lambda action: np.full(3, action.bucket, np.uint8))
    actions = [Reduce(0, bucket) for bucket in range(20)]
    for action in actions:
        pool.submit(action)
    found = {reduced.action: reduced for reduced in await_finished(pool, 20)}
    assert set(found) == set(actions)
    for action, reduced in found.items():
        assert reduced.outcome.tolist() == [action.bucket] * 3
        assert 0 < reduced.started <= reduced.done
    assert not select.select([pool.descriptor], [], [], 0)[0], "nothing is left to be told"
    assert pool.finished() == []


def test_two_run_at_once(pool_of):
    both = threading.Barrier(2, timeout=LIMIT)

    def reduce(action):
        both.wait()
        return np.zeros(1, np.uint8)

    pool = pool_of(reduce)
    for bucket in range(2):
        pool.submit(Reduce(0, bucket))
    assert all(isinstance(r.outcome, np.ndarray) for r in await_finished(pool, 2))


def test_an_error_is_an_outcome(pool_of):
    def reduce(action):
        raise CodecError("worker 1, round 0, bucket 2: too short")

    pool = pool_of(reduce)
    pool.submit(Reduce(0, 2))
    (reduced,) = await_finished(pool, 1)
    assert isinstance(reduced.outcome, CodecError)
    assert str(pool.run(Reduce(0, 2)).outcome) == str(reduced.outcome)


def test_closing_waits_for_what_runs_and_forgets_the_rest(pool_of):
    began, release, ran = threading.Event(), threading.Event(), []

    def reduce(action):
        began.set()
        assert release.wait(LIMIT)
        ran.append(action.bucket)
        return np.zeros(1, np.uint8)

    pool = pool_of(reduce, threads=1)
    for bucket in range(5):
        pool.submit(Reduce(0, bucket))
    assert began.wait(LIMIT)
    closing = threading.Thread(target=pool.close)
    closing.start()
    release.set()
    closing.join(LIMIT)
    assert not closing.is_alive()
    assert 0 in ran
