"""A simulation that goes on where it was stopped, with the result of one that never was.

One ``.npz`` file, replaced at once by a rename, so that there is always a whole one. It holds a
description of the run, in JSON, and every array that the next round depends on.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psrv.errors import ConfigError, DataError

FORM = 1
"""Changes when a file of an older psrv could not be read."""

SECONDS = 60.0
"""Between two files of a run."""

Arrays = dict[str, NDArray[Any]]


class Checkpoint:
    """The file of one run.

    Args:
        path: of the file; its folder is made.
        about: plain values that a run has to share with the one whose file is found.
        seconds: between two files.
    """

    def __init__(
        self, path: Path | str, about: Mapping[str, Any], seconds: float = SECONDS
    ) -> None:
        self.path, self._seconds = Path(path), seconds
        self._about = json.loads(json.dumps({"form": FORM, **about}))
        self._saved = time.monotonic()

    def load(self) -> Arrays | None:
        """What an earlier run left, or None if there is no file.

        Raises:
            ConfigError: the file is of another run, with the first difference.
            DataError: it is damaged, or something else.
        """
        if not self.path.exists():
            return None
        try:
            with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                held = {name: file[name] for name in file.files}
            about = json.loads(str(held.pop("about")))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"checkpoint {self.path} cannot be read ({str(error)[:100]}); delete it to start "
                "anew"
            ) from error
        for name in sorted({*about, *self._about}):
            found, expected = about.get(name), self._about.get(name)
            if found != expected:
                raise ConfigError(
                    f"checkpoint {self.path} is of another run: its {name} is {_short(found)}, "
                    f"this run's {_short(expected)}; delete it or name another file"
                )
        return held

    @property
    def due(self) -> bool:
        """Whether it is time for the next file."""
        return time.monotonic() - self._saved >= self._seconds

    def save(self, held: Mapping[str, NDArray[Any]]) -> None:
        """Replace the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            with open(beside, "wb") as file:
                arrays: dict[str, Any] = {"about": np.array(json.dumps(self._about)), **held}
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)
        self._saved = time.monotonic()


def _short(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
