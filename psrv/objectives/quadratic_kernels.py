"""The loops of ``quadratics.py``: float64 in the order of its text, rounded to float32 at the end.

Nothing is reordered or fused: whole gradients, single rows and single coordinates have the
same bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

JIT = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**JIT)
def product_at(x, c):
    """(T x)_c, float64, T = tridiag(-1, 2, -1) / 4."""
    value = 2.0 * np.float64(x[c])
    if c > 0:
        value -= np.float64(x[c - 1])
    if c < x.size - 1:
        value -= np.float64(x[c + 1])
    return 0.25 * value


@njit(**JIT)
def products(x, shift, product, shifted):
    """product = T x, shifted = shift x: float64[d] both."""
    last = x.size - 1
    product[0], product[last] = product_at(x, 0), product_at(x, last)
    for c in range(1, last):
        product[c] = 0.25 * ((2.0 * np.float64(x[c]) - np.float64(x[c - 1])) - np.float64(x[c + 1]))
    for c in range(x.size):
        shifted[c] = shift * np.float64(x[c])


@njit(**JIT)
def rows(product, shifted, scales, linear, lo, hi, out):
    """Rows ``lo`` to ``hi - 1`` of all gradients: float32[n, d]."""
    d = product.size
    for i in range(lo, hi):
        scale, row = scales[i], out[i]
        for c in range(d):
            row[c] = np.float32(scale * product[c] + shifted[c])
        row[0] = np.float32((scale * product[0] + shifted[0]) - linear[i])
    return -1


@njit(**JIT)
def parts(x, shift, scales, linear, offsets, columns, out):
    """Of worker i the coordinates columns[offsets[i]:offsets[i + 1]], one after the other."""
    product, shifted = np.empty(x.size), np.empty(x.size)
    products(x, shift, product, shifted)
    for i in range(offsets.size - 1):
        scale = scales[i]
        for j in range(offsets[i], offsets[i + 1]):
            c = np.uint64(columns[j])
            value = scale * product[c] + shifted[c]
            if c == 0:
                value -= linear[i]
            out[j] = np.float32(value)


@njit(**JIT)
def mean(x, shift, scale, linear, out):
    """The gradient of f, float64[d], from the means of the scales and of the linear terms."""
    for c in range(x.size):
        out[c] = scale * product_at(x, c) + shift * np.float64(x[c])
    out[0] -= linear
