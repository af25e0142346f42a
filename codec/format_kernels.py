"""The loops over a run of numbers in one of the value formats (``codec/formats.py``).

A run is ``total`` numbers. It may be written and read in pieces, numbers ``first`` to
``first`` + ``count`` - 1, where ``first`` is a multiple of 64: a caller then works on a
piece while it is in the L1 cache. What a number becomes does not depend on the pieces.

Every kernel picks the format once a piece. Sixteen numbers go through
``codec/format_vector.py`` at a time; the last few go through the same code by way of a
sixteen with zeros behind them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.format_vector import (
    add_bf16,
    add_float32,
    add_fp16,
    add_natural,
    decode_bf16,
    decode_float32,
    decode_fp16,
    decode_natural,
    encode_bf16,
    encode_float32,
    encode_fp16,
    encode_natural,
    full_bytes,
    full_exponents,
    prefetch,
    stack_room,
)
from psrv.codec.kernels import JIT, finish_mean
from psrv.codec.vector import finite_bits, load_byte, load_float, store_byte

FLOAT32, BF16, FP16, NATURAL = range(4)

PIECE = 2048
"""Numbers that are worked on at a time, 8 KiB, where a kernel walks over a whole vector."""
STRETCH = 512
"""The same for a reduction, whose payloads are asked for that far ahead."""


@njit(**JIT)
def _copy_bytes(source, target, count):
    for i in range(count):
        store_byte(load_byte(source + i), target + i)


@njit(**JIT)
def _width(code):
    """Bytes of a number, without the sign of a natural one."""
    if code == FLOAT32:
        return 4
    if code == NATURAL:
        return 1
    return 2


@njit(**JIT)
def _encode_groups(code, x, groups, place, signs, key, word, gain):
    """Sixteens of numbers; the number of the first that holds a NaN or an infinity, or -1."""
    if code == FLOAT32:
        for i in range(groups):
            if finite_bits(x + 64 * i) != 0xFFFF:
                return i
            encode_float32(x + 64 * i, gain, place + 64 * i)
    elif code == BF16:
        for i in range(groups):
            if finite_bits(x + 64 * i) != 0xFFFF:
                return i
            encode_bf16(x + 64 * i, gain, place + 32 * i)
    elif code == FP16:
        for i in range(groups):
            if finite_bits(x + 64 * i) != 0xFFFF:
                return i
            encode_fp16(x + 64 * i, gain, place + 32 * i)
    else:
        for i in range(groups):
            if finite_bits(x + 64 * i) != 0xFFFF:
                return i
            encode_natural(x + 64 * i, gain, place + 16 * i, signs + 2 * i, key, word + 8 * i)
    return -1


@njit(**JIT)
def _decode_groups(code, place, signs, groups, gain, out):
    if code == FLOAT32:
        for i in range(groups):
            decode_float32(place + 64 * i, gain, out + 64 * i)
    elif code == BF16:
        for i in range(groups):
            decode_bf16(place + 32 * i, gain, out + 64 * i)
    elif code == FP16:
        for i in range(groups):
            decode_fp16(place + 32 * i, gain, out + 64 * i)
    else:
        for i in range(groups):
            decode_natural(place + 16 * i, signs + 2 * i, gain, out + 64 * i)


@njit(**JIT)
def _add_groups(code, place, signs, groups, gain, base, out):
    if code == FLOAT32:
        for i in range(groups):
            add_float32(place + 64 * i, gain, base + 64 * i, out + 64 * i)
    elif code == BF16:
        for i in range(groups):
            add_bf16(place + 32 * i, gain, base + 64 * i, out + 64 * i)
    elif code == FP16:
        for i in range(groups):
            add_fp16(place + 32 * i, gain, base + 64 * i, out + 64 * i)
    else:
        for i in range(groups):
            add_natural(place + 16 * i, signs + 2 * i, gain, base + 64 * i, out + 64 * i)


@njit(**JIT)
def encode_scaled(code, x, first, count, total, payload, key, gain):
    """Write numbers of a run to their places in its payload; x becomes x - gain * Q(x).

    Args:
        code: of the format.
        x: address of float32[count].
        payload: address of the run's first byte.
        key: uint64, of the stream that ``natural`` draws from.
        gain: float32, what the receiver will multiply by: 1 leaves x - Q(x).

    Returns:
        -1, or the index in x of the first NaN or infinity. What was written is then undefined.
    """
    groups = count // 16
    place, signs = payload + _width(code) * first, payload + total + first // 8
    bad = _encode_groups(code, x, groups, place, signs, key, first // 2, gain)
    for i in range(16 * (groups if bad < 0 else bad), count):
        if not np.isfinite(load_float(x + 4 * i)):
            return i
    left = count - 16 * groups
    if left:
        room = stack_room()
        x += 64 * groups
        _copy_bytes(x, room, 4 * left)
        word = first // 2 + 8 * groups
        _encode_groups(code, room, 1, room + 64, room + 128, key, word, gain)
        _copy_bytes(room, x, 4 * left)
        _copy_bytes(room + 64, place + 16 * _width(code) * groups, _width(code) * left)
        if code == NATURAL:
            _copy_bytes(room + 128, signs + 2 * groups, (left + 7) // 8)
    return -1


@njit(**JIT)
def decode_values(code, payload, first, count, total, gain, out):
    """out = gain * Q, float32[count], of numbers that ``check_values`` has passed."""
    groups = count // 16
    place, signs = payload + _width(code) * first, payload + total + first // 8
    _decode_groups(code, place, signs, groups, gain, out)
    left = count - 16 * groups
    if left:
        room = stack_room()
        _copy_bytes(place + 16 * _width(code) * groups, room, _width(code) * left)
        if code == NATURAL:
            _copy_bytes(signs + 2 * groups, room + 64, (left + 7) // 8)
        _decode_groups(code, room, room + 64, 1, gain, room + 128)
        _copy_bytes(room + 128, out + 64 * groups, 4 * left)


@njit(**JIT)
def add_values(code, payload, first, count, total, gain, base, out):
    """out = base + gain * Q, product and sum rounded; ``base`` may be ``out``."""
    groups = count // 16
    place, signs = payload + _width(code) * first, payload + total + first // 8
    _add_groups(code, place, signs, groups, gain, base, out)
    left = count - 16 * groups
    if left:
        room = stack_room()
        _copy_bytes(place + 16 * _width(code) * groups, room, _width(code) * left)
        if code == NATURAL:
            _copy_bytes(signs + 2 * groups, room + 64, (left + 7) // 8)
        _copy_bytes(base + 64 * groups, room + 128, 4 * left)
        _add_groups(code, room, room + 64, 1, gain, room + 128, room + 128)
        _copy_bytes(room + 128, out + 64 * groups, 4 * left)


@njit(**JIT)
def _special(code, payload, i):
    """Whether number i of a run is NaN or infinite."""
    if code == FLOAT32:
        return not np.isfinite(load_float(payload + 4 * i))
    if code == NATURAL:
        return load_byte(payload + i) == 255
    high = load_byte(payload + 2 * i + 1)
    if code == FP16:
        return high & 0x7C == 0x7C
    return high & 0x7F == 0x7F and load_byte(payload + 2 * i) & 0x80 == 0x80


@njit(**JIT)
def check_values(code, payload, total):
    """-1, or the first number of a run that is not finite: bytes from a peer may say so."""
    step = 64 // _width(code)
    found, groups = total // step, total // step
    if code == FLOAT32:
        for i in range(groups):
            if finite_bits(payload + 64 * i) != 0xFFFF:
                found = i
                break
    elif code == NATURAL:
        for i in range(groups):
            if full_bytes(payload + 64 * i):
                found = i
                break
    else:
        exponent = np.uint16(0x7C00 if code == FP16 else 0x7F80)
        for i in range(groups):
            if full_exponents(payload + 64 * i, exponent):
                found = i
                break
    for i in range(step * found, total):
        if _special(code, payload, i):
            return i
    return -1


# Whole vectors


@njit(**JIT)
def encode_run(code, x, count, residual, rho, payload, key, gain):
    """Encode x + rho * residual, a piece at a time; x becomes what the receiver lacks.

    Args:
        residual: address of float32[count], or 0 for none.

    Returns:
        -1, or the first coordinate that is not finite.
    """
    for first in range(0, count, PIECE):
        size = min(PIECE, count - first)
        at = 4 * first
        if residual:
            finish_mean(x + at, size, np.float32(1), residual + at, rho)
        bad = encode_scaled(code, x + at, first, size, count, payload, key, gain)
        if bad >= 0:
            return first + bad
    return -1


@njit(**JIT)
def _fetch_ahead(code, payload, first, count, total):
    """Have the memory send numbers of a run while others are worked on."""
    width = _width(code)
    for at in range(width * first, width * (first + count), 64):
        prefetch(payload + at)
    if code == NATURAL:
        prefetch(payload + total + first // 8)


@njit(**JIT)
def reduce_runs(code, payloads, weights, factor, count, gain, out, residual, rho, room):
    """out = (w_0 c_0 + w_1 c_1 + ...) * factor + rho * residual, where c = gain * Q.

    In rank order, every operation rounded. A stretch of ``out`` stays in the L1 cache while
    all payloads are added to it. Many streams read by turns defeat a processor's own
    prefetching, so the next stretch of each is asked for: 1.2 to 1.5 times as fast.

    Args:
        payloads: int64[n], an address each, n >= 1.
        weights: address of float32[n].
        residual: address of float32[count], or 0 for none.
        room: address of float32[STRETCH] of scratch.
    """
    one = np.float32(1)
    for first in range(0, count, STRETCH):
        size = min(STRETCH, count - first)
        ahead = min(STRETCH, count - first - size)
        here = out + 4 * first
        for k in range(payloads.size):
            _fetch_ahead(code, payloads[k], first + size, ahead, count)
            weight = load_float(weights + 4 * k)
            if weight == one or gain == one:
                scale = weight * gain  # one of them is 1
                if k == 0:
                    decode_values(code, payloads[k], first, size, count, scale, here)
                else:
                    add_values(code, payloads[k], first, size, count, scale, here, here)
            elif k == 0:
                decode_values(code, payloads[k], first, size, count, gain, here)
                finish_mean(here, size, weight, 0, rho)
            else:
                decode_values(code, payloads[k], first, size, count, gain, room)
                add_values(FLOAT32, room, 0, size, size, weight, here, here)
        finish_mean(here, size, factor, residual + 4 * first if residual else 0, rho)
