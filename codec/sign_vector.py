"""The vector loops of the sign compressors, written in LLVM's own terms.

A *group* is sixteen coordinates, two bytes of sign bits; a *row* is 64, four groups. The
loops are written out here, and not in Numba, so that the sum of a row's payloads and the
64 lanes of the norm stay in registers however many payloads there are. As in
``codec/vector.py``, addresses are int64 of any alignment, no operation may be reordered or
fused, and the caller has proved every range.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from psrv.codec.lanes import (
    BYTES,
    F32,
    FLOATS,
    I1,
    I8,
    I16,
    I32,
    I64,
    INTS,
    MASK,
    fill,
    load,
    offset,
    splat,
    store,
)
from psrv.codec.vector import at, magnitudes, repeat

ROW = 4
"""Groups in a row."""

ROW_FLOATS = ir.VectorType(F32, 64)
ROW_INTS = ir.VectorType(I32, 64)
ROW_MASK = ir.VectorType(I1, 64)
COUNTS = ir.VectorType(I8, 64)
INFINITY = 0x7F800000


def _negative(b, x):
    """The mask of sign bits."""
    return b.icmp_signed("<", b.bitcast(x, INTS), fill(0))


def _signed(b, mask, scale):
    """A vector of one scale, negated where the mask is set."""
    return b.select(mask, b.fneg(scale), scale)


def _either(b, address, given, absent):
    """The code of ``given()`` if the address is not 0, else that of ``absent()``."""
    blocks = [b.append_basic_block(name) for name in ("given", "absent", "behind")]
    b.cbranch(b.icmp_signed("!=", address, ir.Constant(I64, 0)), *blocks[:2])
    for block, code in zip(blocks[:2], (given, absent), strict=True):
        b.position_at_end(block)
        code()
        b.branch(blocks[2])
    b.position_at_end(blocks[2])


def _finish(b, totals, target, factor, source, rho):
    """Store totals * factor (+ rho * what lies at ``source``), and return them."""
    totals = [b.fmul(total, factor) for total in totals]
    for g, total in enumerate(totals):
        if source is not None:
            value = load(b, offset(b, source, g * BYTES))
            totals[g] = total = b.fadd(total, b.fmul(rho, value))
        store(b, total, offset(b, target, g * BYTES))
    return totals


def _sums(b, start, runs, bits, scales, count):
    """start + (scale_0 with signs) + (scale_1 with signs) + ..., of several groups at once."""

    def add(k, totals):
        run = b.add(load(b, at(b, runs, k, 8), I64), bits)
        scale = splat(b, load(b, at(b, scales, k, 4), F32))
        words = (load(b, offset(b, run, 2 * g), I16) for g in range(len(totals)))
        return [
            b.fadd(total, _signed(b, b.bitcast(word, MASK), scale))
            for total, word in zip(totals, words, strict=True)
        ]

    return repeat(b, count, start, add)


@intrinsic
def sum_rows(ctx, runs, scales, count, rows, start, step, factor, out, residual, rho, lanes):
    """out = (start + scale_0 with signs + scale_1 with signs + ...) * factor (+ rho * residual).

    Args:
        runs: address of ``count`` int64, where each payload's signs are.
        scales: address of ``count`` float32.
        start: address of 64 float32; those of the next row are ``step`` bytes further.
        out: address of float32[64 rows].
        residual: address of as many, or 0.
        lanes: address of 64 float32, or 0: lane j += |out[64 r + j]| for r = 0, 1, ...
    """

    def gen(c, b, sig, args):
        runs, scales, count, rows, start, step, factor, out, residual, rho, lanes = args
        factor, rho = splat(b, factor), splat(b, rho)

        def loop(corrected, normed):
            def row(i, held):
                first = b.add(start, b.mul(i, step))
                begin = [load(b, offset(b, first, g * BYTES)) for g in range(ROW)]
                bits = b.mul(i, ir.Constant(I64, 2 * ROW))
                totals = _sums(b, begin, runs, bits, scales, count)
                source = at(b, residual, i, ROW * BYTES) if corrected else None
                target = at(b, out, i, ROW * BYTES)
                totals = _finish(b, totals, target, factor, source, rho)
                return [
                    b.fadd(lane, magnitudes(b, total))
                    for lane, total in zip(held, totals, strict=False)
                ]

            places = [offset(b, lanes, g * BYTES) for g in range(ROW if normed else 0)]
            ends = repeat(b, rows, [load(b, place) for place in places], row)
            for end, place in zip(ends, places, strict=True):
                store(b, end, place)

        def correct(normed):
            _either(b, residual, lambda: loop(True, normed), lambda: loop(False, normed))

        _either(b, lanes, lambda: correct(True), lambda: correct(False))
        return c.get_dummy_value()

    i, f = types.int64, types.float32
    return types.none(i, i, i, i, i, i, f, i, i, f, i), gen


@intrinsic
def sum_group(ctx, runs, bits, scales, count, start, factor, out, residual, rho, lanes):
    """``sum_rows`` of the group whose signs are ``bits`` bytes on; nothing may be left out."""

    def gen(c, b, sig, args):
        runs, bits, scales, count, start, factor, out, residual, rho, lanes = args
        totals = _sums(b, [load(b, start)], runs, bits, scales, count)
        (total,) = _finish(b, totals, out, splat(b, factor), residual, splat(b, rho))
        store(b, b.fadd(load(b, lanes), magnitudes(b, total)), lanes)
        return c.get_dummy_value()

    i, f = types.int64, types.float32
    return types.none(i, i, i, i, i, f, i, i, f, i), gen


@intrinsic
def count_rows(ctx, runs, count, rows, start, step, factor, out, residual, rho):
    """``sum_rows`` where every scale is 1: in integers, for at most 255 runs."""

    def gen(c, b, sig, args):
        runs, count, rows, start, step, factor, out, residual, rho = args
        factor, rho = splat(b, factor), splat(b, rho)
        senders = splat(b, b.trunc(count, I32), INTS)

        def votes(bits):
            def add(k, counts):
                run = b.add(load(b, at(b, runs, k, 8), I64), bits)
                mask = b.bitcast(load(b, run, I64), ROW_MASK)
                return [b.add(counts[0], b.zext(mask, COUNTS))]

            (negative,) = repeat(b, count, [fill(0, COUNTS)], add)
            for g in range(ROW):
                order = ir.Constant(INTS, list(range(16 * g, 16 * g + 16)))
                part = b.zext(b.shuffle_vector(negative, negative, order), INTS)
                yield b.sitofp(b.sub(senders, b.add(part, part)), FLOATS)

        def loop(corrected):
            def row(i, _):
                first = b.add(start, b.mul(i, step))
                bits = b.mul(i, ir.Constant(I64, 2 * ROW))
                totals = [
                    b.fadd(load(b, offset(b, first, g * BYTES)), vote)
                    for g, vote in enumerate(votes(bits))
                ]
                source = at(b, residual, i, ROW * BYTES) if corrected else None
                _finish(b, totals, at(b, out, i, ROW * BYTES), factor, source, rho)
                return []

            repeat(b, rows, [], row)

        _either(b, residual, lambda: loop(True), lambda: loop(False))
        return c.get_dummy_value()

    i, f = types.int64, types.float32
    return types.none(i, i, i, i, i, f, i, i, f), gen


def _norm(groups):
    """The intrinsic whose loop takes in ``groups`` groups in a pass."""

    def describe(ctx, x, residual, rho, passes, lanes):
        def gen(c, b, sig, args):
            x, residual, rho, passes, lanes = args
            rho = splat(b, rho)
            places = [offset(b, lanes, g * BYTES) for g in range(groups)]

            def loop(corrected):
                def step(i, held):
                    target = at(b, x, i, groups * BYTES)
                    values = [load(b, offset(b, target, g * BYTES)) for g in range(groups)]
                    if corrected:
                        source = at(b, residual, i, groups * BYTES)
                        for g, value in enumerate(values):
                            more = b.fmul(rho, load(b, offset(b, source, g * BYTES)))
                            values[g] = b.fadd(value, more)
                            store(b, values[g], offset(b, target, g * BYTES))
                    return [
                        b.fadd(lane, magnitudes(b, value))
                        for lane, value in zip(held, values, strict=True)
                    ]

                ends = repeat(b, passes, [load(b, place) for place in places], step)
                for end, place in zip(ends, places, strict=True):
                    store(b, end, place)

            _either(b, residual, lambda: loop(True), lambda: loop(False))
            return c.get_dummy_value()

        i, f = types.int64, types.float32
        return types.none(i, i, f, i, i), gen

    return intrinsic(describe)


norm_rows = _norm(ROW)
"""lane j += |x[64 r + j]| for r = 0, 1, ..., after x = x + rho * residual if that is not 0.

