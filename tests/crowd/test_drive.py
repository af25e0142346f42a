"""History, stopping early, and going on from a checkpoint with the same result."""

from __future__ import annotations

import numpy as np
import pytest

import psrv
from crowd.conftest import InParts, Linear
from psrv.crowd import Crowd
from psrv.crowd.checkpoint import Checkpoint
from psrv.crowd.drive import Clustered, engine_of
from psrv.crowd.history import Record, Target
from psrv.errors import ConfigError, DataError, NonFiniteError
from psrv.objectives import Quadratics

N, D = 6, 40


class Alone(Linear):
    """Without ``gradients``: a cluster."""

    gradients = None


class Interrupted(Exception):
    """What stops a run in the middle."""


def run(kind=InParts, **options):
    defaults = {"method": "marina", "workers": N, "rounds": 20, "lr": 0.1, "probability": 0.3}
    return psrv.simulate(kind(N, D), **(defaults | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "ef21", "compressor": None, "up_compressor": "top-k:2", "probability": None},
        {"method": "dist-ef-sgd", "probability": None},
        {"method": "cd-adam", "probability": None},
    ],
)
@pytest.mark.parametrize("kind", [Linear, InParts])
def test_engines_give_the_same_history(kind, options):
    crowd, cluster = run(kind, **options), run(Alone, **options)
    assert crowd.digest == cluster.digest
    for name, values in cluster.history.items():
        assert crowd.history[name] == pytest.approx(values, rel=1e-6), name


@pytest.mark.parametrize("kind", [InParts, Alone])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "ef21-two-way", "compressor": "top-k:2", "probability": None},
        {"method": "dist-ef-sgd", "probability": None, "lr": list(np.linspace(0.2, 0.01, 20))},
        {"method": "dist-ef-sgdm", "probability": None},
        {"method": "cd-adam", "probability": None},
        {"method": "marina", "downlink": "markov", "down_compressor": "sign"},
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, monkeypatch, kind, options):
    whole = run(kind, **options)
    monkeypatch.setattr(Checkpoint, "due", property(lambda self: True))  # after every round
    for stop_at in (7, 13):
        calls = 0

        def interrupt(record: Record, stop_at=stop_at) -> bool:
            nonlocal calls
            calls += 1
            if record.round == stop_at:
                raise Interrupted
            return False

        with pytest.raises(Interrupted):
            run(kind, **options, stop=interrupt, checkpoint=tmp_path / "run.npz")
        assert calls == stop_at + 1  # the records before are shown again, none is lost
    again = run(kind, **options, checkpoint=tmp_path / "run.npz")
    assert again.digest == whole.digest
    for name, values in whole.history.items():
        assert np.array_equal(again.history[name], values), name
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    first = run(checkpoint=tmp_path / "deep" / "run.npz")
    monkeypatch.setattr(Crowd, "step", lambda self, etas: pytest.fail("stepped again"))
    again = run(checkpoint=tmp_path / "deep" / "run.npz")
    assert again.digest == first.digest


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"lr": 0.2}, "its step sizes is"),
        ({"rounds": 21}, "its rounds is 20, this run's 21"),
        ({"seed": 1}, "its job is"),
        ({"method": "ef21", "probability": None}, "its job is"),
        ({"every": 2}, "its every is 1, this run's 2"),
        ({"kind": Linear}, 'its objective is "InParts", this run\'s "Linear"'),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change, text):
    run(checkpoint=tmp_path / "run.npz")
    with pytest.raises(ConfigError, match="is of another run") as caught:
        run(**change, checkpoint=tmp_path / "run.npz")
    assert text in str(caught.value)


