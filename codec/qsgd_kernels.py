"""The loops of ``qsgd`` over blocks: two passes to encode, one to read.

Kernels take addresses and lengths and allocate nothing, as in ``codec/kernels.py``. The
last coordinates of a block go through the code for sixteen with zeros behind them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.format_vector import prefetch, stack_room
from psrv.codec.kernels import JIT, finish_mean
from psrv.codec.qsgd_vector import (
    add_levels,
    decode_levels,
    largest_code,
    load_double,
    load_word16,
    quantise,
    square_rows,
    store_double,
    store_random,
)
from psrv.codec.vector import load_byte, load_float, store_byte, store_float, store_word16

SUMMED = 4096
"""Coordinates whose squares are summed apart: part of the format, a multiple of PIECE."""
PIECE = 2048
"""Coordinates worked on at a time: their random bits wait in the L1 cache."""
STRETCH = 512
"""The same for a reduction."""
LANES = 32
ROOM = 8 * LANES + 4 * (PIECE + 64)
"""Bytes of scratch: the lanes of the norm, then random bits."""


@njit(**JIT)
def code_bytes(edges, width):
    """Bytes of all blocks' codes, and the coordinates of the largest block."""
    total, largest = 0, 0
    for b in range(edges.size - 1):
        count = edges[b + 1] - edges[b]
        total += (width * count + 7) // 8
        largest = max(largest, count)
    return total, largest


@njit(**JIT)
def _norm2(x, count, residual, rho, lanes):
    """The float32 norm of x, which first becomes x + rho * residual.

    Squares are exact in float64. Their sum is taken in chunks of 4096: lane j of 32 adds
    those of x[32 r + j] for r = 0, 1, ...; then lane j adds lane j + 16, then j + 8, ... ,
    j + 1; chunk sums are added in order.
    """
    total = 0.0
    for start in range(0, count, SUMMED):
        for j in range(LANES):
            store_double(0.0, lanes + 8 * j)
        for first in range(start, min(start + SUMMED, count), PIECE):
            size = min(PIECE, count - first)
            here = x + 4 * first
            if residual:
                finish_mean(here, size, np.float32(1), residual + 4 * first, rho)
            rows = size // LANES
            square_rows(lanes, here, rows)
            for j in range(size - LANES * rows):
                value = np.float64(load_float(here + 4 * (LANES * rows + j)))
                store_double(load_double(lanes + 8 * j) + value * value, lanes + 8 * j)
        half = LANES // 2
        while half:
            for j in range(half):
                both = load_double(lanes + 8 * j) + load_double(lanes + 8 * (j + half))
                store_double(both, lanes + 8 * j)
            half //= 2
        total += load_double(lanes)
    return np.float32(np.sqrt(total))


@njit(**JIT)
def _unit(norm, levels, gain):
    """What one level is worth. Levels times it are finite, whatever the rounding."""
    most = np.float32(levels)
    unit = norm / most
    if not np.isfinite(most * unit):
        unit *= np.float32(1 - 2.0**-24)  # the next float32 below
    return gain * unit


@njit(**JIT)
def _steps(norm, levels):
    """Two factors of levels / norm, which may be more than float32 holds; they are not."""
    if norm == 0:
        return np.float32(1), np.float32(0)
    scale = np.float32(2.0**64 if norm < np.float32(2.0**-64) else 1.0)
    return scale, np.float32(levels) / (norm * scale)


