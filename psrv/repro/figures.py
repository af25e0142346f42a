"""Panels drawn as PNG files, one a group, in the style of the run report's figures."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psrv.report.figures import line_style
from psrv.repro.panels import Bars, Curve, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#1d232b"
_FAINT = "#68717d"
_GRID = "#e4e7eb"
_DPI = 160
_WIDTH, _HEIGHT = 4.1, 2.95  # inches of one panel
_COLUMNS = 3
_LEGEND_COLUMNS = 4


def groups(panels: Sequence[Panel]) -> dict[str, list[Panel]]:
    """Panels by figure, in order; one without a group is a figure of its own title."""
    found: dict[str, list[Panel]] = {}
    for panel in panels:
        found.setdefault(panel.group or panel.title, []).append(panel)
    return found


def draw(panels: Sequence[Panel]) -> bytes:
    """One figure as a PNG: panels side by side, three a row, one colour a label.

    Labels that every panel has stand in one legend below all; others inside their panel.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        columns = _columns(len(panels))
        rows = math.ceil(len(panels) / columns)
        labels = _labels(panels)
        shared = _shared(panels)
        below = 0.27 * math.ceil(len(shared) / _LEGEND_COLUMNS) if shared else 0.0
        width = _WIDTH * columns + (1.3 if columns == 1 else 0.0)
        figure = Figure(figsize=(width, _HEIGHT * rows + below), layout="constrained")
        FigureCanvasAgg(figure)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, place + 1)
            _panel(axes, panel, labels)
            own = [] if shared else _own_labels(panel)
            if len(own) > 1 or (own and panel.hlines + panel.vlines):
                _plain(axes.legend(fontsize=7, frameon=True, framealpha=0.85, edgecolor="none"))
        if shared:
            _below(figure, shared)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()


def spoken(panels: Sequence[Panel]) -> str:
    """The figure in words, for who cannot see it."""
    parts = []
    for panel in panels:
        ends = [
            f"{curve.label} ends at {last:.3g}"
            for curve in panel.curves
            if (last := _last(curve.ys)) is not None
        ]
        ends += [f"{block.label or 'bars'}: {len(block.heights)}" for block in panel.blocks]
        parts.append(f"{panel.title}, {panel.y} against {panel.x}: {'; '.join(ends[:12])}.")
    return " ".join(parts)


def _columns(count: int) -> int:
    if count <= _COLUMNS:
        return max(count, 1)
    return 2 if count == 4 else _COLUMNS


def _items(panel: Panel) -> list[Curve | Bars]:
    return [*panel.curves, *panel.blocks]


def _own_labels(panel: Panel) -> list[str]:
    return [item.label for item in _items(panel) if item.label]


def _labels(panels: Sequence[Panel]) -> dict[str, int]:
    """The style number of every label, in order of appearance."""
    names = dict.fromkeys(item.label for panel in panels for item in _items(panel))
    return {name: number for number, name in enumerate(names)}


def _shared(panels: Sequence[Panel]) -> list[str]:
    """The labels, if all panels of several have the same ones."""
    names = [list(dict.fromkeys(_own_labels(panel))) for panel in panels]
    union = list(dict.fromkeys(name for own in names for name in own))
    if len(panels) < 2 or len(union) < 2:
        return []
    # A run that diverged may be left out of a panel: the legend is still of them all.
    return union if all(len(own) > len(union) / 2 for own in names) else []


