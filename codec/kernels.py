"""The loops over a bucket: every kernel takes addresses and lengths and allocates nothing.

Addresses rather than arrays, so that a read-only or unaligned payload needs no second
compilation, and so that the loops are those of ``codec/vector.py``: sixteen coordinates
at a time, then the tail one by one with the same operations in the same order.
The callers in ``dense.py``, ``sign.py`` and ``unscaled.py`` check every length first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.rng import word64
from psrv.codec.vector import (
    abs_rows,
    add_floats,
    add_scaled,
    add_signs,
    finite_bits,
    load_byte,
    load_float,
    pack_scaled,
    scale_floats,
    sign_bits,
    store_byte,
    store_float,
    store_word16,
    unpack_signs,
    zero_bits,
)

JIT = {"nogil": True, "cache": True}

CHUNK = 4096
"""Coordinates summed in float32 before the sum is carried in float64."""


@njit(**JIT)
def norm1(x, count, lanes):
    """Sum of |x|, in the order that ``docs/payloads.md`` fixes.

    In chunks of 4096: lane j of 64 adds |x[64 r + j]| for r = 0, 1, ... in float32; then
    lane j adds lane j + 32, then j + 16, ... , j + 1; chunk sums are added in float64.

    Args:
        x: address of float32[count].
        lanes: address of 64 float32 of scratch.
    """
    total = 0.0
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        for j in range(64):
            store_float(np.float32(0), lanes + 4 * j)
        rows = size // 64
        abs_rows(lanes, x + 4 * start, rows)
        for j in range(size - 64 * rows):
            value = abs(load_float(x + 4 * (start + 64 * rows + j)))
            store_float(load_float(lanes + 4 * j) + value, lanes + 4 * j)
        half = 32
        while half:
            for j in range(half):
                store_float(
                    load_float(lanes + 4 * j) + load_float(lanes + 4 * (j + half)), lanes + 4 * j
                )
            half //= 2
        total += np.float64(load_float(lanes))
    return total


@njit(**JIT)
def _pack_block(x, count, scale, bits):
    whole = count // 16
    for i in range(whole):
        pack_scaled(x + 64 * i, scale, bits + 2 * i)
    for first in range(16 * whole, count, 8):
        byte = np.uint8(0)
        for j in range(min(8, count - first)):
            address = x + 4 * (first + j)
            value = load_float(address)
            if np.signbit(value):
                byte |= np.uint8(1 << j)
                store_float(value + scale, address)
            else:
                store_float(value - scale, address)
        store_byte(byte, bits + first // 8)


@njit(**JIT)
def encode_sign(x, edges, bit_edges, payload, lanes):
    """Scaled sign of each block of x; x becomes its residual.

    Returns:
        -1, or the block in which the norm is not finite. That block is then untouched.
    """
    blocks = edges.size - 1
    bits = payload + 4 * blocks
    for b in range(blocks):
        start, count = edges[b], edges[b + 1] - edges[b]
        total = norm1(x + 4 * start, count, lanes)
        scale = np.float32(total / count)
        if not np.isfinite(scale):
            return b
        store_float(scale, payload + 4 * b)
        _pack_block(x + 4 * start, count, scale, bits + bit_edges[b])
    return -1


@njit(**JIT)
def _unpack_block(bits, count, scale, out):
    whole = count // 16
    for i in range(whole):
        unpack_signs(bits + 2 * i, scale, out + 64 * i)
    for i in range(16 * whole, count):
        negative = (load_byte(bits + i // 8) >> np.uint8(i % 8)) & np.uint8(1)
        store_float(-scale if negative else scale, out + 4 * i)


@njit(**JIT)
def _add_block(bits, count, scale, base, out):
    whole = count // 16
    for i in range(whole):
        add_signs(bits + 2 * i, scale, base + 64 * i, out + 64 * i)
    for i in range(16 * whole, count):
        negative = (load_byte(bits + i // 8) >> np.uint8(i % 8)) & np.uint8(1)
        value = -scale if negative else scale
        store_float(load_float(base + 4 * i) + value, out + 4 * i)


@njit(**JIT)
def finite_scales(payload, blocks):
    """Whether each of the leading float32 scales is finite and not negative."""
    for b in range(blocks):
        scale = load_float(payload + 4 * b)
        if not (np.isfinite(scale) and scale >= 0):
            return False
    return True


@njit(**JIT)
def decode_sign(payload, edges, bit_edges, out):
    """out = the signed scales of each block."""
    blocks = edges.size - 1
    bits = payload + 4 * blocks
    for b in range(blocks):
        scale = load_float(payload + 4 * b)
        _unpack_block(bits + bit_edges[b], edges[b + 1] - edges[b], scale, out + 4 * edges[b])


@njit(**JIT)
def decode_sign_onto(payload, edges, bit_edges, base, out):
    """out = base + the signed scales of each block."""
    blocks = edges.size - 1
    bits = payload + 4 * blocks
    for b in range(blocks):
        start, count = edges[b], edges[b + 1] - edges[b]
        scale = load_float(payload + 4 * b)
        _add_block(bits + bit_edges[b], count, scale, base + 4 * start, out + 4 * start)


@njit(**JIT)
def finish_mean(x, count, factor, residual, rho):
    """x = x * factor, plus rho * residual where ``residual`` is not 0 (no residual)."""
    whole = count // 16
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
def reduce_sign(payloads, edges, bit_edges, out, residual, rho):
    """out = mean of n sign payloads in rank order (+ rho * residual), 2,048 at a time.

    A stretch of 2,048 coordinates stays in the L1 cache while all n payloads are added.

    Args:
        payloads: int64[n], an address each.
        residual: address of float32[d], or 0.
    """
    blocks = edges.size - 1
    factor = np.float32(1.0 / payloads.size)
    for b in range(blocks):
        size = edges[b + 1] - edges[b]
        for first in range(0, size, 2048):
            count = min(2048, size - first)
            at = 4 * (edges[b] + first)
            offset = 4 * blocks + bit_edges[b] + first // 8
            for k in range(payloads.size):
                scale = load_float(payloads[k] + 4 * b)
                if k == 0:
                    _unpack_block(payloads[k] + offset, count, scale, out + at)
                else:
                    _add_block(payloads[k] + offset, count, scale, out + at, out + at)
            finish_mean(out + at, count, factor, residual + at if residual else 0, rho)


@njit(**JIT)
def encode_unscaled(x, count, key, payload):
    """One bit a coordinate; exact zeros take the generator's bit; x is left as it is.

    Returns:
        -1, or the first coordinate that is not finite.
    """
    for first in range(0, count, 64):
        left = min(64, count - first)
        negative, zero = np.uint64(0), np.uint64(0)
        groups = left // 16
        for g in range(groups):
            address = x + 4 * (first + 16 * g)
            if finite_bits(address) != 0xFFFF:
                for j in range(16):
                    if not np.isfinite(load_float(address + 4 * j)):
                        return first + 16 * g + j
            negative |= np.uint64(sign_bits(address)) << np.uint64(16 * g)
            zero |= np.uint64(zero_bits(address)) << np.uint64(16 * g)
        for j in range(16 * groups, left):
            value = load_float(x + 4 * (first + j))
            if not np.isfinite(value):
                return first + j
            if value == 0:
                zero |= np.uint64(1) << np.uint64(j)
            elif value < 0:
                negative |= np.uint64(1) << np.uint64(j)
        if zero:
            negative = (negative & ~zero) | (word64(key, first // 64) & zero)
        for g in range(left // 16):
            bits = np.uint16((negative >> np.uint64(16 * g)) & np.uint64(0xFFFF))
            store_word16(bits, payload + first // 8 + 2 * g)
        for byte in range(left // 16 * 2, (left + 7) // 8):
            bits = np.uint8((negative >> np.uint64(8 * byte)) & np.uint64(0xFF))
            store_byte(bits, payload + first // 8 + byte)
    return -1


@njit(**JIT)
def subtract_signs(payload, count, x):
    """x = x - (+1 or -1 by the payload's bits)."""
    _add_block(payload, count, np.float32(-1), x, x)


@njit(**JIT)
def decode_unscaled(payload, count, out):
    """out = +1 or -1."""
    _unpack_block(payload, count, np.float32(1), out)


@njit(**JIT)
def decode_unscaled_onto(payload, count, base, out):
    """out = base + (+1 or -1)."""
    _add_block(payload, count, np.float32(1), base, out)


@njit(**JIT)
def reduce_unscaled(payloads, count, out, residual, rho):
    """out = mean of n unscaled sign payloads in rank order (+ rho * residual)."""
    factor = np.float32(1.0 / payloads.size)
    for first in range(0, count, 2048):
        size = min(2048, count - first)
        at = 4 * first
        for k in range(payloads.size):
            bits = payloads[k] + first // 8
            if k == 0:
                _unpack_block(bits, size, np.float32(1), out + at)
            else:
                _add_block(bits, size, np.float32(1), out + at, out + at)
        finish_mean(out + at, size, factor, residual + at if residual else 0, rho)


@njit(**JIT)
def first_not_finite(x, count):
    """The first coordinate of float32[count] that is NaN or infinite, or -1."""
    whole = count // 16
    for i in range(whole):
        if finite_bits(x + 64 * i) != 0xFFFF:
            for j in range(16):
                if not np.isfinite(load_float(x + 4 * (16 * i + j))):
                    return 16 * i + j
    for i in range(16 * whole, count):
        if not np.isfinite(load_float(x + 4 * i)):
            return i
    return -1


@njit(**JIT)
def add_onto(x, count, base, out):
    """out = base + x."""
    whole = count // 16
    for i in range(whole):
        add_floats(x + 64 * i, base + 64 * i, out + 64 * i)
    for i in range(16 * whole, count):
        store_float(load_float(base + 4 * i) + load_float(x + 4 * i), out + 4 * i)


@njit(**JIT)
def reduce_dense(payloads, count, out, residual, rho):
    """out = mean of n dense payloads in rank order (+ rho * residual), 2,048 at a time."""
    factor = np.float32(1.0 / payloads.size)
    for first in range(0, count, 2048):
        size = min(2048, count - first)
        at = 4 * first
        if payloads.size == 1:
            for i in range(size):
                store_float(load_float(payloads[0] + at + 4 * i), out + at + 4 * i)
        for k in range(1, payloads.size):
            add_onto(payloads[k] + at, size, (out if k > 1 else payloads[0]) + at, out + at)
        finish_mean(out + at, size, factor, residual + at if residual else 0, rho)