def test_a_damaged_checkpoint_says_so(tmp_path):
    path = tmp_path / "run.npz"
    run(checkpoint=path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read"):
        run(checkpoint=path)


def test_records_every_few_rounds():
    all_of, some = run(every=1).history, run(every=4).history
    for name in ("loss", "grad_norm"):
        assert np.array_equal(some[name][::4], all_of[name][::4])
        assert np.isnan(some[name][np.arange(20) % 4 != 0]).all()
    for name in ("payload_up", "payload_down"):
        assert np.array_equal(some[name], all_of[name])
    with pytest.raises(ConfigError, match="every is 0"):
        run(every=0)


@pytest.mark.parametrize("kind", [InParts, Alone])
def test_a_target_ends_the_run_where_it_is_met(kind):
    norms = run(kind).history["grad_norm"]
    relative = float((norms[12] / norms[0]) ** 2) * 1.0001
    first = int(np.argmax(norms**2 <= relative * norms[0] ** 2))
    result = run(kind, stop=relative)
    assert result.stopped
    assert len(result.history["loss"]) == first + 1
    assert result.history["payload_up"][-1] == 0
    assert result.history["payload_up"][:-1].all()
    assert np.isfinite(result.history["grad_norm"][-1])
    before = run(kind, rounds=first)
    assert np.array_equal(result.parameters, before.parameters)
    assert not before.stopped


def test_a_target_gives_up_what_diverges():
    target = Target(1e-9, diverged=1e3)
    assert run(lr=50.0, stop=target).stopped
    assert target.lost
    assert target.reached is None
    assert Target(1e-9)(Record(0, 0.0, float("nan"), 0, 0))


@pytest.mark.parametrize("kind", [Linear, InParts])
@pytest.mark.parametrize("compressor", ["perm-k", "rand-k:2", "top-k:2", "dense", "sign"])
def test_what_is_not_finite_names_worker_and_element(kind, compressor):
    class Broken(kind):
        def gradients(self, x, round, **given):
            found = super().gradients(x, round, **given)
            found[4, 33] = np.nan
            return found

    with pytest.raises(NonFiniteError, match=r"worker 4: .* round 0, at element \[(33|0)\]"):
        run(Broken, method="ef21", up_compressor=compressor, probability=None, init="dense")


def test_a_refused_round_changes_nothing():
    class Once(Linear):
        calls = 0

        def gradients(self, x, round):
            self.calls += 1
            found = super().gradients(x, round)
            if self.calls == 3:
                found[2, 5] = np.inf
            return found

    from crowd.conftest import job_of

    for up, compressor in (("ef", "sign"), ("ef", "top-k:0.1"), ("markov", "dense")):
        job = job_of(N, D, up, compressor, "ef", "sign")
        crowds = [Crowd(job, N, kind(N, D)) for kind in (Once, Linear)]
        for t in range(5):
            for crowd in crowds:
                try:
                    crowd.step([0.1])
                except NonFiniteError:
                    assert t == 2
                    crowd.step([0.1])
            ours, other = (crowd.replica.parameters for crowd in crowds)
            assert np.array_equal(ours, other), t


def test_uncovered_methods_run_as_a_cluster():
    from crowd.conftest import job_of

    assert isinstance(engine_of(job_of(N, D, "plain", "qsgd:4"), N, InParts(N, D)), Clustered)
    assert isinstance(engine_of(job_of(N, D, "plain", "dense"), N, InParts(N, D)), Crowd)
    assert isinstance(engine_of(job_of(N, D, "plain", "dense"), N, Alone(N, D)), Clustered)
    crowd, cluster = (
        run(kind, method="sgd", up_compressor="top-k:2/bf16", probability=None)
        for kind in (InParts, Alone)
    )
    assert crowd.digest == cluster.digest


def test_partial_gradients_need_no_matrix():
    """n d is 40 MB here; a run of compressed rounds stays far below."""
    objective = Quadratics.generate(10_000, 1000, 0.05)
    crowd = engine_of_marina(objective)
    crowd.round = 1  # the first round is dense
    for t in range(1, 4):
        assert not crowd.dense(), t
        crowd.step([0.1])
    assert crowd.rows._values is None
    assert crowd.rows.remembered is None


def engine_of_marina(objective):
    from crowd.conftest import job_of

    return Crowd(
        job_of(objective.workers, objective.dimension, "marina", "perm-k", probability=1e-6),
        objective.workers,
        objective,
    )


def test_parts_of_the_quadratics_are_their_gradients():
    objective = Quadratics.generate(30, 17, 0.3)
    x = np.random.default_rng(1).standard_normal(17).astype(np.float32)
    whole = objective.gradients(x)
    offsets = np.arange(31, dtype=np.int64) * 17
    columns = np.tile(np.arange(17, dtype=np.int32)[::-1], 30)
    parts = objective.partial_gradients(x, 0, offsets, columns)
    assert np.array_equal(parts.reshape(30, 17)[:, ::-1], whole)
    assert np.array_equal(np.array([objective.gradient(i, x) for i in range(30)]), whole)
    assert objective.mean_gradient(x) == pytest.approx(whole.mean(0, dtype=np.float64), abs=1e-7)
