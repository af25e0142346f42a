"""The ``psrv`` command itself: what it lists, and how it ends."""

import subprocess
import sys

import pytest

import psrv
from psrv import cli
from psrv.cli import main

COMMANDS = (
    "launch",
    "simulate",
    "server",
    "worker",
    "report",
    "bench",
    "demo",
    "warmup",
    "methods",
    "compressors",
    "tasks",
)


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if f" {name} " not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"psrv {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS), ["bench", "codec"]])
def test_help_shows_no_type_where_a_flag_takes_no_value(words, capsys):
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert [kind for kind in ("bool", "list[", "[[", "......") if kind in text] == []


def test_help_of_bench_says_what_there_is(capsys):
    main(["bench", "--help"])
    text = capsys.readouterr().out
    assert "compressors" in text
    assert "everything" not in text


def test_test_aids_are_not_shown(capsys):
    main(["server", "--help"])
    assert "slow-ms" not in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from psrv.cli import main; main(['launch', '--help']);"
        "print(sorted({'torch', 'numba', 'numpy', 'zmq', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"psrv {psrv.__version__}\n"


def test_methods_lists_the_table(capsys):
    from psrv.methods import METHODS

    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    assert [name for name in METHODS if name not in text] == []


def test_tasks_lists_the_registry(capsys):
    from psrv.tasks import TASKS

    assert main(["tasks"]) == 0
    text = capsys.readouterr().out
    assert [name for name in TASKS if name not in text] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lanuch"], "lanuch"),
        (["launch", "--metod", "sgd"], "--metod"),
        (["launch", "--workers"], "--workers"),
        (["report"], "RUN"),
        (["launch"], "nothing to train: give --task NAME"),
        (["simulate"], "nothing to simulate: give --task NAME"),
        (["worker"], "nothing to train: give --task NAME"),
        (["launch", "--task", "nosuch"], "no task named 'nosuch'"),
        (["launch", "--task", "quadratic", "--method", "adamm"], "method 'adamm' is unknown"),
        (["launch", "--task", "quadratic", "--rule", "none"], "rule 'none' is unknown"),
        (["simulate", "--task", "nosuch"], "no task named 'nosuch'"),
        (["launch", "--", "no-such-program"], "cannot run 'no-such-program'"),
        (["launch", "--lr", "1", "--", "python", "x.py"], "--lr is for built-in tasks"),
        (["worker", "--task", "digits", "--", "python", "x.py"], "--task is for built-in tasks"),
        (["server", "--bind", "tcp://0.0.0.0:1"], "--insecure"),
        (["report", "no-such-folder"], "no-such-folder does not exist"),
    ],
)
def test_bad_command_line_is_one_line_and_exit_code_2(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("psrv: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["lanuch"], "psrv"),
        (["launch", "--metod", "sgd"], "psrv launch"),
        (["bench", "rounds"], "psrv bench"),
        (["bench", "codec", "--chek"], "psrv bench codec"),
    ],
)
def test_wrong_option_is_sent_to_the_help_of_its_command(arguments, command, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.endswith(f"; see '{command} --help'\n")


def test_words_after_the_command_are_its_own(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "psrv.commands.run.launch",
        lambda flags, config, command, force: seen.update(flags=flags, command=command),
    )
    assert main(["launch", "-n", "2", "python", "train.py", "--workers", "9", "-h"]) == 0
    assert seen["command"] == ["python", "train.py", "--workers", "9", "-h"]
    assert seen["flags"]["workers"] == "2"
    assert main(["launch", "--no-trace", "--", "--odd"]) == 0
    assert seen["command"] == ["--odd"]
    assert seen["flags"]["trace"] is False


def test_error_of_psrv_ends_with_its_code(monkeypatch, capsys):
    def fail() -> None:
        raise psrv.LostError("worker 3 is\ngone")

    monkeypatch.setattr("psrv.commands.show.tasks", fail)
    assert main(["tasks"]) == 8
    assert capsys.readouterr().err == "psrv: error: worker 3 is gone\n"


def test_error_with_control_characters_is_printed_escaped(monkeypatch, capsys):
    def fail() -> None:
        raise psrv.RefusedError("zu spät: \x1b[31mEVIL\x1b]0;title\x07\nline2\u202e")

    monkeypatch.setattr("psrv.commands.show.tasks", fail)
    assert main(["tasks"]) == 7
    line = r"psrv: error: zu spät: \x1b[31mEVIL\x1b]0;title\x07 line2\u202e"
    assert capsys.readouterr().err == line + "\n"


def test_unexpected_error_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("psrv.commands.show.tasks", fail)
    with pytest.raises(ZeroDivisionError):
        main(["tasks"])


def test_interrupt_ends_with_130(monkeypatch, capsys):
    def fail() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("psrv.commands.show.tasks", fail)
    assert main(["tasks"]) == 130
    assert capsys.readouterr().err.strip() == "psrv: error: interrupted"


def test_reader_that_goes_away_ends_the_command_quietly():
    code = "import psrv.commands.show as s; s.tasks = lambda: print('x' * 10**6);"
    code += "from psrv.cli import main; raise SystemExit(main(['tasks']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


def test_every_flag_of_launch_is_an_option(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "psrv.commands.run.launch", lambda flags, config, command, force: seen.update(flags)
    )
    assert main(["launch"]) == 0
    known = {
        name
        for model in (cli.JobConfig, cli.ServerConfig, cli.ConnectConfig)
        for name in model.model_fields
    }
    assert known - set(seen) == {"address_file", "bind", "insecure", "server", "rank"}
    assert set(seen.values()) == {None}
