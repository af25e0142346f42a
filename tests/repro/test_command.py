"""``psrv repro``: its files, its words, its errors and its exit codes."""

import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from psrv.cli import main
from psrv.repro import EXPERIMENTS, load_experiment
from psrv.repro.experiment import Experiment
from psrv.repro.figures import draw, groups
from psrv.repro.learning import in_percent, percent
from psrv.repro.panels import Panel
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict, decide, measured


@pytest.fixture(autouse=True)
def _made_up(monkeypatch):
    # monkeypatch: the command sets it for its own process.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(EXPERIMENTS, "made-up", "repro.made_up")


@pytest.fixture
def _no_drawing(monkeypatch):
    # Most of a tiny run's time; what is drawn is tested elsewhere.
    monkeypatch.setattr("psrv.repro.output.draw", lambda panels: b"\x89PNG" + bytes(20))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_files_of_a_run(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["repro", "made-up", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "made-up (quick): Is four large?", "squares", "  3 cells in one process",
        "writing the page",
    ]  # fmt: skip
    assert "1 held, 1 not held;" in said.out
    assert f"page: {out}/report.html" in said.out
    assert sorted(p.name for p in out.iterdir()) == [
        "both.png", "cells", "curves.csv", "data.json", "report.html", "repro.json", "verdicts.txt",
    ]  # fmt: skip
    assert rows(out / "curves.csv") == [
        ["panel", "curve", "x", "y", "low", "high"],
        ["both: squares", "plain", "0.0", "0.0", "0.0", "1.0"],
        ["both: squares", "plain", "1.0", "1.0", "0.0", "2.0"],
        ["both: squares", "plain", "2.0", "4.0", "3.0", "5.0"],
        ["both: bars", "", "a", "1.0", "", ""],
        ["both: bars", "", "b", "", "", ""],
    ]
    data = json.loads((out / "data.json").read_text(), parse_constant=pytest.fail)
    assert data["claims"][0] == {
        "sentence": "four is <large>", "place": "Figure 1", "needs": "at least 3",
        "measured": "4 (all 4, 2 seeds)", "verdict": "held", "expected": "held",
    }  # fmt: skip
    assert data["figures"] == {"largest": 4, "missing": {"float": "nan"}}
    assert data["tables"][0]["rows"] == [["x", 1.23456], ["y", None]]
    assert data["cells"]["square"]["x2"] == {"x": 2}
    assert data["seeds"] == [0, 1]
    assert data["command"] == f"psrv repro made-up --quick --out {out}"
    assert {"cpu", "cores"} <= data["machine"].keys()
    assert (out / "both.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("_no_drawing")
def test_page(tmp_path):
    assert main(["repro", "made-up", "--out", str(tmp_path), "--seeds", "4"]) == 0
    page = (tmp_path / "report.html").read_text()
    for text in (
        "Nobody 2020 (Nothing), 1, Figure 1", "Is four large?", "<strong>Quick setting.</strong>",
        "four is &lt;large&gt;", '<span class="verdict held">held</span>',
        '<span class="verdict not-held">not held</span>', "it is made up", "<td>1.23</td>",
        "--seeds 4", "4 seeds", 'src="data:image/png;base64,',
    ):  # fmt: skip
        assert text in page, text
    # The verdicts come first, and nothing is loaded from anywhere.
    assert page.index("verdict held") < page.index("<img") < page.index("a table")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "default-src &#x27;none&#x27;" in page
    text = (tmp_path / "verdicts.txt").read_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "four is <large>" in text


@pytest.mark.usefixtures("_no_drawing")
def test_a_second_run_goes_on_and_fresh_starts_anew(tmp_path, capsys):
    command = ["repro", "made-up", "--out", str(tmp_path / "out")]
    for extra, computed in (([], True), ([], False), (["--fresh"], True)):
        assert main([*command, *extra]) == 0
        said = capsys.readouterr()
        assert ("3 cells in one" in said.err) == computed
        assert ("going on with what" in said.err) == (not computed)
        assert ("3 kept from before" in said.out) == (not computed)


@pytest.mark.usefixtures("_no_drawing")
def test_check_fails_for_what_should_hold(tmp_path, capsys):
    assert main(["repro", "made-up", "--check", "--out", str(tmp_path / "a")]) == 0
    assert main(["repro", "made-up", "--full", "--out", str(tmp_path / "b")]) == 0
    assert main(["repro", "made-up", "--full", "--check", "--out", str(tmp_path / "b")]) == 1
    assert "psrv: not held, though it should hold: one is too" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_drawing")
def test_check_fails_for_what_should_hold_and_is_undecided(tmp_path, capsys, monkeypatch):
    def diverged(study):
        values = [percent({"diverged": 3, "accuracy": []})] * len(study.seeds)
        study.claim(
            "it learns", "at least 90 %", measured(values, in_percent),
            decide(values, 90, least=True), expected=Verdict.HELD,
        )  # fmt: skip

    made_up = load_experiment("made-up")
    monkeypatch.setattr("repro.made_up.EXPERIMENT", replace(made_up, run=diverged))
    for seeds, verdict in (("3", "not held"), ("1", "undecided")):
        command = ["repro", "made-up", "--fresh", "--seeds", seeds, "--out", str(tmp_path / "out")]
        assert main([*command, "--check"]) == 1
        said = capsys.readouterr()
        assert f"psrv: {verdict}, though it should hold: it learns" in said.err
        assert "diverged" in said.out
        assert main(command) == 0


@pytest.mark.usefixtures("_no_drawing")
def test_the_command_on_the_page_names_the_data_folder(tmp_path, monkeypatch):
    data = tmp_path / "my data"
    data.mkdir()
    (data / "mg").touch()
    monkeypatch.setenv("PSRV_DATA", str(data))
    made_up = load_experiment("made-up")
    for needs, more in ((("mg",), f" --data '{data}'"), ((), "")):
        monkeypatch.setattr("repro.made_up.EXPERIMENT", replace(made_up, needs=needs))
        out = tmp_path / f"out{len(needs)}"
        assert main(["repro", "made-up", "--out", str(out)]) == 0
        command = json.loads((out / "data.json").read_text())["command"]
        assert command == f"psrv repro made-up --quick --out {out}{more}"


@pytest.mark.usefixtures("_no_drawing")
def test_default_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["repro", "made-up"]) == 0
    assert main(["repro", "made-up", "--full", "--seeds", "1"]) == 0
    assert (tmp_path / "runs/repro/made-up/report.html").is_file()
    assert (tmp_path / "runs/repro/made-up-full/report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["made-uq"], "there is no experiment 'made-uq'; did you mean 'made-up'?"),
        (["zzz"], "there is no experiment 'zzz'; 'psrv repro --list' shows them"),
        ([], "no experiment was named; 'psrv repro --list' shows them"),
        (["made-up", "--quick", "--full"], "--quick and --full were both given"),
        (["made-up", "--seeds", "0"], "--seeds is 0; expected a whole number, at least 1"),
        (["made-up", "--processes", "-2"], "--processes is -2; expected a whole number"),
    ],
)
def test_errors(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["repro", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_no_drawing")
def test_a_folder_with_other_things_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    for extra in ([], ["--fresh"]):
        assert main(["repro", "made-up", "--out", str(tmp_path), *extra]) == 2
        assert "holds other files and no repro.json; choose a new" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    assert main(["repro", "made-up", "--out", str(tmp_path / "thesis.txt")]) == 2
    assert "is a file; expected a folder" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_drawing")
def test_a_folder_of_another_setting_is_left_alone(tmp_path, capsys):
    assert main(["repro", "made-up", "--out", str(tmp_path)]) == 0
    (tmp_path / "mine.txt").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    assert main(["repro", "made-up", "--full", "--fresh", "--out", str(tmp_path)]) == 2
    assert "holds made-up (quick), not made-up (full)" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["repro", "made-up", "--fresh", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "mine.txt").read_text() == "kept"
    (tmp_path / "repro.json").write_text("{")
    assert main(["repro", "made-up", "--out", str(tmp_path)]) == 2
    assert "repro.json is damaged" in capsys.readouterr().err


def test_missing_data(tmp_path, capsys, monkeypatch):
    command = ["repro", "hessian-variance", "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "needs the file mg (also missing: train-images-idx3-ubyte)" in said
    assert "no data folder was given; get it from https://www.csie.ntu.edu.tw" in said
    assert "--data DIR or PSRV_DATA" in said
    monkeypatch.setenv("PSRV_DATA", str(tmp_path))
    (tmp_path / "mg").write_text("1 1:1\n")
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "needs the file train-images-idx3-ubyte, but" in said
    assert f"{tmp_path} holds neither train-images-idx3-ubyte nor" in said
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/" in said
    assert main([*command, "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_of_several_files_is_enough(tmp_path):
    needs = ("one|other", "third")
    experiment = Experiment("x", "p", "1", "q", "q", "f", needs, lambda study: None)
    assert experiment.missing(tmp_path) == list(needs)
    (tmp_path / "other.tar.gz").touch()
    (tmp_path / "third.gz").touch()
    assert experiment.missing(tmp_path) == []


def test_list(tmp_path, capsys):
    (tmp_path / "mg.gz").touch()
    assert main(["repro", "--list", "--data", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in ("made-up", "Nobody 2020", "at most 5 minutes on 2 cores", "none", "(missing)"):
        assert text in said, text
    assert "mg (missing)" not in said
    assert f"looked for in {tmp_path}" in said
    for name in EXPERIMENTS:
        assert name in said


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_describes_itself(name):
    found = load_experiment(name)
    assert found.name == name
    assert all((found.paper, found.place, found.question, found.quick, found.full))
    assert found.question.rstrip()[-1] in "?."


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from psrv.cli import main; main(['repro', '--help']); "
        "print([m for m in ('numpy', 'matplotlib', 'rich.progress', 'psrv.repro') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_runs_are_taken_from_disk(tmp_path, capsys):
    job = {"task": "quadratic", "workers": 2, "rounds": 20, "method": "cd-adam", "lr": 0.1}
    study = Study(load_experiment("made-up"), tmp_path)
    first = study.simulate_run("one", **job)
    assert [e["round"] for e in first.evaluations][-1] == 20
    assert first.summary["rounds"] == 20
    assert first.folder == tmp_path / "runs" / "one"
    again = study.simulate_run("one", **job)
    assert (study.computed, study.kept) == (1, 1)
    assert again.summary == first.summary
    other = study.simulate_run("one", **{**job, "lr": 0.2})
    assert (study.computed, study.kept) == (2, 1)
    assert other.summary["replica_digest"] != first.summary["replica_digest"]
    (tmp_path / "runs/one/summary.json").write_text("{")
    capsys.readouterr()
    study.simulate_run("one", **{**job, "lr": 0.2})
    assert "warning: " in capsys.readouterr().err
    assert study.computed == 3


def test_panels_refuse_what_does_not_fit(tmp_path):
    study = Study(load_experiment("made-up"), tmp_path)
    panel = study.panel("one", "x", "y")
    with pytest.raises(ValueError, match="two panels 'one'"):
        study.panel("one", "x", "y")
    with pytest.raises(ValueError, match="lengths"):
        panel.curve("c", [1, 2], [1])
    with pytest.raises(ValueError, match="a row of 1 for 2"):
        study.table("t", ["a", "b"], [[1]])
    with pytest.raises(ValueError, match="maybe"):
        study.claim("s", "n", "m", "maybe")
    study.claim("s", "n", "m", Verdict.HELD)


def test_figures_of_awkward_data():
    # What a logarithmic axis cannot show, dollars in a name, nothing at all: still a figure.
    panel = Panel("costs $1 or $2", "x", "y", logx=True, logy=True)
    panel.curve("never $above$ 0", [0, 1, 2], [0, None, -1])
    panel.curve("one point", [3], [float("inf")])
    empty = Panel("empty", "x", "y", group="g")
    histogram = Panel("histogram", "x", "count", group="g").bars([0.5, 1.5], [3, 4]).vline(1, "v")
    for panels in groups([panel, empty, histogram]).values():
        assert draw(panels).startswith(b"\x89PNG")
    assert list(groups([panel, empty, histogram])) == ["costs $1 or $2", "g"]
