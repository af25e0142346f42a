from __future__ import annotations

import math

import numpy as np
import pytest

from psrv.tasks import make_task, synthetic
from psrv.tasks.synthetic import network_of


@pytest.mark.parametrize(
    "dimension", [1, 2, 255, 256, 257, 1000, 4096, 65_537, 1_195_934, 11_000_000]
)
def test_tensors_add_up_exactly(dimension):
    tensors = network_of(dimension)
    assert sum(t.size for t in tensors) == dimension
    assert all(t.size > 0 for t in tensors)
    assert len({t.name for t in tensors}) == len(tensors)


def test_large_models_have_several_large_tensors_and_small_ones():
    sizes = [t.size for t in network_of(11_000_000)]
    assert sum(size > 1_000_000 for size in sizes) >= 3
    assert sum(size < 5_000 for size in sizes) >= 3


def test_spec_gives_dimension_and_times():
    task = make_task("synthetic:1e4,compute=50ms,slow=20ms,slow_rank=1", workers=2)
    assert task.dimension == 10_000
    assert task.settings == {
        "compute": pytest.approx(0.05),
        "slow": pytest.approx(0.02),
        "slow_rank": 1,
    }


def test_gradient_depends_on_rank_round_seed_and_x(bound):
    task, other = bound("synthetic:40k", seed=0), bound("synthetic:40k", seed=1)
    x = task.initial()
    rows = []
    for chosen, rank, round, at in (
        (task, 0, 0, x),
        (task, 1, 0, x),
        (task, 0, 1, x),
        (other, 0, 0, x),
        (task, 0, 0, x + np.float32(1e-3)),
    ):
        rows.append(np.empty_like(x))
        chosen.gradient(rank, at, round, None, rows[-1])
    for i in range(len(rows)):
        for j in range(i):
            changed = np.mean(rows[i] != rows[j])
            assert changed > 0.9, (i, j)


def test_gradient_is_the_pull_plus_bounded_noise(bound):
    task = bound("synthetic:100k")
    x = task.initial()
    before = x.copy()
    out = np.full_like(x, np.nan)
    task.gradient(3, x, 9, None, out)
    noise = out - synthetic.PULL * x
    assert np.abs(noise).max() <= synthetic.NOISE * 1.0001
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(synthetic.NOISE / math.sqrt(3), rel=0.05)
    assert np.array_equal(x, before)


def test_loss_is_the_sum_of_the_shares(bound):
    task = bound("synthetic:100k", workers=3)
    x = task.initial()
    expected = float(synthetic.PULL) / 2 * np.square(x, dtype=np.float64).sum()
    sums = [task.evaluate(rank, x) for rank in range(3)]
    assert sum(s["loss_sum"] for s in sums) / sum(s["count"] for s in sums) == pytest.approx(
        expected
    )
    assert not task.full_gradient(0, x, np.empty_like(x))


def test_initial_point_is_not_shared(bound):
    task = bound("synthetic:5000")
    first = task.initial()
    first[:] = 0
    assert task.initial().any()
    assert make_task("synthetic:3", workers=1).initial().shape == (3,)


class Clock:
    """Stands in for ``time``: the gradient itself takes 2 ms."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def perf_counter(self) -> float:
        self.now += 0.002
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_compute_time_includes_the_gradient_itself(bound, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(synthetic, "time", clock)
    task = bound("synthetic:100,compute=50ms,slow=30ms,slow_rank=2")
    x = task.initial()
    for rank in (0, 2):
        task.gradient(rank, x, 0, None, np.empty_like(x))
    assert clock.slept == [pytest.approx(0.048), pytest.approx(0.078)]


def test_no_sleep_when_the_gradient_took_as_long(bound, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(synthetic, "time", clock)
    task = bound("synthetic:100,compute=1ms")
    task.gradient(0, task.initial(), 0, None, np.empty(100, np.float32))
    assert clock.slept == []