Args:
    x: address of float32[64 passes].
    residual: address of as many, or 0.
    passes: rows.
    lanes: address of 64 float32.
"""

norm_groups = _norm(1)
"""``norm_rows`` for what is less than a row: ``passes`` groups, and one group of lanes."""


@intrinsic
def lanes_total(ctx, lanes):
    """Sum of 64 float32: lane j + 32 onto lane j, then 16, 8, 4, 2, 1."""

    def gen(c, b, sig, args):
        lanes = [load(b, offset(b, args[0], g * BYTES)) for g in range(ROW)]
        total = b.fadd(b.fadd(lanes[0], lanes[2]), b.fadd(lanes[1], lanes[3]))
        for half in (8, 4, 2, 1):
            order = ir.Constant(INTS, [(j + half) % 16 for j in range(16)])
            total = b.fadd(total, b.shuffle_vector(total, total, order))
        return b.extract_element(total, ir.Constant(I32, 0))

    return types.float32(types.int64), gen


@intrinsic
def pack_signs(ctx, x, scale, groups, bits):
    """bits = the sign bits of x; x = x - (scale with those signs)."""

    def gen(c, b, sig, args):
        x, scale, groups, bits = args
        scale = splat(b, scale)

        def step(i, _):
            place = at(b, x, i, BYTES)
            value = load(b, place)
            negative = _negative(b, value)
            store(b, b.bitcast(negative, I16), at(b, bits, i, 2))
            store(b, b.fsub(value, _signed(b, negative, scale)), place)
            return []

        repeat(b, groups, [], step)
        return c.get_dummy_value()

    i = types.int64
    return types.none(i, types.float32, i, i), gen


@intrinsic
def unpack_signs(ctx, bits, scale, groups, out):
    """out = scale with the signs of the bits."""

    def gen(c, b, sig, args):
        bits, scale, groups, out = args
        scale = splat(b, scale)

        def step(i, _):
            mask = b.bitcast(load(b, at(b, bits, i, 2), I16), MASK)
            store(b, _signed(b, mask, scale), at(b, out, i, BYTES))
            return []

        repeat(b, groups, [], step)
        return c.get_dummy_value()

    i = types.int64
    return types.none(i, types.float32, i, i), gen


@intrinsic
def add_signs(ctx, bits, scale, groups, base, out):
    """out = base + scale with the signs of the bits."""

    def gen(c, b, sig, args):
        bits, scale, groups, base, out = args
        scale = splat(b, scale)

        def step(i, _):
            mask = b.bitcast(load(b, at(b, bits, i, 2), I16), MASK)
            value = load(b, at(b, base, i, BYTES))
            store(b, b.fadd(value, _signed(b, mask, scale)), at(b, out, i, BYTES))
            return []

        repeat(b, groups, [], step)
        return c.get_dummy_value()

    i = types.int64
    return types.none(i, types.float32, i, i, i), gen


# A row of 64 as one vector, for what decides about all of its bits at once


def _row_bits(compare):
    """The intrinsic of 64 bits, as uint64, from the int32 representations of a row of x."""

    def describe(ctx, x):
        def gen(c, b, sig, args):
            return b.bitcast(compare(b, load(b, args[0], ROW_INTS)), I64)

        return types.uint64(types.int64), gen

    return intrinsic(describe)


def _row_magnitudes(b, x):
    return b.and_(x, fill(0x7FFFFFFF, ROW_INTS))


negative_row = _row_bits(lambda b, x: b.icmp_signed("<", x, fill(0, ROW_INTS)))
"""The sign bits."""

zero_row = _row_bits(lambda b, x: b.icmp_signed("==", _row_magnitudes(b, x), fill(0, ROW_INTS)))
"""Which are +0 or -0."""

odd_row = _row_bits(
    # Less 1, a zero is the largest of all.
    lambda b, x: b.icmp_unsigned(
        ">=",
        b.sub(_row_magnitudes(b, x), fill(1, ROW_INTS)),
        fill(INFINITY - 1, ROW_INTS),
    )
)
"""Which are zero, infinite or NaN."""


@intrinsic
def subtract_row(ctx, x, bits):
    """x = x - (+1, or -1 where the bit is set)."""

    def gen(c, b, sig, args):
        x, bits = args
        one, minus = (fill(value, ROW_FLOATS) for value in (1.0, -1.0))
        signs = b.select(b.bitcast(bits, ROW_MASK), minus, one)
        store(b, b.fsub(load(b, x, ROW_FLOATS), signs), x)
        return c.get_dummy_value()

    return types.none(types.int64, types.uint64), gen


@intrinsic
def copy_bytes(ctx, source, count, out):
    """out[0:count] = source[0:count]; they do not overlap."""

    def gen(c, b, sig, args):
        source, count, out = args
        source, out = (b.inttoptr(address, I8.as_pointer()) for address in (source, out))
        cgutils.raw_memcpy(b, out, source, count, 1)
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), gen


@intrinsic(prefer_literal=True)
def fetch_ahead(ctx, address, count):
    """Ask for the ``count`` bytes, a literal, that will be read soon; any address will do."""
    size = count.literal_value

    def gen(c, b, sig, args):
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0i8")
        hint = [ir.Constant(I32, number) for number in (0, 2, 1)]  # to read, into L2, data
        for first in range(0, size, 64):
            b.call(function, [b.inttoptr(offset(b, args[0], first), I8.as_pointer()), *hint])
        return c.get_dummy_value()

    return types.none(types.int64, count), gen
