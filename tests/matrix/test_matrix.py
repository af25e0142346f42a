"""Every method with 1, 2, 4 and 7 workers, launched twice, against the simulation."""

from __future__ import annotations

import pytest

from local_run import digest_of, launched, simulated
from psrv.methods import METHODS
from psrv.options import JobConfig

pytestmark = [pytest.mark.matrix, pytest.mark.process]


@pytest.mark.parametrize("workers", [1, 2, 4, 7])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_launch_twice_and_simulate_agree(method, workers, tmp_path):
    job = JobConfig(
        method=method,
        task="quadratic:d=100k,noise=0.5",
        workers=workers,
        rounds=8,
        weight_decay=0.01,
        seed=workers,
    )
    expected = simulated(job, tmp_path / "simulated")
    for name in ("first", "again"):
        summary = launched(job, tmp_path / name)
        assert digest_of(summary) == expected["replica_digest"]
        assert summary["final"] == expected["final"]
        assert summary["workers"] == workers


@pytest.mark.parametrize("workers", [1, 2, 4, 7])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_several_buckets(method, workers, tmp_path):
    job = JobConfig(
        method=method, task="synthetic:2500k", workers=workers, rounds=4, blocks="tensor"
    )
    expected = simulated(job, tmp_path / "simulated")
    assert digest_of(launched(job, tmp_path / "run")) == expected["replica_digest"]