@njit(**JIT)
def _draw(key, index, count, random):
    """Random bits of coordinates ``index`` on; the address of the first one's 32."""
    word = index // 2
    for first in range(word, (index + count + 1) // 2, 8):
        store_random(key, first, random + 8 * (first - word))
    return random + 4 * (index % 2)


@njit(**JIT)
def _pack_last(planes, left, width, place):
    """Fewer than sixteen coordinates: planes of ``left`` bits, one after the other."""
    held, bits = np.uint64(0), 0
    for p in range(width):
        plane = np.uint64(load_word16(planes + 2 * p)) & np.uint64((1 << left) - 1)
        held |= plane << np.uint64(bits)
        bits += left
        while bits >= 8:
            store_byte(np.uint8(held & np.uint64(0xFF)), place)
            place += 1
            held >>= np.uint64(8)
            bits -= 8
    if bits:
        store_byte(np.uint8(held), place)


@njit(**JIT)
def _unpack_last(place, left, width, planes):
    """The reverse: ``width`` words to ``planes``."""
    held, bits = np.uint64(0), 0
    for p in range(width):
        while bits < left:
            held |= np.uint64(load_byte(place)) << np.uint64(bits)
            place += 1
            bits += 8
        plane = held & np.uint64((1 << left) - 1)
        store_word16(np.uint16(plane), planes + 2 * p)
        held >>= np.uint64(left)
        bits -= left


@njit(**JIT)
def _copy_floats(source, count, target):
    for i in range(count):
        store_float(load_float(source + 4 * i), target + 4 * i)


@njit(**JIT)
def _quantise(x, random, groups, scale, factor, levels, unit, width, place):
    """A function of its own, since there is one loop for each width in it."""
    quantise(x, random, groups, scale, factor, levels, unit, width, place)


@njit(**JIT)
def encode_qsgd(x, edges, levels, width, gain, residual, rho, key, payload, room):
    """Norms and codes of x + rho * residual; x becomes what the receiver lacks.

    Args:
        gain: float32, what the receiver will multiply by.
        residual: address of float32[d], or 0 for none.
        key: uint64, of the stream for rounding.
        room: address of ROOM bytes of scratch.

    Returns:
        -1, or the block whose norm is not finite, of which x + rho * residual is left.
    """
    blocks = edges.size - 1
    codes = payload + 4 * blocks
    for b in range(blocks):
        start, count = edges[b], edges[b + 1] - edges[b]
        here = x + 4 * start
        norm = _norm2(here, count, residual + 4 * start if residual else 0, rho, room)
        if not np.isfinite(norm):
            return b
        store_float(norm, payload + 4 * b)
        unit = _unit(norm, levels, gain)
        scale, factor = _steps(norm, levels)
        for first in range(0, count, PIECE):
            size = min(PIECE, count - first)
            random = _draw(key, start + first, size, room + 8 * LANES)
            groups = size // 16
            at, place = here + 4 * first, codes + first // 8 * width
            _quantise(at, random, groups, scale, factor, levels, unit, width, place)
            left = size - 16 * groups
            if left:
                spare = stack_room()
                _copy_floats(at + 64 * groups, left, spare)
                bits = random + 64 * groups
                _quantise(spare, bits, 1, scale, factor, levels, unit, width, spare + 64)
                _copy_floats(spare, left, at + 64 * groups)
                _pack_last(spare + 64, left, width, place + 2 * width * groups)
        codes += (width * count + 7) // 8
    return -1


@njit(**JIT)
def check_norms(payload, blocks):
    """-1, or the first block whose norm is negative, NaN or infinite."""
    for b in range(blocks):
        norm = load_float(payload + 4 * b)
        if not (np.isfinite(norm) and norm >= 0):
            return b
    return -1


@njit(**JIT)
def _largest(codes, groups, width):
    return largest_code(codes, groups, width)


@njit(**JIT)
def check_codes(payload, edges, levels, width):
    """-1, or the first block with a code above 2 ``levels``: no encoder writes one."""
    blocks = edges.size - 1
    codes = payload + 4 * blocks
    for b in range(blocks):
        count = edges[b + 1] - edges[b]
        groups, left = count // 16, count % 16
        if _largest(codes, groups, width) > 2 * levels:
            return b
        if left:
            spare = stack_room()
            _unpack_last(codes + 2 * width * groups, left, width, spare)
            if _largest(spare, 1, width) > 2 * levels:
                return b
        codes += (width * count + 7) // 8
    return -1


@njit(**JIT)
def _decode_groups(codes, groups, width, levels, unit, weight, out):
    decode_levels(codes, groups, width, levels, unit, weight, out)


@njit(**JIT)
def _decode_codes(codes, count, levels, width, unit, weight, out):
    """out = weight * (level * unit), of coordinates from the start of a sixteen on."""
    groups, left = count // 16, count % 16
    _decode_groups(codes, groups, width, levels, unit, weight, out)
    if left:
        spare = stack_room()
        _unpack_last(codes + 2 * width * groups, left, width, spare)
        _decode_groups(spare, 1, width, levels, unit, weight, spare + 64)
        _copy_floats(spare + 64, left, out + 64 * groups)


@njit(**JIT)
def _add_groups(codes, groups, width, levels, unit, weight, base, out):
    add_levels(codes, groups, width, levels, unit, weight, base, out)


@njit(**JIT)
def _add_codes(codes, count, levels, width, unit, weight, base, out):
    """out = base + weight * (level * unit), likewise."""
    groups, left = count // 16, count % 16
    _add_groups(codes, groups, width, levels, unit, weight, base, out)
    if left:
        spare = stack_room()
        _unpack_last(codes + 2 * width * groups, left, width, spare)
        _copy_floats(base + 64 * groups, left, spare + 64)
        _add_groups(spare, 1, width, levels, unit, weight, spare + 64, spare + 64)
        _copy_floats(spare + 64, left, out + 64 * groups)


@njit(**JIT)
def decode_qsgd(payload, edges, levels, width, gain, base, out):
    """out = C(x), or base + C(x) where ``base`` is not 0, of a payload that was checked."""
    blocks = edges.size - 1
    codes = payload + 4 * blocks
    one = np.float32(1)
    for b in range(blocks):
        start, count = edges[b], edges[b + 1] - edges[b]
        unit = _unit(load_float(payload + 4 * b), levels, gain)
        here = out + 4 * start
        if base:
            _add_codes(codes, count, levels, width, unit, one, base + 4 * start, here)
        else:
            _decode_codes(codes, count, levels, width, unit, one, here)
        codes += (width * count + 7) // 8


@njit(**JIT)
def reduce_qsgd(payloads, weights, factor, edges, levels, width, gain, out, residual, rho):
    """out = (w_0 c_0 + w_1 c_1 + ...) * factor + rho * residual, in rank order.

    Args:
        payloads: int64[n], an address each, n >= 1.
        weights: address of float32[n].
        residual: address of float32[d], or 0 for none.
    """
    blocks = edges.size - 1
    codes = 4 * blocks
    for b in range(blocks):
        count = edges[b + 1] - edges[b]
        for first in range(0, count, STRETCH):
            size = min(STRETCH, count - first)
            at = 4 * (edges[b] + first)
            here = out + at
            place = codes + first // 8 * width
            for k in range(payloads.size):
                for line in range(0, 2 * width * (STRETCH // 16), 64):  # the next stretch's
                    prefetch(payloads[k] + place + 2 * width * (STRETCH // 16) + line)
                unit = _unit(load_float(payloads[k] + 4 * b), levels, gain)
                weight = load_float(weights + 4 * k)
                bits = payloads[k] + place
                if k == 0:
                    _decode_codes(bits, size, levels, width, unit, weight, here)
                else:
                    _add_codes(bits, size, levels, width, unit, weight, here, here)
            finish_mean(here, size, factor, residual + at if residual else 0, rho)
        codes += (width * count + 7) // 8
