"""Saving the optimizer and the model, and going on in another run."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

import psrv
from optimizer.models import NEEDED, alone, flat, make_model, together, train
from psrv.errors import ConfigError
from psrv.methods import METHODS

# The others leave a residual on the server, or Markov memories, behind.
ALL_IN_THE_STATE = ("sgd", "sgdm", "signsgd", "signum", "amsgrad", "amsgrad-naive")


def file_of(*states):
    file = io.BytesIO()
    torch.save(states, file)
    return file.getvalue()


def read(data):
    return torch.load(io.BytesIO(data), weights_only=True)


def make(session, method, model=None, **options):
    model, options = model or make_model(session.rank), NEEDED.get(method, {}) | options
    optimizer = psrv.DistributedOptimizer(
        model, session, method=method, lr=0.02, weight_decay=0.01, check_every=1, **options
    )
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)


def straight(method, workers, rounds):
    def script(session):
        model, optimizer, scheduler = make(session, method)
        train(model, optimizer, rounds, session.rank, scheduler=scheduler)
        return flat(model), optimizer.replica_digest()

    return together(script, workers)


def interrupted(method, workers, rounds, at):
    def first(session):
        model, optimizer, scheduler = make(session, method)
        train(model, optimizer, at, session.rank, scheduler=scheduler)
        return file_of(model.state_dict(), optimizer.state_dict(), scheduler.state_dict())

    files = together(first, workers)

    def second(session):
        model, optimizer, scheduler = make(session, method)
        states = read(files[session.rank])
        for each, state in zip((model, optimizer, scheduler), states, strict=True):
            each.load_state_dict(state)
        train(model, optimizer, rounds - at, session.rank, start=at, scheduler=scheduler)
        return flat(model), optimizer.replica_digest()

    return together(second, workers)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("method", ALL_IN_THE_STATE)
def test_run_that_was_saved_goes_on_with_the_same_bits(method, workers):
    # Ties of votes are drawn by round, and rounds begin at 0 again: an odd number has none.
    workers = 3 if workers == 2 and method in ("signsgd", "signum") else workers
    expected = straight(method, workers, 7)
    found = interrupted(method, workers, 7, at=4)
    for (x, digest), (y, other) in zip(expected, found, strict=True):
        assert digest == other
        assert (x == y).all()


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(ALL_IN_THE_STATE)))
def test_other_methods_go_on_from_the_same_parameters(method):
    found = interrupted(method, 2, 7, at=4)
    assert found[0][1] == found[1][1]
    assert np.isfinite(found[0][0]).all()
    expected = straight(method, 2, 7)
    # What is lost is small beside what was learned.
    moved = np.abs(expected[0][0] - flat(make_model(0))).max()
    assert np.abs(expected[0][0] - found[0][0]).max() < moved


@pytest.mark.parametrize("method", ["dist-ef-sgd", "dist-ef-sgdm", "amsgrad-ef"])
def test_own_error_counts_in_the_first_round_after_loading(method):
    """Also where it is scaled by the step size of the round before."""

    def first(session):
        model, optimizer, _ = make(session, method)
        train(model, optimizer, 3)
        return file_of(model.state_dict(), optimizer.state_dict()), payload(model, optimizer)

    def payload(model, optimizer):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        sender = optimizer._trainer.sender
        for name, view in optimizer._views_of(optimizer._trainer.gradient).items():
            view.copy_(dict(model.named_parameters())[name].grad)
        (bucket,) = optimizer._layout.buckets
        return sender.encode(bucket, 3, 0.005).tobytes()

    data, expected = alone(first)

    def second(session):
        model, optimizer, _ = make(session, method)
        for each, state in zip((model, optimizer), read(data), strict=True):
            each.load_state_dict(state)
        return payload(model, optimizer)

    assert alone(second) == expected


def test_state_is_what_torch_tools_expect():
    def script(session):
        model, optimizer, _ = make(session, "amsgrad")
        train(model, optimizer, 2)
        state = optimizer.state_dict()
        assert set(state) == {"state", "param_groups", "psrv"}
        assert state["param_groups"][0]["lr"] == 0.02
        assert set(state["state"][0]) == {"m", "v", "v_max"}
        for i, p in enumerate(model.parameters()):
            assert state["state"][i]["m"].shape == p.shape
            assert (optimizer.state[p]["v_max"] > 0).any()
        return None

    alone(script)


@pytest.mark.parametrize("order", [0, 1])
def test_master_copy_of_half_precision_is_saved(order):
    """In whatever order model and optimizer are loaded."""
    method = "sgdm"

    def model_of(session):
        return make_model(session.rank).bfloat16()

    def steps(model, optimizer, rounds):
        for t in range(rounds):
            for p in model.parameters():
                p.grad = torch.full_like(p, 1e-3 * (t + 1))
            optimizer.step()

    def whole(session):
        model, optimizer, _ = make(session, method, model_of(session))
        steps(model, optimizer, 3)
        data = file_of(model.state_dict(), optimizer.state_dict())
        steps(model, optimizer, 3)
        return data, optimizer.replica_digest()

    data, expected = alone(whole)

    def rest(session):
        model, optimizer, _ = make(session, method, model_of(session))
        pairs = list(zip((model, optimizer), read(data), strict=True))
        for each, state in reversed(pairs) if order else pairs:
            each.load_state_dict(state)
        steps(model, optimizer, 3)
        return optimizer.replica_digest()

    assert alone(rest) == expected


def test_weights_loaded_into_a_half_precision_model_count():
    def script(session):
        model, optimizer, _ = make(session, "sgd", make_model(0).bfloat16())
        other = make_model(5).bfloat16()
        model.load_state_dict(other.state_dict())
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        assert (flat(model) == flat(other)).all()

    alone(script)


def test_state_of_another_method_or_of_other_options_is_refused():
    def script(session):
        _, optimizer, _ = make(session, "amsgrad")
        return optimizer.state_dict()

    state = alone(script)

    def other(session):
        _, optimizer, _ = make(session, "amsgrad", beta1=0.5)
        with pytest.raises(ConfigError, match="of another method or of other options"):
            optimizer.load_state_dict(state)
        with pytest.raises(ConfigError, match="of another method or of other options"):
            optimizer.load_state_dict(torch.optim.SGD(make_model().parameters(), 0.1).state_dict())

    alone(other)


def test_state_is_loaded_before_the_first_step():
    def script(session):
        model, optimizer, _ = make(session, "sgdm")
        state = optimizer.state_dict()
        train(model, optimizer, 2)
        with pytest.raises(ConfigError, match="state was loaded after 2 steps; load it before"):
            optimizer.load_state_dict(state)

    alone(script)


def test_local_memory_of_another_rank_is_left_out():
    """Going on with other workers: what all share is taken, what was one worker's is not."""

    def first(session):
        model, optimizer, _ = make(session, "signum")
        train(model, optimizer, 3, session.rank)
        return optimizer.state_dict()

    states = together(first)

    def second(session):
        _, optimizer, _ = make(session, "signum")
        optimizer.load_state_dict(states[0])
        return optimizer._trainer.sender.momentum.copy()

    assert not alone(second).any(), "two workers then, one now"
    mine, other = together(second)
    assert mine.any()
    assert not other.any()
