"""The code of an ascending set of indices: gaps in a Rice code, or whole indices where shorter.

For k indices i_0 < i_1 < ... below d, let w = ceil(log2 d). The packed form is k fields of
w bits, P = ceil(k w / 8) bytes. The Rice form is a byte b, then of every gap
g_j = i_j - i_(j-1) - 1 (with i_(-1) = -1) the low b bits as a field, then the rest in
unary: g_j >> b zeros and a one. Bit strings are filled from the lowest bit of each byte,
and up to a whole byte with zeros. The Rice form is used where it is shorter than P, so that
the size alone tells the form and no index ever costs more than w bits.

For a random set of density p a gap is geometric, for which the Rice code is within 1.4 % of
the entropy at p = 0.1 %, 1 % and 10 % (``tests/codec/test_gaps.py`` measures it against
log2 C(d, k)).

Kernels take int64 addresses, and a caller that has checked 1 <= k <= d < 2^31. Only
``decode`` meets bytes from a peer: it reads nothing outside them and believes none of them.

Source: Rice and Plaunt 1971; Golomb 1966 for gaps of random sets.
Differs: fields and unary parts are kept apart, so that a reader extracts each with whole
words; the byte b and the choice of form are ours.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.vector import load_byte, store_byte
from psrv.codec.words import (
    gap_sums,
    load_int,
    load_word,
    low_zeros,
    ones,
    store_int,
    store_word,
)

JIT = {"nogil": True, "cache": True}

PACKED = -1
"""Stands for the packed form where the Rice form has its b."""

REASONS = (
    "",
    "has a length that no code of this many indices has",
    "has a Rice parameter above 31",
    "has padding that is not zero",
    "holds another number of indices",
    "holds an index beyond the vector",
    "holds indices that do not ascend",
)
"""What is wrong with a code, by the status that ``decode`` returns; 0 is a good one."""

_LENGTH, _PARAMETER, _PADDING, _COUNT, _RANGE, _ORDER = range(1, 7)


@njit(**JIT)
def index_bits(d):
    """w = ceil(log2 d): the bits of one index below d."""
    bits = 0
    while (np.int64(1) << bits) < d:
        bits += 1
    return bits


@njit(**JIT)
def packed_bytes(k, d):
    """P: bytes of the packed form, and the most that any code of k indices below d takes."""
    return (k * index_bits(d) + 7) // 8


@njit(**JIT)
def choose(indices, k, d):
    """The form that a set of indices is sent in.

    The size in bytes lies between F / 8 + 1 and (F + 14) / 8 + 1, where F(b) = k b + k +
    the sum of all gaps >> b. That sum is at most G / 2^b, with G the sum of the gaps, and
    less than k below it. So only those b need an exact sum whose lower bound is within 14
    bits of the best upper bound: about four of them, and their sums come from one pass.

    Args:
        indices: address of int32[k], ascending, below d.

    Returns:
        b of the smallest Rice form, the smaller b among equals, or ``PACKED`` where none is
        shorter than that; and the size in bytes.
    """
    size = packed_bytes(k, d)
    form = PACKED
    total = load_int(indices + 4 * (k - 1)) + 1 - k
    best = k + total
    for b in range(1, 32):
        best = min(best, k * b + k + (total >> b))
    lanes = np.empty(64, np.uint32)
    room = lanes.ctypes.data
    first = load_int(indices)
    b = 0
    while b < 29 and _fewest_bits(k, b, total) > best + 14:
        b += 1
    while b < 32 and _fewest_bits(k, b, total) <= best + 14:
        group = min(b, 28)
        rows = (k - 1) // 16
        gap_sums(indices + 4, rows, group, room)
        for s in range(b - group, 4):
            high = first >> (group + s)
            for lane in range(16):
                high += np.int64(lanes[16 * s + lane])
            for j in range(1 + 16 * rows, k):
                gap = load_int(indices + 4 * j) - load_int(indices + 4 * j - 4) - 1
                high += gap >> (group + s)
            rice = 1 + (k * (group + s) + 7) // 8 + (k + high + 7) // 8
            if rice < size:
                size, form = rice, group + s
        b = group + 4
    return form, size


@njit(**JIT)
def _fewest_bits(k, b, total):
    """A lower bound of F(b): k gaps of that total lose less than one each by the shift."""
    return k * b + k + max(0, (total - k * ((np.int64(1) << b) - 1)) >> b)


@njit(**JIT)
def encode(indices, k, d, form, out):
    """Write the code of a set of indices.

    Args:
        indices: address of int32[k], ascending, below d.
        form: what ``choose`` returned, or another b whose code is shorter than P.
        out: address of as many bytes as that form takes.
    """
    if form == PACKED:
        _encode_packed(indices, k, index_bits(d), out)
    else:
        _encode_rice(indices, k, form, out)


@njit(**JIT)
def _store_last(word, bits, out):
    """Write the low ``bits`` bits of a word, at most 64, as whole bytes."""
    for i in range((bits + 7) // 8):
        store_byte(np.uint8((word >> np.uint64(8 * i)) & np.uint64(0xFF)), out + i)


@njit(**JIT)
def _encode_packed(indices, k, width, out):
    word, used = np.uint64(0), 0
    for j in range(k):
        field = np.uint64(load_int(indices + 4 * j))
        word |= field << np.uint64(used)
        used += width
        if used >= 64:
            store_word(word, out)
            out += 8
            used -= 64
            word = field >> np.uint64(width - used)
    _store_last(word, used, out)


@njit(**JIT)
def _encode_rice(indices, k, b, out):
    store_byte(np.uint8(b), out)
    low_at = out + 1
    high_at = low_at + (k * b + 7) // 8
    low, low_used = np.uint64(0), 0
    high, high_used = np.uint64(0), 0
    below = (np.int64(1) << b) - 1
    following = 0
    for j in range(k):
        index = load_int(indices + 4 * j)
        gap = index - following
        following = index + 1
        field = np.uint64(gap & below)
        low |= field << np.uint64(low_used)
        low_used += b
        if low_used >= 64:
            store_word(low, low_at)
            low_at += 8
            low_used -= 64
            low = field >> np.uint64(b - low_used)
        high_used += gap >> b
        while high_used >= 64:
            store_word(high, high_at)
            high_at += 8
            high_used -= 64
            high = np.uint64(0)
        high |= np.uint64(1) << np.uint64(high_used)
        high_used += 1
    _store_last(low, low_used, low_at)
    _store_last(high, high_used, high_at)


@njit(**JIT)
def decode(payload, size, k, d, out):
    """Read a code that may be anything.

    Args:
        payload: address of ``size`` bytes, of which nothing is known.
        out: address of int32[k]. Holds the indices where the status is 0, else anything.

    Returns:
        0 where the bytes are the code of k indices that ascend below d, padding included;
        else a number of ``REASONS``.
    """
    packed = packed_bytes(k, d)
    if size == packed:
        return _decode_packed(payload, size, k, d, out)
    if size < 1 or size > packed:
        return _LENGTH
    b = np.int64(load_byte(payload))
    if b > 31:
        return _PARAMETER
    return _decode_rice(payload + 1, size - 1, k, d, b, out)


@njit(**JIT)
def _load_last(address, available):
    """Up to 8 bytes as a word, zeros above those that are ``available``."""
    word = np.uint64(0)
    for i in range(min(available, 8)):
        word |= np.uint64(load_byte(address + i)) << np.uint64(8 * i)
    return word


@njit(**JIT)
def _whole_fields(size, width, k):
    """How many of k fields begin where 8 bytes can be read; the rest are read bytewise."""
    if size < 8:
        return 0
    return k if width == 0 else min(k, (8 * (size - 8) + 7) // width + 1)


@njit(**JIT)
def _clear_above(fields, bits):
    """Whether the last of the bytes that hold ``bits`` bits is zero above them."""
    if bits % 8 == 0:
        return True
    return load_byte(fields + bits // 8) >> np.uint8(bits % 8) == 0


@njit(**JIT)
def _decode_packed(payload, size, k, d, out):
    width = index_bits(d)
    if not _clear_above(payload, k * width):
        return _PADDING
    below = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    whole = _whole_fields(size, width, k)
    last, largest, falls = np.int64(-1), np.int64(-1), np.int64(0)
    for j in range(k):
        bit = j * width
        at = payload + (bit >> 3)
        word = load_word(at) if j < whole else _load_last(at, size - (bit >> 3))
        index = np.int64((word >> np.uint64(bit & 7)) & below)
        falls |= np.int64(index <= last)
        last = index
        largest = max(largest, index)
        store_int(index, out + 4 * j)
    if falls:
        return _ORDER
    return _RANGE if largest >= d else 0


@njit(**JIT)
def _decode_rice(low, size, k, d, b, out):
    """Index j is (p_j - j) 2^b + r_0 + ... + r_j + j: p_j the place of one j, r_j field j.

    The unary part may not be longer than the zeros of k gaps below d make it; that bounds
    every number below, so that nothing overflows before the last index is compared with d.
    The others are smaller: they ascend by construction.
    """
    low_size = (k * b + 7) // 8
    high, high_size = low + low_size, size - low_size
    if 8 * high_size < k:
        return _LENGTH
    if 8 * (high_size - 1) - (k - 1) > (d - k) >> b:
        return _RANGE
    if not _clear_above(low, k * b) or load_byte(high + high_size - 1) == 0:
        return _PADDING
    below = (np.uint64(1) << np.uint64(b)) - np.uint64(1)
    step = 1 - (np.int64(1) << b)
    whole = _whole_fields(size, b, k)
    count, bit, rest, index = 0, 0, np.int64(0), np.int64(0)
    for first in range(0, high_size, 8):
        left = high_size - first
        word = load_word(high + first) if left >= 8 else _load_last(high + first, left)
        found = ones(word)
        if count + found > k:
            return _COUNT
        if count + found <= whole:
            while word:
                place = 8 * first + low_zeros(word)
                word &= word - np.uint64(1)
                field = (load_word(low + (bit >> 3)) >> np.uint64(bit & 7)) & below
                rest += np.int64(field)
                index = (place << b) + rest
                store_int(index, out)
                out += 4
                bit += b
                rest += step
        else:
            while word:
                place = 8 * first + low_zeros(word)
                word &= word - np.uint64(1)
                field = _load_last(low + (bit >> 3), size - (bit >> 3))
                rest += np.int64((field >> np.uint64(bit & 7)) & below)
                index = (place << b) + rest
                store_int(index, out)
                out += 4
                bit += b
                rest += step
        count += found
    if count != k:
        return _COUNT
    return _RANGE if index >= d else 0
