"""What goes wrong in a run of real processes: who is told what, and who goes on."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from local_run import (
    LIMIT,
    crew,
    digest_of,
    rounds_done,
    serving,
    wait_until,
)
from psrv.cli import main
from psrv.measure.summary import read_summary

pytestmark = pytest.mark.process

TASK = "synthetic:20k"
ENDLESS = ("--task", "synthetic:20k,compute=0.01", "--rounds", 10**6)
SOON = 20.0
"""Seconds in which the others stop, far below the lease of 30 s."""

OTHER_VERSION = (
    "import sys, psrv\n"
    "psrv.__version__ = '9.9.9'\n"
    "from psrv.cli import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def test_wrong_workers_are_refused_and_the_right_one_completes_the_run(tmp_path, runs):
    options = ("--rounds", 8, "--seed", 3)
    wrong = {
        "task is 'synthetic:30k', the run has 'synthetic:20k'": ("--task", "synthetic:30k"),
        "method name is 'sgd', the run has 'cd-adam'": ("--method", "sgd"),
        "seed is 4, the run has 3": ("--seed", 4),
        "the worker runs psrv '9.9.9', the server 0.1.0": (),
    }
    out = tmp_path / "run"
    with serving(2, out=out) as server, crew(tmp_path) as processes:

        def worker(*more, program=()):
            place = ("--server", server.address, "--connect-timeout", LIMIT)
            return processes.spawn(*program, "worker", *place, "--task", TASK, *options, *more)

        first = worker("--rank", 0, "--out", out)
        wait_until(lambda: server.core.membership.job, "the first worker to join")
        # One after the other: a rank that is asked about is not free for the next.
        for text, flags in wrong.items():
            program = () if flags else (sys.executable, "-c", OTHER_VERSION)
            process = worker("--out", tmp_path / "w", *flags, program=program)
            assert process.code() == 7, process.output()
            assert process.error().startswith("server: ")
            assert text in process.error()
        last = worker("--rank", 1, "--out", out)
        assert (first.code(), last.code()) == (0, 0)
        server.thread.result()
    expected = runs.simulated("cd-adam", TASK, rounds=8, seed=3)["replica_digest"]
    assert digest_of(read_summary(out)) == expected


def child(process, role: str) -> int:
    """The pid of a launcher's server, or of worker 1."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            rank = words[words.index("--rank") + 1] if "--rank" in words else "1"
            if int(parent) == process.pid and role in words and rank == "1":
                return int(entry.name)
    raise AssertionError(f"no {role} among the children of {process.pid}")


def launch_endless(processes, folder, *flags):
    """A run that does not end; returns once rounds have been taken."""
    process = processes.spawn("launch", "-n", 2, *ENDLESS, "--out", folder, *flags)
    wait_until(
        lambda: rounds_done(folder, 1) or process.popen.poll() is not None, "the first rounds"
    )
    assert process.popen.poll() is None, process.output()
    return process


def test_worker_killed_in_mid_round_is_named_to_the_others(tmp_path):
    out = tmp_path / "run"
    with crew(tmp_path) as processes:
        process = launch_endless(processes, out)
        victim = child(process, "worker")
        start = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        assert process.code() == 128 + signal.SIGKILL
        assert time.monotonic() - start < SOON
        assert process.error().startswith(f"worker 1 (process {victim}) was killed by SIGKILL")
    for name in ("worker-0", "server-0"):
        log = (out / "logs" / f"{name}.log").read_text()
        assert f"worker 1 (process {victim} on " in log
        assert "was lost in round " in log
        assert "its connection closed" in log
    assert not (out / "summary.json").exists()


def test_server_killed_in_mid_round_is_noticed_by_all(tmp_path):
    out = tmp_path / "run"
    with crew(tmp_path) as processes:
        process = launch_endless(processes, out)
        victim = child(process, "server")
        start = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        assert process.code() == 128 + signal.SIGKILL
        assert time.monotonic() - start < SOON
        assert process.error().startswith(f"server (process {victim}) was killed by SIGKILL")
    for rank in (0, 1):
        log = (out / "logs" / f"worker-{rank}.log").read_text()
        assert "closed the connection while this worker waited for the results of round " in log


def test_worker_that_is_silent_past_its_lease_is_lost(tmp_path):
    """Stopped, not ended: its connection stays open."""
    out = tmp_path / "run"
    with crew(tmp_path) as processes:
        process = launch_endless(processes, out, "--lease", 3, "--heartbeat", 0.25)
        victim = child(process, "worker")
        log = out / "logs/worker-0.log"
        os.kill(victim, signal.SIGSTOP)
        try:
            wait_until(lambda: "psrv: error" in log.read_text(), "the other's end")
        finally:
            os.kill(victim, signal.SIGCONT)
        assert process.code() == 8
        assert f"worker 1 (process {victim} on " in log.read_text()
        assert "last sign of life was 3 s ago, the lease is 3 s" in log.read_text()


def test_server_alone_waits_for_its_workers_only_so_long(tmp_path):
    """Also while a stranger floods it."""
    import zmq

    with crew(tmp_path) as processes, zmq.Context() as context:
        server, address = processes.server(2, join_timeout=1)
        with context.socket(zmq.DEALER) as flood:
            flood.linger = 0
            flood.connect(address)
            limit = time.monotonic() + LIMIT
            while server.popen.poll() is None:
                assert time.monotonic() < limit
                try:
                    flood.send(b"no message", zmq.NOBLOCK)
                except zmq.Again:
                    time.sleep(0)
        assert server.code() == 8
        assert "waited 1 s for 2 workers to join; 0 did (ranks: none)" in server.error()


BEFORE_ANYTHING_STARTS = [
    (("--method", "sgdx"), "method 'sgdx' is unknown; expected one of sgd, sgdm,"),
    (("--task", "digit"), "no task named 'digit'"),
    (("--compressor", "top"), "compressor 'top' is unknown"),
    (("--method", "signsgd", "--uplink", "ef"), "ef feedback cannot use compressor 'sign-uns"),
    (("--method", "sgd", "--momentum", "0.5"), "method 'sgd' does not use momentum"),
    (("--blocks", "0"), "--blocks is '0'; expected tensor, global, or a whole number"),
]
WITH_THE_TASK = [
    (("--task", "libsvm:a9a", "--data", "/nowhere"), "/nowhere"),
    (("--task", "synthetic:10k,slow=1,slow_rank=9"), "slow_rank is 9; the ranks are 0 to 1"),
    (("--task", "quadratic", "--batch", "8"), "takes no batch size"),
]


@pytest.mark.parametrize(
    ("command", "flags", "text"),
    [("launch", *row) for row in BEFORE_ANYTHING_STARTS]
    + [("simulate", *row) for row in BEFORE_ANYTHING_STARTS + WITH_THE_TASK],
)
def test_what_cannot_work_is_one_line_and_exit_code_2(command, flags, text, tmp_path, capsys):
    given = ["--task", TASK, *flags] if "--task" not in flags else flags
    code = main([command, "-n", "2", "--rounds", "2", "--out", str(tmp_path / "run"), *given])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("psrv: error: ")
    assert text in line
