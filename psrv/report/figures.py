"""The report's figures as SVG text to be put inside an HTML page.

matplotlib draws them, through its object interface (no pyplot, no global
figure) and is imported only when a figure is asked for. The same input gives
the same text: ids are salted, and no date or tool is named. Ids get a prefix,
since all figures share one page; text stays text, so that it can be read out,
searched for and takes the page's font.
"""

from __future__ import annotations

import functools
import html
import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from psrv.measure.meter import PARTS
from psrv.report.runs import Run
from psrv.report.units import human_bytes, milliseconds, power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_P = ParamSpec("_P")
_R = TypeVar("_R")

# A worker's own work is blue to green, standing still is yellow to red, the rest is grey.
PART_COLOURS = {
    "data": "#9cc9e3",
    "compute": "#2f6fa8",
    "encode": "#1f9e97",
    "uplink": "#f6c244",
    "straggler": "#c8374a",
    "server": "#8e5ea2",
    "downlink": "#ee8a3c",
    "decode": "#8bc48a",
    "update": "#3f7d4e",
    "other": "#b9bec6",
}

# Okabe and Ito's colours first, which colour-blind readers can tell apart.
_COLOURS = ("#3d434d", "#0072b2", "#d55e00", "#009e73", "#b5568f", "#c28a00")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.5, 1.5))

_INK = "#1d232b"
_FAINT = "#68717d"
_GRID = "#e4e7eb"
_APART = 8.0  # how many times more bytes than another's make an axis logarithmic
_MOST_POINTS = 500


@dataclass(frozen=True)
class Series:
    """One line of a curve figure: points in drawing order, and its ``line_style`` number."""

    label: str
    points: list[tuple[float, float]]
    style: int


def line_style(index: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dashes (in line widths) of run number ``index``; 18 differ."""
    return _COLOURS[index % len(_COLOURS)], _DASHES[index // len(_COLOURS) % len(_DASHES)]


def _own_settings(draw: Callable[_P, _R]) -> Callable[_P, _R]:
    """Draw under matplotlib's defaults, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **options: _P.kwargs) -> _R:
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "psrv"})
            # The browser has glyphs that matplotlib's own font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return draw(*args, **options)

    return drawn


@_own_settings
def breakdown_figure(runs: Sequence[Run], name: str, *, narrow: bool = False) -> str:
    """One stacked horizontal bar a run: the ten parts of its mean step, in ms.

    ``narrow`` puts the labels above the bars, for a telephone.
    """
    totals = [sum(_parts(run).values()) for run in runs]
    longest = max(totals) or 1e-3
    row = 0.56 if narrow else 0.36
    figure, axes = _figure(3.75 if narrow else 8.4, row * len(runs) + 0.55, "constrained")
    for place, (run, total) in enumerate(zip(runs, totals, strict=True)):
        left = 0.0
        for part, seconds in _parts(run).items():
            axes.barh(
                place,
                seconds * 1e3,
                left=left * 1e3,
                height=0.46 if narrow else 0.66,
                color=PART_COLOURS[part],
                edgecolor="white",
                linewidth=0.5,
            )
            text = milliseconds(seconds)
            if seconds / longest > (0.021 if narrow else 0.0105) * len(text) + 0.008:
                axes.text(
                    (left + seconds / 2) * 1e3,
                    place,
                    text,
                    ha="center",
                    va="center",
                    color=_contrast(PART_COLOURS[part]),
                    fontsize=8,
                )
            left += seconds
        axes.annotate(
            f"{milliseconds(total)} ms",
            (total * 1e3, place),
            (4, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            color=_INK,
            fontsize=8.5,
            fontweight="bold",
        )
        if narrow:
            _plain(axes.text(0, place - 0.38, run.label, va="center", color=_INK, fontsize=8.5))
    axes.set_xlim(0, longest * 1e3 * (1.18 if narrow else 1.1))
    axes.set_ylim(len(runs) - 0.5, -0.62 if narrow else -0.5)
    if narrow:
        axes.set_yticks([])
    else:
        axes.set_yticks(range(len(runs)), [run.label for run in runs])
    for label in axes.get_yticklabels():
        _plain(label)
        label.set_color(_INK)
    axes.set_xlabel("milliseconds a step, mean over workers and rounds", color=_FAINT)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    spoken = "; ".join(
        f"{run.label}: {milliseconds(total)} ms" for run, total in zip(runs, totals, strict=True)
    )
    return _svg(figure, name, f"Mean step by part. {spoken}. The table below has all numbers.")


@_own_settings
def curve_figure(
    series: Sequence[Series],
    name: str,
    *,
    metric: str,
    against: str,
    metric_kind: str = "plain",
    against_kind: str = "plain",
) -> str | None:
    """Lines of a metric against rounds, bytes or seconds; None if there is nothing to draw.

    Args:
        metric, against: titles of the two axes.
        metric_kind: "plain" (logarithmic if the values span two decades), "share"
            (drawn in percent) or "log".
        against_kind: "plain", or "bytes": logarithmic if the runs lie far apart;
            points at zero then fall away.
    """
    lines = [line for line in series if line.points]
    log_x = against_kind == "bytes" and _spread([s.points[-1][0] for s in lines]) >= _APART
    if log_x:
        lines = [Series(s.label, [p for p in s.points if p[0] > 0], s.style) for s in lines]
    values = [y for line in lines for _, y in line.points]
    log_y = metric_kind == "log" or (
        metric_kind == "plain" and bool(values) and min(values) > 0 and _spread(values) >= 100
    )
    if log_y:
        lines = [Series(s.label, [p for p in s.points if p[1] > 0], s.style) for s in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    figure, axes = _figure(3.75, 2.65)
    # Fixed margins, so that the axes of neighbouring figures line up.
    figure.subplots_adjust(left=0.145, right=0.97, bottom=0.165, top=0.905)
    for line in lines:
        colour, dashes = line_style(line.style)
        points = _thin(line.points)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour,
            linestyle=(0, dashes) if dashes else "solid",
            linewidth=1.6,
            marker="o" if len(points) <= 30 else None,
            markersize=3,
        )
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    _ticks(axes, "x", _round_bytes if against_kind == "bytes" else _compact, log_x)
    if metric_kind == "share":
        _ticks(axes, "y", lambda value: f"{100 * value:.4g}%", log_y)
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))
    else:
        _ticks(axes, "y", power_of_ten if log_y else _compact, log_y)
    axes.set_title(metric, loc="left", color=_INK, fontsize=9.5, fontweight="bold")
    axes.set_xlabel(against, color=_FAINT)
    axes.grid(color=_GRID, linewidth=0.8)
    ends = "; ".join(f"{line.label} ends at {line.points[-1][1]:.4g}" for line in lines)
    return _svg(figure, name, f"{metric} against {against}. {ends}.")


