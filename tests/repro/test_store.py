"""Cells on disk and in parallel: nothing twice, nothing stale, nothing left running."""

import inspect
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from psrv.errors import ConfigError, PsrvError
from psrv.repro.store import Store, digest, plain, restored
from psrv.repro.study import Study
from repro import made_up


def study(folder: Path, **options) -> Study:
    return Study(made_up.EXPERIMENT, folder, **options)


def settings(log: Path, count: int = 3) -> dict:
    return {f"x{x}": {"x": x, "log": str(log)} for x in range(count)}


def computed(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_values_survive_the_way_to_disk():
    value = {
        "a": np.float32(0.5), "b": np.arange(3), "c": (1, 2), 3: [math.inf, -math.inf],
        "d": None, "e": "nan", "f": {"g": True}, "h": Path("x"),
    }  # fmt: skip
    text = json.dumps(plain(value), allow_nan=False)
    back = restored(json.loads(text))
    assert back == {
        "a": 0.5, "b": [0, 1, 2], "c": [1, 2], "3": [math.inf, -math.inf],
        "d": None, "e": "nan", "f": {"g": True}, "h": "x",
    }  # fmt: skip
    assert math.isnan(restored(plain(math.nan)))
    assert plain(plain(value)) == plain(value)
    with pytest.raises(ConfigError, match="hold a set"):
        plain({"x": {1}})


def test_what_is_there_is_not_computed_again(tmp_path):
    log = tmp_path / "log"
    first = study(tmp_path / "out", processes=0)
    results = first.cells(made_up.square, settings(log))
    assert [first.kept, first.computed] == [0, 3]
    again = study(tmp_path / "out", processes=0)
    repeated = again.cells(made_up.square, settings(log, 4))
    assert computed(log) == ["0", "1", "2", "3"]
    assert [again.kept, again.computed] == [3, 1]
    assert list(repeated) == ["x0", "x1", "x2", "x3"]
    assert str(repeated["x2"]) == str(results["x2"])
    assert math.isnan(repeated["x2"]["list"][1])


def test_changed_settings_are_computed_anew_and_the_old_ones_stay(tmp_path):
    log = tmp_path / "log"
    run = study(tmp_path, processes=0)
    for x in (1, 2, 1):
        cell = run.cells(made_up.square, {"same key": {"x": x, "log": str(log)}})
        assert cell["same key"]["square"] == x * x
    assert computed(log) == ["1", "2"]


def test_a_changed_function_is_another_cell(monkeypatch):
    before = digest(made_up.square, {"x": 1})
    assert digest(made_up.square, {"x": 1}) == before
    assert digest(made_up.fails, {"x": 1}) != before
    monkeypatch.setattr(inspect, "getsource", lambda function: "def square(): pass")
    assert digest(made_up.square, {"x": 1}) != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"square": 4', '"square": 5'),
        lambda text: "[]",
        lambda text: text.replace('"result"', '"outcome"'),
    ],
)
def test_a_damaged_file_is_computed_anew_with_a_warning(tmp_path, capsys, damage):
    run = study(tmp_path, processes=0)
    cell = {"two": {"x": 2}}
    run.cells(made_up.square, cell)
    (file,) = (tmp_path / "cells").iterdir()
    whole = file.read_text()
    file.write_text(damage(whole))
    assert run.cells(made_up.square, cell)["two"]["square"] == 4
    assert run.computed == 2
    error = capsys.readouterr().err
    assert f"warning: {file} is damaged" in error
    found, result = Store(tmp_path / "cells").load("two", digest(made_up.square, {"x": 2}))
    assert found
    assert result["square"] == 4


def test_two_processes_with_one_thread_each(tmp_path):
    log = tmp_path / "log"
    results = study(tmp_path, processes=2).cells(made_up.square, settings(log, 6))
    assert [results[f"x{x}"]["square"] for x in range(6)] == [0, 1, 4, 9, 16, 25]
    assert {r["threads"] for r in results.values()} == {"1"}
    pids = {int(line.split()[1]) for line in log.read_text().splitlines()}
    assert os.getpid() not in pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_cell_that_fails_is_named_and_the_others_are_kept(tmp_path):
    run = study(tmp_path, processes=1)
    cells = {f"x{x}": {"x": x, "bad": 2} for x in range(4)}
    with pytest.raises(
        PsrvError, match=r"^cell 'x2' failed: DataError: no 2 today; its tr"
    ) as caught:
        run.cells(made_up.fails, cells)
    assert caught.value.exit_code == 2
    assert "in fails" in (tmp_path / "failed-cell.txt").read_text()
    assert run.computed == 2
    again = study(tmp_path, processes=0)
    with pytest.raises(PsrvError, match="cell 'x2' failed: DataError: no 2 today"):
        again.cells(made_up.fails, cells)
    assert again.kept == 2


def test_a_process_that_dies_is_reported(tmp_path):
    with pytest.raises(PsrvError, match=r"cell '[xy]': its process was killed by SIGKILL; out of"):
        study(tmp_path, processes=2).cells(made_up.dies, {"x": {"x": 1}, "y": {"x": 2}})


def test_a_function_inside_another_is_refused(tmp_path):
    def inner(x):
        return x

    with pytest.raises(ConfigError, match="top level"):
        study(tmp_path).cells(inner, {"x": {"x": 1}})


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_leaves_no_process_and_keeps_what_was_finished(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from psrv.repro.study import Study\n"
        "from repro import made_up\n"
        f"folder = {str(tmp_path)!r}\n"
        "cells = {f'x{x}': {'x': x, 'folder': folder} for x in range(3)}\n"
        "Study(made_up.EXPERIMENT, Path(folder), processes=2).cells(made_up.hangs, cells)\n"
    )
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    limit = time.monotonic() + 30
    while time.monotonic() < limit and not all(
        (tmp_path / f"{x}.pid").exists() and (tmp_path / f"{x}.pid").read_text() for x in (1, 2)
    ):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    process.wait(20)
    assert process.returncode != 0
    # That no process is left is checked at the end of every test marked so.
    (kept,) = (tmp_path / "cells").glob("x0-*.json")
    assert json.loads(kept.read_text())["result"] == 0
