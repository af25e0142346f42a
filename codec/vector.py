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
from numba.extending import intrinsic

from psrv.codec.lanes import (
    BYTES,
    F32,
    FLOATS,
    I8,
    I16,
    INTS,
    MASK,
    fill,
    load,
    offset,
    splat,
    store,
)


def _signed(b, mask, scale):
    """scale where the mask's bit is 0, -scale where it is 1."""
    return b.select(mask, splat(b, b.fneg(scale)), splat(b, scale))


def _negative(b, x):
    return b.icmp_signed("<", b.bitcast(x, INTS), fill(0))


@intrinsic
def abs_rows(ctx, lanes, x, rows):
    """lanes[0:64] += |x[64 r : 64 r + 64]| for r = 0 .. rows - 1, in that order."""

    def gen(c, b, sig, args):
        lanes, x, rows = args
        start = b.basic_block
        accumulators = [load(b, offset(b, lanes, BYTES * k)) for k in range(4)]
        loop, body, done = (b.append_basic_block(n) for n in ("rows", "row", "rows_done"))
        b.branch(loop)
        b.position_at_end(loop)
        index = b.phi(rows.type)
        index.add_incoming(ir.Constant(rows.type, 0), start)
        phis = []
        for a in accumulators:
            phi = b.phi(FLOATS)
            phi.add_incoming(a, start)
            phis.append(phi)
        b.cbranch(b.icmp_signed("<", index, rows), body, done)
        b.position_at_end(body)
        row = b.add(x, b.mul(index, ir.Constant(rows.type, 4 * BYTES)))
        magnitude = fill(0x7FFFFFFF)
        for k, phi in enumerate(phis):
            value = load(b, offset(b, row, BYTES * k), INTS)
            phi.add_incoming(b.fadd(phi, b.bitcast(b.and_(value, magnitude), FLOATS)), body)
        index.add_incoming(b.add(index, ir.Constant(rows.type, 1)), body)
        b.branch(loop)
        b.position_at_end(done)
        for k, phi in enumerate(phis):
            store(b, phi, offset(b, lanes, BYTES * k))
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), gen


@intrinsic
def pack_scaled(ctx, x, scale, bits):
    """bits[0:2] = the 16 sign bits of x; x = x - (scale with those signs)."""

    def gen(c, b, sig, args):
        x, scale, bits = args
        value = load(b, x)
        negative = _negative(b, value)
        store(b, b.fsub(value, _signed(b, negative, scale)), x)
        store(b, b.bitcast(negative, I16), bits)
        return c.get_dummy_value()

    return types.none(types.int64, types.float32, types.int64), gen


@intrinsic
def sign_bits(ctx, x):
    """The 16 sign bits of x, as uint16."""

    def gen(c, b, sig, args):
        return b.bitcast(_negative(b, load(b, args[0])), I16)

    return types.uint16(types.int64), gen


@intrinsic
def zero_bits(ctx, x):
    """The 16 bits of: x is +0 or -0."""

    def gen(c, b, sig, args):
        magnitude = b.and_(load(b, args[0], INTS), fill(0x7FFFFFFF))
        return b.bitcast(b.icmp_signed("==", magnitude, fill(0)), I16)

    return types.uint16(types.int64), gen


@intrinsic
def finite_bits(ctx, x):
    """The 16 bits of: x is neither NaN nor infinite."""

    def gen(c, b, sig, args):
        magnitude = b.and_(load(b, args[0], INTS), fill(0x7FFFFFFF))
        bound = fill(0x7F800000)
        return b.bitcast(b.icmp_signed("<", magnitude, bound), I16)

    return types.uint16(types.int64), gen


@intrinsic
def unpack_signs(ctx, bits, scale, out):
    """out[0:16] = scale with the signs of the 16 bits."""

    def gen(c, b, sig, args):
        bits, scale, out = args
        store(b, _signed(b, b.bitcast(load(b, bits, I16), MASK), scale), out)
        return c.get_dummy_value()

    return types.none(types.int64, types.float32, types.int64), gen


@intrinsic
def add_signs(ctx, bits, scale, base, out):
    """out[0:16] = base[0:16] + scale with the signs of the 16 bits."""

    def gen(c, b, sig, args):
        bits, scale, base, out = args
        signs = _signed(b, b.bitcast(load(b, bits, I16), MASK), scale)
        store(b, b.fadd(load(b, base), signs), out)
        return c.get_dummy_value()

    return types.none(types.int64, types.float32, types.int64, types.int64), gen


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
