"""Finished cells on disk: what was computed once is not computed again.

    cells/KEY-DIGEST.json    {"cell", "function", "settings", "seconds", "check", "result"}

The digest is of the settings, the function's name and its source, and psrv's version, so a cell
of which any of these changed has another file and is computed anew. (Functions that it
calls are not part of it: ``--fresh`` starts over.) A file is written whole or not at all;
``check`` is a hash of the result, and what does not fit it counts as damaged.

Results are JSON: NumPy numbers and arrays become numbers and lists, tuples lists, keys
text. JSON has no NaN: a number that is not finite is {"float": "nan"} on disk, and a float
again when read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psrv.errors import ConfigError
from psrv.measure.summary import write_whole

_MARK = "float"


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it; numbers that are not finite as {"float": ...}.

    Raises:
        ConfigError: something that JSON cannot hold.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_MARK: repr(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise ConfigError(
        f"a cell's settings or result hold a {type(value).__name__}; expected numbers, text, "
        "arrays, lists and dictionaries of them"
    )


def restored(value: Any) -> Any:
    """The opposite of ``plain``, for what it makes of floats."""
    if isinstance(value, dict):
        if value.keys() == {_MARK} and isinstance(value[_MARK], str):
            return float(value[_MARK])
        return {key: restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restored(item) for item in value]
    return value


def text_of(value: Any) -> str:
    """Canonical JSON."""
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"))


def digest(function: Callable[..., Any], settings: Mapping[str, Any]) -> str:
    """16 hex digits that change with what decides a cell's result."""
    from psrv import __version__

    try:
        code = inspect.getsource(function)
    except (OSError, TypeError):
        code = ""
    about = [name_of(function), code, __version__, plain(settings)]
    return hashlib.sha256(text_of(about).encode()).hexdigest()[:16]


def name_of(function: Callable[..., Any]) -> str:
    """Module and name of a function."""
    return f"{function.__module__}:{function.__qualname__}"


class Store:
    """The cells of one study.

    Attributes:
        folder: where the files are; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str, mark: str) -> Path:
        """The file of a cell: its key, made safe for a file name, and its digest."""
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.+=_-]+', '_', key)[:80]}-{mark}.json"

    def load(self, key: str, mark: str) -> tuple[bool, Any]:
        """(True, result) of a finished cell, (False, None) if there is none; a damaged file is
        reported on stderr and counts as none."""
        path = self.path(key, mark)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False, None
        except (OSError, UnicodeDecodeError) as error:
            return self._damaged(path, str(error))
        try:
            content = json.loads(text)
            result, check = content["result"], content["check"]
        except (ValueError, KeyError, TypeError):
            return self._damaged(path, "not the whole file")
        if check != _check(result):
            return self._damaged(path, "its result is not the one that was written")
        return True, restored(result)

    def save(
        self, key: str, mark: str, function: str, settings: Any, result: Any, seconds: float
    ) -> Any:
        """Write a cell's file; returns the result as ``load`` will give it."""
        result = plain(result)
        content = {
            "cell": key,
            "function": function,
            "settings": plain(settings),
            "seconds": round(seconds, 3),
            "check": _check(result),
            "result": result,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.folder}: {error.strerror}; choose another --out"
            ) from None
        write_whole(self.path(key, mark), json.dumps(content, allow_nan=False) + "\n")
        return restored(result)

    @staticmethod
    def _damaged(path: Path, why: str) -> tuple[bool, None]:
        print(f"psrv: warning: {path} is damaged ({why}); computed anew", file=sys.stderr)
        return False, None


def _check(result: Any) -> str:
    return hashlib.sha256(text_of(result).encode()).hexdigest()[:16]
