"""top-k of many rows, for small k: the largest magnitudes, ties to the lower index.

What ``codec/selection.py`` finds, without its scratch of a histogram and a sample a call:

1. One pass over a row forms v - h (or v + rho e, which is kept) and takes the largest
   magnitude of each piece of 64 coordinates.
2. k times: the first piece that holds the largest of these, the first coordinate in it of
   that magnitude; then that coordinate counts as taken, and its piece is looked at again.

Cost: d + k (d / 64 + 128) operations a row, nearly all of them in vectors; so for k above
``MOST`` the codec's own selection is called instead.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec import gaps
from psrv.codec.selection import NOT_FINITE, select_kernel
from psrv.codec.words import load_bits, load_int, store_int

JIT = {"nogil": True, "cache": True}

MOST = 48
"""The largest k that pieces are searched for."""

PIECE = 64


@njit(**JIT)
def _top(bits):
    """The largest of int32 magnitudes, those that are taken being -1."""
    top = np.int32(-1)
    for c in range(bits.size):
        top = max(top, bits[c])
    return top


@njit(**JIT)
def _pick(x, bits, tops, k, indices, values):
    """Fill indices and values of one row's k leaders, in ascending order; or say what is bad."""
    for p in range(tops.size):
        tops[p] = _top(bits[PIECE * p : PIECE * p + PIECE])
    for found in range(k):
        top = _top(tops)
        if found == 0 and top >= NOT_FINITE:
            for c in range(bits.size):
                if bits[c] >= NOT_FINITE:
                    return np.int64(c)
        p = 0
        while tops[p] != top:
            p += 1
        piece = bits[PIECE * p : PIECE * p + PIECE]
        at = 0
        while piece[at] != top:
            at += 1
        if k > 1:
            piece[at] = -1
            tops[p] = _top(piece)
        c = PIECE * p + at
        place = found
        while place > 0 and indices[place - 1] > c:
            indices[place] = indices[place - 1]
            place -= 1
        indices[place] = c
    for j in range(k):
        values[j] = x[indices[j]]
    return np.int64(-1)


@njit(**JIT)
def lead_rows(rows, memory, lo, hi, start, stop, rho, keep, k, columns, values):
    """The k leaders of each row of rows + rho * memory.

    Args:
        rows: float32[n, d]. memory: float32[n, d], or (0, 0) for none.
        start, stop: the bucket's coordinates.
        keep: whether rows + rho * memory is left in ``rows``.
        k: at most ``MOST``.
        columns: int32[n * k], values: float32[n * k]: filled for these ranks.
    """
    d = stop - start
    x, bits = np.empty(d, np.float32), np.empty(d, np.int32)
    whole = x.view(np.int32)
    tops = np.empty((d + PIECE - 1) // PIECE, np.int32)
    with_memory = memory.size > 0
    for i in range(lo, hi):
        row = rows[i, start:stop]
        if with_memory:
            other = memory[i, start:stop]
            for c in range(d):
                x[c] = row[c] + rho * other[c]
            if keep:
                row[:] = x
        else:
            x[:] = row
        for c in range(d):
            bits[c] = whole[c] & np.int32(0x7FFFFFFF)
        bad = _pick(x, bits, tops, k, columns[i * k : i * k + k], values[i * k : i * k + k])
        if bad >= 0:
            return i * d + bad
    return np.int64(-1)


@njit(**JIT)
def select_rows(
    rows, stride, lo, hi, d, k, memory, rho, columns, values, indices, picked, sampled, sample, room
):
    """The same by the codec's selection, for any k; rows become rows + rho * memory.

    Args:
        rows, memory: addresses of the bucket in row 0; memory 0 for none.
        indices, picked: addresses of this thread's scratch for ``room`` candidates and more.
        sampled: address of its scratch for a sample of ``sample``.
    """
    counts = np.zeros(2, np.int64)
    for i in range(lo, hi):
        residual = memory + stride * i if memory else 0
        bad = select_kernel(
            rows + stride * i, d, k, residual, rho, np.int64(-1), indices, picked, room, sampled,
            sample, counts,
        )  # fmt: skip
        if bad >= 0:
            return i * d + bad
        for j in range(k):
            columns[i * k + j] = load_int(indices + 4 * j)
            store_int(load_bits(picked + 4 * j), values.ctypes.data + 4 * (i * k + j))
    return np.int64(-1)


@njit(**JIT)
def code_bytes(columns, k, d, lo, hi, sizes):
    """sizes[i] = bytes of the code of row i's indices (``codec/gaps.py``): int64[m]."""
    for i in range(lo, hi):
        sizes[i] = gaps.choose(columns.ctypes.data + 4 * i * k, k, d)[1]
    return np.int64(-1)


@njit(**JIT)
def single_code_bytes(d):
    """Bytes of the code of one index, for each index: int64[d]."""
    sizes, index = np.empty(d, np.int64), np.empty(1, np.int32)
    for c in range(d):
        index[0] = c
        sizes[c] = gaps.choose(index.ctypes.data, 1, d)[1]
    return sizes
