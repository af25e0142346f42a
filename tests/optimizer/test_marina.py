"""MARINA in a script: two gradients of one batch, and no trace of the second."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import psrv
from optimizer.models import F, alone, batch, flat, make_model, make_norm, together
from psrv.errors import ConfigError

RATE = 0.1
ROUNDS = 12


def closure_of(model, optimizer, t, rank, seen=None):
    x, y = batch(t, rank)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if seen is not None:
            seen.append(t)
        return loss

    return closure


def gradient_at(parameters: np.ndarray, t: int, rank: int) -> np.ndarray:
    model = make_model()
    nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()), model.parameters())
    x, y = batch(t, rank)
    F.cross_entropy(model(x), y).backward()
    return np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])


def test_estimate_is_the_recursion_over_both_points_of_each_batch():
    """With nothing left out (dense differences), against Algorithm 1 in plain NumPy."""
    workers = 2

    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(
            model, session, method="marina", lr=RATE, compressor="dense", probability=0.3, seed=5
        )
        points, dense, calls = [flat(model)], [], []
        for t in range(ROUNDS):
            dense.append(optimizer.dense_round)
            seen: list[int] = []
            loss = optimizer.step(closure_of(model, optimizer, t, session.rank, seen))
            assert loss.item() > 0
            calls.append(len(seen))
            points.append(flat(model))
        return points, dense, calls

    (points, dense, calls), (others, same, _) = together(script, workers)
    assert dense == same
    assert dense[0], "the first round has nothing to compare with"
    assert True in dense[1:], "the seed tosses both sides"
    assert False in dense
    assert calls == [1 if d else 2 for d in dense]
    x, last, estimate = points[0].astype(np.float64), None, None
    for t in range(ROUNDS):
        now = np.mean([gradient_at(points[t], t, r) for r in range(workers)], 0)
        if dense[t]:
            estimate = now.astype(np.float64)
        else:
            before = np.mean([gradient_at(last, t, r) for r in range(workers)], 0)
            estimate = estimate + now - before
        last = points[t]
        x = x - RATE * estimate
        np.testing.assert_allclose(points[t + 1], x, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(points[t + 1], others[t + 1])


def test_second_evaluation_sees_the_same_random_numbers_and_leaves_no_trace():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_norm()
            self.masks = []

        def forward(self, x):
            keep = torch.rand(x.shape) < 0.5
            self.masks.append(keep)
            return self.inner(x * keep)

    def script(session):
        model = Noisy()
        optimizer = psrv.DistributedOptimizer(
            model, session, method="marina", lr=RATE, probability=1e-9
        )
        torch.manual_seed(1)
        optimizer.step(closure_of(model, optimizer, 0, 0))
        assert not optimizer.dense_round
        model.masks.clear()
        norm = model.inner[1]
        counted, random = norm.num_batches_tracked.item(), torch.get_rng_state()
        buffers = [b.clone() for b in model.buffers()]
        present = flat(model)
        optimizer.step(closure_of(model, optimizer, 1, 0))
        assert len(model.masks) == 2
        assert (model.masks[0] == model.masks[1]).all()
        assert norm.num_batches_tracked.item() == counted + 1
        # As after one evaluation: the generator, the statistics, and the gradients.
        after = torch.get_rng_state()
        kept = [p.grad.clone() for p in model.parameters()]
        statistics = [b.clone() for b in model.buffers()]
        twin = make_norm()
        torch.set_rng_state(random)
        nn.utils.vector_to_parameters(torch.from_numpy(present), twin.parameters())
        for buffer, value in zip(twin.buffers(), buffers, strict=True):
            buffer.data.copy_(value)
        x, y = batch(1, 0)
        F.cross_entropy(twin(x * (torch.rand(x.shape) < 0.5)), y).backward()
        assert (torch.get_rng_state() == after).all()
        for mine, value in zip(twin.buffers(), statistics, strict=True):
            assert (mine == value).all()
        for p, value in zip(twin.parameters(), kept, strict=True):
            torch.testing.assert_close(p.grad, value)

    alone(script)


def test_half_precision_parameters_are_put_back_too():
    def script(session):
        model = make_model().bfloat16()
        optimizer = psrv.DistributedOptimizer(
            model, session, method="marina", lr=RATE, compressor="dense", probability=1e-9
        )
        x, y = batch(0)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.bfloat16()).float(), y)
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(20)]
        masters = [optimizer.state[p]["master"] for p in model.parameters()]
        for p, master in zip(model.parameters(), masters, strict=True):
            assert (p == master.bfloat16()).all()
        assert losses[-1] < losses[0] - 0.1, "one batch: this is gradient descent"

    alone(script)


def test_step_without_a_closure_is_one_clear_error():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="marina", lr=RATE)
        F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
        before = flat(model)
        with pytest.raises(ConfigError, match=r"call step\(closure\), with a closure that"):
            optimizer.step()
        assert (flat(model) == before).all()
        optimizer.step(closure_of(model, optimizer, 0, 0))
        assert (flat(model) != before).any()

    alone(script)


def test_gradients_from_before_the_closure_do_not_count_and_nor_does_a_closure_that_keeps_them():
    def script(session, early):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(
            model, session, method="marina", lr=RATE, compressor="dense", probability=1e-9
        )
        for t in range(4):
            x, y = batch(t)

            def closure(x=x, y=y):
                loss = F.cross_entropy(model(x), y)  # no zero_grad
                loss.backward()
                return loss

            if early:
                F.cross_entropy(model(batch(50)[0]), batch(50)[1]).backward()
            optimizer.step(closure)
        return flat(model)

    clean, early = (alone(lambda s, e=e: script(s, e)) for e in (False, True))
    assert (clean == early).all()


def test_what_a_script_cannot_use_is_refused_when_the_optimizer_is_made():
    def script(session):
        with pytest.raises(ConfigError, match="a marina uplink cannot carry on minibatches"):
            psrv.DistributedOptimizer(
                make_model(), session, method="signum", uplink="marina", up_compressor="perm-k",
                downlink="plain", down_compressor="dense",
            )  # fmt: skip

    alone(script)

    def other(session):
        with pytest.raises(ConfigError, match="lr is 'theory' in parameter group 0; expected a"):
            psrv.DistributedOptimizer(make_model(), session, method="sgd", lr="theory")

    alone(other)


def test_state_of_marina_loads_with_another_number_of_workers():
    """Its p follows n, and is no choice of the user's."""

    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="marina", lr=RATE)
        if session.workers == 1:
            optimizer.load_state_dict(saved)
        optimizer.step(closure_of(model, optimizer, 0, session.rank))
        return optimizer.state_dict()

    saved = together(script)[0]
    alone(script)


