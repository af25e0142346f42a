from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from psrv.cli import main
from psrv.commands.report import finish
from psrv.errors import DataError
from psrv.measure.meter import PARTS
from psrv.report import comparison_table, default_output, load_runs, render_page, write_report
from psrv.report.figures import PART_COLOURS, Series, curve_figure, line_style
from psrv.report.page import straggler_note
from psrv.report.runs import baseline, times_smaller
from psrv.report.units import (
    human_bytes,
    human_seconds,
    metric,
    milliseconds,
    power_of_ten,
    significant,
)

METHODS = ("amsgrad", "cd-adam", "dist-ef-sgdm", "signum")


class Page(HTMLParser):
    """What a browser would make of a page: balanced tags, ids, attributes, text."""

    void = frozenset({"meta", "br", "path", "use", "rect", "link", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        self._note(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.references.append(value or "")
            self.references.extend(re.findall(r"url\(([^)]*)\)", value or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def demo(run_maker: Callable[..., Path]) -> Path:
    """A directory with four runs, as the demo leaves them."""
    for method in METHODS:
        run = run_maker(f"demo/{method}", method, straggler=3 if method == "signum" else None)
    return run.parent


def shown(runs: list, width: int) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(comparison_table(runs))
    return console.file.getvalue()


def test_the_page_shows_every_run_and_all_sections(demo: Path) -> None:
    path = write_report(load_runs([demo]), demo / "report.html")
    page = Page(path.read_text(encoding="utf-8"))
    for method in METHODS:
        assert page.text.count(method) >= 4
    for heading in ("Side by side", "Where a step’s time goes", "Progress", "Bytes of one worker"):
        assert heading in page.text
    for part in PARTS:
        assert part in page.text
    for fact in ("32.0×", "4,799,528", "node-17", "Example CPU E5 @ 2.60GHz", "ab" * 32):
        assert fact in page.text
    assert page.text.count("rounds") >= 3
    assert {"svg", "table", "details"} <= page.tags


def test_the_page_loads_nothing_and_runs_nothing(demo: Path) -> None:
    html = render_page(load_runs([demo]))
    page = Page(html)
    assert "://" not in html
    assert "@import" not in html
    assert "script" not in page.tags
    assert not {"link", "img", "iframe", "object", "embed"} & page.tags
    assert page.references
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_the_same_runs_give_the_same_page(demo: Path) -> None:
    # Another process, since ids might depend on hash randomisation or what was drawn before.
    code = (
        "import sys; from psrv.report import *\n"
        "sys.stdout.buffer.write(render_page(load_runs(sys.argv[1:])).encode())"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, str(demo)],
        check=True,
        capture_output=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "7"},
    ).stdout.decode()
    assert again == render_page(load_runs([demo]))


def test_names_are_text_and_never_markup(run_maker: Callable[..., Path]) -> None:
    nasty = '<script>alert("1")</script> $x$ [red]\x00\nhttp://x.test/'
    run = run_maker("a", nasty, task="<img src=x>", workers=1)
    html = render_page(load_runs([run]))
    page = Page(html)
    assert not {"script", "img"} & page.tags
    assert '<script>alert("1")</script> $x$ [red]' in page.text
    assert "<img src=x>" in page.text
    assert "\x00" not in html
    assert "[red]" in shown(load_runs([run]), 300)


def test_tasks_without_accuracy_show_the_gradient_norm(run_maker: Callable[..., Path]) -> None:
    run = run_maker("a", task="libsvm:a9a", accuracy=False, dimension=123)
    page = Page(render_page(load_runs([run])))
    assert "gradient norm" in page.text
    assert "accuracy" not in page.text
    assert "10⁻⁴" in page.text


def test_runs_of_different_tasks_get_figures_of_their_own(run_maker: Callable[..., Path]) -> None:
    runs = load_runs([run_maker("a", task="digits"), run_maker("b", task="quadratic")])
    page = Page(render_page(runs))
    assert "2 runs on 2 tasks" in page.text
    assert "Progress on digits" in page.text
    assert "Progress on quadratic" in page.text


@pytest.mark.parametrize("count", [1, 12])
def test_one_run_and_twelve_runs_make_a_page(run_maker: Callable[..., Path], count: int) -> None:
    for number in range(count):
        path = run_maker(f"all/r{number}", workers=2, rounds=6, seed=number)
    runs = load_runs([path.parent])
    page = Page(render_page(runs))
    assert [run.path.name for run in runs] == [f"r{number}" for number in range(count)]
    assert len({run.label for run in runs}) == count
    for run in runs:
        assert run.label in page.text


def test_runs_can_be_told_apart_by_line(demo: Path) -> None:
    assert len({line_style(index) for index in range(18)}) == 18
    assert set(PART_COLOURS) == set(PARTS)
    assert len(set(PART_COLOURS.values())) == len(PARTS)


def test_a_run_without_evaluations_or_time_still_makes_a_page(
    run_maker: Callable[..., Path],
) -> None:
    run = run_maker("a", workers=1)
    summary = json.loads((run / "summary.json").read_text())
    summary["history"] = [{"round": 1}, "nonsense", {"loss": 2}]
    summary["breakdown_seconds"] = dict.fromkeys(PARTS, 0.0)
    summary["step_seconds"] = {"mean": 0.0, "median": 0.0, "p90": 0.0}
    summary["final"] = {"loss": None, "accuracy": None, "grad_norm": None}
    for key in ("stragglers", "hidden_seconds", "tcp_source", "version"):
        del summary[key]
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "job.json").unlink()
    page = Page(render_page(load_runs([run])))
    assert "These runs hold no evaluations." in page.text
    assert "nobody kept the others waiting" in page.text


def test_the_straggler_is_named_only_when_it_stands_out(demo: Path) -> None:
    notes = {run.label: straggler_note(run) for run in load_runs([demo])}
    assert "worker 3 took 100% of it" in notes["signum"]
    assert "the last in 100% of the others’ steps" in notes["signum"]
    assert notes["signum"].startswith("37.5 ms of the mean step")


def test_missing_tcp_counts_are_said(run_maker: Callable[..., Path]) -> None:
    runs = load_runs([run_maker("a", tcp=False), run_maker("b", "signum")])
    page = Page(render_page(runs))
    assert "not measured; messages are counted (cd-adam)" in page.text
    assert "kernel (TCP_INFO) (signum)" in page.text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_the_terminal_and_loses_no_figure(demo: Path, width: int) -> None:
    text = shown(load_runs([demo]), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for method, cells in (
        ("amsgrad", ("dense", "4.80 MB", "1.00×")),
        ("signum", ("sign-unscaled", "150 kB", "32.0×")),
    ):
        row = next(line for line in lines if line.startswith(method + " "))
        assert all(cell in row for cell in cells)
    assert "mnist" in text
    assert "workers" in text
    assert ("task mnist, workers 4, rounds 20" in text) == (width < 120)


def made_twice(run_maker: Callable[..., Path], **options: object) -> list[Path]:
    return [run_maker(f"{name}/{m}", m, **options) for name in "ab" for m in METHODS] + [
        run_maker("b/again", "cd-adam", task="quadratic:d=1000,noise=0.1")
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_narrow_table_breaks_no_word_and_says_what_it_leaves_out(
    run_maker: Callable[..., Path], width: int
) -> None:
    runs = load_runs(made_twice(run_maker))
    text = shown(runs, width)
    assert max(map(len, text.splitlines())) <= width
    for run in runs:
        row = next(line for line in text.splitlines() if line.startswith(run.label + " "))
        assert ("150 kB" if run.text("compressor") != "dense" else "4.80 MB") in row
    left_out = re.search("too narrow for (.*)", text)
    for title in ("compressor", "wall", "task"):
        missing = left_out is not None and title in left_out[1]
        assert missing or title in text.partition("too narrow")[0]


def test_names_wider_than_the_console_break_and_numbers_do_not(
    run_maker: Callable[..., Path],
) -> None:
    text = shown(load_runs([run_maker(f"{c}/{'long ' * 20}{c}") for c in "ab"]), 60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.count("150 kB") == 4


def test_a_piped_report_is_wide_whatever_the_terminal(
    run_maker: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    paths = [run_maker("a/run"), run_maker("b/other"), run_maker("c", "signum", task="digits")]
    assert main(["report", *map(str, paths), "--out", str(paths[0] / "page.html")]) == 0
    text = capsys.readouterr().out
    assert "too narrow" not in text
    for run in load_runs(paths):
        row = next(line for line in text.splitlines() if line.startswith(run.label + " "))
        assert f" {run.text('compressor')} " in row
        assert f" {run.text('task')} " in row


def test_a_task_named_by_a_peer_reaches_the_terminal_escaped(
    run_maker: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_maker("a", task="\x1b[31mEVIL\x1b]0;title\x07\nline2")
    finish(folder, trace=False)
    assert main(["report", str(folder)]) == 0
    text = capsys.readouterr().out
    assert r"cd-adam on \x1b[31mEVIL\x1b]0;title\x07\nline2: 4 workers" in text
    assert not {"\x1b", "\x07"} & set(text)


def test_payloads_are_compared_with_the_first_run_in_full_precision(
    run_maker: Callable[..., Path],
) -> None:
    small, full, other = load_runs(
        [
            run_maker("a", "cd-adam"),
            run_maker("b", "amsgrad"),
            run_maker("c", "signum", dimension=10),
        ]
    )
    runs = [small, full, other]
    assert baseline(runs) is full
    assert times_smaller(small, full) == pytest.approx(31.97, abs=0.01)
    assert times_smaller(other, full) is None
    assert baseline([small, other]) is small


def test_labels_say_what_differs(run_maker: Callable[..., Path]) -> None:
    def labels(*paths: Path) -> list[str]:
        return [run.label for run in load_runs(paths)]

    first = run_maker("x/run", seed=1)
    assert labels(first, run_maker("b", "signum")) == ["cd-adam", "signum"]
    assert labels(first, run_maker("c", seed=2)) == ["cd-adam seed 1", "cd-adam seed 2"]
    assert labels(first, run_maker("d", seed=1)) == ["cd-adam (run)", "cd-adam (d)"]
    assert labels(first, run_maker("y/run", seed=1)) == ["cd-adam (run) #1", "cd-adam (run) #2"]
    assert labels(first, first) == ["cd-adam"]


def test_paths_that_hold_no_run_are_clear_errors(
    tmp_path: Path, run_maker: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_runs([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no summary\.json"):
        load_runs([tmp_path / "empty"])
    with pytest.raises(DataError, match="no runs given"):
        load_runs([])
    run = run_maker("a")
    assert [found.path for found in load_runs([run / "summary.json"])] == [run]
    (run / "job.json").write_text("{")
    with pytest.raises(DataError, match=r"job\.json is damaged"):
        load_runs([run])


def test_the_page_goes_where_the_runs_are(tmp_path: Path) -> None:
    for name in ("p/a", "p/b", "q/c"):
        (tmp_path / name).mkdir(parents=True)
    a, b, c = (tmp_path / name for name in ("p/a", "p/b", "q/c"))
    assert default_output([a]) == a / "report.html"
    assert default_output([a, b]) == tmp_path / "p" / "report.html"
    assert default_output([a, c]) == Path("report.html")


def test_bytes_are_drawn_logarithmically_only_when_runs_lie_far_apart() -> None:
    def ticks(factor: float) -> list[str]:
        lines = [
            Series("a", [(0.0, 2.0), (1e6, 1.0)], 0),
            Series("b", [(0.0, 2.0), (1e6 * factor, 1.0)], 1),
        ]
        svg = curve_figure(lines, "x", metric="loss", against="bytes", against_kind="bytes")
        return re.findall(r">([0-9.]+ [kMG]?B)<", svg)

    assert "0 B" in ticks(2)
    assert "0 B" not in ticks(100)
    assert {"1 MB", "100 MB"} <= set(ticks(1000))


def test_a_figure_with_nothing_to_draw_is_left_out() -> None:
    zeros = [Series("a", [(1.0, 0.0)], 0), Series("b", [], 1)]
    assert curve_figure(zeros, "x", metric="norm", against="t", metric_kind="log") is None
    assert curve_figure(zeros, "x", metric="loss", against="t") is not None


def test_the_users_matplotlib_settings_do_not_matter(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = render_page(load_runs([demo]))
    import matplotlib as mpl

    for key, value in (("axes.facecolor", "black"), ("font.size", 30), ("svg.fonttype", "path")):
        monkeypatch.setitem(mpl.rcParams, key, value)
    assert render_page(load_runs([demo])) == expected
    assert mpl.rcParams["font.size"] == 30


def test_labels_outside_the_drawing_font_are_left_to_the_browser(
    run_maker: Callable[..., Path],
) -> None:
    page = Page(render_page(load_runs([run_maker("a", "方法", workers=1)])))
    assert page.text.count("方法") >= 4


def test_long_histories_are_thinned() -> None:
    points = [(float(x), 1.0 + x % 2) for x in range(20_000)]
    svg = curve_figure([Series("a", points, 0)], "x", metric="loss", against="rounds")
    assert len(svg) < 60_000


def test_numbers_read_well() -> None:
    assert [significant(v) for v in (9.996, 0.1234, 123456, 31.96, 0)] == [
        "10.0",
        "0.123",
        "123000",
        "32.0",
        "0",
    ]
    assert [human_bytes(v) for v in (None, 0, 999, 149_986, 999_960, 4_799_528)] == [
        "–",
        "0 B",
        "999 B",
        "150 kB",
        "1.00 MB",
        "4.80 MB",
    ]
    assert [milliseconds(v) for v in (0, 1e-9, 0.0004, 0.0123, 0.123, None)] == [
        "0",
        "0",
        "0.40",
        "12.3",
        "123",
        "–",
    ]
    assert [metric(v) for v in (0.16678, 0, 2.5e-6, 1.5e7, 2e12)] == [
        "0.1668",
        "0",
        "2.500e-6",
        "1.500e7",
        "2.000e12",
    ]
    assert [human_seconds(v) for v in (6.414, 150, 8000)] == ["6.41 s", "2.5 min", "2.2 h"]
    assert [power_of_ten(v) for v in (1e-5, 0.01, 1000, 1e6, 0.3)] == [
        "10⁻⁵",
        "0.01",
        "1000",
        "10⁶",
        "0.3",
    ]


def test_importing_the_report_loads_neither_matplotlib_nor_rich() -> None:
    code = (
        "import sys, psrv.measure, psrv.report\n"
        "heavy = {'matplotlib', 'rich', 'numpy', 'torch', 'numba', 'zmq'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
