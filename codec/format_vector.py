"""Sixteen numbers at a time between float32 and the formats that payloads hold them in.

Integer and float32 operations only, all of them in every processor's vector unit: the
instructions that convert to and from half precision are missing on some, and differ in
what they do with numbers too large for a half. Rounding is to nearest, ties to even, unless
a format draws.

Written like ``codec/vector.py``: addresses of any alignment, inside buffers that the
caller has checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    LANES,
    MASK,
    fill,
    load,
    splat,
    store,
)
from psrv.codec.rng import GAMMA

SIGN = -0x80000000
MAGNITUDE = 0x7FFFFFFF
HALF_MAX = 0x477FE000
"""65504 as float32, the largest number of binary16."""

WORDS = ir.VectorType(I64, 8)
HALVES = ir.VectorType(I16, LANES)
EXPONENTS = ir.VectorType(I8, LANES)


def _signed64(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (value >> 63 << 64)


def random_words(b: ir.IRBuilder, key: Any, index: Any) -> Any:
    """Words ``index`` to ``index`` + 7 of a stream (``codec/rng.py``), as eight int64."""
    gamma = ir.Constant(I64, _signed64(GAMMA))
    steps = ir.Constant(WORDS, [_signed64((i + 1) * GAMMA) for i in range(8)])
    z = b.add(splat(b, b.add(key, b.mul(index, gamma)), WORDS), steps)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = b.xor(z, b.lshr(z, fill(shift, WORDS)))
        z = b.mul(z, fill(_signed64(factor), WORDS))
    return b.xor(z, b.lshr(z, fill(31, WORDS)))


def lesser(b: ir.IRBuilder, x: Any, bound: int) -> Any:
    """The smaller of each int32 and a constant."""
    limit = fill(bound)
    return b.select(b.icmp_signed("<", x, limit), x, limit)


# Each of these takes int32[16], the bits of float32, and gives what goes into the payload
# and the bits of the float32 that it will be read as.


def _to_float32(b, bits):
    return bits, bits


def _to_bf16(b, bits):
    odd = b.and_(b.lshr(bits, fill(16)), fill(1))
    magnitude = b.add(b.add(b.and_(bits, fill(MAGNITUDE)), fill(0x7FFF)), odd)
    magnitude = lesser(b, b.and_(magnitude, fill(-0x10000)), 0x7F7F0000)
    rounded = b.or_(magnitude, b.and_(bits, fill(SIGN)))
    return b.trunc(b.lshr(rounded, fill(16)), HALVES), rounded


def _to_fp16(b, bits):
    # Adding 2^(e + 13) to a number of exponent e leaves eleven significant bits, rounded as
    # the processor rounds a sum. Below 2^-14, where the spacing of halves no longer shrinks,
    # e stays at -14. In the sum's low bits stands the number in units of that spacing.
    sign = b.and_(bits, fill(SIGN))
    magnitude = lesser(b, b.and_(bits, fill(MAGNITUDE)), HALF_MAX)
    exponent = b.and_(magnitude, fill(0x7F800000))
    least = fill(113 << 23)
    exponent = b.select(b.icmp_signed(">", exponent, least), exponent, least)
    shifter = b.add(exponent, fill(13 << 23))
    total = b.fadd(b.bitcast(magnitude, FLOATS), b.bitcast(shifter, FLOATS))
    rounded = b.bitcast(b.fsub(total, b.bitcast(shifter, FLOATS)), INTS)
    units = b.sub(b.bitcast(total, INTS), shifter)
    half = b.add(units, b.sub(b.lshr(exponent, fill(13)), fill(113 << 10)))
    half = b.or_(half, b.lshr(sign, fill(16)))
    return b.trunc(half, HALVES), b.or_(rounded, sign)


def _from_float32(b, stored):
    return b.bitcast(stored, FLOATS)


def _from_bf16(b, stored):
    return b.bitcast(b.shl(b.zext(stored, INTS), fill(16)), FLOATS)


def _from_fp16(b, stored):
    half = b.zext(stored, INTS)
    sign = b.shl(b.and_(half, fill(0x8000)), fill(16))
    magnitude = b.shl(b.and_(half, fill(0x7FFF)), fill(13))
    # Without its leading 1, a subnormal half is the number with one less 2^-14. Not a
    # product: as float32 its bits are denormal, and those take some processors a long time.
    normal = b.add(magnitude, fill(112 << 23))
    least = b.bitcast(fill(113 << 23), FLOATS)
    small = b.fsub(b.bitcast(b.add(magnitude, fill(113 << 23)), FLOATS), least)
    is_small = b.icmp_signed("<", magnitude, fill(1 << 23))
    value = b.select(is_small, b.bitcast(small, INTS), normal)
    return b.bitcast(b.or_(value, sign), FLOATS)


def _from_natural(b, exponents, signs):
    value = b.shl(b.zext(load(b, exponents, EXPONENTS), INTS), fill(23))
    negative = b.bitcast(load(b, signs, I16), MASK)
    return b.bitcast(b.or_(value, b.select(negative, fill(SIGN), fill(0))), FLOATS)


def _subtract(b, bits, rounded, gain, x):
    """x = x - gain * the number rounded to."""
    product = b.fmul(splat(b, gain), b.bitcast(rounded, FLOATS))
    store(b, b.fsub(b.bitcast(bits, FLOATS), product), x)


def _encoder(quantise: Callable[..., Any]) -> Any:
    @intrinsic
    def encode(ctx, x, gain, stored):
        """stored[0:16] = Q(x); x = x - gain * Q(x)."""

        def gen(c, b, sig, args):
            x, gain, place = args
            bits = load(b, x, INTS)
            stored, rounded = quantise(b, bits)
            store(b, stored, place)
            _subtract(b, bits, rounded, gain, x)
            return c.get_dummy_value()

        return types.none(types.int64, types.float32, types.int64), gen

    return encode


def _decoder(kind: ir.VectorType, value: Callable[..., Any]) -> Any:
    @intrinsic
    def decode(ctx, stored, gain, out):
        """out[0:16] = gain * Q."""

        def gen(c, b, sig, args):
            stored, gain, out = args
            store(b, b.fmul(splat(b, gain), value(b, load(b, stored, kind))), out)
            return c.get_dummy_value()

        return types.none(types.int64, types.float32, types.int64), gen

    return decode


def _adder(kind: ir.VectorType, value: Callable[..., Any]) -> Any:
    @intrinsic
    def add(ctx, stored, gain, base, out):
        """out[0:16] = base[0:16] + gain * Q, product and sum rounded."""

        def gen(c, b, sig, args):
            stored, gain, base, out = args
            product = b.fmul(splat(b, gain), value(b, load(b, stored, kind)))
            store(b, b.fadd(load(b, base), product), out)
            return c.get_dummy_value()

        return types.none(types.int64, types.float32, types.int64, types.int64), gen

    return add


encode_float32, encode_bf16, encode_fp16 = map(_encoder, (_to_float32, _to_bf16, _to_fp16))
decode_float32 = _decoder(INTS, _from_float32)
decode_bf16 = _decoder(HALVES, _from_bf16)
decode_fp16 = _decoder(HALVES, _from_fp16)
add_float32 = _adder(INTS, _from_float32)
add_bf16 = _adder(HALVES, _from_bf16)
add_fp16 = _adder(HALVES, _from_fp16)


@intrinsic
def encode_natural(ctx, x, gain, exponents, signs, key, word):
    """Sixteen exponent bytes and two of signs; x = x - gain * Q(x).

    The numbers' random bits are words ``word`` to ``word`` + 7 of the stream ``key``, the
    low half of each for the even one of two numbers.
    """

    def gen(c, b, sig, args):
        x, gain, exponents, signs, key, word = args
        bits = load(b, x, INTS)
        chance = b.lshr(b.bitcast(random_words(b, key, word), INTS), fill(9))
        magnitude = b.and_(bits, fill(MAGNITUDE))
        exponent = lesser(b, b.lshr(b.add(magnitude, chance), fill(23)), 254)
        store(b, b.trunc(exponent, EXPONENTS), exponents)
        store(b, b.bitcast(b.icmp_signed("<", bits, fill(0)), I16), signs)
        rounded = b.or_(b.shl(exponent, fill(23)), b.and_(bits, fill(SIGN)))
        _subtract(b, bits, rounded, gain, x)
        return c.get_dummy_value()

    place = (types.int64, types.int64)
    return types.none(types.int64, types.float32, *place, types.uint64, types.int64), gen


@intrinsic
def decode_natural(ctx, exponents, signs, gain, out):
    """out[0:16] = gain * Q."""

    def gen(c, b, sig, args):
        exponents, signs, gain, out = args
        store(b, b.fmul(splat(b, gain), _from_natural(b, exponents, signs)), out)
        return c.get_dummy_value()

    return types.none(types.int64, types.int64, types.float32, types.int64), gen


@intrinsic
def add_natural(ctx, exponents, signs, gain, base, out):
    """out[0:16] = base[0:16] + gain * Q, product and sum rounded."""

    def gen(c, b, sig, args):
        exponents, signs, gain, base, out = args
        product = b.fmul(splat(b, gain), _from_natural(b, exponents, signs))
        store(b, b.fadd(load(b, base), product), out)
        return c.get_dummy_value()

    place = (types.int64, types.int64)
    return types.none(*place, types.float32, types.int64, types.int64), gen


@intrinsic
def full_exponents(ctx, halves, exponent):
    """The 32 bits of: all bits of ``exponent`` are set in halves[i]."""

    def gen(c, b, sig, args):
        kind = ir.VectorType(I16, 32)
        wanted = splat(b, args[1], kind)
        full = b.icmp_signed("==", b.and_(load(b, args[0], kind), wanted), wanted)
        return b.bitcast(full, I32)

    return types.uint32(types.int64, types.uint16), gen


@intrinsic
def full_bytes(ctx, address):
    """The 64 bits of: the byte is 255."""

    def gen(c, b, sig, args):
        kind = ir.VectorType(I8, 64)
        return b.bitcast(b.icmp_signed("==", load(b, args[0], kind), fill(-1, kind)), I64)

    return types.uint64(types.int64), gen


@intrinsic
def prefetch(ctx, address):
    """Ask for the cache line at an address, which may lie outside any buffer."""

    def gen(c, b, sig, args):
        pointer = b.inttoptr(args[0], I8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        b.call(function, [pointer, I32(0), I32(2), I32(1)])  # to read; second level; data
        return c.get_dummy_value()

    return types.none(types.int64), gen


@intrinsic
def stack_room(ctx):
    """The address of 256 zeroed bytes that last until the calling function returns."""

    def gen(c, b, sig, args):
        room = cgutils.alloca_once(b, ir.ArrayType(FLOATS, 4))
        address = b.ptrtoint(room, I64)
        for i in range(4):
            zero = ir.Constant(FLOATS, [ir.Constant(F32, 0.0)] * LANES)
            store(b, zero, b.add(address, ir.Constant(I64, BYTES * i)))
        return address

    return types.int64(), gen
