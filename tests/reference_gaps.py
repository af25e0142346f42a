"""The index code of ``docs/payloads.md`` in plain Python, for tests: slow, and sharing no code."""

from __future__ import annotations

import math
from collections.abc import Sequence


class Refused(Exception):
    """The bytes are no index code."""


def index_bits(d: int) -> int:
    """w: the smallest with 2^w >= d."""
    return next(w for w in range(64) if 2**w >= d)


def packed_bytes(k: int, d: int) -> int:
    """P."""
    return math.ceil(k * index_bits(d) / 8)


def gaps(indices: Sequence[int]) -> list[int]:
    """What lies between an index and the one before it; before the first there is -1."""
    return [i - j - 1 for j, i in zip([-1, *indices], indices, strict=False)]


def fields(values: Sequence[int], width: int) -> bytes:
    """``width`` bits a value, the first lowest, filled up to a byte with zeros."""
    total = sum(value << (width * j) for j, value in enumerate(values))
    return total.to_bytes(math.ceil(len(values) * width / 8), "little")


def unary(values: Sequence[int]) -> bytes:
    """Of each value that many zeros and a one, filled up to a byte with zeros."""
    total, at = 0, 0
    for value in values:
        total |= 1 << (at + value)
        at += value + 1
    return total.to_bytes(math.ceil(at / 8), "little")


def packed(indices: Sequence[int], d: int) -> bytes:
    """The packed form."""
    return fields(indices, index_bits(d))


def rice_bytes(indices: Sequence[int], b: int) -> int:
    """What the Rice form takes; the form itself may be too long to write down."""
    bits = sum(gap >> b for gap in gaps(indices)) + len(indices)
    return 1 + math.ceil(len(indices) * b / 8) + math.ceil(bits / 8)


def rice(indices: Sequence[int], b: int) -> bytes:
    """The Rice form."""
    rest = [gap % 2**b for gap in gaps(indices)]
    return bytes([b]) + fields(rest, b) + unary([gap >> b for gap in gaps(indices)])


def encode(indices: Sequence[int], d: int) -> bytes:
    """The code: the shortest Rice form, or the packed form where none is shorter."""
    sizes = [rice_bytes(indices, b) for b in range(32)]
    if min(sizes) < packed_bytes(len(indices), d):
        return rice(indices, sizes.index(min(sizes)))
    return packed(indices, d)


def decode(code: bytes, k: int, d: int) -> list[int]:
    """The indices, or ``Refused``."""
    size = packed_bytes(k, d)
    if len(code) == size:
        return _decode_packed(code, k, d)
    if not 0 < len(code) < size:
        raise Refused("length")
    return _decode_rice(code, k, d)


def _decode_packed(code: bytes, k: int, d: int) -> list[int]:
    width = index_bits(d)
    total = int.from_bytes(code, "little")
    if total >> (k * width):
        raise Refused("padding")
    indices = [total >> (width * j) & (2**width - 1) for j in range(k)]
    if indices != sorted(set(indices)) or indices[-1] >= d:
        raise Refused("order or range")
    return indices


def _decode_rice(code: bytes, k: int, d: int) -> list[int]:
    b = code[0]
    if b > 31:
        raise Refused("parameter")
    border = 1 + math.ceil(k * b / 8)
    if len(code) <= border:
        raise Refused("length")
    rest = int.from_bytes(code[1:border], "little")
    if rest >> (k * b):
        raise Refused("padding")
    high = int.from_bytes(code[border:], "little")
    places = [place for place in range(high.bit_length()) if high >> place & 1]
    if len(places) != k or math.ceil((places[-1] + 1) / 8) != len(code) - border:
        raise Refused("ones or padding")
    indices, index = [], -1
    for j, zeros in enumerate(gaps(places)):
        index += 1 + (zeros << b) + (rest >> (b * j) & (2**b - 1))
        indices.append(index)
    if index >= d:
        raise Refused("range")
    return indices
