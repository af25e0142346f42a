"""A study's folder: whose it is, and what in it may be replaced.

repro.json    {"experiment", "setting"}: written first; a folder that holds other things
              and no such file is left alone
cells/, runs/             what was computed
data.json and the rest    output.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from psrv.errors import ConfigError
from psrv.measure.summary import write_whole

MARK_FILE = "repro.json"
_FOLDERS = ("cells", "runs")
_FILES = ("data.json", "curves.csv", "report.html", "verdicts.txt", "failed-cell.txt")
_PATTERNS = ("*.png",)


def prepare(folder: Path, experiment: str, setting: str, *, fresh: bool = False) -> bool:
    """Make the folder ready for this experiment in this setting, ``quick`` or ``full``.

    Args:
        fresh: throw away what an earlier run of it left.

    Returns:
        Whether an earlier run is gone on with.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
    """
    mark: dict[str, Any] = {"experiment": experiment, "setting": setting}
    try:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file; expected a folder: choose another --out")
        found = _read(folder)
        if found is None and folder.exists() and any(folder.iterdir()):
            raise ConfigError(
                f"{folder} holds other files and no {MARK_FILE}; choose a new or empty --out"
            )
        if found is not None and found != mark:
            raise ConfigError(
                f"{folder} holds {found.get('experiment')} ({found.get('setting')}), not "
                f"{experiment} ({setting}); choose another --out"
            )
        if found is not None and fresh:
            _clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder}: {error.strerror}; choose another --out"
        ) from None
    write_whole(folder / MARK_FILE, json.dumps(mark) + "\n")
    return found is not None and not fresh and any((folder / name).is_dir() for name in _FOLDERS)


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / MARK_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f"{folder / MARK_FILE} is damaged; remove the folder or choose another")
    return content


def _clear(folder: Path) -> None:
    for name in _FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
    for pattern in (*_FILES, *_PATTERNS):
        for file in folder.glob(pattern):
            file.unlink()
