"""The loops of the two sign compressors: addresses and lengths in, nothing allocated.

Both passes over a block, its norm and its bits, are made before the next block is touched:
a block of 2^15 coordinates and what it is made from stay in the L2 cache in between. What
is left over of a block, less than a row of 64 or a group of sixteen, is done group by
group, then coordinate by coordinate, with the same operations in the same order.
``sign.py`` and ``unscaled.py`` check every length first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.kernels import CHUNK, JIT
from psrv.codec.rng import word64
from psrv.codec.sign_sums import INLINE, WORK, bit, count_chunk, fill_row, sum_chunk
from psrv.codec.sign_vector import (
    add_signs,
    lanes_total,
    negative_row,
    norm_groups,
    norm_rows,
    odd_row,
    pack_signs,
    subtract_row,
    unpack_signs,
    zero_row,
)
from psrv.codec.vector import (
    add_scaled,
    load_float,
    stack_floats,
    store_byte,
    store_float,
    store_word64,
)

# One block: the pieces of what follows


@njit(**INLINE)
def _norm_chunk(x, count, residual, rho, lanes):
    """Sum of |x| of a chunk, as ``docs/payloads.md`` has it, after x = x + rho * residual.

    Lane j of 64 adds |x[64 r + j]| for r = 0, 1, ... in float32; then lane j adds lane
    j + 32, then j + 16, ..., j + 1. What comes back is float32.
    """
    fill_row(lanes, 0.0)
    rows, groups = count >> 6, count >> 4
    norm_rows(x, residual, rho, rows, lanes)
    for g in range(4 * rows, groups):
        here = residual + 64 * g if residual else 0
        norm_groups(x + 64 * g, here, rho, 1, lanes + 64 * (g & 3))
    for j in range(16 * groups, count):
        value = load_float(x + 4 * j)
        if residual:
            value += rho * load_float(residual + 4 * j)
            store_float(value, x + 4 * j)
        lane = lanes + 4 * (j & 63)
        store_float(load_float(lane) + abs(value), lane)
    return lanes_total(lanes)


@njit(**INLINE)
def _pack_block(x, count, scale, bits):
    """The signs of x to ``bits``; x = x - (scale with those signs)."""
    groups = count >> 4
    pack_signs(x, scale, groups, bits)
    for first in range(16 * groups, count, 8):
        byte = np.uint8(0)
        for j in range(min(8, count - first)):
            address = x + 4 * (first + j)
            value = load_float(address)
            if np.signbit(value):
                byte |= np.uint8(1 << j)
                store_float(value + scale, address)
            else:
                store_float(value - scale, address)
        store_byte(byte, bits + (first >> 3))


@njit(**INLINE)
def _unpack_block(bits, count, scale, out):
    groups = count >> 4
    unpack_signs(bits, scale, groups, out)
    for j in range(16 * groups, count):
        store_float(-scale if bit(bits, j) else scale, out + 4 * j)


@njit(**INLINE)
def _add_block(bits, count, scale, base, out):
    groups = count >> 4
    add_signs(bits, scale, groups, base, out)
    for j in range(16 * groups, count):
        value = -scale if bit(bits, j) else scale
        store_float(load_float(base + 4 * j) + value, out + 4 * j)


# sign


@njit(**JIT)
def finite_scales(payload, blocks):
    """Whether each of the leading float32 scales is finite and not negative."""
    for b in range(blocks):
        scale = load_float(payload + 4 * b)
        if not (np.isfinite(scale) and scale >= 0):
            return False
    return True


@njit(**JIT)
def encode_sign(x, residual, rho, edges, bit_edges, payload):
    """Scaled sign of each block of x = x + rho * residual; x becomes what it leaves over.

    Args:
        residual: address of float32[d], or 0: x as it is.

    Returns:
        -1, or the block in which the norm is not finite. That block holds the sum.
    """
    blocks = edges.size - 1
    bits = payload + 4 * blocks
    lanes = stack_floats(64)
    for b in range(blocks):
        start, size = edges[b], edges[b + 1] - edges[b]
        total = 0.0
        for first in range(0, size, CHUNK):
            here = 4 * (start + first)
            rest = residual + here if residual else 0
            total += _norm_chunk(x + here, min(CHUNK, size - first), rest, rho, lanes)
        scale = np.float32(total / size)
        if not np.isfinite(scale):
            return b
        store_float(scale, payload + 4 * b)
        _pack_block(x + 4 * start, size, scale, bits + bit_edges[b])
    return -1


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
def reduce_sign(payloads, weights, factor, edges, bit_edges, out, residual, rho):
    """out = ((w_0 c_0 + w_1 c_1) + ...) * factor (+ rho * residual), in rank order.

    Args:
        payloads: int64[n], an address each.
        weights: address of float32[n], or 0: all are 1. w_i times a scale is rounded.
        residual: address of float32[d], or 0.
    """
    blocks = edges.size - 1
    work = stack_floats(WORK)
    for b in range(blocks):
        start, size = edges[b], edges[b + 1] - edges[b]
        for first in range(0, size, CHUNK):
            count, here = min(CHUNK, size - first), 4 * (start + first)
            bits = 4 * blocks + bit_edges[b] + (first >> 3)
            rest = residual + here if residual else 0
            sum_chunk(
                payloads, weights, 4 * b, bits, count, factor, out + here, rest, rho, work, False
            )


@njit(**JIT)
def relay_sign(payloads, weights, factor, edges, bit_edges, residual, rho, out, result):
    """``reduce_sign`` into ``out`` and ``encode_sign`` of it to ``result``, block by block.

    Args:
        residual: may lie where ``out`` does.

    Returns:
        -1, or the block in which the norm is not finite. That block holds the sum.
    """
    blocks = edges.size - 1
    work = stack_floats(WORK)
    for b in range(blocks):
        start, size = edges[b], edges[b + 1] - edges[b]
        total = 0.0
        for first in range(0, size, CHUNK):
            count, here = min(CHUNK, size - first), 4 * (start + first)
            bits = 4 * blocks + bit_edges[b] + (first >> 3)
            rest = residual + here if residual else 0
            total += sum_chunk(
                payloads, weights, 4 * b, bits, count, factor, out + here, rest, rho, work, True
            )
        scale = np.float32(total / size)
        if not np.isfinite(scale):
            return b
        store_float(scale, result + 4 * b)
        _pack_block(out + 4 * start, size, scale, result + 4 * blocks + bit_edges[b])
    return -1


# sign-unscaled


@njit(**INLINE)
def _encode_row(x, key, row):
    """The signs of a row, and x = x - C(x).

    Returns:
        uint64, the bits; and how many coordinates are finite before one is not, or 64.
    """
    negative = negative_row(x)
    if odd_row(x):
        for j in range(64):
            if not np.isfinite(load_float(x + 4 * j)):
                return negative, j
        zero = zero_row(x)
        negative = (negative & ~zero) | (word64(key, row) & zero)
    subtract_row(x, negative)
    return negative, 64


@njit(**JIT)
def encode_unscaled(x, residual, rho, count, key, payload):
    """One bit a coordinate of x = x + rho * residual; x becomes what it leaves over.

    Exact zeros take the generator's bit.

    Args:
        residual: address of float32[count], or 0: x as it is.

    Returns:
        -1, or the first coordinate that is not finite.
    """
    rows = count >> 6
    for r in range(rows):
        here = x + 256 * r
        if residual:
            for g in range(4):
                add_scaled(here + 64 * g, np.float32(1), residual + 256 * r + 64 * g, rho)
        bits, finite = _encode_row(here, key, r)
        if finite < 64:
            return 64 * r + finite
        store_word64(bits, payload + 8 * r)
    left = count - 64 * rows
    if left:
        row = stack_floats(64)
        for j in range(64):
            value = np.float32(1)
            if j < left:
                i = 4 * (64 * rows + j)
                value = load_float(x + i)
                if residual:
                    value += rho * load_float(residual + i)
                    store_float(value, x + i)
            store_float(value, row + 4 * j)
        bits, finite = _encode_row(row, key, rows)
        if finite < 64:
            return 64 * rows + finite
        for j in range(left):
            store_float(load_float(row + 4 * j), x + 4 * (64 * rows + j))
        for i in range((left + 7) >> 3):
            byte = np.uint8((bits >> np.uint64(8 * i)) & np.uint64(0xFF))
            store_byte(byte, payload + 8 * rows + i)
    return -1


@njit(**JIT)
def decode_unscaled(payload, count, out):
    """out = +1 or -1."""
    _unpack_block(payload, count, np.float32(1), out)


@njit(**JIT)
def decode_unscaled_onto(payload, count, base, out):
    """out = base + (+1 or -1)."""
    _add_block(payload, count, np.float32(1), base, out)


@njit(**JIT)
def reduce_unscaled(payloads, weights, factor, count, out, residual, rho):
    """out = ((w_0 c_0 + w_1 c_1) + ...) * factor (+ rho * residual), in rank order.

    Without weights, or where all are 1, votes are counted in integers. The result is the
    same: float32 holds every count up to 2^24.

    Args:
        payloads: int64[n], an address each.
        weights: address of float32[n], or 0: all are 1.
        residual: address of float32[count], or 0.
    """
    equal = True
    if weights:
        for k in range(payloads.size):
            equal = equal and load_float(weights + 4 * k) == np.float32(1)
    work = stack_floats(WORK)
    for first in range(0, count, CHUNK):
        here, size = 4 * first, min(CHUNK, count - first)
        rows = size >> 6 if equal else 0
        if rows:
            rest = residual + here if residual else 0
            count_chunk(payloads, first >> 3, rows, factor, out + here, rest, rho, work)
        left = size - 64 * rows
        if left:
            here += 256 * rows
            bits = (first >> 3) + 8 * rows
            rest = residual + here if residual else 0
            sum_chunk(payloads, weights, -1, bits, left, factor, out + here, rest, rho, work, False)
