"""Numbers as people read them: one way for the terminal, the page and the figures."""

from __future__ import annotations

import math

ABSENT = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number_or_none(value: object) -> float | None:
    """``value`` as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def significant(value: float, digits: int = 3) -> str:
    """``value`` rounded to ``digits`` significant digits, without an exponent."""
    if value == 0:
        return "0"
    # Rounded first, since rounding may carry: 9.996 has one digit before the point, 10.0 two.
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:.{max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)}f}"


def human_bytes(value: float | None) -> str:
    """Decimal units (1 kB = 1000 B), three significant digits."""
    if value is None:
        return ABSENT
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{significant(value / size)} {unit}"
    return f"{value:.0f} B" if value == round(value) else f"{significant(value)} B"


def human_count(value: float | None) -> str:
    """A whole number, thousands apart by commas."""
    return ABSENT if value is None else f"{value:,.0f}"


def milliseconds(seconds: float | None) -> str:
    """Milliseconds without the unit."""
    if seconds is None:
        return ABSENT
    value = seconds * 1e3
    if abs(value) < 0.0005:
        return "0"
    return (
        f"{value:.0f}" if abs(value) >= 99.95 else significant(value, 3 if abs(value) >= 1 else 2)
    )


def human_seconds(value: float | None) -> str:
    """Seconds with their unit; minutes and hours from two of them on."""
    if value is None:
        return ABSENT
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    if value >= 120:
        return f"{value / 60:.1f} min"
    return f"{significant(value)} s"


def metric(value: float | None) -> str:
    """A loss or a norm: four significant digits, an exponent when it is far from 1."""
    if value is None:
        return ABSENT
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return significant(value, 4)
    return f"{value:.3e}".replace("e-0", "e-").replace("e+", "e").replace("e0", "e")


def percent(value: float | None, decimals: int = 2) -> str:
    """A share as a percentage."""
    return ABSENT if value is None else f"{100 * value:.{decimals}f}%"


def times(value: float | None) -> str:
    """A factor, such as 31.9×."""
    return ABSENT if value is None else f"{significant(value)}×"


def power_of_ten(value: float) -> str:
    """A tick label on a logarithmic axis: 0.01, 1, 100, beyond that 10⁻⁵."""
    exponent = math.log10(value)
    if abs(exponent - round(exponent)) > 1e-9 or -2 <= exponent <= 3:
        return f"{value:g}"
    return "10" + str(round(exponent)).translate(_SUPERSCRIPT)
