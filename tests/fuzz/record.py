"""What a process was about to do, where its end does not reach: a file mapped into memory.

A write is a copy of a few bytes, so that every case can be noted before it is tried; the
kernel keeps what was written also when the process is killed by a fault.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_HEAD = struct.Struct("<II")
SIZE = 1 << 20


@dataclass(frozen=True)
class Case:
    """The last thing that was noted: where it was, and the bytes it was done with."""

    where: str
    data: bytes


class Record:
    """The writing end; the file is made if it is not there."""

    def __init__(self, path: Path) -> None:
        with open(path, "a+b") as file:
            file.truncate(SIZE)
            self._map = mmap.mmap(file.fileno(), SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def note(self, where: str, data: bytes = b"") -> None:
        """Replace what was noted before."""
        text = where.encode()
        data = data[: SIZE - _HEAD.size - len(text)]
        self._map[: _HEAD.size] = _HEAD.pack(len(text), len(data))
        end = _HEAD.size + len(text)
        self._map[_HEAD.size : end] = text
        self._map[end : end + len(data)] = data


def last(path: Path) -> Case:
    """What was noted last."""
    held = path.read_bytes()
    text, size = _HEAD.unpack_from(held)
    end = _HEAD.size + text
    return Case(held[_HEAD.size : end].decode(), held[end : end + size])
