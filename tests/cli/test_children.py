"""Processes of a launcher: what they print, who failed first, and that none is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psrv.commands.children import Child, Crew, Stopped, caught_signals

pytestmark = pytest.mark.process

LIMIT = 20.0


@pytest.fixture
def crew():
    crew = Crew()
    yield crew
    crew.end(patience=0.0)
    crew.close()


def start(crew: Crew, folder: Path, code: str, index: int = 0, **options) -> Child:
    command = [sys.executable, "-c", code]
    log = folder / f"worker-{index}.log"
    return crew.start("worker", index, command, os.environ, log, **options)


def until(crew: Crew, done) -> None:
    limit = time.monotonic() + LIMIT
    while not done():
        crew.look()
        assert time.monotonic() < limit


def finish(crew: Crew) -> None:
    until(crew, lambda: not crew.running())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("code", "ending", "exit_code", "said"),
    [
        ("raise SystemExit(3)", "failed with exit code 3", 3, ""),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL", 137, ""),
        (
            "import os; print('hello', flush=True); os.kill(os.getpid(), 10)",
            "was killed by SIGUSR1",
            138,
            "",
        ),
        ("print('x' * 700); raise SystemExit(1)", "failed with exit code 1", 1, "x" * 600 + "..."),
        ("raise SystemExit('worker 0: full')", "failed with exit code 1", 1, "full"),
        ("raise ValueError('boom')", "failed with exit code 1", 1, "ValueError: boom"),
        (
            "import sys; print('psrv: error: lr is 0', file=sys.stderr); print('bye'); sys.exit(2)",
            "failed with exit code 2",
            2,
            "lr is 0",
        ),
        ("print('one'); print('two'); raise SystemExit(1)", "failed with exit code 1", 1, "two"),
        (
            "raise SystemExit('\\x1b[31mEVIL\\x1b]0;title\\x07')",
            "failed with exit code 1",
            1,
            r"\x1b[31mEVIL\x1b]0;title\x07",
        ),
    ],
)
def test_ending_is_told_with_the_last_error_line(crew, tmp_path, code, ending, exit_code, said):
    child = start(crew, tmp_path, code)
    finish(crew)
    assert (child.ending, child.exit_code, child.last_error()) == (ending, exit_code, said)


def test_program_that_cannot_run_is_an_error_of_the_child(crew, tmp_path):
    child = crew.start("worker", 0, [str(tmp_path)], os.environ, tmp_path / "log")
    finish(crew)
    assert child.code == 1
    assert child.last_error() == f"cannot run {tmp_path}: Permission denied"


def test_cause_stands_before_its_consequences(crew, tmp_path):
    refused = start(crew, tmp_path, "import psrv; raise psrv.RefusedError('worker 1 left')", 0)
    lost = start(crew, tmp_path, "raise SystemExit(8)", 2)
    finish(crew)
    cause = start(crew, tmp_path, "raise RuntimeError('mine')", 1)
    finish(crew)
    assert crew.failures()[0] is cause
    assert set(crew.failures()[1:]) == {refused, lost}


def test_child_that_others_blame_stands_first(crew, tmp_path):
    code = "import psrv; raise psrv.NonFiniteError('worker 1, round 3: gradient holds NaN')"
    children = [start(crew, tmp_path, code, index) for index in (0, 1, 2)]
    finish(crew)
    assert crew.failures()[0] is children[1]


def test_first_of_several_causes_comes_first(crew, tmp_path):
    first = start(crew, tmp_path, "raise SystemExit(1)", 3)
    finish(crew)
    second = start(crew, tmp_path, "raise SystemExit(1)", 1)
    finish(crew)
    assert crew.failures() == [first, second]


def test_output_is_relayed_line_by_line_with_its_rank_and_kept(crew, tmp_path, capsys):
    code = (
        "import sys; print('a\\rb\\nc'); print('wrong', file=sys.stderr);"
        "sys.stdout.write('no newline')"
    )
    start(crew, tmp_path, code, 5, relay=True)
    finish(crew)
    crew.drain()
    captured = capsys.readouterr()
    assert captured.out == "[5] b\n[5] c\n[5] no newline\n"
    assert captured.err == "[5] wrong\n"
    log = (tmp_path / "worker-5.log").read_bytes().split(b"\n")
    assert sorted(log) == [b"", b"a\rb", b"c", b"no newline", b"wrong"]


def test_child_reads_nothing(crew, tmp_path):
    child = start(crew, tmp_path, "import sys; raise SystemExit(len(sys.stdin.read()))")
    finish(crew)
    assert child.code == 0


def test_child_that_refuses_to_end_is_killed_with_what_it_started(crew, tmp_path):
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    child = start(crew, tmp_path, code)
    until(crew, lambda: child.log.read_text().endswith("\n"))
    grandchild = int(child.log.read_text())
    crew.end(patience=0.2)
    assert child.code == -signal.SIGKILL
    until(crew, lambda: not alive(grandchild))


def test_what_an_ended_child_left_running_is_ended_too(crew, tmp_path):
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
    )
    child = start(crew, tmp_path, code)
    finish(crew)
    grandchild = int(child.log.read_text())
    assert alive(grandchild)
    crew.end()
    assert child.code == 0
    until(crew, lambda: not alive(grandchild))


def test_only_groups_that_are_surely_ours_are_signalled(crew, tmp_path, monkeypatch):
    sent = []

    def killpg(group: int, number: int) -> None:
        # Raises if the child has been reaped: the number may be another's by now.
        os.waitid(os.P_PID, group, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        sent.append(group)

    child = start(crew, tmp_path, "")
    finish(crew)
    monkeypatch.setattr(os, "killpg", killpg)
    crew.end()
    crew.end()
    assert sent == [child.process.pid]
    assert child.process.returncode == 0


def test_hurry_cuts_patience_short(crew, tmp_path):
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"
    child = start(crew, tmp_path, code + "time.sleep(600)")
    until(crew, lambda: child.log.read_text().endswith("\n"))
    crew.end(patience=600, hurry=lambda: True)
    assert child.code == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_killed_launcher_takes_its_children_along(tmp_path):
    code = (
        "import os, sys, pathlib\n"
        "from psrv.commands.children import Crew\n"
        "child = Crew().start('worker', 0, [sys.executable, '-c', 'import time; time.sleep(600)'],"
        " os.environ, pathlib.Path(sys.argv[1]))\n"
        "print(child.process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as launcher:
        pid = int(launcher.stdout.readline())
        until(Crew(), lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes())
        launcher.kill()
    until(Crew(), lambda: not alive(pid))


def test_signals_are_noted_and_handlers_restored():
    before = signal.getsignal(signal.SIGTERM)
    with caught_signals() as signals:
        signals.check()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert (signals.first, signals.count) == (signal.SIGTERM, 2)
        with pytest.raises(Stopped, match="stopped by SIGTERM") as caught:
            signals.check()
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
