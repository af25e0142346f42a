"""Sixteen coordinates at a time between float32 and the levels of ``qsgd``, as bit planes.

A level q in -s .. s travels as the code q + s of w bits. The codes of sixteen coordinates
are w words of 16 bits, of which word p holds bit p of each code. Intrinsics like those of
``codec/vector.py``; docs/payloads.md says which float32 operations make a level.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from psrv.codec.format_vector import MAGNITUDE, random_words
from psrv.codec.lanes import (
    F64,
    FLOATS,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    fill,
    load,
    offset,
    splat,
    store,
)
from psrv.codec.vector import repeat

DOUBLES = ir.VectorType(F64, 8)
EIGHT_FLOATS = ir.VectorType(ir.FloatType(), 8)


def _constant(value: float) -> ir.Constant:
    return ir.Constant(FLOATS, [value] * FLOATS.count)


def _integer(b: ir.IRBuilder, x: Any) -> Any:
    """An int64 in the range of int32, in every lane."""
    return splat(b, b.trunc(x, INTS.element), INTS)


@intrinsic
def load_double(ctx, address):
    """The float64 at an address of any alignment."""

    def gen(c, b, sig, args):
        return load(b, args[0], F64)

    return types.float64(types.int64), gen


@intrinsic
def store_double(ctx, value, address):
    """Write a float64 to an address of any alignment."""

    def gen(c, b, sig, args):
        store(b, args[0], args[1])
        return c.get_dummy_value()

    return types.none(types.float64, types.int64), gen


@intrinsic
def load_word16(ctx, address):
    """Two bytes, low one first, at an address of any alignment."""

    def gen(c, b, sig, args):
        return load(b, args[0], I16)

    return types.uint16(types.int64), gen


@intrinsic
def store_random(ctx, key, word, out):
    """out[0:64] = words ``word`` to ``word`` + 7 of the stream ``key``."""

    def gen(c, b, sig, args):
        store(b, random_words(b, args[0], args[1]), args[2])
        return c.get_dummy_value()

    return types.none(types.uint64, types.int64, types.int64), gen


@intrinsic
def square_rows(ctx, lanes, x, rows):
    """lanes[0:32], float64, += the squares of x[32 r : 32 r + 32] for r = 0 .. rows - 1."""

    def gen(c, b, sig, args):
        lanes, x, rows = args

        def add_row(r, sums):
            row = b.add(x, b.shl(r, I64(7)))
            values = [load(b, offset(b, row, 32 * k), EIGHT_FLOATS) for k in range(4)]
            doubles = [b.fpext(value, DOUBLES) for value in values]
            return [b.fadd(s, b.fmul(v, v)) for s, v in zip(sums, doubles, strict=True)]

        places = [offset(b, lanes, 64 * k) for k in range(4)]
        sums = repeat(b, rows, [load(b, at, DOUBLES) for at in places], add_row)
        for total, at in zip(sums, places, strict=True):
            store(b, total, at)
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), gen


def _store_planes(b, code, width, place):
    """Words 0 to ``width`` - 1."""

    def plane(p, left):
        odd = b.icmp_signed("!=", b.and_(left[0], fill(1)), fill(0))
        store(b, b.bitcast(odd, I16), b.add(place, b.shl(p, I64(1))))
        return [b.lshr(left[0], fill(1))]

    repeat(b, width, [code], plane)


def _load_planes(b, place, width):
    """The codes of sixteen coordinates, as int32."""
    # Two words fill the 32 bits of a lane. Shifted by the number of the lane, they have its
    # two bits at 0 and 16: planes 0, 2, 4, ... gather in one half of the lane, 1, 3, 5, ...
    # in the other. Faster than a mask register for each plane. The last of an odd number of
    # planes stands alone, for there may be nothing to read behind it.
    numbers = ir.Constant(INTS, list(range(LANES)))

    def two_bits(words):
        return b.and_(b.lshr(splat(b, words, INTS), numbers), fill(0x10001))

    def pair(i, both):
        at = b.add(place, b.shl(b.sub(b.sub(pairs, i), I64(1)), I64(2)))
        return [b.or_(b.shl(both[0], fill(2)), two_bits(load(b, at, I32)))]

    pairs = b.ashr(width, I64(1))
    is_odd = b.trunc(b.and_(width, I64(1)), I32)
    last = b.add(place, b.shl(b.sub(width, I64(1)), I64(1)))
    alone = b.and_(b.zext(load(b, last, I16), I32), b.sub(I32(0), is_odd))
    both = repeat(b, pairs, [two_bits(alone)], pair)[0]
    mask = b.sub(b.shl(I32(1), b.trunc(width, I32)), I32(1))
    return b.and_(b.or_(both, b.lshr(both, fill(15))), splat(b, mask, INTS))


def _value(b, place, width, levels, unit, weight):
    """weight * (level * unit), both products rounded."""
    level = b.sub(_load_planes(b, place, width), _integer(b, levels))
    return b.fmul(splat(b, weight), b.fmul(b.sitofp(level, FLOATS), splat(b, unit)))


def _each(b, groups, body):
    """body(i) for i = 0 .. groups - 1."""

    def step(i, states):
        body(i)
        return states

    repeat(b, groups, [], step)


def _numbers(b, address, i):
    """Where the sixteen numbers of group i lie."""
    return b.add(address, b.shl(i, I64(6)))


def _codes(b, address, i, width):
    """Where the codes of group i lie."""
    return b.add(address, b.mul(i, b.shl(width, I64(1))))


@intrinsic
def quantise(ctx, x, random, groups, scale, factor, levels, unit, width, place):
    """Codes of x[0 : 16 groups] to ``place``; x = x - level * unit.

    t = (|x| scale) factor; level = floor(t), and one more where the fraction of t in units of
    2^-24 is above r + 1/2, r being the upper 24 of the coordinate's 32 random bits.
    """

    def gen(c, b, sig, args):
        x, random, groups, scale, factor, levels, unit, width, place = args

        def group(i):
            here = _numbers(b, x, i)
            value = load(b, here)
            bits = b.bitcast(value, INTS)
            magnitude = b.bitcast(b.and_(bits, fill(MAGNITUDE)), FLOATS)
            t = b.fmul(b.fmul(magnitude, splat(b, scale)), splat(b, factor))
            below = b.fptosi(t, INTS)
            part = b.fmul(b.fsub(t, b.sitofp(below, FLOATS)), _constant(2.0**24))
            chance = b.lshr(load(b, _numbers(b, random, i), INTS), fill(8))
            margin = b.fsub(part, b.sitofp(chance, FLOATS))
            up = b.fcmp_ordered(">", margin, _constant(0.5))
            level, most = b.add(below, b.zext(up, INTS)), _integer(b, levels)
            level = b.select(b.icmp_signed("<", level, most), level, most)
            level = b.select(b.icmp_signed("<", bits, fill(0)), b.sub(fill(0), level), level)
            store(b, b.fsub(value, b.fmul(b.sitofp(level, FLOATS), splat(b, unit))), here)
            _store_planes(b, b.add(level, most), width, _codes(b, place, i, width))

        _each(b, groups, group)
        return c.get_dummy_value()

    real, whole = types.float32, types.int64
    return types.none(whole, whole, whole, real, real, whole, real, whole, whole), gen


@intrinsic
def decode_levels(ctx, place, groups, width, levels, unit, weight, out):
    """out[0 : 16 groups] = weight * (level * unit)."""

    def gen(c, b, sig, args):
        place, groups, width, levels, unit, weight, out = args

        def group(i):
            value = _value(b, _codes(b, place, i, width), width, levels, unit, weight)
            store(b, value, _numbers(b, out, i))

        _each(b, groups, group)
        return c.get_dummy_value()

    real, whole = types.float32, types.int64
    return types.none(whole, whole, whole, whole, real, real, whole), gen


@intrinsic
def add_levels(ctx, place, groups, width, levels, unit, weight, base, out):
    """out[0 : 16 groups] = base[0 : 16 groups] + weight * (level * unit)."""

    def gen(c, b, sig, args):
        place, groups, width, levels, unit, weight, base, out = args

        def group(i):
            value = _value(b, _codes(b, place, i, width), width, levels, unit, weight)
            total = b.fadd(load(b, _numbers(b, base, i)), value)
            store(b, total, _numbers(b, out, i))

        _each(b, groups, group)
        return c.get_dummy_value()

    real, whole = types.float32, types.int64
    return types.none(whole, whole, whole, whole, real, real, whole, whole), gen


@intrinsic
def largest_code(ctx, place, groups, width):
    """The largest of 16 groups codes, an int64; 0 of none."""

    def gen(c, b, sig, args):
        place, groups, width = args

        def group(i, most):
            code = _load_planes(b, _codes(b, place, i, width), width)
            return [b.select(b.icmp_signed(">", code, most[0]), code, most[0])]

        codes = repeat(b, groups, [fill(0)], group)[0]
        largest = I64(0)
        for j in range(LANES):
            code = b.zext(b.extract_element(codes, I32(j)), I64)
            largest = b.select(b.icmp_signed(">", code, largest), code, largest)
        return largest

    return types.int64(types.int64, types.int64, types.int64), gen
