"""``psrv.simulate`` is what DESIGN section 9 says, and payloads have the sizes of section 6."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

import psrv
from oracles.harness import EF_RESCALED, GROUPED, NAMES, SMALL_RUN, Pair
from oracles.more_methods import SPARSE
from psrv.codec.base import Draw
from psrv.errors import ConfigError, NonFiniteError
from psrv.layout import BLOCK

D = 133


class Objective:
    """f_i(x) = |x - c_i|^2 / 2 for three workers."""

    def __init__(self, d=D, n=3):
        self.centres = np.random.default_rng(2).standard_normal((n, d)).astype(np.float32)
        self.calls = []

    def initial(self):
        return np.ones(self.centres.shape[1], np.float32)

    def gradient(self, rank, x, round):
        assert x.dtype == np.float32
        assert x.shape == (self.centres.shape[1],)
        self.calls.append((round, rank))
        return x - self.centres[rank]

    def loss(self, x):
        return float(np.square(x - self.centres, dtype=np.float64).sum() / 6)


class Together(Objective):
    """The same gradients, all workers' in one call."""

    def gradients(self, x, round):
        self.calls.append(round)
        return x - self.centres


def run(objective=None, **options):
    defaults = {"method": "cd-adam", "workers": 3, "rounds": 5, "lr": 0.05, "blocks": 32}
    defaults |= SMALL_RUN.get(options.get("method"), {})
    return psrv.simulate(objective or Objective(), **(defaults | options))


