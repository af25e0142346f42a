"""``psrv launch`` as people run it: real processes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from psrv.cli import main

pytestmark = pytest.mark.process

LIMIT = 60.0
PSRV = [sys.executable, "-m", "psrv"]


def psrv(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*PSRV, *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT, **options
    )


@pytest.fixture
def launch(monkeypatch, capsys):
    """``psrv launch`` with the launcher in this process, and little patience."""
    monkeypatch.setattr("psrv.launch.GRACE_SECONDS", 0.5)
    monkeypatch.setattr("psrv.launch.FINISH_SECONDS", 0.5)

    def run(*arguments: object) -> subprocess.CompletedProcess:
        code = main(["launch", *map(str, arguments)])
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def script(code: str) -> tuple[str, ...]:
    return ("--", "python", "-c", code)


def only_error(done: subprocess.CompletedProcess) -> str:
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("psrv: error: ")]
    return line


def test_failing_child_is_named_with_its_code_error_and_logs(launch, tmp_path):
    code = (
        "import os, sys, time\n"
        "print('hello from', os.environ['PSRV_RANK'], 'of', os.environ['PSRV_WORKERS'])\n"
        "if os.environ['PSRV_RANK'] == '1':\n"
        "    sys.exit('error: no more data')\n"
        "time.sleep(600)\n"
    )
    done = launch("-n", 3, "--out", tmp_path / "run", *script(code))
    assert done.returncode == 1
    error = only_error(done)
    assert error.startswith("psrv: error: worker 1 (process ")
    assert "failed with exit code 1: error: no more data" in error
    assert error.endswith(f"logs are in {tmp_path / 'run' / 'logs'}")
    assert set(done.stdout.splitlines()) <= {f"[{i}] hello from {i} of 3" for i in range(3)}
    assert "[1] hello from 1 of 3" in done.stdout
    assert "error: no more data" in (tmp_path / "run/logs/worker-1.log").read_text()


def test_killed_child_is_named_with_its_signal(launch, tmp_path):
    code = "import os; os.kill(os.getpid(), 9)"
    done = launch("-n", 1, "--out", tmp_path / "run", *script(code))
    assert done.returncode == 128 + signal.SIGKILL
    assert only_error(done).startswith("psrv: error: worker 0 (process ")
    assert " was killed by SIGKILL" in only_error(done)


def test_command_that_never_joins_is_not_taken_for_a_run(launch, tmp_path):
    done = launch("-n", 1, "--out", tmp_path / "run", *script("print('trained alone')"))
    assert done.returncode == 8
    assert done.stdout == "trained alone\n"
    assert "does the script call psrv.connect()" in only_error(done)


def test_server_that_dies_is_named(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PSRV_JOIN_TIMEOUT", "0.1")
    done = launch("-n", 1, "--out", tmp_path / "run", *script("import time; time.sleep(600)"))
    assert done.returncode == 8
    assert only_error(done).startswith("psrv: error: server (process ")


def test_job_file_says_what_ran_where(launch, tmp_path):
    launch("-n", 1, "--out", tmp_path / "run", *script("raise SystemExit(3)"))
    job = json.loads((tmp_path / "run/job.json").read_text())
    assert job["command"] == ["python", "-c", "raise SystemExit(3)"]
    assert job["config"]["workers"] == 1
    assert "method" not in job["config"]
    assert {"python", "numpy", "numba", "pyzmq"} <= set(job["versions"])
    assert set(job["machine"]) == {"cpu", "cores", "memory_bytes", "kernel"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_the_launcher_ends_everything(tmp_path, number):
    process = subprocess.Popen(
        [*PSRV, "launch", "-n", "2", "--out", str(tmp_path / "run"), "--"]
        + ["python", "-c", "import time; print('up'); time.sleep(600)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().endswith("up\n")
    process.send_signal(number)
    _, error = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number
    assert error == f"psrv: error: run stopped by {number.name}\n"


def test_finished_run_is_not_overwritten_without_force(launch, tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    command = script("raise SystemExit(5)")
    done = launch("-n", 1, "--out", tmp_path, *command)
    assert done.returncode == 2
    assert f"{tmp_path} already holds a finished run" in only_error(done)
    assert (tmp_path / "summary.json").exists()
    assert launch("-n", 1, "--out", tmp_path, "--force", *command).returncode == 5
    assert not (tmp_path / "summary.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_folder_that_cannot_be_written_is_named(launch, tmp_path):
    (tmp_path / "file").write_text("")
    done = launch("--out", tmp_path / "file" / "run", *script("1"))
    assert done.returncode == 2
    assert f"cannot write to {tmp_path / 'file' / 'run'}" in only_error(done)


def test_taken_port_is_a_clear_error():
    first = subprocess.Popen(
        [*PSRV, "server", "--bind", "127.0.0.1:*"], stderr=subprocess.PIPE, text=True
    )
    try:
        announced = first.stderr.readline()
        address = announced.split()[-1]
        assert address.startswith("tcp://127.0.0.1:"), announced
        second = psrv("server", "--bind", address)
        assert second.returncode == 2
        assert f"cannot listen on {address}: the port is taken" in only_error(second)
    finally:
        first.terminate()
        _, error = first.communicate(timeout=LIMIT)
    assert first.returncode == 143
    assert "server stopped by SIGTERM" in error


def test_worker_without_a_server_gives_up_and_says_so():
    start = time.monotonic()
    done = psrv(
        "worker", "--task", "quadratic", "--server", "127.0.0.1:9", "--connect-timeout", "0.5"
    )
    assert done.returncode == 8
    assert "tcp://127.0.0.1:9" in only_error(done)
    assert time.monotonic() - start < LIMIT


def test_worker_command_finds_its_run_in_the_environment():
    code = "import os; print({k: v for k, v in os.environ.items() if k.startswith('PSRV_')})"
    environment = os.environ | {"PSRV_METHOD": "sgd", "RANK": "1", "WORLD_SIZE": "2"}
    arguments = ("worker", "--server", "10.0.0.5:5800", "--", "python", "-c", code)
    done = psrv(*arguments, env=environment)
    assert done.returncode == 0
    assert done.stdout.strip() == str(
        {
            "PSRV_SERVER": "tcp://10.0.0.5:5800",
            "PSRV_RANK": "1",
            "PSRV_WORKERS": "2",
            "PSRV_CONNECT_TIMEOUT": "30.0",
            "PSRV_TRACE": "0",
        }
    )


def test_launch_trains_and_leaves_the_files_of_a_run(launch, tmp_path, monkeypatch):
    monkeypatch.setattr("psrv.launch.FINISH_SECONDS", LIMIT)
    out = tmp_path / "run"
    done = launch(
        *("-n", 2, "--task", "quadratic:d=100", "--method", "cd-adam", "--rounds", 20),
        *("--trace", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["workers"], summary["rounds"]) == ("cd-adam", 2, 20)
    for name in ("job.json", "trace.json", "report.html", "worker-1.jsonl", "server-0.jsonl"):
        assert (out / name).stat().st_size
    assert done.stdout.startswith("cd-adam on quadratic:d=100: 2 workers, 20 rounds in ")
    assert str(out / "report.html") in done.stdout
    assert not (out / "address").exists()
    again = psrv("simulate", "--config", out / "job.json", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    repeated = json.loads((tmp_path / "again/summary.json").read_text())
    assert repeated["replica_digest"] == summary["replica_digest"]


def test_built_in_task_that_fails_names_the_worker_and_the_reason(launch, tmp_path):
    done = launch(
        *("-n", 2, "--task", "libsvm:a9a", "--data", tmp_path / "nowhere"),
        *("--out", tmp_path / "run"),
    )
    assert done.returncode == 2
    error = only_error(done)
    assert error.startswith("psrv: error: worker ")
    assert str(tmp_path / "nowhere") in error
