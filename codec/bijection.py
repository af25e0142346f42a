"""A keyed bijection pi on [0, m): a permutation of which any entry is found on its own.

No process draws, holds or sends a permutation of m entries: whoever has the key computes
pi(i), or the i with pi(i) = y, in time that does not depend on m. A Feistel network of two
unequal halves permutes [0, high * 2^low), which is hardly larger than m; a number that
comes out at m or above goes through it again (cycle walking), and a rotation follows:

    w = bits of max(m, 1024) - 1,  low = max(w // 2, w - 12),  high = ceil(max(m, 1024) / 2^low)
    a number x: bottom = x mod 2^low, top = x >> low, so that top < high <= 4096
    round r of 6: a = word(key, r) mod 2^32,  b = (word(key, r) >> 32) | 1
        hash(v): h = (v ^ a) * b mod 2^32;  h ^= h >> 15;  h = h * 0x2C1B3C6D mod 2^32
        r even:  top = (top + ((hash(bottom) >> 12) * high >> 20)) mod high
        r odd:   bottom ^= hash(top) >> (32 - low)
    pi(i) = (sigma(i) + word(key, 6) mod m) mod m,  sigma = the six rounds, walked

The rotation makes every pi(i) uniform on [0, m) over keys, to m / 2^64, whatever sigma is.
Differences pi(i) - pi(j) are as good as uniform. Whole permutations are not: 2^64 keys
reach few of m! of them. ``docs/payloads.md`` has test vectors and what was measured.

Source: Luby and Rackoff 1988 (the network); Black and Rogaway 2002, "Ciphers with
arbitrary finite domains" (walking, and halves that need not be powers of two). Hash and
constants are ours, in the manner of multiply-xorshift hashes: this is no cipher.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from psrv.codec.lanes import I16, I32, INTS, LANES, fill, load, offset, splat, store
from psrv.codec.rng import word64

JIT = {"nogil": True, "cache": True}

LARGEST = 1 << 31
"""The largest m, so that images fit int32."""

ROUNDS = 6
SMALLEST = 1024
MULTIPLIER = 0x2C1B3C6D


def image(key: int, m: int, i: int) -> int:
    """pi(i) of the bijection on [0, m) with that key; 0 <= i < m <= 2^31."""
    _check(m, i)
    return int(image_at(np.uint64(key), m, i))


def preimage(key: int, m: int, y: int) -> int:
    """The i with pi(i) = y; 0 <= y < m <= 2^31."""
    _check(m, y)
    return int(preimage_at(np.uint64(key), m, y))


def _check(m: int, number: int) -> None:
    if not 0 <= number < m <= LARGEST:
        raise ValueError(f"{number} is not in [0, {m}), or {m} is more than 2^31")


# One at a time


@njit(**JIT)
def low_bits(m):
    """``low``: bits of the bottom half."""
    width = 10
    while m > 1 << width:
        width += 1
    return max(width // 2, width - 12)


@njit(**JIT)
def high_size(m):
    """``high``: how many values the top half takes."""
    low = low_bits(m)
    return (max(m, SMALLEST) + (1 << low) - 1) >> low


@njit(**JIT)
def rotation(key, m):
    """What is added to the walked number."""
    return np.int64(word64(key, ROUNDS) % np.uint64(m))


@njit(**JIT)
def round_keys(key):
    """a and b of each round, one after the other: uint32[12]."""
    keys = np.empty(2 * ROUNDS, np.uint32)
    for r in range(ROUNDS):
        word = word64(key, r)
        keys[2 * r] = np.uint32(word & np.uint64(0xFFFFFFFF))
        keys[2 * r + 1] = np.uint32(word >> np.uint64(32)) | np.uint32(1)
    return keys


@njit(**JIT)
def _hash(keys, r, v):
    h = np.uint32(np.uint32(np.uint32(v) ^ keys[2 * r]) * keys[2 * r + 1])
    h = np.uint32(h ^ (h >> np.uint32(15)))
    return np.int64(np.uint32(h * np.uint32(MULTIPLIER)))


@njit(**JIT)
def _walk(keys, low, high, m, x):
    """sigma(x)."""
    while m > 1:
        bottom, top = x & ((1 << low) - 1), x >> low
        for r in range(0, ROUNDS, 2):
            top += (_hash(keys, r, bottom) >> 12) * high >> 20
            top -= high if top >= high else 0
            bottom ^= _hash(keys, r + 1, top) >> (32 - low)
        x = (top << low) | bottom
        if x < m:
            break
    return x


@njit(**JIT)
def image_at(key, m, i):
    """``image`` for kernels: uint64 key, int64 m and i."""
    return (_walk(round_keys(key), low_bits(m), high_size(m), m, i) + rotation(key, m)) % m


@njit(**JIT)
def preimage_at(key, m, y):
    """``preimage`` for kernels: uint64 key, int64 m and y."""
    keys, low, high = round_keys(key), low_bits(m), high_size(m)
    x = (y - rotation(key, m) + m) % m
    while m > 1:
        bottom, top = x & ((1 << low) - 1), x >> low
        for r in range(ROUNDS - 2, -1, -2):
            bottom ^= _hash(keys, r + 1, top) >> (32 - low)
            top -= (_hash(keys, r, bottom) >> 12) * high >> 20
            top += high if top < 0 else 0
        x = (top << low) | bottom
        if x < m:
            break
    return x


# Sixteen at a time


def _wrapped(b, x, bound):
    """x mod bound, lane by lane, for x < 2 * bound <= 2^32: the smaller of x and x - bound."""
    less = b.sub(x, bound)  # where x < bound this wraps round to a larger number
    return b.select(b.icmp_unsigned("<", x, less), x, less)


@intrinsic
def image_lanes(ctx, first, count, keys, low, high, shift, out):
    """out[0:16] = images of first, ..., first + 15, as far as one walk gets them.

    Args:
        first: uint32. count: m, uint32. low, high, shift: uint32; shift is the rotation.
        keys: address of uint32[12]: a and b of each round.
        out: address of uint32[16].

    Returns:
        uint16: the lanes that are outside [0, m) and have to walk on.
    """

    def gen(c, b, sig, args):
        first, m, keys, low, high, shift, out = args
        size, bound, bits = (splat(b, x, INTS) for x in (high, m, low))
        x = b.add(splat(b, first, INTS), ir.Constant(INTS, list(range(LANES))))
        top = b.lshr(x, bits)
        bottom = b.xor(x, b.shl(top, bits))
        rest = b.sub(fill(32), bits)
        for r in range(ROUNDS):
            a, odd = (splat(b, load(b, offset(b, keys, 8 * r + k), I32), INTS) for k in (0, 4))
            h = b.mul(b.xor(top if r % 2 else bottom, a), odd)
            h = b.mul(b.xor(h, b.lshr(h, fill(15))), fill(MULTIPLIER))
            if r % 2:
                bottom = b.xor(bottom, b.lshr(h, rest))
            else:
                step = b.lshr(b.mul(b.lshr(h, fill(12)), size), fill(20))
                top = _wrapped(b, b.add(top, step), size)
        x = b.or_(b.shl(top, bits), bottom)
        store(b, _wrapped(b, b.add(x, splat(b, shift, INTS)), bound), out)
        return b.bitcast(b.icmp_unsigned(">=", x, bound), I16)

    u32 = types.uint32
    return types.uint16(u32, u32, types.int64, u32, u32, u32, types.int64), gen


@intrinsic
def store_number(ctx, value, address):
    """Write an int32 to an address of any alignment."""

    def gen(c, b, sig, args):
        store(b, args[0], args[1])
        return c.get_dummy_value()

    return types.none(types.int32, types.int64), gen


@njit(**JIT)
def images(key, m, first, count, out):
    """Write pi(first), ..., pi(first + count - 1) of the bijection on [0, m).

    Args:
        key: uint64. m: 1 <= m <= 2^31. first, count: first + count <= m.
        out: address of int32 or uint32[count].
    """
    keys, low, high = round_keys(key), low_bits(m), high_size(m)
    shift = rotation(key, m)
    whole = count // LANES * LANES if m >= SMALLEST else 0
    for i in range(0, whole, LANES):
        outside = image_lanes(
            np.uint32(first + i),
            np.uint32(m),
            keys.ctypes.data,
            np.uint32(low),
            np.uint32(high),
            np.uint32(shift),
            out + 4 * i,
        )
        if outside:
            for j in range(i, i + LANES):
                if (outside >> (j - i)) & 1:
                    number = (_walk(keys, low, high, m, first + j) + shift) % m
                    store_number(np.int32(number), out + 4 * j)
    for i in range(whole, count):
        number = (_walk(keys, low, high, m, first + i) + shift) % m
        store_number(np.int32(number), out + 4 * i)
