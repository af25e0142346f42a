"""The LLVM building blocks of the kernels: vectors of sixteen lanes at any address.

``codec/vector.py`` and the kernels' own intrinsics are written with these. No operation
carries a fast-math flag, so nothing is reordered or fused; LLVM lowers the vectors to
AVX-512, AVX2, SSE or NEON, with the same result on each.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
LANES = 16
FLOATS = ir.VectorType(F32, LANES)
INTS = ir.VectorType(I32, LANES)
MASK = ir.VectorType(I1, LANES)
BYTES = 4 * LANES


def fill(value: float, kind: ir.VectorType = INTS) -> ir.Constant:
    """A vector constant with the same number in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def splat(b: ir.IRBuilder, x: Any, kind: ir.VectorType = FLOATS) -> Any:
    """The scalar ``x`` in every lane of a ``kind``."""
    undefined = ir.Constant(kind, ir.Undefined)
    one = b.insert_element(undefined, x, ir.Constant(I32, 0))
    lanes = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return b.shuffle_vector(one, undefined, lanes)


def load(b: ir.IRBuilder, address: Any, kind: ir.Type = FLOATS) -> Any:
    """What lies at an int64 address of any alignment."""
    value = b.load(b.inttoptr(address, kind.as_pointer()))
    value.align = 1
    return value


def store(b: ir.IRBuilder, value: Any, address: Any) -> None:
    """Write to an int64 address of any alignment."""
    b.store(value, b.inttoptr(address, value.type.as_pointer())).align = 1


def offset(b: ir.IRBuilder, address: Any, count: int) -> Any:
    """The address ``count`` bytes on."""
    return b.add(address, ir.Constant(address.type, count))
