"""What an experiment wants to show: panels of curves or bars, tables and claims, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from psrv.repro.verdict import Value, Verdict

Values = Sequence[Value] | Sequence[float] | Sequence[int] | NDArray[Any]


@dataclass(frozen=True)
class Curve:
    """One line: points in drawing order, and a band from ``low`` to ``high`` if given."""

    label: str
    xs: list[float]
    ys: list[float]
    low: list[float] | None = None
    high: list[float] | None = None
    dashed: bool = False
    points: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars over names, or over numbers (a histogram); several in one panel stand side by side."""

    label: str
    at: list[str] | list[float]
    heights: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


@dataclass
class Panel:
    """One pair of axes. Panels of one ``group`` share a figure.

    Attributes:
        title: unique in its study. x, y: titles of the axes, with the unit.
        logx, logy: logarithmic; what is not above 0 then falls away.
    """

    title: str
    x: str
    y: str
    logx: bool = False
    logy: bool = False
    group: str = ""
    curves: list[Curve] = field(default_factory=list)
    blocks: list[Bars] = field(default_factory=list)
    hlines: list[tuple[float, str]] = field(default_factory=list)
    vlines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the panel in curves.csv."""
        return f"{self.group}: {self.title}" if self.group else self.title

    def curve(
        self,
        label: str,
        xs: Values,
        ys: Values,
        *,
        low: Values | None = None,
        high: Values | None = None,
        dashed: bool = False,
        points: bool = False,
    ) -> Panel:
        """Add a line. One label has one colour in a figure.

        Args:
            xs, ys: of equal length; None or NaN leaves a gap.
            low, high: a band around it, such as the range over seeds.
            points: markers only, no line.
        """
        made = [None if v is None else _floats(v) for v in (xs, ys, low, high)]
        lengths = {len(v) for v in made if v is not None}
        if len(lengths) > 1:
            raise ValueError(f"curve '{label}' of panel '{self.title}': lengths {sorted(lengths)}")
        x, y, bottom, top = made
        assert x is not None
        assert y is not None
        self.curves.append(Curve(label, x, y, bottom, top, dashed, points))
        return self

    def bars(
        self,
        at: Sequence[str] | Values,
        heights: Values,
        *,
        label: str = "",
        low: Values | None = None,
        high: Values | None = None,
    ) -> Panel:
        """Add bars over names, or over evenly spaced numbers as in a histogram.

        Args:
            at: names, or the bars' middles. low, high: ends of a whisker on each.
        """
        if len(at) != len(heights):
            raise ValueError(f"bars of panel '{self.title}': {len(at)} and {len(heights)}")
        named = len(at) > 0 and isinstance(at[0], str)
        where: Any = list(map(str, at)) if named else _floats(at)
        self.blocks.append(
            Bars(
                label,
                where,
                _floats(heights),
                None if low is None else _floats(low),
                None if high is None else _floats(high),
            )
        )
        return self

    def hline(self, y: float, label: str = "") -> Panel:
        """A horizontal line with words on it."""
        self.hlines.append((float(y), label))
        return self

    def vline(self, x: float, label: str = "") -> Panel:
        """A vertical line with words on it."""
        self.vlines.append((float(x), label))
        return self


@dataclass(frozen=True)
class Table:
    """A table of text and numbers."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim of the paper beside what was measured.

    Attributes:
        sentence: the claim. needs: the figure it needs. measured: what was found, in words.
        place: where the paper says it.
        expected: what it is known to come out as; ``--check`` looks at those that should hold.
    """

    sentence: str
    needs: str
    measured: str
    verdict: Verdict
    place: str = ""
    expected: Verdict | None = None


def _floats(values: Any) -> list[float]:
    return [math.nan if v is None else float(v) for v in values]
