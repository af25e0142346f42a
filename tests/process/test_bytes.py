"""Bytes: predicted payload = sent payload, and what the kernel and the interface say of it."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys

import pytest

from local_run import LIMIT, launched, threaded
from psrv.layout import Layout, Tensor
from psrv.measure.summary import TCP_FROM_KERNEL, read_summary
from psrv.methods import METHODS, resolve
from psrv.options import JobConfig
from psrv.tasks import make_task
from psrv.tasks.mnist import Mnist

pytestmark = pytest.mark.process

SIGNS = sorted(set(METHODS) - {"sgd", "sgdm", "amsgrad", "ef21", "ef21-two-way", "marina"})
VARYING = {"ef21", "ef21-two-way", "marina", "onebit-adam"}
"""Their rounds differ; tests/process/test_identity.py and tests/oracles count their bytes."""

DATA = os.environ.get("PSRV_DATA")  # before the tests' own environment takes it away
MNIST = (  # the network of the mnist task
    Tensor("0.weight", (8, 1, 5, 5)),
    Tensor("0.bias", (8,)),
    Tensor("3.weight", (16, 8, 5, 5)),
    Tensor("3.bias", (16,)),
    Tensor("7.weight", (1500, 784)),
    Tensor("7.bias", (1500,)),
    Tensor("9.weight", (10, 1500)),
    Tensor("9.bias", (10,)),
)


def predicted(method: str, layout: Layout, eta=0.1) -> tuple[int, int]:
    """Payload bytes a worker sends and gets in a round."""
    resolved = resolve(method)
    up = sum(resolved.up.payload_bytes(b, eta) for b in layout.buckets)
    return up, sum(resolved.down.payload_bytes(b, eta) for b in layout.buckets)


def sent(summary) -> tuple[float, float]:
    counted = summary["bytes_per_worker_round"]
    return counted["payload_up"], counted["payload_down"]


@pytest.mark.parametrize("blocks", [32768, "tensor"])
@pytest.mark.parametrize("method", sorted(set(METHODS) - VARYING))
def test_payload_is_what_was_predicted(method, blocks, tmp_path):
    task = "synthetic:1200k"
    job = JobConfig(method=method, task=task, workers=2, rounds=2, blocks=blocks)
    summary = threaded(job, tmp_path)
    layout = Layout.build(make_task(task, workers=2).tensors, blocks)
    assert len(layout.buckets) > 1
    assert sent(summary) == predicted(method, layout)
    # In bits, as DESIGN says: 32 a block and one a coordinate, or one, or 32 a coordinate.
    d, count = layout.dimension, sum(len(b.blocks) for b in layout.buckets)
    whole = sum(int((size + 7) // 8) for b in layout.buckets for size in sizes(b))
    expected = {"sign": 4 * count + whole, "dense": 4 * d}
    expected["sign-unscaled"] = sum(-(-(b.stop - b.start) // 8) for b in layout.buckets)
    assert sent(summary) == (expected[resolve(method).up.compressor],) * 2
    # Messages add a header each, and the kernel's stream ZeroMQ's framing.
    counted = summary["bytes_per_worker_round"]
    for way in ("up", "down"):
        payload, message, tcp = (counted[f"{what}_{way}"] for what in ("payload", "message", "tcp"))
        assert payload < message < payload + 200 * len(layout.buckets)
        assert message < tcp
    assert summary["tcp_source"] == TCP_FROM_KERNEL


def sizes(bucket) -> list[int]:
    return [b - a for a, b in itertools.pairwise(bucket.blocks.edges.tolist())]


@pytest.mark.parametrize("method", SIGNS)
def test_sign_methods_move_31_times_less_than_full_precision(method):
    """On the network of the mnist task, by the prediction that the test above checks."""
    layout = Layout.build(MNIST)
    full, small = predicted("amsgrad", layout), predicted(method, layout)
    assert full[0] / small[0] >= 31
    assert full[1] / small[1] >= 31


@pytest.mark.torch
def test_network_of_the_mnist_task_is_that_one():
    torch = pytest.importorskip("torch")
    model = Mnist.build(Mnist.__new__(Mnist), torch)
    assert tuple(Tensor(n, tuple(p.shape)) for n, p in model.named_parameters()) == MNIST


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="PSRV_DATA names no folder with mnist's files")
def test_sign_methods_move_31_times_less_on_mnist(tmp_path):
    pytest.importorskip("torch")
    found = {}
    for method in ("amsgrad", "cd-adam"):
        job = JobConfig(method=method, task="mnist", data=DATA, workers=2, rounds=2)
        summary = launched(job, tmp_path / method)
        found[method] = sent(summary)
        assert found[method] == predicted(method, Layout.build(MNIST))
    for full, small in zip(found["amsgrad"], found["cd-adam"], strict=True):
        assert full / small >= 31


@pytest.mark.parametrize(("method", "rounds"), [("sgd", 6), ("cd-adam", 40)])
def test_kernel_counts_the_messages_and_little_more(runs, method, rounds):
    """Within 1% for buckets over 64 KiB: 4 MiB of float32, or 128 KiB of signs.

    On a busy machine TCP sends a burst of 50 kB again now and then, even on loopback, and the
    kernel counts it: hence enough rounds for it to be little.
    """
    summary = runs.launched(method, "synthetic:4M", rounds=rounds)
    for worker in summary["workers_detail"]:
        assert worker["tcp"]["segs_out"] > 0
        assert worker["tcp"]["bytes_retrans"] >= 0
    counted = summary["bytes_per_worker_round"]
    for way in ("up", "down"):
        message, tcp = counted[f"message_{way}"], counted[f"tcp_{way}"]
        assert message <= tcp <= 1.01 * message
    for detail in summary["workers_detail"]:
        assert detail["bytes_per_round"]["tcp_up"] >= detail["bytes_per_round"]["message_up"]


def test_interface_counter_agrees(tmp_path):
    """A private network namespace, whose loopback carries nothing but this run."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root and the ip command")
    name = f"psrv-test-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    inside = ["ip", "netns", "exec", name]
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True, timeout=LIMIT)
        code = (
            "import sys\n"
            "from pathlib import Path\n"
            "sys.path.insert(0, sys.argv[1])\n"
            "from local_run import JobConfig, launched\n"
            "def lo():\n"
            "    lines = Path('/proc/net/dev').read_text().splitlines()\n"
            "    return next(int(x.split()[1]) for x in lines if x.strip().startswith('lo:'))\n"
            "before = lo()\n"
            "job = JobConfig(method='cd-adam', task='synthetic:4M', workers=2, rounds=40)\n"
            "launched(job, Path(sys.argv[2]))\n"
            "print('bytes', lo() - before)\n"
        )
        tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        done = subprocess.run(
            [*inside, sys.executable, "-c", code, tests, str(tmp_path / "run")],
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True, timeout=LIMIT)
    interface = int(done.stdout.split("bytes ")[1])
    summary = read_summary(tmp_path / "run")
    counted = summary["bytes_per_worker_round"]
    rounds = 2 * 40 * (counted["tcp_up"] + counted["tcp_down"])
    start = 2 * 4 * summary["dimension"]  # rank 0's parameters, to the server and to rank 1
    assert interface == pytest.approx(rounds + start, rel=0.05)