def _panel(axes: Axes, panel: Panel, labels: dict[str, int]) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b4bac2")
    axes.tick_params(colors=_FAINT, labelsize=8, length=3, which="both")
    axes.tick_params(length=0, which="minor")
    axes.set_axisbelow(True)
    if panel.logx:
        axes.set_xscale("log", nonpositive="mask")
    if panel.logy:
        axes.set_yscale("log", nonpositive="mask")
    for curve in panel.curves:
        _curve(axes, panel, curve, labels[curve.label])
    if panel.blocks:
        _bars(axes, panel, labels)
    for y, words in panel.hlines:
        axes.axhline(y, color=_FAINT, linewidth=1, linestyle=(0, (4, 2)))
        where = (0.99, y), axes.get_yaxis_transform()
        _words(axes, words, *where, ha="right", va="bottom")
    # One below the other, since vertical lines may lie close together.
    for turn, (x, words) in enumerate(panel.vlines):
        axes.axvline(x, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
        where = (x, 0.98 - 0.075 * turn), axes.get_xaxis_transform()
        _words(axes, f" {words}", *where, ha="left", va="top")
    _ticks(axes, panel)
    title = axes.set_title(panel.title, loc="left", color=_INK, fontsize=9.5, fontweight="bold")
    for text in (title, axes.set_xlabel(panel.x), axes.set_ylabel(panel.y)):
        text.set_parse_math(False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(_FAINT)
        label.set_fontsize(8.5)
    axes.grid(color=_GRID, linewidth=0.8, axis="y" if panel.blocks else "both")


def _curve(axes: Axes, panel: Panel, curve: Any, style: int) -> None:
    colour, dashes = line_style(style)
    if curve.dashed:
        dashes = dashes or (5, 2)
    known = sum(math.isfinite(y) for y in curve.ys)
    axes.plot(
        curve.xs,
        [_drawable(y, panel.logy) for y in curve.ys],
        label=curve.label or None,
        color=colour,
        linestyle="none" if curve.points else (0, dashes) if dashes else "solid",
        linewidth=1.6,
        marker="o" if known <= 30 or curve.points else None,
        markersize=6 if curve.points and known <= 10 else 3,
        zorder=3 if curve.points and known <= 10 else 2,
        markeredgecolor="white" if curve.points and known <= 10 else colour,
        markeredgewidth=0.7,
    )
    if curve.low is not None and curve.high is not None:
        axes.fill_between(
            curve.xs,
            [_drawable(y, panel.logy) for y in curve.low],
            [_drawable(y, panel.logy) for y in curve.high],
            color=colour,
            alpha=0.16,
            linewidth=0,
        )


def _drawable(y: float, log: bool) -> float:
    return y if math.isfinite(y) and (y > 0 or not log) else math.nan


def _bars(axes: Axes, panel: Panel, labels: dict[str, int]) -> None:
    blocks = panel.blocks
    named = bool(blocks[0].at) and isinstance(blocks[0].at[0], str)
    names = list(dict.fromkeys(str(at) for block in blocks for at in block.at)) if named else []
    numbers = [] if named else sorted({float(at) for block in blocks for at in block.at})
    gap = min((b - a for a, b in itertools.pairwise(numbers)), default=1.0)
    share = 0.8 if named else 0.92
    width = (1.0 if named else gap) * share / len(blocks)
    for turn, block in enumerate(blocks):
        colour, _ = line_style(max(labels[block.label], 0) + (0 if block.label else 1))
        shift = (turn - (len(blocks) - 1) / 2) * width
        middles = [names.index(str(at)) if named else float(at) for at in block.at]
        places = [middle + shift for middle in middles]
        axes.bar(places, block.heights, width, color=colour, label=block.label or None)
        _whiskers(axes, block, places)
    if named:
        axes.set_xticks(range(len(names)), names)
        long = max(map(len, names)) * len(names) > 44
        for label in axes.get_xticklabels():
            label.set_parse_math(False)
            label.set_color(_INK)
            if long:
                label.set_rotation(30)
                label.set_horizontalalignment("right")


def _whiskers(axes: Axes, block: Bars, places: list[float]) -> None:
    if block.low is None or block.high is None:
        return
    axes.vlines(places, block.low, block.high, color=_INK, linewidth=1)


def _words(axes: Axes, words: str, at: tuple[float, float], transform: Any, **where: Any) -> None:
    if not words.strip():
        return
    text = axes.text(*at, words, transform=transform, color=_INK, fontsize=7.5, **where)
    text.set_bbox({"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1})
    text.set_parse_math(False)


def _ticks(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    named = panel.blocks and panel.blocks[0].at and isinstance(panel.blocks[0].at[0], str)
    for axis, log in ((axes.xaxis, panel.logx), (axes.yaxis, panel.logy)):
        if axis is axes.xaxis and named:
            continue
        if log:
            low, high = sorted(axis.get_view_interval())
            decades = math.log10(high / low) if low > 0 else 9.0
            subs = (1.0,) if decades > 2.2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)
            axis.set_major_locator(LogLocator(subs=subs, numticks=7))
            axis.set_minor_formatter(NullFormatter())
            axis.set_major_formatter(FuncFormatter(_power))
        else:
            axis.set_major_locator(MaxNLocator(nbins=5))
            axis.set_major_formatter(FuncFormatter(_compact))


def _power(value: float, place: int = 0) -> str:
    """On a logarithmic axis; by matplotlib's mathematics, whose exponents are legible."""
    if value <= 0:
        return ""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -3 < exponent < 4:
        return f"{value:g}"
    digit = value / 10.0**exponent
    front = "" if abs(digit - 1) < 1e-6 else rf"{digit:g}\cdot "
    return rf"${front}10^{{{exponent}}}$"


def _compact(value: float, place: int = 0) -> str:
    size = abs(value)
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= scale:
            return f"{value / (1e3 if unit == 'k' else scale):.4g}{unit}"
    return f"{value:.4g}"


def _below(figure: Figure, shared: list[str]) -> None:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = [name for name in shared if name in handles]
    legend = figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=min(_LEGEND_COLUMNS, len(names)),
        fontsize=8,
        frameon=False,
    )
    _plain(legend)


def _plain(legend: Any) -> None:
    """A label with dollar signs is no mathematics."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _last(values: Sequence[float]) -> float | None:
    return next((v for v in reversed(values) if math.isfinite(v)), None)
