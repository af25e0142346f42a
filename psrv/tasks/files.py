"""Find and read data files, with messages that say what was looked for and where to get it."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from psrv.errors import DataError


def find_file(folder: Path | None, name: str, *, task: str, what: str, source: str) -> Path:
    """The path of ``name`` or ``name.gz`` in the data folder.

    Args:
        folder: the data folder, or None when the user gave none.
        name: without ``.gz``.
        task: the spec that needs the file.
        what: the file's format, for the message.
        source: where to get it.

    Raises:
        DataError: no folder, or no such file in it.
    """
    if folder is None:
        raise DataError(
            f"task {task} needs the file {name} or {name}.gz ({what}); give the folder "
            f"it is in with --data DIR or PSRV_DATA; get it from {source}"
        )
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(
        f"task {task}: found neither {folder / name} nor {name}.gz beside it; expected {what}; "
        f"get it from {source} or point --data (PSRV_DATA) elsewhere"
    )


def read_all(path: Path) -> bytes:
    """The contents of a file, unpacked if its name ends in ``.gz``.

    Raises:
        DataError: unreadable, or a damaged archive.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}; fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
