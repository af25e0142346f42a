"""Keep an array that is slow to make in a file that all processes of a machine share.

Decoding 50,000 JPEGs takes seconds, and every worker process would do it. The first to ask
makes the array and leaves it in the user's cache folder; all map that file into memory,
where it exists once, however many processes there are.

A file is an ordinary ``.npy`` with 16 bytes after it: xxh3-128 of everything before. It is
checked each time it is opened, and made again if it does not fit; it appears under its name
whole or not at all. Its name holds a key over everything that the content depends on, so it
is never out of date, and may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

_DIGEST_BYTES = 16
_WAIT_SECONDS = 120.0
_LOOK_EVERY_SECONDS = 0.05


def cache_folder() -> Path | None:
    """``psrv`` below XDG_CACHE_HOME or ``~/.cache``; None for a user without a home folder.

    XDG_CACHE_HOME is the desktop's convention, no option of psrv's, so it is read here.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the convention: others are ignored
        return Path(base) / "psrv"
    try:
        return Path.home() / ".cache" / "psrv"
    except RuntimeError:
        return None


def cached(
    folder: Path | None, name: str, make: Callable[[], NDArray[Any]]
) -> tuple[NDArray[Any], str]:
    """The array of ``make()``, from a file if there is one, otherwise made and kept in one.

    Args:
        folder: created when needed, readable by the user alone; None keeps nothing.
        name: of the file, without ``.npy``; has to change whenever the content would.
        make: returns the array; its errors are passed on.

    Returns:
        The array and where it is: the file's path, or ``"memory"`` and why (no file could be
        written). From a file it is a private mapping: writing to it is allowed, is not seen
        by others, and copies the pages written.
    """
    if folder is None:
        return make(), "memory: no cache folder"
    path = folder / f"{name}.npy"
    array = _open(path)
    if array is not None:
        return array, str(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("ab")
    except OSError as error:
        return make(), f"memory: {folder} cannot be used: {error.strerror or error}"
    with lock:
        _wait_for(lock)
        array = _open(path)  # another process may have made it meanwhile
        if array is not None:
            return array, str(path)
        made = make()
        try:
            _write(path, made)
        except OSError as error:
            return made, f"memory: {path} cannot be written: {error.strerror or error}"
    array = _open(path)
    if array is None:
        return made, f"memory: {path} was written and does not read back"
    return array, str(path)


def _open(path: Path) -> NDArray[Any] | None:
    """The array of a file that is whole; None where there is none or it is damaged."""
    try:
        content = np.memmap(path, np.uint8, mode="c")
        if content.size <= _DIGEST_BYTES:
            return None
        if xxhash.xxh3_128_digest(content[:-_DIGEST_BYTES]) != content[-_DIGEST_BYTES:].tobytes():
            return None
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError):
        return None


def _write(path: Path, array: NDArray[Any]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "w+b") as file:
            np.save(file, array, allow_pickle=False)
            file.seek(0)
            digest = xxhash.xxh3_128()
            while piece := file.read(1 << 20):
                digest.update(piece)
            file.write(digest.digest())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _wait_for(lock: BinaryIO) -> None:
    """Wait for the other processes that make the same file, but not for ever.

    The kernel frees the lock of a process that ended. One that hangs costs the limit, after
    which each does the work itself: slower, and as right. So does each where the file system
    has no locks.
    """
    limit = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > limit:
                return
            time.sleep(_LOOK_EVERY_SECONDS)
        except OSError:
            return
