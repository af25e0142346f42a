"""The vector loops of the sign compressors, written in LLVM's own terms.

A *group* is sixteen coordinates, two bytes of sign bits; a *row* is 64. The loops are
written out here, and not in Numba, so that sums of several payloads and the norm's lanes
stay in registers. Each is unrolled to a row, then goes group by group; what is left over,
fewer than sixteen coordinates, is the caller's. As in ``codec/vector.py``, addresses
are int64 of any alignment, and the caller has proved every range.
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

TOGETHER = 8
"""The most payloads that are added in one pass: their scales stay in registers."""

COUNTS = ir.VectorType(I8, 64)


def _repeat(b, count, carried, body):
    """for index in range(count): carried = body(index, carried); the last ``carried``."""
    start = b.basic_block
    head, inner, done = (b.append_basic_block(n) for n in ("head", "inner", "done"))
    b.branch(head)
    b.position_at_end(head)
    index = b.phi(I64)
    index.add_incoming(ir.Constant(I64, 0), start)
    phis = [b.phi(value.type) for value in carried]
    for phi, value in zip(phis, carried, strict=True):
        phi.add_incoming(value, start)
    b.cbranch(b.icmp_signed("<", index, count), inner, done)
    b.position_at_end(inner)
    following = body(index, phis) or []
    end = b.basic_block
    for phi, value in zip(phis, following, strict=True):
        phi.add_incoming(value, end)
    index.add_incoming(b.add(index, ir.Constant(I64, 1)), end)
    b.branch(head)
    b.position_at_end(done)
    return phis


def _groups(b, count, body):
    """body(group) for each of ``count`` groups, four at a time, then one by one."""
    rows = b.lshr(count, ir.Constant(I64, 2))

    def row(index, _):
        first = b.shl(index, ir.Constant(I64, 2))
        for u in range(4):
            body(b.add(first, ir.Constant(I64, u)))

    _repeat(b, rows, [], row)
    whole = b.shl(rows, ir.Constant(I64, 2))
    _repeat(b, b.sub(count, whole), [], lambda index, _: body(b.add(whole, index)))


def _at(b, base, index, size):
    """The address of item ``index`` of ``size`` bytes."""
    return b.add(base, b.mul(index, ir.Constant(I64, size)))


def _mask(b, address):
    return b.bitcast(load(b, address, I16), MASK)


def _finished(b, total, group, factor, residual, rho):
    """total * factor (+ rho * residual): vectors, but for the residual's address or None."""
    total = b.fmul(total, factor)
    if residual is not None:
        total = b.fadd(total, b.fmul(rho, load(b, _at(b, residual, group, BYTES))))
    return total


@intrinsic(prefer_literal=True)
def stack_floats(ctx, count):
    """The address of ``count`` (a literal) float32 that live until the function returns."""
    size = count.literal_value

    def gen(c, b, sig, args):
        room = cgutils.alloca_once(b, F32, size=size)
        return b.ptrtoint(room, I64)

    return types.int64(count), gen


@intrinsic
def sum_signs(ctx, kind, payloads, scales, at, groups, factor, out, residual, rho):
    """out = (sum of signed scales) * factor (+ rho * residual), payload after payload.

    Args:
        kind: 1 to 8, so many payloads; or 0: eight, added to what ``out`` holds.
        payloads: address of an int64 address each.
        scales: address of a float32 each.
        at: byte of the payloads in which the bits of the first group are.
        residual: address of float32[16 groups], or 0.
    """

    def gen(c, b, sig, args):
        kind, payloads, scales, at, groups, factor, out, residual, rho = args
        factor, rho = splat(b, factor), splat(b, rho)
        done, never = b.append_basic_block("summed"), b.append_basic_block("no_kind")
        with_residual = b.icmp_signed("!=", residual, ir.Constant(I64, 0))
        case = b.add(b.add(kind, kind), b.zext(with_residual, I64))
        switch = b.switch(case, never)
        b.position_at_end(never)
        b.unreachable()
        for number in range(2 * TOGETHER + 2):
            block = b.append_basic_block(f"sum{number}")
            switch.add_case(ir.Constant(I64, number), block)
            b.position_at_end(block)
            n = number // 2 or TOGETHER
            bits = [b.add(load(b, offset(b, payloads, 8 * k), I64), at) for k in range(n)]
            each = [load(b, offset(b, scales, 4 * k), F32) for k in range(n)]
            signed = [(splat(b, b.fneg(s)), splat(b, s)) for s in each]

            def group(g, continued=number < 2, bits=bits, signed=signed, add=number % 2):
                target = _at(b, out, g, BYTES)
                total = load(b, target) if continued else None
                for run, scale in zip(bits, signed, strict=True):
                    term = b.select(_mask(b, _at(b, run, g, 2)), *scale)
                    total = term if total is None else b.fadd(total, term)
                store(b, _finished(b, total, g, factor, residual if add else None, rho), target)

            _groups(b, groups, group)
            b.branch(done)
        b.position_at_end(done)
        return c.get_dummy_value()

    i64, f32 = types.int64, types.float32
    return types.none(i64, i64, i64, i64, i64, f32, i64, i64, f32), gen