def _parts(run: Run) -> dict[str, float]:
    return {part: max(run.number("breakdown_seconds", part) or 0.0, 0.0) for part in PARTS}


def _spread(values: Sequence[float]) -> float:
    positive = [value for value in values if value > 0]
    return max(positive) / min(positive) if positive else 1.0


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``_MOST_POINTS`` of them, evenly, first and last among them."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    last = len(points) - 1
    return [points[round(i * last / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS)]


def _compact(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:.6g}"


def _round_bytes(value: float) -> str:
    return re.sub(r"\.0+ ", " ", human_bytes(value))


def _ticks(axes: Axes, axis: str, form: Callable[[float], str], log: bool) -> None:
    # Own formatters throughout: matplotlib's write powers as mathematics, which does
    # not become plain text.
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    target: Any = axes.xaxis if axis == "x" else axes.yaxis
    if log:
        low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
        decades = math.log10(high / low)
        subs = (1.0,) if decades > 2.2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)
        target.set_major_locator(LogLocator(subs=subs, numticks=6))
        target.set_minor_formatter(NullFormatter())
    else:
        target.set_major_locator(MaxNLocator(nbins=5))
    target.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def _contrast(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def _plain(text: Any) -> None:
    """Take a label as it is: a name with two dollar signs is not mathematics."""
    text.set_parse_math(False)


def _figure(width: float, height: float, layout: Any = "none") -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b4bac2")
    axes.tick_params(colors=_FAINT, labelsize=8, length=3)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_fontsize(8.5)
    return figure, axes


def _svg(figure: Figure, name: str, spoken: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    return _inline(buffer.getvalue(), name, spoken)


def _inline(text: str, name: str, spoken: str) -> str:
    """An SVG document as an element for an HTML page: no prolog, namespaces or metadata,
    ids under ``name``, and scaled by its width in the page."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    head_end = body.index(">")
    found = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', body[:head_end])
    if found is None:
        raise AssertionError("matplotlib wrote an SVG without a viewBox from 0 0")
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(
        r' id="([^"]+)"',
        lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "",
        body[head_end + 1 :],
    )
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body)
    return (
        f'<svg role="img" viewBox="0 0 {found[1]} {found[2]}" '
        f'aria-label="{html.escape(spoken)}">{body.strip()}'
    )
