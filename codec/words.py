"""Words of bits at any address, and the comparisons that find a vector's largest magnitudes.

Intrinsics like those of ``codec/vector.py``, for the index code (``codec/gaps.py``) and the
selection (``codec/selection.py``). The magnitude of a float32 is taken as its bits without
the sign, an integer below 2^31: it orders finite numbers by magnitude, and every infinity
and NaN comes after them, from 0x7F800000 on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from psrv.codec.lanes import (
    BYTES,
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

MAGNITUDE = 0x7FFFFFFF
ROWS = 4
"""Vectors of sixteen lanes whose comparisons fill one word of 64 bits."""


@intrinsic
def load_word(ctx, address):
    """The uint64 at an address of any alignment."""

    def gen(c, b, sig, args):
        return load(b, args[0], I64)

    return types.uint64(types.int64), gen


@intrinsic
def store_word(ctx, value, address):
    """Write a uint64 to an address of any alignment."""

    def gen(c, b, sig, args):
        store(b, args[0], args[1])
        return c.get_dummy_value()

    return types.none(types.uint64, types.int64), gen


@intrinsic
def load_int(ctx, address):
    """The int32 at an address of any alignment, as int64."""

    def gen(c, b, sig, args):
        return b.sext(load(b, args[0], I32), I64)

    return types.int64(types.int64), gen


@intrinsic
def store_int(ctx, value, address):
    """Write the low 32 bits of an int64 to an address of any alignment."""

    def gen(c, b, sig, args):
        store(b, b.trunc(args[0], I32), args[1])
        return c.get_dummy_value()

    return types.none(types.int64, types.int64), gen


@intrinsic
def load_bits(ctx, address):
    """The 32 bits of a float32 at an address of any alignment, as a non-negative int64."""

    def gen(c, b, sig, args):
        return b.zext(load(b, args[0], I32), I64)

    return types.int64(types.int64), gen


@intrinsic
def low_zeros(ctx, word):
    """How many zero bits lie below the lowest one, 64 for the word 0."""

    def gen(c, b, sig, args):
        return b.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), gen


@intrinsic
def ones(ctx, word):
    """How many bits of the word are 1."""

    def gen(c, b, sig, args):
        return b.ctpop(args[0])

    return types.int64(types.uint64), gen


def _word(b: ir.IRBuilder, masks: list[Any]) -> Any:
    """One bit a lane, the first vector's lanes lowest."""
    word = ir.Constant(I64, 0)
    for k, mask in enumerate(masks):
        bits = b.zext(b.bitcast(mask, ir.IntType(LANES)), I64)
        word = b.or_(word, b.shl(bits, ir.Constant(I64, LANES * k)))
    return word


def _at_least(b: ir.IRBuilder, value: Any, bound: Any) -> Any:
    return b.icmp_signed(">=", b.and_(value, fill(MAGNITUDE)), bound)


@intrinsic
def large_bits(ctx, x, bound):
    """Bit j of 64: the magnitude of x[j] is at least ``bound``, an int64 in [0, 2^31)."""

    def gen(c, b, sig, args):
        x, bound = args
        bounds = splat(b, b.trunc(bound, I32), INTS)
        rows = [load(b, offset(b, x, BYTES * k), INTS) for k in range(ROWS)]
        return _word(b, [_at_least(b, row, bounds) for row in rows])

    return types.uint64(types.int64, types.int64), gen


@intrinsic
def add_large_bits(ctx, x, residual, rho, bound):
    """x[0:64] = x + rho * residual, product and sum rounded; then ``large_bits`` of that."""

    def gen(c, b, sig, args):
        x, residual, rho, bound = args
        bounds = splat(b, b.trunc(bound, I32), INTS)
        factor = splat(b, rho)
        masks = []
        for k in range(ROWS):
            at = offset(b, x, BYTES * k)
            scaled = b.fmul(factor, load(b, offset(b, residual, BYTES * k)))
            value = b.fadd(load(b, at), scaled)
            store(b, value, at)
            masks.append(_at_least(b, b.bitcast(value, INTS), bounds))
        return _word(b, masks)

    return types.uint64(types.int64, types.int64, types.float32, types.int64), gen


@intrinsic
def near_bits(ctx, x, low, size):
    """Bit j of 64: low <= magnitude of x[j] < low + size; ``low`` and ``size`` below 2^31."""

    def gen(c, b, sig, args):
        x, low, size = args
        lows, sizes = (splat(b, b.trunc(v, I32), INTS) for v in (low, size))
        masks = []
        for k in range(ROWS):
            value = b.and_(load(b, offset(b, x, BYTES * k), INTS), fill(MAGNITUDE))
            masks.append(b.icmp_unsigned("<", b.sub(value, lows), sizes))
        return _word(b, masks)

    return types.uint64(types.int64, types.int64, types.int64), gen


def _over_rows(
    b: ir.IRBuilder, count: Any, states: list[Any], step: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """``states`` after states = step(64 r, states) for r = 0 .. count - 1."""
    before = b.basic_block
    loop, body, done = (b.append_basic_block(name) for name in ("rows", "row", "rows_done"))
    b.branch(loop)
    b.position_at_end(loop)
    index = b.phi(I64)
    index.add_incoming(ir.Constant(I64, 0), before)
    phis = [b.phi(state.type) for state in states]
    for phi, state in zip(phis, states, strict=True):
        phi.add_incoming(state, before)
    b.cbranch(b.icmp_signed("<", index, count), body, done)
    b.position_at_end(body)
    after = step(b.mul(index, ir.Constant(I64, BYTES)), phis)
    for phi, state in zip(phis, after, strict=True):
        phi.add_incoming(state, body)
    index.add_incoming(b.add(index, ir.Constant(I64, 1)), body)
    b.branch(loop)
    b.position_at_end(done)
    return phis


@intrinsic
def largest_lanes(ctx, x, rows, lanes):
    """lanes[j] = the largest magnitude of x[j], x[16 + j], ... over ``rows`` vectors, or 0."""

    def gen(c, b, sig, args):
        x, rows, lanes = args

        def step(at, states):
            value = b.and_(load(b, b.add(x, at), INTS), fill(MAGNITUDE))
            return [b.select(b.icmp_signed(">", value, states[0]), value, states[0])]

        store(b, _over_rows(b, rows, [fill(0)], step)[0], lanes)
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), gen


@intrinsic
def gap_sums(ctx, indices, rows, shift, lanes):
    """Sums of the gaps between int32 indices, each shifted right by shift, ... , shift + 3.

    The gap before indices[j] is indices[j] - indices[j - 1] - 1: ``indices[-1]`` is read.
    lanes[16 s + j], uint32, is lane j's sum for shift + s.
    """

    def gen(c, b, sig, args):
        indices, rows, shift, lanes = args
        first = splat(b, b.trunc(shift, I32), INTS)
        shifts = [b.add(first, fill(s)) for s in range(ROWS)]

        def step(at, states):
            here = b.add(indices, at)
            distance = b.sub(load(b, here, INTS), load(b, offset(b, here, -4), INTS))
            gap = b.sub(distance, fill(1))
            return [b.add(s, b.lshr(gap, n)) for s, n in zip(states, shifts, strict=True)]

        for s, total in enumerate(_over_rows(b, rows, [fill(0)] * ROWS, step)):
            store(b, total, offset(b, lanes, BYTES * s))
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64, types.int64), gen