@intrinsic
def abs_sum(ctx, x, residual, rho, rows, last):
    """Sum of |x| over rows of 64, then ``last``, in lanes, then as a tree; float32.

    Where ``residual`` is not 0, x = x + rho * residual comes first.

    Args:
        x: address of float32[64 rows].
        last: address of 64 float32, one more row.
    """

    def gen(c, b, sig, args):
        x, residual, rho, rows, last = args
        rho = splat(b, rho)
        magnitude = fill(0x7FFFFFFF)

        def added(address, lanes, g=None):
            values = [load(b, offset(b, address, BYTES * k)) for k in range(4)]
            if g is not None:
                more = [
                    load(b, offset(b, _at(b, residual, g, 4 * BYTES), BYTES * k)) for k in range(4)
                ]
                values = [b.fadd(v, b.fmul(rho, m)) for v, m in zip(values, more, strict=True)]
                for k, v in enumerate(values):
                    store(b, v, offset(b, address, BYTES * k))
            plain = [b.bitcast(b.and_(b.bitcast(v, INTS), magnitude), FLOATS) for v in values]
            return [b.fadd(lane, v) for lane, v in zip(lanes, plain, strict=True)]

        zero = [fill(0.0, FLOATS)] * 4
        plain, corrected, done = (b.append_basic_block(n) for n in ("plain", "corrected", "sum"))
        b.cbranch(b.icmp_signed("!=", residual, ir.Constant(I64, 0)), corrected, plain)
        ends = []
        for block, add in ((plain, False), (corrected, True)):
            b.position_at_end(block)
            lanes = _repeat(
                b,
                rows,
                zero,
                lambda r, lanes, add=add: added(_at(b, x, r, 4 * BYTES), lanes, r if add else None),
            )
            ends.append((lanes, b.basic_block))
            b.branch(done)
        b.position_at_end(done)
        lanes = []
        for k in range(4):
            phi = b.phi(FLOATS)
            for values, block in ends:
                phi.add_incoming(values[k], block)
            lanes.append(phi)
        lanes = added(last, lanes)
        total = b.fadd(b.fadd(lanes[0], lanes[2]), b.fadd(lanes[1], lanes[3]))
        for half in (8, 4, 2, 1):
            order = [(j + half) % 16 for j in range(16)]
            upper = b.shuffle_vector(total, total, ir.Constant(INTS, order))
            total = b.fadd(total, upper)
        return b.extract_element(total, ir.Constant(I32, 0))

    i64, f32 = types.int64, types.float32
    return types.float32(i64, i64, f32, i64, i64), gen


@intrinsic
def pack_signs(ctx, x, scale, groups, bits):
    """bits = the sign bits of x; x = x - (scale with those signs)."""

    def gen(c, b, sig, args):
        x, scale, groups, bits = args
        positive, negative = splat(b, scale), splat(b, b.fneg(scale))

        def group(g):
            address = _at(b, x, g, BYTES)
            value = load(b, address)
            minus = b.icmp_signed("<", b.bitcast(value, INTS), fill(0))
            store(b, b.bitcast(minus, I16), _at(b, bits, g, 2))
            store(b, b.fsub(value, b.select(minus, negative, positive)), address)

        _groups(b, groups, group)
        return c.get_dummy_value()

    i64 = types.int64
    return types.none(i64, types.float32, i64, i64), gen


@intrinsic
def stream(ctx, x, groups, out):
    """out = x by stores that go past the caches; ``out`` starts on a cache line."""

    def gen(c, b, sig, args):
        x, groups, out = args

        def group(g):
            target = b.inttoptr(_at(b, out, g, BYTES), FLOATS.as_pointer())
            stored = b.store(load(b, _at(b, x, g, BYTES)), target)
            stored.align = BYTES
            stored.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))

        _groups(b, groups, group)
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), gen


@intrinsic
def fence(ctx):
    """What was streamed is seen by other threads before what is written from here on."""

    def gen(c, b, sig, args):
        b.fence("seq_cst")
        return c.get_dummy_value()

    return types.none(), gen
