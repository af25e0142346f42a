"""Read task specs such as ``digits``, ``libsvm:a9a`` or ``synthetic:11M,compute=50ms``.

    spec   = name [":" item {"," item}]
    item   = argument | key "=" value        the argument comes first, and at most once

Numbers may carry a unit: ``k``, ``M``, ``G`` for 10^3, 10^6, 10^9; times ``us``,
``ms``, ``s``. The readers raise ``ValueError`` with what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from psrv.errors import ConfigError
from psrv.tasks.base import Option

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_COUNT = re.compile(_NUMBER + r"\s*([kKMG]?)")
_SECONDS = re.compile(_NUMBER + r"\s*(us|ms|s|)")
_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0}


def split_spec(spec: str) -> tuple[str, str | None, dict[str, str]]:
    """The task's name, its argument (or None) and its key=value pairs, all as text.

    Raises:
        ConfigError: a repeated key, an empty item, or an argument that is not first.
    """
    name, colon, rest = spec.strip().partition(":")
    argument: str | None = None
    pairs: dict[str, str] = {}
    items = [item.strip() for item in rest.split(",")] if colon else []
    for position, item in enumerate(items):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not item or (equals and not (key and value)):
            raise ConfigError(f"task '{spec}': '{item}' is not of the form key=value")
        if not equals:
            if position:
                raise ConfigError(f"task '{spec}': '{item}' is not of the form key=value")
            argument = item
        elif key in pairs:
            raise ConfigError(f"task '{spec}' sets {key} twice")
        else:
            pairs[key] = value
    return name.strip(), argument, pairs


def read_options(spec: str, options: Mapping[str, Option], given: Mapping[str, Any]) -> dict:
    """A value for every option: the given one, or its default.

    Args:
        spec: for messages.
        options: what the task declares.
        given: by key; text is read as in a spec, None means "not given", and any other
            value is read through its text form, so that both ways give the same value.

    Raises:
        ConfigError: an unknown key, or a value that cannot be read.
    """
    for key in given:
        if key not in options:
            allowed = ", ".join(sorted(options)) or "none"
            raise ConfigError(f"task '{spec}' has no option '{key}'; its options: {allowed}")
    values = {}
    for key, option in options.items():
        value = given.get(key)
        if value is None:
            values[key] = option.default
            continue
        try:
            values[key] = option.read(str(value))
        except ValueError as error:
            raise ConfigError(f"task '{spec}': {key} is '{value}'; expected {error}") from None
    return values


def read_count(text: str) -> int:
    """A whole number of at least 1, such as ``4096``, ``1e6`` or ``25.6M``."""
    match = _COUNT.fullmatch(text.strip())
    value = float(match[1]) * _UNITS[match[2]] if match else math.nan
    # 25.6 * 1e6 is not exactly whole in binary.
    if not (1 <= value < 2**53) or abs(value - round(value)) > 1e-6 * value:
        raise ValueError("a whole number of at least 1, such as 4096, 1e6 or 11M")
    return round(value)


def read_index(text: str) -> int:
    """A whole number of at least 0."""
    if not text.strip().isdecimal():
        raise ValueError("a whole number of at least 0")
    return int(text)


def read_switch(text: str) -> bool:
    """``yes`` or ``no``; also ``true`` and ``false``, in any case."""
    switches = {"yes": True, "true": True, "no": False, "false": False}
    if text.strip().lower() not in switches:
        raise ValueError("yes or no")
    return switches[text.strip().lower()]


def one_of(*names: str) -> Callable[[str], str]:
    """A reader of one of some names."""

    def read(text: str) -> str:
        if text.strip() not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text.strip()

    return read


def read_number(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError("a number of at least 0, such as 0.1 or 1e-6")
    return value


def read_seconds(text: str) -> float:
    """A length of time of at least 0, in seconds: ``50ms``, ``0.05s``, ``200us``."""
    match = _SECONDS.fullmatch(text.strip())
    value = float(match[1]) * _TIMES[match[2]] if match else math.nan
    if not 0 <= value < math.inf:
        raise ValueError("a length of time, such as 50ms or 0.2s")
    return value
