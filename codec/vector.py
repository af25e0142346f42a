"""Sixteen float32 at a time: the vector operations that the kernels are made of.

Numba vectorises plain loops, but not the building of bytes from comparisons, and
it may not reorder a float32 sum. These intrinsics emit LLVM vectors of
16 lanes; LLVM lowers them to AVX-512, AVX2, SSE or NEON, with the same result on each:
no operation carries a fast-math flag, so nothing is reordered or fused.

Addresses are int64. They need no alignment: payloads lie wherever ZeroMQ put them.
The caller has proved that every address range is inside its buffer; Numba's bounds
check does not see these accesses.
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
    fill,
    load,
    splat,
    store,
)

# For intrinsics with a loop of their own


def repeat(b, count, carried, body):
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
    following = body(index, phis)
    end = b.basic_block
    for phi, value in zip(phis, following, strict=True):
        phi.add_incoming(value, end)
    index.add_incoming(b.add(index, ir.Constant(I64, 1)), end)
    b.branch(head)
    b.position_at_end(done)
    return phis


def at(b, base, index, size):
    """The address of item ``index``, each ``size`` bytes, of those from ``base`` on."""
    return b.add(base, b.mul(index, ir.Constant(I64, size)))


def magnitudes(b, x):
    """|x|."""
    return b.bitcast(b.and_(b.bitcast(x, INTS), fill(0x7FFFFFFF)), FLOATS)


# Intrinsics


@intrinsic(prefer_literal=True)
def stack_floats(ctx, count):
    """The address of ``count`` float32, a literal: scratch until the kernel returns."""
    size = count.literal_value

    def gen(c, b, sig, args):
        return b.ptrtoint(cgutils.alloca_once(b, F32, size=size), I64)

    return types.int64(count), gen


@intrinsic
def top_magnitude(ctx, x, groups):
    """The largest of x's bit patterns, without their sign bits, as int32; x is float32[16 groups].

    From 0x7f800000 on there is an infinity or a NaN among them.
    """

    def gen(c, b, sig, args):
        x, groups = args

        def step(i, held):
            value = b.and_(load(b, at(b, x, i, BYTES), INTS), fill(0x7FFFFFFF))
            larger = b.icmp_signed(">", value, held[0])
            return [b.select(larger, value, held[0])]

        (top,) = repeat(b, groups, [fill(0)], step)
        for half in (8, 4, 2, 1):
            order = ir.Constant(INTS, [(j + half) % 16 for j in range(16)])
            other = b.shuffle_vector(top, top, order)
            top = b.select(b.icmp_signed(">", other, top), other, top)
        return b.extract_element(top, ir.Constant(I32, 0))

    return types.int32(types.int64, types.int64), gen


@intrinsic
def finite_bits(ctx, x):
    """The 16 bits of: x is neither NaN nor infinite."""

    def gen(c, b, sig, args):
        magnitude = b.and_(load(b, args[0], INTS), fill(0x7FFFFFFF))
        bound = fill(0x7F800000)
        return b.bitcast(b.icmp_signed("<", magnitude, bound), I16)

    return types.uint16(types.int64), gen


@intrinsic
def add_floats(ctx, x, base, out):
    """out[0:16] = base[0:16] + x[0:16]."""

    def gen(c, b, sig, args):
        x, base, out = args
        store(b, b.fadd(load(b, base), load(b, x)), out)
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), gen


@intrinsic
def scale_floats(ctx, x, factor):
    """x[0:16] = x[0:16] * factor."""

    def gen(c, b, sig, args):
        x, factor = args
        store(b, b.fmul(load(b, x), splat(b, factor)), x)
        return c.get_dummy_value()

    return types.none(types.int64, types.float32), gen


@intrinsic
def add_scaled(ctx, x, factor, y, rho):
    """x[0:16] = x[0:16] * factor + rho * y[0:16], each product and the sum rounded."""

    def gen(c, b, sig, args):
        x, factor, y, rho = args
        scaled = b.fmul(load(b, x), splat(b, factor))
        store(b, b.fadd(scaled, b.fmul(splat(b, rho), load(b, y))), x)
        return c.get_dummy_value()

    return types.none(types.int64, types.float32, types.int64, types.float32), gen


@intrinsic
def load_float(ctx, address):
    """The float32 at an address of any alignment."""

    def gen(c, b, sig, args):
        return load(b, args[0], F32)

    return types.float32(types.int64), gen


@intrinsic
def store_float(ctx, value, address):
    """Write a float32 to an address of any alignment."""

    def gen(c, b, sig, args):
        store(b, args[0], args[1])
        return c.get_dummy_value()

    return types.none(types.float32, types.int64), gen


@intrinsic
def load_byte(ctx, address):
    """The byte at an address."""

    def gen(c, b, sig, args):
        return load(b, args[0], I8)

    return types.uint8(types.int64), gen


@intrinsic
def store_byte(ctx, value, address):
    """Write a byte to an address."""

    def gen(c, b, sig, args):
        store(b, args[0], args[1])
        return c.get_dummy_value()

    return types.none(types.uint8, types.int64), gen


@intrinsic
def store_word16(ctx, value, address):
    """Write two bytes, low one first, to an address of any alignment."""

    def gen(c, b, sig, args):
        store(b, args[0], args[1])
        return c.get_dummy_value()

    return types.none(types.uint16, types.int64), gen


@intrinsic
def load_word64(ctx, address):
    """The int64 at an address of any alignment."""

    def gen(c, b, sig, args):
        return load(b, args[0], I64)

    return types.int64(types.int64), gen


@intrinsic
def store_word64(ctx, value, address):
    """Write eight bytes, low one first, to an address of any alignment."""

    def gen(c, b, sig, args):
        store(b, args[0], args[1])
        return c.get_dummy_value()

    return types.none(types.uint64, types.int64), gen
