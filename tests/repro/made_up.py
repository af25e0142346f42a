"""A tiny experiment, and cells that other processes import by name or by file."""

import math
import os
import time
from pathlib import Path

from psrv.errors import DataError
from psrv.repro.experiment import Experiment
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict, decide, measured

ANSWER = 42


def square(x: float, log: str = "") -> dict:
    if log:
        with open(log, "a") as file:
            file.write(f"{x} {os.getpid()}\n")
    return {
        "square": x * x,
        "list": [x, math.nan, math.inf],
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def fails(x: float, bad: float) -> float:
    if x == bad:
        raise DataError(f"no {x} today")
    return x


def dies(x: float) -> float:
    os.kill(os.getpid(), 9)
    return x


def hangs(x: float, folder: str) -> float:
    (Path(folder) / f"{x}.pid").write_text(str(os.getpid()))
    if x:
        while True:
            time.sleep(1)
    return x


def answer() -> int:
    return ANSWER


def run(study: Study) -> None:
    study.stage("squares")
    cells = study.cells(square, {f"x{x}": {"x": x} for x in range(3)}, processes=0)
    squares = [cells[f"x{x}"]["square"] for x in range(3)]
    panel = study.panel("squares", "x", "x <squared>", logy=True, group="both")
    panel.curve("plain", range(3), squares, low=[0, 0, 3], high=[1, 2, 5])
    panel.hline(2, "two")
    study.panel("bars", "method", "seconds", group="both").bars(["a", "b"], [1.0, math.nan])
    study.table("a table", ["what", "value"], [["x", 1.23456], ["y", None]], "a note")
    study.claim(
        "four is <large>",
        "at least 3",
        measured([4.0, 4.0]),
        decide([4.0, 4.0], 3, least=True),
        place="Figure 1",
        expected=Verdict.HELD,
    )
    expected = Verdict.HELD if study.full else Verdict.NOT_HELD
    study.claim("one is too", "at least 3", "1", Verdict.NOT_HELD, expected=expected)
    study.note("it is made up")
    study.figure("largest", max(squares))
    study.figure("missing", math.nan)


EXPERIMENT = Experiment(
    name="made-up",
    paper="Nobody 2020 (Nothing)",
    place="1, Figure 1",
    question="Is four large?",
    quick="three squares",
    full="three squares, and a claim that fails",
    needs=(),
    run=run,
    quick_seeds=2,
    full_seeds=3,
)
