"""Read data files in LIBSVM's text format, strictly.

    line  = label { space index ":" value }        indices from 1, ascending in a line

Blank lines are skipped. Anything else is an error with the line's number: a sparse
file that is read leniently gives a model that is quietly wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psrv.errors import DataError
from psrv.tasks.files import read_all

SOURCE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/"

_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_PAIR = re.compile(rb"[1-9]\d{0,8}:" + _NUMBER)
_LINE = re.compile(_NUMBER + rb"(?:[ \t]+[1-9]\d{0,8}:" + _NUMBER + rb")*[ \t]*")


@dataclass(frozen=True)
class Rows:
    """A sparse matrix, row after row.

    Attributes:
        labels: float64, shape (N,), as in the file.
        starts: int64, shape (N + 1,): row i owns entries ``starts[i]`` to ``starts[i + 1]``.
        columns: int32, shape (entries,), from 0, ascending in each row.
        values: float64, shape (entries,).
        features: one more than the largest column.
    """

    labels: NDArray[np.float64]
    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.float64]
    features: int


def read_rows(path: Path) -> Rows:
    """Read a LIBSVM file, gzipped if its name ends in ``.gz``.

    Raises:
        DataError: unreadable, damaged, empty, or a line that breaks the format.
    """
    text = read_all(path)
    lines, numbers = _significant(text)
    for line, number in zip(lines, numbers, strict=True):
        if not _LINE.fullmatch(line):
            raise DataError(f"{path}, line {number}: {_complaint(line)}")
    if not lines:
        raise DataError(f"{path} holds no rows; expected LIBSVM text, one row a line")
    counts = np.fromiter((line.count(b":") for line in lines), np.int64, len(lines))
    # The format has been checked, so every number parses and none is missing.
    flat = np.fromstring(b" ".join(lines).replace(b":", b" ").decode("ascii"), sep=" ")
    begins = np.concatenate([[0], np.cumsum(2 * counts + 1)])
    is_label = np.zeros(flat.size, bool)
    is_label[begins[:-1]] = True
    pairs = flat[~is_label].reshape(-1, 2)
    starts = np.concatenate([[0], np.cumsum(counts)])
    columns = pairs[:, 0].astype(np.int32) - np.int32(1)
    if not np.isfinite(flat).all():
        row = int(np.searchsorted(begins, np.flatnonzero(~np.isfinite(flat))[0], "right")) - 1
        raise DataError(f"{path}, line {numbers[row]}: a number is too large for float64")
    falls = np.flatnonzero(np.diff(columns) <= 0) + 1
    falls = falls[~np.isin(falls, starts)]
    if falls.size:
        row = int(np.searchsorted(starts, falls[0], "right")) - 1
        raise DataError(
            f"{path}, line {numbers[row]}: index {columns[falls[0]] + 1} follows "
            f"{columns[falls[0] - 1] + 1}; indices must ascend in a line"
        )
    return Rows(
        labels=flat[is_label],
        starts=starts,
        columns=columns,
        values=np.ascontiguousarray(pairs[:, 1]),
        features=int(columns.max(initial=-1)) + 1,
    )


def _significant(text: bytes) -> tuple[list[bytes], list[int]]:
    """The lines that are not blank, stripped, and their numbers from 1."""
    kept = [(line.strip(), i) for i, line in enumerate(text.split(b"\n"), 1) if line.strip()]
    return [line for line, _ in kept], [i for _, i in kept]


def _complaint(line: bytes) -> str:
    label, *pairs = line.split()
    if not re.fullmatch(_NUMBER, label):
        return f"the label is {_shown(label)}, expected a number"
    for pair in pairs:
        if not _PAIR.fullmatch(pair):
            return f"{_shown(pair)} is not of the form index:value, with indices from 1"
    return f"{_shown(line)} is not LIBSVM text (label index:value ...)"


def _shown(raw: bytes) -> str:
    text = raw[:40].decode("ascii", "backslashreplace")
    return f"'{text}'" + ("..." if len(raw) > 40 else "")
