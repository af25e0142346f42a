"""``DistributedOptimizer`` as a torch optimizer, over loopback sockets; server and workers as
threads."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

import psrv
from local_run import Started, serving, wait_until
from optimizer.models import NEEDED, F, alone, batch, flat, make_model, make_norm, together, train
from psrv.errors import ConfigError, RefusedError
from psrv.methods import METHODS


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_sgdm_of_one_worker_is_torchs_nesterov(decay):
    def script(session):
        model, twin = make_model(), make_model()
        ours = psrv.DistributedOptimizer(
            model, session, method="sgdm", lr=0.05, momentum=0.9, weight_decay=decay
        )
        theirs = torch.optim.SGD(
            twin.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=decay
        )
        for t in range(50):
            # From the same state each step, else rounding adds up.
            twin.load_state_dict(model.state_dict())
            before = flat(model)
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                if t:
                    theirs.state[q]["momentum_buffer"].copy_(ours.state[p]["momentum"])
            ours.zero_grad()
            F.cross_entropy(model(batch(t)[0]), batch(t)[1]).backward()
            for p, q in zip(model.parameters(), twin.parameters(), strict=True):
                q.grad = p.grad.clone()  # not its own: where a tensor lies may change a sum's order
            ours.step()
            theirs.step()
            gradient, velocity = (
                np.concatenate([pick(p).numpy().ravel() for p in model.parameters()])
                for pick in (lambda p: p.grad, lambda p: ours.state[p]["momentum"])
            )
            d = np.abs(gradient) + decay * np.abs(before)
            terms = np.abs(before) + 0.05 * (d + 0.9 * np.abs(velocity))
            # torch may fuse two of the operations: a unit in the last place for each. Without
            # that the bits are equal, as tests/oracles/test_torch.py shows.
            assert (np.abs(flat(model) - flat(twin)) <= 2 * 2.0**-23 * terms).all()
        return flat(model), flat(make_model())

    after, before = alone(script)
    assert np.abs(after - before).max() > 0.1


def test_whole_run_stays_with_torch():
    def script(session):
        model, twin = make_model(), make_model()
        train(model, psrv.DistributedOptimizer(model, session, method="sgdm", lr=0.1), 100)
        train(twin, torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, nesterov=True), 100)
        np.testing.assert_allclose(flat(model), flat(twin), rtol=0, atol=2e-5)

    alone(script)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=3, gamma=0.5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=12),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda t: t / 10),  # from zero
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=0.1, total_steps=12, cycle_momentum=False
        ),
    ],
    ids=["step", "cosine", "warm-up", "one-cycle"],
)
def test_schedulers_drive_the_step_size(schedule):
    def script(session):
        model, twin = make_model(), make_model()
        ours = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
        train(model, ours, 12, scheduler=schedule(ours))
        train(twin, theirs, 12, scheduler=schedule(theirs))
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        np.testing.assert_allclose(flat(model), flat(twin), rtol=0, atol=1e-6)

    alone(script)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_survives_a_schedule_from_and_to_zero(method):
    def script(session):
        model = make_model(session.rank)
        options = NEEDED.get(method, {})
        optimizer = psrv.DistributedOptimizer(model, session, method=method, lr=0.01, **options)
        steps = [0.0, 0.0, 0.5, 1.0, 0.0, 0.25, 0.0]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, steps.__getitem__)
        before = flat(model)
        for t in range(6):
            train(model, optimizer, 1, session.rank, start=t, scheduler=scheduler)
            if t == 1:
                assert (flat(model) == before).all(), "a step of size zero moved something"
        assert np.isfinite(flat(model)).all()
        assert (flat(model) != before).any()
        return optimizer.replica_digest()

    first, second = together(script)
    assert first == second


def test_groups_have_their_own_step_size_and_decay():
    def groups(model):
        return [
            {"params": [model[0].weight, model[2].weight], "weight_decay": 0.1},
            {"params": [model[0].bias, model[2].bias], "lr": 0.02},
        ]

    def script(session):
        model, twin = make_model(), make_model()
        ours = psrv.DistributedOptimizer(
            model, session, method="sgd", lr=0.1, groups=groups(model), weight_decay=0.0
        )
        theirs = torch.optim.SGD(groups(twin), lr=0.1)
        for each, optimizer in ((model, ours), (twin, theirs)):
            train(each, optimizer, 5)
            optimizer.param_groups[1]["lr"] = 0.3
            optimizer.param_groups[0]["weight_decay"] = 0.5
            train(each, optimizer, 5, start=5)
        np.testing.assert_allclose(flat(model), flat(twin), rtol=0, atol=1e-6)
        assert [g["lr"] for g in ours.param_groups] == [0.1, 0.3]

    alone(script)


def test_gradients_accumulate_and_zero_grad_clears_them():
    def script(session):
        model, twin = make_model(), make_model()
        ours = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
        for each, optimizer in ((model, ours), (twin, theirs)):
            for t in range(4):
                x, y = batch(t)
                (F.cross_entropy(each(x), y) / 2).backward()
                if t % 2:
                    optimizer.step()
                    optimizer.zero_grad()
            assert all(p.grad is None for p in each.parameters())
        np.testing.assert_allclose(flat(model), flat(twin), rtol=0, atol=1e-6)

    alone(script)


def test_closure_is_called_and_its_loss_returned():
    def script(session):
        model, twin = make_model(), make_model()
        ours = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        theirs = torch.optim.SGD(twin.parameters(), lr=0.1)
        losses = []
        for each, optimizer in ((model, ours), (twin, theirs)):

            def closure(each=each, optimizer=optimizer):
                optimizer.zero_grad()
                loss = F.cross_entropy(each(batch(0)[0]), batch(0)[1])
                loss.backward()
                return loss

            losses.append(float(optimizer.step(closure).detach()))
        assert losses[0] == losses[1]
        np.testing.assert_allclose(flat(model), flat(twin), rtol=0, atol=1e-6)

    alone(script)


def test_gradients_are_averaged_over_the_workers():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        train(model, optimizer, 1, session.rank)
        return flat(model)

    results = together(script, 3)
    twin = make_model()
    for rank in range(3):
        (F.cross_entropy(twin(batch(0, rank)[0]), batch(0, rank)[1]) / 3).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for result in results:
        np.testing.assert_allclose(result, flat(twin), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_workers_begin_and_stay_equal(method):
    def script(session):
        model = make_model(seed=session.rank)
        options = NEEDED.get(method, {})
        optimizer = psrv.DistributedOptimizer(model, session, method=method, lr=0.01, **options)
        first = flat(model)
        train(model, optimizer, 8, session.rank)
        assert (flat(model) != first).any()
        return first, flat(model), optimizer.replica_digest()

    (first_0, last_0, digest_0), (first_1, last_1, digest_1) = together(script)
    assert (first_0 == first_1).all()
    assert (first_0 == flat(make_model(0))).all()
    assert (last_0 == last_1).all()
    assert digest_0 == digest_1


def test_batch_norm_buffers_come_from_rank_0_and_are_averaged_on_request():
    def script(session):
        model = make_norm(session.rank)
        norm = model[1]
        with torch.no_grad():
            norm.running_mean.fill_(session.rank + 7.0)
            norm.num_batches_tracked.fill_(session.rank + 5)
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        assert (norm.running_mean == 7).all()
        assert norm.num_batches_tracked == 5
        train(model, optimizer, 3, session.rank)
        own = norm.running_mean.clone(), norm.running_var.clone()
        optimizer.average_buffers()
        assert norm.num_batches_tracked == 8
        train(model, optimizer, 1, session.rank, start=3)
        return own, (norm.running_mean.clone(), norm.running_var.clone()), flat(model)

    def means_of(results, at):
        return [r[0][at].numpy() for r in results]

    averaged = {}

    def averaging(session):
        model = make_norm(session.rank)
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        train(model, optimizer, 3, session.rank)
        own = [b.clone() for b in model.buffers() if b.is_floating_point()]
        optimizer.average_buffers()
        averaged[session.rank] = own, [b.clone() for b in model.buffers() if b.is_floating_point()]

    results = together(script)
    assert not np.array_equal(*means_of(results, 0)), "each has its own statistics in between"
    assert (results[0][2] == results[1][2]).all()
    together(averaging)
    for i in range(2):
        expected = (averaged[0][0][i] + averaged[1][0][i]) / 2
        for rank in (0, 1):
            torch.testing.assert_close(averaged[rank][1][i], expected, rtol=1e-6, atol=0)


def test_model_without_buffers_has_nothing_to_average():
    def script(session):
        model = make_model()
        psrv.DistributedOptimizer(model, session, method="sgd").average_buffers()

    alone(script)


def test_parameter_without_a_gradient_stands_still():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        spare = model[2].bias.detach().clone()

        def forget(t):
            model[2].bias.grad = None

        train(model, optimizer, 3, decide=forget)
        assert (model[2].bias == spare).all()
        assert optimizer.replica_digest()

    alone(script)


def test_what_a_round_left_in_the_buffer_is_no_gradient():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(
            model, session, method="sgd", compressor="sign", lr=0.1
        )
        train(model, optimizer, 2)
        before = flat(model)
        optimizer.zero_grad()
        optimizer.step()
        assert (flat(model) == before).all()

    alone(script)


def test_frozen_parameters_are_rank_0s_and_stay():
    def script(session):
        model = make_model(session.rank)
        model[0].requires_grad_(False)
        optimizer = psrv.DistributedOptimizer(model, session, method="cd-adam", lr=0.1)
        frozen = model[0].weight.detach().clone()
        train(model, optimizer, 3, session.rank)
        assert (model[0].weight == frozen).all()
        assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == 18
        return frozen, optimizer.replica_digest()

    (frozen_0, digest_0), (frozen_1, digest_1) = together(script)
    assert (frozen_0 == frozen_1).all()
    assert (frozen_0 == make_model(0)[0].weight).all()
    assert digest_0 == digest_1


def test_half_precision_has_a_float32_master():
    """Steps too small for bfloat16 add up in the master copy."""

    def script(session):
        model = make_model().bfloat16()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=1e-4)
        before = flat(model)
        for _ in range(40):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
            if _ == 0:
                assert (flat(model) == before).mean() > 0.5
        assert all(p.dtype is torch.bfloat16 for p in model.parameters())
        expected = torch.from_numpy(before - np.float32(40e-4)).bfloat16().float().numpy()
        np.testing.assert_allclose(flat(model), expected, rtol=0.01, atol=1e-4)

    alone(script)


def test_double_precision_model_trains():
    def script(session):
        model = make_model().double()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        before = flat(model)
        x, y = batch(0)
        F.cross_entropy(model(x.double()), y).backward()
        optimizer.step()
        assert (flat(model) != before).any()
        assert model[0].weight.dtype is torch.float64

    alone(script)


def test_parameters_live_in_the_replica():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        replica = optimizer._trainer.replica.parameters
        low = replica.ctypes.data
        for p in model.parameters():
            assert low <= p.data_ptr() < low + replica.nbytes

    alone(script)


def test_model_whose_parameters_moved_away_is_noticed():
    """Otherwise the steps would train a vector that no model looks at."""
    for move in (
        lambda model: model[0].double(),
        lambda model: setattr(model[0].bias, "data", model[0].bias.data.clone()),
    ):

        def script(session, move=move):
            model = make_model()
            optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
            move(model)
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            with pytest.raises(ConfigError, match=r"'0\.bias' .* make the optimizer after"):
                optimizer.step()

        alone(script)


def test_model_may_load_weights_before_training():
    def script(session):
        model = make_model(0)
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        model.load_state_dict(make_model(5).state_dict())
        assert (optimizer._trainer.replica.parameters == flat_layout(make_model(5))).all()
        train(model, optimizer, 2)
        return optimizer.replica_digest()

    def flat_layout(model):
        last_first = reversed(list(model.parameters()))
        return np.concatenate([p.detach().numpy().ravel() for p in last_first])

    alone(script)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (lambda: nn.Linear(6, 3), r"parameter 0 is 'weight' \(3, 6\), the run has '0\.weight'"),
        (lambda: make_norm()[:2], "the model has 4 parameters, the run has 6"),
        (lambda: make_norm().append(nn.BatchNorm1d(3, affine=False)), "buffer_bytes is 72, the"),
    ],
    ids=["shape", "fewer", "buffers"],
)
def test_worker_with_another_model_is_refused(other, text):
    def run(server, rank, make):
        with server.connect(rank) as session:
            psrv.DistributedOptimizer(make(), session, method="sgd")

    with serving(2) as server:
        first = Started(run, server, 0, make_norm)
        wait_until(lambda: server.core.membership.job, "the first to join")
        with pytest.raises(RefusedError, match=text):
            run(server, 1, other)
        run(server, 1, make_norm)
        first.result()


@pytest.mark.parametrize("fault", ["parameters", "sparse", "missing", "foreign", "complex"])
def test_what_cannot_work_is_said(fault):
    def script(session):
        model = make_model()
        if fault == "parameters":
            with pytest.raises(ConfigError, match=r"a generator as its model; pass the torch\.nn"):
                psrv.DistributedOptimizer(model.parameters(), session)
        elif fault == "missing":
            groups = [{"params": [model[0].weight, model[0].bias]}]
            with pytest.raises(ConfigError, match=r"'2.weight' is in no parameter group \(2 such"):
                psrv.DistributedOptimizer(model, session, groups=groups)
        elif fault == "foreign":
            groups = [{"params": [*model.parameters(), nn.Parameter(torch.zeros(3))]}]
            with pytest.raises(ConfigError, match=r"group 0 holds a tensor of shape \(3,\)"):
                psrv.DistributedOptimizer(model, session, groups=groups)
        elif fault == "complex":
            model[0].weight = nn.Parameter(torch.zeros(5, 6, dtype=torch.complex64))
            with pytest.raises(ConfigError, match=r"'0\.weight' is torch\.complex64"):
                psrv.DistributedOptimizer(model, session)
        else:
            model = nn.Embedding(5, 3, sparse=True)
            optimizer = psrv.DistributedOptimizer(model, session, method="sgd")
            model(torch.tensor([1, 2])).sum().backward()
            with pytest.raises(ConfigError, match="the gradient of 'weight' is sparse"):
                optimizer.step()

    alone(script)


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf")])
def test_step_size_that_cannot_be(lr):
    def making(session):
        with pytest.raises(ConfigError, match="lr is"):
            psrv.DistributedOptimizer(make_model(), session, method="sgd", lr=lr)

    def later(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        before = flat(model)
        optimizer.param_groups[0]["lr"] = lr
        with pytest.raises(ConfigError, match="lr is"):
            train(model, optimizer, 1)
        assert (flat(model) == before).all()

    alone(making)
    alone(later)


def test_group_option_that_would_not_count_is_refused():
    def script(session):
        model = make_model()
        pairs = ((model[0], "lr"), (model[2], "momentum"))
        groups = [{"params": list(m.parameters()), name: 0.5} for m, name in pairs]
        with pytest.raises(ConfigError, match="group 1 sets momentum; a group may set lr and weig"):
            psrv.DistributedOptimizer(model, session, method="sgdm", groups=groups)

    alone(script)


def test_groups_are_fixed_once_made():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd")
        with pytest.raises(ConfigError, match="parameter groups are fixed"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})

    alone(script)


def test_unknown_method_and_options_are_refused_before_joining():
    def script(session):
        with pytest.raises(ConfigError, match="method 'adam' is unknown; expected one of"):
            psrv.DistributedOptimizer(make_model(), session, method="adam")
        with pytest.raises(ConfigError, match="method 'sgd' does not use momentum"):
            psrv.DistributedOptimizer(make_model(), session, method="sgd", momentum=0.5)
        assert session.trainer is None

    alone(script)


def test_copied_and_saved_models_are_apart():
    """An average of the weights kept beside the model must not change with it."""

    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        kept = copy.deepcopy(model)
        before = flat(kept)
        train(model, optimizer, 2)
        assert (flat(kept) == before).all()
        kept.train()
        kept(batch(0)[0])
        train(kept, torch.optim.SGD(kept.parameters(), lr=0.1), 1)
        assert (flat(kept) != before).any()
        assert len(pickled(model.state_dict())) < 4000, "each tensor is saved, and nothing beside"
        assert len(pickled(model)) < 8000

    def pickled(thing):
        file = io.BytesIO()
        torch.save(thing, file)
        return file.getvalue()

    alone(script)
