"""What several compressors do with a vector: add, scale, look for what is not finite.

Kernels take addresses and lengths and allocate nothing. Addresses rather than arrays, so
that a read-only or unaligned payload needs no second compilation, and so that the loops
are those of ``codec/vector.py``: sixteen coordinates at a time, then the tail one by one
with the same operations in the same order. The compressors check every length first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.vector import (
    add_scaled,
    load_float,
    scale_floats,
    store_float,
    top_magnitude,
)

JIT = {"nogil": True, "cache": True}

CHUNK = 4096
"""Coordinates that a kernel takes at a time where it passes over them twice: 16 KiB, in L1."""

INFINITY = 0x7F800000
"""The bit pattern of infinity in float32; a NaN's is larger."""


@njit(**JIT)
def finish_mean(x, count, factor, residual, rho):
    """x = x * factor, plus rho * residual where ``residual`` is not 0 (no residual)."""
    whole = count >> 4
    if residual:
        for i in range(whole):
            add_scaled(x + 64 * i, factor, residual + 64 * i, rho)
        for i in range(16 * whole, count):
            scaled = load_float(x + 4 * i) * factor
            store_float(scaled + rho * load_float(residual + 4 * i), x + 4 * i)
    else:
        for i in range(whole):
            scale_floats(x + 64 * i, factor)
        for i in range(16 * whole, count):
            store_float(load_float(x + 4 * i) * factor, x + 4 * i)


@njit(**JIT)
def first_not_finite(x, count):
    """The first coordinate of float32[count] that is NaN or infinite, or -1."""
    for first in range(0, count, CHUNK):
        last = min(first + CHUNK, count)
        whole = (last - first) >> 4
        if top_magnitude(x + 4 * first, whole) >= INFINITY:
            whole = 0
        for i in range(first + 16 * whole, last):
            if not np.isfinite(load_float(x + 4 * i)):
                return i
    return -1
