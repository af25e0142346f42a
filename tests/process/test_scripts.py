"""Training scripts of a user's own under ``psrv launch``, and how they end."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

import pytest

from local_run import crew, digest_of
from psrv.measure.summary import read_summary

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# A model of 64 numbers, without torch. What differs between tests comes in as FAULT.
SCRIPT = """
import sys
import numpy as np
import psrv
from psrv.job import Job
from psrv.layout import Tensor
from psrv.methods import resolve

ROUNDS = 6
session = psrv.connect()
rank = session.rank
job = Job("script", resolve("cd-adam"), (Tensor("w", (8, 8)),))
trainer = session.begin(job, np.ones(64, np.float32), np.zeros(0, np.uint8))
for t in range(ROUNDS):
    trainer.meter.begin_step(t)
    trainer.gradient[:] = np.random.default_rng((rank, t)).standard_normal(64)
    FAULT
    trainer.step([0.1])
print("digest", trainer.replica.digest())
"""

NAN = """
import torch
import psrv

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 2))
session = psrv.connect()
optimizer = psrv.DistributedOptimizer(model, session, method="dist-ef-sgdm", lr=0.01)
for t in range(6):
    optimizer.zero_grad()
    model(torch.randn(5, 8)).pow(2).mean().backward()
    if t == 3 and session.rank == 1:
        model[0].weight.grad[2, 5] = float("nan")
    before = [p.detach().clone() for p in model.parameters()]
    try:
        optimizer.step()
    except psrv.NonFiniteError:
        same = all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        print("round", t, "unchanged", same)
        raise
"""


@pytest.fixture
def launch(tmp_path):
    """Run a script on two workers; returns exit code, output, and each process's log."""

    def run(script: str):
        file = tmp_path / "train.py"
        file.write_text(script)
        with crew(tmp_path) as processes:
            out = tmp_path / "run"
            process = processes.spawn("launch", "-n", 2, "--out", out, "--", "python", file)
            code = process.code()
            logs = {path.stem: path.read_text() for path in (out / "logs").iterdir()}
            return code, process.output(), logs

    return run


def error_in(output: str) -> str:
    (line,) = [t for t in output.splitlines() if t.startswith("psrv: error: ")]
    return line.removeprefix("psrv: error: ")


def test_script_without_a_fault(launch, tmp_path):
    code, output, _ = launch(SCRIPT.replace("FAULT", "pass"))
    assert code == 0, output
    digests = re.findall(r"\[\d\] digest (\w+)", output)
    summary = read_summary(tmp_path / "run")
    assert digests == [digest_of(summary)] * 2
    assert summary["rounds"] == 6


def test_exception_in_one_workers_script_stops_the_others(launch):
    fault = 'if (rank, t) == (1, 3): raise ValueError("no more data in shard 7")'
    code, output, logs = launch(SCRIPT.replace("FAULT", fault))
    assert code == 1
    assert re.match(r"worker 1 \(process \d+\) failed with exit code 1", error_in(output))
    assert "ValueError: no more data in shard 7" in error_in(output)
    assert "worker 1 stopped: ValueError: no more data in shard 7" in logs["worker-0"]
    assert "RefusedError" in logs["worker-0"]


def test_script_that_ends_too_soon_is_named(launch):
    code, output, logs = launch(SCRIPT.replace("FAULT", "if (rank, t) == (1, 3): break"))
    assert code != 0
    text = "worker 1 finished after 3 rounds, others went on; every worker needs the same"
    assert text in error_in(output)
    assert text in logs["worker-0"]
    assert text in logs["server-0"]


def test_script_that_ended_well_in_a_run_that_failed_has_an_exit_code(tmp_path):
    """Also without a launcher: the server's and the other's codes say so too."""
    end = '\nif rank == 1: raise OSError("the disk is full")\n'
    file = tmp_path / "train.py"
    file.write_text(SCRIPT.replace("FAULT", "pass") + end)
    with crew(tmp_path) as processes:
        server, address = processes.server(2)
        first, second = (
            processes.spawn(sys.executable, file, PSRV_SERVER=address, PSRV_RANK=str(rank))
            for rank in (0, 1)
        )
        assert second.code() == 1
        assert first.code() == 7, first.output()
        assert server.code() == 7
    assert "digest" in first.output()
    assert first.error() == "server: worker 1 stopped: OSError: the disk is full"
    assert "worker 1 stopped: OSError: the disk is full" in server.error()


@pytest.mark.torch
def test_nan_in_a_gradient_ends_every_process_and_changes_no_parameter(launch):
    pytest.importorskip("torch")
    code, output, logs = launch(NAN)
    text = "worker 1: the gradient of '0.weight' is not finite in round 3, at element [2, 5]"
    assert code == 1, output
    assert text in error_in(output)
    for rank in (0, 1):
        assert f"[{rank}] round 3 unchanged True" in output
        assert text in logs[f"worker-{rank}"]
        assert "NonFiniteError" in logs[f"worker-{rank}"]
    assert text in logs["server-0"]


def test_example_differs_from_plain_torch_by_few_lines():
    ours, plain = (
        (EXAMPLES / name).read_text().splitlines() for name in ("digits.py", "digits_single.py")
    )
    assert len(ours) < 40
    changed = list(difflib.unified_diff(plain, ours, lineterm="", n=0))[2:]
    added = [line for line in changed if line.startswith("+")]
    removed = [line for line in changed if line.startswith("-")]
    assert 0 < max(len(added), len(removed)) <= 5
    assert any("psrv.DistributedOptimizer" in line for line in added)


@pytest.mark.torch
@pytest.mark.slow
def test_example_trains_under_launch(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    with crew(tmp_path) as processes:
        out = tmp_path / "run"
        process = processes.spawn(
            "launch", "-n", 2, "--out", out, "--", "python", EXAMPLES / "digits.py"
        )
        assert process.code() == 0, process.output()
        found = re.findall(r"\[(\d)\] test accuracy ([\d.]+)%", process.output())
    assert sorted(rank for rank, _ in found) == ["0", "1"]
    assert all(float(accuracy) > 85 for _, accuracy in found)
    summary = read_summary(out)
    assert summary["rounds"] == 300
    assert digest_of(summary)
    assert (out / "report.html").exists()
