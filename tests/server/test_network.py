"""One server core and n worker cores, joined in memory by a link that reorders and repeats."""

from __future__ import annotations

import numpy as np
import pytest

from psrv.methods import METHODS
from virtual_run import Network, make_job

ROUNDS = 6


def gradient(rank: int, x: np.ndarray, t: int) -> np.ndarray:
    """A pull towards a point of the rank's own, noise, and dead coordinates."""
    noise = np.random.default_rng((rank, t)).standard_normal(x.size).astype(np.float32)
    g = x - np.float32(rank) + noise
    g[::5] = 0
    return g


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_reordered_and_repeated_messages_give_the_bits_of_the_simulation(method, workers):
    job = make_job(method)
    repeated = stale = 0
    for seed in range(4):
        network = Network(job, workers, ROUNDS, gradient, seed)
        digests = network.run()
        core = network.core
        assert network.stopped is not None
        assert network.stopped.code == "", network.stopped.text
        assert all(worker.done for worker in network.workers)
        assert core.invalid == 0
        assert core.membership.turned_away == 0
        repeated += core.aggregator.repeated
        stale += core.aggregator.stale
        expected = network.simulated(job, ROUNDS, gradient)
        assert digests == [expected] * workers
    assert repeated > 10
    assert stale > 0


def test_same_seed_gives_the_same_run():
    job = make_job()
    runs = [Network(job, 3, ROUNDS, gradient, seed=8) for _ in range(2)]
    assert runs[0].run() == runs[1].run()
    assert runs[0].now == runs[1].now
    assert runs[0].notes == runs[1].notes
