"""Sparse products for all workers, and several points, in one pass over the rows.

Products are formed and added in the order of the rows, in float64, one rounding an operation:
the order of SciPy's sparse products, so that a worker that computes its own part alone gets the
same bits. Eight points at once (``LANES``) cost three times as much as one, since they lie side
by side and fill a vector register. Indices are unsigned, which spares a test for negative ones.

    starts     uint32[N + 1]: row j owns the entries starts[j] to starts[j + 1]
    columns    uint32[entries]
    values     float64[entries]
    bounds     uint64[n + 1]: part i owns the rows bounds[i] to bounds[i + 1]
"""

from __future__ import annotations

from numba import njit

JIT = {"nogil": True, "cache": True, "error_model": "numpy"}

LANES = 8
"""Points of one pass of ``margins`` and ``gather``, whose loops over them are written out."""


@njit(**JIT)
def margins(starts, columns, values, points, out):
    """out[j, p] = sum over row j's entries of value * points[column, p].

    Args:
        points: float64[d, LANES]. out: float64[N, LANES], overwritten.
    """
    for j in range(starts.size - 1):
        m0 = m1 = m2 = m3 = m4 = m5 = m6 = m7 = 0.0
        for e in range(starts[j], starts[j + 1]):
            a, c = values[e], columns[e]
            m0 += a * points[c, 0]
            m1 += a * points[c, 1]
            m2 += a * points[c, 2]
            m3 += a * points[c, 3]
            m4 += a * points[c, 4]
            m5 += a * points[c, 5]
            m6 += a * points[c, 6]
            m7 += a * points[c, 7]
        row = out[j]
        row[0], row[1], row[2], row[3] = m0, m1, m2, m3
        row[4], row[5], row[6], row[7] = m4, m5, m6, m7


@njit(**JIT)
def gather(starts, columns, values, weights, bounds, out):
    """out[i, column, p] = sum over the entries of part i of value * weights[row, p].

    Args:
        weights: float64[N, LANES]. out: float64[n, d, LANES], overwritten.
    """
    out[:] = 0.0
    for i in range(bounds.size - 1):
        part = out[i]
        for j in range(bounds[i], bounds[i + 1]):
            w0, w1, w2, w3 = weights[j, 0], weights[j, 1], weights[j, 2], weights[j, 3]
            w4, w5, w6, w7 = weights[j, 4], weights[j, 5], weights[j, 6], weights[j, 7]
            for e in range(starts[j], starts[j + 1]):
                a, c = values[e], columns[e]
                part[c, 0] += a * w0
                part[c, 1] += a * w1
                part[c, 2] += a * w2
                part[c, 3] += a * w3
                part[c, 4] += a * w4
                part[c, 5] += a * w5
                part[c, 6] += a * w6
                part[c, 7] += a * w7


@njit(**JIT)
def margins_of_one(starts, columns, values, point, out):
    """``margins`` of one point: float64[d] to float64[N]."""
    for j in range(starts.size - 1):
        total = 0.0
        for e in range(starts[j], starts[j + 1]):
            total += values[e] * point[columns[e]]
        out[j] = total


@njit(**JIT)
def gather_one(starts, columns, values, weights, bounds, out):
    """``gather`` of one point: float64[N] to float64[n, d]."""
    out[:] = 0.0
    for i in range(bounds.size - 1):
        part = out[i]
        for j in range(bounds[i], bounds[i + 1]):
            weight = weights[j]
            for e in range(starts[j], starts[j + 1]):
                part[columns[e]] += values[e] * weight
