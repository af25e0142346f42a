"""What a run shows while it trains."""

import io
import json

import pytest

from psrv.progress import Bar, State, Tail


def line(**record):
    return (json.dumps(record) + "\n").encode()


def test_tail_gives_whole_lines_once(tmp_path):
    file = tmp_path / "worker-0.jsonl"
    tail = Tail(file)
    assert tail.read() == []
    first, second = line(type="start"), line(type="round", round=0)
    file.write_bytes(first + second[:5])
    assert tail.read() == [{"type": "start"}]
    assert tail.read() == []
    file.write_bytes(first + second + b"not json\n[1]\n" + line(type="end"))
    assert tail.read() == [{"type": "round", "round": 0}, {"type": "end"}]


def test_state_adds_rounds_and_bytes_and_keeps_the_last_evaluation():
    state = State(total=10)
    assert state.text() == ""
    for record in (
        {"type": "start"},
        {"type": "round", "payload_up": 1000, "payload_down": 500},
        {"type": "round", "payload_up": 1000, "payload_down": None},
        {"type": "eval", "loss": 0.25, "accuracy": 0.5},
        {"type": "eval", "loss": 0.125, "accuracy": None},
    ):
        state.take(record)
    assert (state.rounds, state.payload, state.loss, state.accuracy) == (2, 2500, 0.125, None)
    assert state.text() == "loss 0.1250  2.50 kB a worker"


def test_bar_is_silent_where_stderr_is_no_terminal(tmp_path, capsys):
    (tmp_path / "w").write_bytes(line(type="round"))
    with Bar("a run", 3) as bar:
        bar.follow(Tail(tmp_path / "w"))
        bar.at(1, 3, {"loss": 1.0})
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # Called in the test itself: pytest sets sys.stderr anew after the fixtures.
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("psrv.progress.REDRAW_SECONDS", 0.0)
    return terminal


def test_bar_shows_rounds_loss_and_bytes_on_a_terminal(tmp_path, monkeypatch):
    terminal = on_terminal(monkeypatch)
    (tmp_path / "w").write_bytes(
        line(type="round", payload_up=3000, payload_down=1000) + line(type="eval", loss=0.5)
    )
    with Bar("cd-adam on digits", 3) as bar:
        bar.follow(Tail(tmp_path / "w"))
    shown = terminal.getvalue()
    for text in ("cd-adam on digits", "1/3", "loss 0.5000", "4.00 kB a worker"):
        assert text in shown
    with Bar("hidden", 3, shown=False) as bar:
        bar.follow(Tail(tmp_path / "w"))
    assert "hidden" not in terminal.getvalue()


def test_simulation_reports_through_the_same_bar(monkeypatch):
    terminal = on_terminal(monkeypatch)
    with Bar("sgd on quadratic") as bar:
        bar.at(1, 2, {"loss": 2.0, "payload_up": 10, "payload_down": 10})
        bar.at(2, 2, {})
    assert "2/2" in terminal.getvalue()
    assert "loss 2.0" in terminal.getvalue()
