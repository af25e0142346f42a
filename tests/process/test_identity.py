"""Processes over sockets and the simulation give the same parameters, bit for bit.

A sample; every method with 1, 2, 4 and 7 workers is in tests/matrix.
"""

from __future__ import annotations

import pytest

from local_run import digest_of, threaded
from psrv.methods import METHODS
from psrv.options import JobConfig
from psrv.plan import Plan

pytestmark = pytest.mark.process

SAMPLE = [
    ("cd-adam", "synthetic:1200k", {"rounds": 6}),  # 38 blocks, two buckets
    ("dist-ef-sgdm", "quadratic:d=70k,noise=0.3", {"rounds": 12, "weight_decay": 0.01}),
    ("signum", "synthetic:50k", {"rounds": 12, "blocks": "tensor", "seed": 4}),
]


@pytest.mark.parametrize(("method", "task", "options"), SAMPLE, ids=[row[0] for row in SAMPLE])
def test_launch_twice_and_simulate_agree(runs, method, task, options):
    first = runs.launched(method, task, **options)
    again = runs.launched(method, task, again=1, **options)
    assert digest_of(first) == digest_of(again)
    expected = runs.simulated(method, task, **options)
    assert digest_of(first) == expected["replica_digest"]
    assert first["final"] == again["final"] == expected["final"]
    assert first["rounds"] == expected["rounds"] == options["rounds"]
    for key in ("payload_up", "payload_down"):
        assert first["bytes_per_worker_round"][key] == expected["bytes_per_worker_round"][key]


COMPRESSORS = [
    {"up_compressor": "perm-k/natural", "down_compressor": "bf16", "uplink": "plain"},
    {"up_compressor": "top-k:50/bf16", "down_compressor": "rand-k:0.2"},
    {"up_compressor": "rand-k:0.1/fp16", "down_compressor": "top-k:0.3", "uplink": "markov"},
    {"up_compressor": "qsgd:4", "down_compressor": "natural", "downlink": "markov"},
]


@pytest.mark.parametrize("chosen", COMPRESSORS, ids=lambda chosen: chosen["up_compressor"])
def test_every_kind_of_compressor_agrees_over_sockets(chosen, tmp_path, runs):
    options = {"workers": 3, "rounds": 5, "seed": 1, **chosen}
    task = "synthetic:2001" if ":50" in chosen["up_compressor"] else "synthetic:40001"
    job = JobConfig(method="amsgrad-ef", task=task, **options)
    digest = digest_of(threaded(job, tmp_path))
    expected = runs.simulated("amsgrad-ef", task, **options)
    assert digest == expected["replica_digest"]


LATER = [
    ("marina", {"probability": 0.3}),
    ("marina", {"up_compressor": "perm-k:groups=2/natural"}),
    ("marina", {"up_compressor": "rand-k:0.1/natural", "weight_decay": 0.01}),
    ("ef21", {"up_compressor": "top-k:0.05"}),
    ("ef21-two-way", {"compressor": "top-k:0.05"}),
    ("ef21-two-way", {"compressor": "top-k:0.05", "init": "compressed"}),
    ("onebit-adam", {"warmup": 3, "weight_decay": 0.01}),
    ("double-squeeze", {"blocks": "tensor"}),
]


@pytest.mark.parametrize(
    ("method", "options"), LATER, ids=[f"{m}-{'-'.join(map(str, o.values()))}" for m, o in LATER]
)
def test_methods_whose_rounds_differ_agree_over_sockets(method, options, tmp_path, runs):
    """Dense rounds and compressed ones, in both: the bytes tell that there were both."""
    options = {"workers": 3, "rounds": 9, "seed": 2, **options}
    task = "quadratic:d=20k,noise=0.5"
    found = threaded(JobConfig(method=method, task=task, **options), tmp_path)
    expected = runs.simulated(method, task, **options)
    assert digest_of(found) == expected["replica_digest"]
    assert found["final"] == expected["final"]
    sent = {way: found["bytes_per_worker_round"][way] for way in ("payload_up", "payload_down")}
    for way, size in sent.items():
        assert size == pytest.approx(expected["bytes_per_worker_round"][way], rel=1e-12)
    dense = 4 * 20_000
    if method != "double-squeeze":
        mixed = dense if options.get("init") == "compressed" else dense / 9
        assert (sent["payload_up"] > mixed) == (options.get("init") != "compressed")
        assert sent["payload_up"] < dense


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"anchor_batch": 40, "probability": 0.25}], ids=str)
def test_marina_on_minibatches_agrees_over_sockets(options, runs):
    """Both gradients of a compressed round on one batch; dense rounds on a larger one.

    In processes: two networks made at once by threads would share torch's generator.
    """
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    options = {"workers": 2, "rounds": 12, "seed": 3, "batch": 8, **options}
    found = runs.launched("marina", "digits", **options)
    expected = runs.simulated("marina", "digits", **options)
    assert digest_of(found) == expected["replica_digest"]
    assert found["final"] == expected["final"]
    for way in ("payload_up", "payload_down"):
        counted = expected["bytes_per_worker_round"][way]
        assert found["bytes_per_worker_round"][way] == pytest.approx(counted, rel=1e-12)


def test_a_step_size_that_drops_agrees_over_sockets(tmp_path, runs):
    """0.5, 0.05 and 0.005 in turn; error feedback is rescaled by it."""
    options = {"workers": 2, "rounds": 12, "lr": 0.5, "lr_drops": "0.25,0.75"}
    task = "quadratic:d=3000,noise=0.5"
    found = threaded(JobConfig(method="dist-ef-sgd", task=task, **options), tmp_path)
    expected = runs.simulated("dist-ef-sgd", task, **options)
    assert digest_of(found) == expected["replica_digest"]
    constant = runs.simulated("dist-ef-sgd", task, **options | {"lr_drops": None})
    assert digest_of(found) != constant["replica_digest"]
    plan = Plan.of(JobConfig(method="dist-ef-sgd", task=task, **options))
    steps = [plan.etas(t)[0] for t in range(12)]
    assert steps == pytest.approx([0.5] * 3 + [0.05] * 6 + [0.005] * 3)


@pytest.mark.torch
def test_network_on_real_data_agrees(runs):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    options = {"rounds": 60}
    first = runs.launched("cd-adam", "digits", **options)
    again = runs.launched("cd-adam", "digits", again=1, **options)
    expected = runs.simulated("cd-adam", "digits", **options)
    assert digest_of(first) == digest_of(again) == expected["replica_digest"]
    assert first["final"] == expected["final"]
    assert first["final"]["accuracy"] > 0.7


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_agrees_over_sockets(method, tmp_path, runs):
    """Server and workers as threads of this process: the same sockets, sooner."""
    job = JobConfig(method=method, task="synthetic:40k", workers=3, rounds=5, seed=1)
    digest = digest_of(threaded(job, tmp_path))
    options = {"workers": 3, "rounds": 5, "seed": 1}
    assert digest == runs.simulated(method, "synthetic:40k", **options)["replica_digest"]
