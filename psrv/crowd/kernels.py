"""Loops over the ranks of a crowd that call the compressors' own kernels.

Rows are float32 of a matrix (n, d): the address of the first coordinate of the bucket in
row 0, and the ``stride`` from row to row in bytes. Every loop takes ranks ``lo`` to
``hi - 1``, so that threads can divide the ranks among them. Kernels that meet a number that
is not finite return ``rank * count + coordinate`` of it, else -1.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.format_kernels import add_values
from psrv.codec.formats import FORMATS
from psrv.codec.kernels import first_not_finite
from psrv.codec.sign_kernels import decode_sign_onto, encode_sign
from psrv.codec.sparse_kernels import add_residual
from psrv.codec.vector import load_float, store_float

JIT = {"nogil": True, "cache": True}

_FLOAT32 = FORMATS["float32"].code


@njit(**JIT)
def finite_rows(rows, stride, lo, hi, count):
    """Look for what is not finite."""
    for i in range(lo, hi):
        bad = first_not_finite(rows + stride * i, count)
        if bad >= 0:
            return i * count + bad
    return np.int64(-1)


@njit(**JIT)
def form_rows(rows, stride, lo, hi, count, memory, rho):
    """rows = rows + rho * memory."""
    for i in range(lo, hi):
        bad = add_residual(rows + stride * i, count, memory + stride * i, rho)
        if bad >= 0:
            return i * count + bad
    return np.int64(-1)


@njit(**JIT)
def add_rows(rows, stride, lo, hi, count, memory):
    """memory = memory + rows."""
    one = np.float32(1)
    for i in range(lo, hi):
        at = memory + stride * i
        add_values(_FLOAT32, rows + stride * i, 0, count, count, one, at, at)
    return np.int64(-1)


@njit(**JIT)
def clear_rows(rows, stride, lo, hi, count):
    """rows = 0."""
    for i in range(lo, hi):
        for c in range(count):
            store_float(np.float32(0), rows + stride * i + 4 * c)
    return np.int64(-1)


# sign


@njit(**JIT)
def sign_rows(rows, stride, lo, hi, count, memory, rho, edges, bit_edges, payloads, size):
    """Scaled signs of rows + rho * memory to ``payloads``; rows become what they leave over.

    Args:
        memory: address like ``rows``, or 0 for none.
        payloads: address of uint8[n, size].
    """
    for i in range(lo, hi):
        residual = memory + stride * i if memory else 0
        bad = encode_sign(rows + stride * i, residual, rho, edges, bit_edges, payloads + size * i)
        if bad >= 0:
            return i * count + edges[bad]
    return np.int64(-1)


@njit(**JIT)
def add_signs_rows(payloads, size, stride, lo, hi, edges, bit_edges, memory):
    """memory = memory + what the payloads say."""
    for i in range(lo, hi):
        at = memory + stride * i
        decode_sign_onto(payloads + size * i, edges, bit_edges, at, at)
    return np.int64(-1)


# Single coordinates: rank i's are columns[offsets[i]:offsets[i + 1]]


@njit(**JIT)
def gather(rows, stride, lo, hi, memory, offsets, columns, values):
    """values = rows, or rows - memory, at the columns.

    Args:
        memory: address like ``rows``, or 0 for none.
        values: float32[columns.size].
    """
    for i in range(lo, hi):
        for j in range(offsets[i], offsets[i + 1]):
            at = stride * i + 4 * np.int64(columns[j])
            value = load_float(rows + at)
            if memory:
                value = value + np.float32(-1) * load_float(memory + at)
            values[j] = value
    return np.int64(-1)


@njit(**JIT)
def keep_rest(rows, stride, lo, hi, offsets, columns, values):
    """rows = rows - values at the columns, but for zeros, which stay as they are."""
    for i in range(lo, hi):
        for j in range(offsets[i], offsets[i + 1]):
            at = rows + stride * i + 4 * np.int64(columns[j])
            if load_float(at) != 0:
                store_float(load_float(at) - values[j], at)
    return np.int64(-1)


@njit(**JIT)
def add_points(lo, hi, memory, stride, offsets, columns, values):
    """memory = memory + values at the columns."""
    for i in range(lo, hi):
        for j in range(offsets[i], offsets[i + 1]):
            at = memory + stride * i + 4 * np.int64(columns[j])
            store_float(load_float(at) + values[j], at)
    return np.int64(-1)


@njit(**JIT)
def sum_points(offsets, columns, values, members, gains, out):
    """out = sum in rank order of gains[i] * values, product and sum rounded.

    Args:
        members: int64[n], which part of the points is a rank's.
        gains: float32[n]. out: float32[d].

    Returns:
        -1, or the first j whose product is not finite.
    """
    out[:] = 0
    for i in range(gains.size):
        gain, row = gains[i], members[i]
        for j in range(offsets[row], offsets[row + 1]):
            value = gain * values[j]
            if not np.isfinite(value):
                return j
            out[columns[j]] += value
    return np.int64(-1)


@njit(**JIT)
def sum_doubles(rows, stride, members, first, count, out):
    """out = sum over all ranks in float64, in rank order, from coordinate ``first`` on."""
    for c in range(count):
        out[first + c] = 0.0
    for row in members:
        for c in range(count):
            out[first + c] += np.float64(load_float(rows + stride * row + 4 * (first + c)))
    return np.int64(-1)


@njit(**JIT)
def subtract_points(lo, hi, memory, stride, offsets, columns, values):
    """values = values - memory at the columns."""
    for i in range(lo, hi):
        for j in range(offsets[i], offsets[i + 1]):
            at = memory + stride * i + 4 * np.int64(columns[j])
            values[j] = values[j] + np.float32(-1) * load_float(at)
    return np.int64(-1)
