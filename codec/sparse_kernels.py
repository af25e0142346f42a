"""Gathering and scattering single coordinates, for the compressors that send some of them.

Points are int32 indices in [0, d), each at most once in a payload; the callers have proved
that. Values are float32, already multiplied by the compressor's gain.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.format_kernels import encode_scaled
from psrv.codec.kernels import finish_mean, first_not_finite
from psrv.codec.vector import load_float, store_float

JIT = {"nogil": True, "cache": True}

PIECE = 2048
"""Coordinates that stay in the L1 cache between two operations on them."""

STRETCH = 1 << 15
"""Coordinates that all payloads are added to before the next ones: they stay in L2."""


@njit(**JIT)
def add_residual(x, count, residual, rho):
    """x = x + rho * residual; -1, or the first coordinate that is then not finite."""
    for first in range(0, count, PIECE):
        size = min(PIECE, count - first)
        at = x + 4 * first
        finish_mean(at, size, np.float32(1), residual + 4 * first, rho)
        bad = first_not_finite(at, size)
        if bad >= 0:
            return first + bad
    return -1


@njit(**JIT)
def gather(x, points, values):
    """values[i] = x[points[i]]; ``x`` and ``values`` are addresses, ``points`` int32[K]."""
    for i in range(points.size):
        store_float(load_float(x + 4 * np.int64(points[i])), values + 4 * i)


@njit(**JIT)
def send(code, x, points, values, gathered, payload, key, gain):
    """Write the values of x at the points to a payload, and leave x - C(x) there.

    A piece at a time, so that what was read of x is still in the cache when it is written.
    A zero stays as it is, whatever its sign: C(x) is +0 there.

    Args:
        points: int32[K].
        values: address of float32[K]: the values, if they were ``gathered``; overwritten.

    Returns:
        -1, or the first i whose value is not finite, or not when multiplied by the gain.
    """
    for first in range(0, points.size, PIECE):
        part = points[first : first + PIECE]
        at = values + 4 * first
        if not gathered:
            gather(x, part, at)
        bad = encode_scaled(code, at, first, part.size, points.size, payload, key, gain)
        if bad < 0 and gain > 1:
            bad = first_not_finite(at, part.size)
        if bad >= 0:
            return first + bad
        for i in range(part.size):
            place = x + 4 * np.int64(part[i])
            if load_float(place) != 0:
                store_float(load_float(at + 4 * i), place)
    return -1


@njit(**JIT)
def scatter_add(points, values, weight, out):
    """out[points[i]] += weight * values[i], product and sum rounded."""
    for i in range(points.size):
        at = out + 4 * np.int64(points[i])
        store_float(load_float(at) + weight * load_float(values + 4 * i), at)


@njit(**JIT)
def reduce_ascending(points, values, starts, weights, factor, count, out, residual, rho):
    """out = (sum of weights[k] * c_k in rank order) * factor + rho * residual.

    Each payload's points ascend, so that a stretch of the vector is finished while it is in
    the cache: one pass over memory, whatever the number of payloads.

    Args:
        points: int32, all payloads' points one after the other.
        values: address of their float32 values, likewise.
        starts: int64[n + 1]: payload k's points are those from starts[k] to starts[k + 1].
        weights: float32[n].
        count: d. out: address of float32[d]. residual: of float32[d], or 0.
    """
    payloads = starts.size - 1
    cursors = starts[:payloads].copy()
    for first in range(0, count, STRETCH):
        size = min(STRETCH, count - first)
        stop = first + size
        base = out + 4 * first
        for i in range(size):
            store_float(np.float32(0), base + 4 * i)
        for k in range(payloads):
            i, last, weight = cursors[k], starts[k + 1], weights[k]
            while i < last and points[i] < stop:
                at = out + 4 * np.int64(points[i])
                store_float(load_float(at) + weight * load_float(values + 4 * i), at)
                i += 1
            cursors[k] = i
        finish_mean(base, size, factor, residual + 4 * first if residual else 0, rho)