def expected_payload(method, d, blocks):
    """DESIGN section 6: bytes of one payload of one tensor; those of MARINA and EF21 change from
    round to round, see test_rounds.py."""
    if method in ("sgd", "sgdm", "amsgrad"):
        return 4 * d
    if method in ("signsgd", "signum"):
        return -(-d // 8)
    size = d if isinstance(blocks, str) else blocks
    sizes = [min(size, d - start) for start in range(0, d, size)]
    return sum(4 + -(-b // 8) for b in sizes)


@pytest.mark.parametrize("blocks", [7, 32, "tensor", "global"])
@pytest.mark.parametrize("method", [name for name in NAMES if name not in SPARSE])
def test_payload_bytes_are_those_predicted(method, blocks):
    history = run(method=method, blocks=blocks, lr=[0.1, 0.0, 0.2, 0.1, 0.0]).history
    expected = np.full(5, float(expected_payload(method, D, blocks)))
    if method == "onebit-adam":
        expected[: SMALL_RUN[method]["warmup"]] = 4 * D
    if method in EF_RESCALED:  # silent while the step size is zero
        expected[[1, 4]] = 0
    assert np.array_equal(history["payload_up"], expected)
    assert np.array_equal(history["payload_down"], expected)


@pytest.mark.parametrize("method", NAMES)
def test_predicted_bytes_are_sent_by_several_buckets(method):
    n = 3
    pair = Pair(method, GROUPED, blocks=7, n=n)
    up, down, seed = pair.job.method.up, pair.job.method.down, pair.job.seed
    for t, etas in enumerate(([0.1, 0.2], [0.1, 0.0], [0.0, 0.0], [0.1, 0.1])):
        ups = [
            up.payload_bytes(b, etas[b.group], Draw(seed, t, b.index, rank, n))
            for b in pair.job.layout.buckets
            for rank in range(n)
        ]
        downs = [
            down.payload_bytes(b, etas[b.group], Draw(seed, t, b.index))
            for b in pair.job.layout.buckets
        ]
        sent_up, sent_down = pair.round(etas)
        for sent, predicted, channel, senders in (
            (sent_up, ups, up, n),
            (sent_down, downs, down, 1),
        ):
            if None in predicted:  # top-k: the data decide
                bounds = (channel.payload_bound(b, n) for b in pair.job.layout.buckets)
                assert 0 < sent <= sum(bounds)
            else:
                assert int(sent) == sum(predicted) // senders


def test_default_blocks_are_32768_long():
    history = run(Objective(d=70_000), blocks=BLOCK, rounds=1).history
    assert history["payload_up"][0] == 3 * 4 + 2 * 4096 + (70_000 - 65_536) // 8


def test_history_holds_a_float_for_each_round():
    objective = Objective()
    result = run(objective, method="sgd", rounds=6)
    assert set(result.history) == {"loss", "grad_norm", "payload_up", "payload_down"}
    for values in result.history.values():
        assert values.dtype == np.float64
        assert values.shape == (6,)
    x = objective.initial()
    for t in range(6):  # loss and norm are taken where the gradients are
        mean = (x - objective.centres).mean(axis=0, dtype=np.float64)
        assert result.history["loss"][t] == pytest.approx(objective.loss(x), rel=1e-6)
        assert result.history["grad_norm"][t] == pytest.approx(np.linalg.norm(mean), rel=1e-6)
        x = (x - 0.05 * mean).astype(np.float32)


def test_result_holds_float32_parameters_and_their_digest():
    result = run()
    assert result.parameters.dtype == np.float32
    assert result.parameters.shape == (D,)
    assert result.digest == hashlib.sha256(result.parameters.astype("<f4").tobytes()).hexdigest()
    assert not np.array_equal(result.parameters, np.ones(D))


def test_gradient_is_asked_once_for_each_worker_and_round_in_rank_order():
    objective = Objective()
    run(objective, rounds=3)
    assert objective.calls == [(t, rank) for t in range(3) for rank in range(3)]


def test_an_objective_may_keep_the_points_it_was_given():
    class Keeps(Objective):
        def gradient(self, rank, x, round):
            self.calls.append(x)
            return super().gradient(rank, x, round)

        def loss(self, x):
            self.calls.append(x)
            return 0.0

    objective = Keeps()
    run(objective, rounds=2)
    first, second = objective.calls[0], objective.calls[-1]
    assert np.array_equal(first, objective.initial())
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("method", NAMES)
def test_gradients_of_all_workers_at_once_give_the_same_result(method):
    objective = Together()
    together, apart = run(objective, method=method), run(method=method)
    assert objective.calls == [0, 1, 2, 3, 4]
    assert together.digest == apart.digest
    for name, values in apart.history.items():
        assert np.array_equal(values, together.history[name])


def test_step_size_is_a_number_a_sequence_or_a_function():
    values = [0.05, 0.04, 0.03, 0.02, 0.01]
    digests = {
        run(lr=lr).digest
        for lr in (values, tuple(values), np.array(values), [*values, 9.0], values.__getitem__)
    }
    assert len(digests) == 1
    assert run(lr=0.05).digest == run(lr=[0.05] * 5).digest == run(lr=lambda t: 0.05).digest
    assert run(lr=0.05).digest not in digests


def test_defaults_are_those_of_the_design():
    """Four workers of CD-Adam: the call in the package's own text, shortened."""
    result = psrv.simulate(Objective(n=4), rounds=2)
    same = psrv.simulate(
        Objective(n=4), method="cd-adam", workers=4, rounds=2, lr=1e-3, compressor=None,
        blocks=32768, seed=0,
    )  # fmt: skip
    assert result.digest == same.digest


def test_options_reach_the_method():
    plain = run(method="dist-ef-sgdm")
    for options in ({"momentum": 0.5}, {"weight_decay": 0.1}, {"compressor": "dense"}):
        assert run(method="dist-ef-sgdm", **options).digest != plain.digest
    dense = run(method="cd-adam", up_compressor="dense").history
    assert dense["payload_up"][0] == 4 * D
    assert dense["payload_down"][0] == expected_payload("cd-adam", D, 32)


def test_seed_decides_tied_votes():
    digests = {run(method="signsgd", workers=2, seed=seed).digest for seed in (0, 0, 1)}
    assert len(digests) == 2


class Shaped(Objective):
    """Gives something else than float32[d] where it is told to."""

    def __init__(self, start=None, gradient=None):
        super().__init__()
        self.start, self.other = start, gradient

    def initial(self):
        return super().initial() if self.start is None else self.start

    def gradient(self, rank, x, round):
        return super().gradient(rank, x, round) if self.other is None else self.other


class NoLoss:
    def initial(self):
        return np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("objective", "options", "text"),
    [
        (None, {"workers": 0}, "workers is 0"),
        (None, {"rounds": 0}, "rounds 0"),
        (None, {"method": "adam"}, "method 'adam' is unknown"),
        (None, {"compressor": "top-k"}, "compressor 'top-k' cannot be"),
        (None, {"blocks": "layer"}, "blocks is 'layer'; expected tensor, global"),
        (None, {"blocks": 0}, "blocks is 0"),
        (None, {"speed": 1}, "option 'speed' is unknown"),
        (None, {"lr": -0.1}, "lr is -0.1 in round 0"),
        (None, {"lr": [0.1, float("nan"), 0.1, 0.1, 0.1]}, "lr is nan in round 1"),
        (None, {"lr": [0.1] * 4}, "lr has 4 step sizes; expected one for each of 5 rounds"),
        (None, {"lr": lambda t: 1.0 if t < 4 else float("inf")}, "lr is inf in round 4"),
        (NoLoss(), {}, "NoLoss is not an objective: it needs initial()"),
        (Shaped(start=np.ones(3)), {}, "initial() gave float64 (3,); expected float32 (d,)"),
        (Shaped(start=np.ones((3, 3), np.float32)), {}, "initial() gave float32 (3, 3)"),
        (Shaped(gradient=np.ones(D)), {}, "gradient of worker 0 gave float64 (133,)"),
        (Shaped(gradient=np.ones(9, np.float32)), {}, "expected float32 (133,)"),
        (Together(), {"workers": 2}, "gradients() has shape (3, 133); expected (2, 133)"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_a_clear_error(objective, options, text):
    with pytest.raises(ConfigError) as caught:
        run(objective, **options)
    assert text in str(caught.value)


def test_empty_objective_is_a_clear_error():
    with pytest.raises(ConfigError, match="no elements"):
        run(Shaped(start=np.ones(0, np.float32)))


@pytest.mark.parametrize("method", NAMES)
def test_nan_in_a_gradient_names_worker_tensor_and_round(method):
    class Diverges(Objective):
        def gradient(self, rank, x, round):
            g = super().gradient(rank, x, round)
            if (rank, round) == (1, 3):
                g[17] = np.nan
            return g

    with pytest.raises(NonFiniteError, match=r"worker 1: the gradient of 'x'.*round 3.*\[17\]"):
        run(Diverges(), method=method)


def test_simulate_stays_callable_when_its_module_was_imported_first():
    code = "import psrv.simulation, psrv; assert callable(psrv.simulate)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