def test_warm_up_of_onebit_adam_can_be_left_out_where_its_variance_was_loaded():
    def first(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(
            model, session, method="onebit-adam", lr=0.01, warmup=4
        )
        for t in range(6):
            optimizer.zero_grad()
            F.cross_entropy(model(batch(t)[0]), batch(t)[1]).backward()
            optimizer.step()
        return model.state_dict(), optimizer.state_dict()

    weights, state = alone(first)

    def second(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(
            model, session, method="onebit-adam", lr=0.01, warmup=0
        )
        model.load_state_dict(weights)
        with pytest.raises(ConfigError, match="warmup is 0 and no state was loaded"):
            optimizer.step()
        optimizer.load_state_dict(state)
        assert not optimizer.dense_round
        frozen = [optimizer.state[p]["v"].clone() for p in model.parameters()]
        assert all((v > 0).any() for v in frozen)
        before = flat(model)
        for t in range(6, 9):
            optimizer.zero_grad()
            F.cross_entropy(model(batch(t)[0]), batch(t)[1]).backward()
            optimizer.step()
        for p, v in zip(model.parameters(), frozen, strict=True):
            assert (optimizer.state[p]["v"] == v).all()
        assert (flat(model) != before).any()

    alone(second)


def test_onebit_adam_needs_to_be_told_its_warm_up():
    def script(session):
        with pytest.raises(ConfigError, match="'onebit-adam' needs warmup, the number of dense"):
            psrv.DistributedOptimizer(make_model(), session, method="onebit-adam")

    alone(script)
