"""The value formats and the compressors made of them, in plain NumPy: see ``codec_reference``."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from codec_reference import (
    NOT_FINITE,
    Draw,
    Floats,
    NotFiniteError,
    Sizes,
    ranges,
    with_number,
    word_of,
)

ROUNDING = 2
BITS = {"float32": 32, "bf16": 16, "fp16": 16, "natural": 9}


def random_bits(key: int, count: int, start: int = 0) -> NDArray[np.uint32]:
    """32 bits for each of the numbers ``start`` on: the halves of the words, low one first."""
    first, last = start // 2, (start + count + 1) // 2
    words = np.array([word_of(key, i) for i in range(first, last)], "<u8").view("<u4")
    return words[start - 2 * first :][:count].astype(np.uint32)


# Runs of numbers


def to_bf16(x: Floats) -> NDArray[np.uint16]:
    """The nearer of the two around it, the even one of two as near; the largest, not infinity."""
    magnitude = np.abs(x).view(np.uint32)
    below = magnitude >> np.uint32(16)
    above = np.minimum(below + np.uint32(1), np.uint32(0x7F7F))
    exact = np.abs(x).astype(float)
    less, more = exact - from_bf16(below).astype(float), from_bf16(above).astype(float) - exact
    up = (more < less) | ((more == less) & (below % 2 == 1))
    nearest = np.where(up, above, below).astype(np.uint16)
    return nearest | (np.signbit(x).astype(np.uint16) << np.uint16(15))


def from_bf16(halves: NDArray) -> Floats:
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_fp16(x: Floats) -> NDArray[np.uint16]:
    with np.errstate(over="ignore"):
        halves = x.astype(np.float16)
    largest = np.copysign(np.float16(65504), halves)
    return np.where(np.isinf(halves), largest, halves).view(np.uint16)


def natural_exponents(x: Floats, bits: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The exponent field of each number, from its 32 random bits."""
    exact = np.abs(x).astype(float)
    field = np.maximum(np.frexp(exact)[1].astype(int) + 126, 0) * (exact > 0)
    low = np.where(field > 0, np.ldexp(1.0, field - 127), 0.0)
    step = np.where(field > 0, low, 2.0**-126)
    chance = (exact - low) / step * 2**23  # an integer: so many of 2^23 draws round up
    up = chance + (bits >> np.uint32(9)) >= 2**23
    return np.minimum(field + up, 254).astype(np.uint8)


def from_natural(exponents: NDArray, negative: NDArray) -> Floats:
    value = np.where(exponents > 0, np.ldexp(1.0, exponents.astype(int) - 127), 0.0)
    return np.where(negative, -value, value).astype(np.float32)


def write_run(name: str, x: Floats, key: int) -> bytes:
    """The bytes of a run of numbers, of which ``key`` gives the random bits."""
    if not np.isfinite(x).all():
        raise NotFiniteError
    if name == "float32":
        return x.astype("<f4").tobytes()
    if name == "bf16":
        return to_bf16(x).astype("<u2").tobytes()
    if name == "fp16":
        return to_fp16(x).astype("<u2").tobytes()
    exponents = natural_exponents(x, random_bits(key, x.size))
    return exponents.tobytes() + np.packbits(np.signbit(x), bitorder="little").tobytes()


def read_run(name: str, data: bytes, count: int) -> Floats:
    if name == "float32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if name == "bf16":
        return from_bf16(np.frombuffer(data, "<u2"))
    if name == "fp16":
        return np.frombuffer(data, "<f2").astype(np.float32)
    signs = np.unpackbits(np.frombuffer(data[count:], np.uint8), bitorder="little")
    return from_natural(np.frombuffer(data[:count], np.uint8), signs[:count] == 1)


def broken_runs(name: str, data: bytes, count: int) -> Iterator[bytes]:
    """The run with each number in turn replaced by one that is not finite."""
    for i in range(count):
        if name == "float32":
            yield from (with_number(data, i, bad) for bad in NOT_FINITE)
        elif name == "natural":
            yield data[:i] + b"\xff" + data[i + 1 :]
        else:
            full = 0x7C00 if name == "fp16" else 0x7F80
            for bad in (full, full | 0x8000, full | 1, 0x7FFF, 0xFFFF):
                yield data[: 2 * i] + bad.to_bytes(2, "little") + data[2 * i + 2 :]


class Values:
    """``dense``, ``bf16``, ``fp16``, ``natural``: one run, multiplied by ``gain`` on arrival."""

    def __init__(self, name: str, contracted: bool = False) -> None:
        self.name = name
        self.gain = np.float32(8 / 9) if contracted else np.float32(1)
        self.contraction = {
            "float32": 1.0,
            "bf16": 1 - 2**-16,
            "fp16": 1 - 2**-22,
            "natural": 8 / 9 if contracted else 0.0,
        }[name]
        # Of the magnitudes that the contraction holds for.
        self.range = {"bf16": (2.0**-126, 3e38), "fp16": (2.0**-14, 65504.0)}.get(
            name, (0.0, math.inf)
        )

    def size(self, sizes: Sizes, draw: Draw) -> int:
        return math.ceil(BITS[self.name] * sum(sizes) / 8)

    def alpha(self, sizes: Sizes) -> float:
        return self.contraction

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        return write_run(self.name, x, draw.own(ROUNDING))

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        return self.gain * read_run(self.name, payload, sum(sizes))

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        yield from broken_runs(self.name, payload, sum(sizes))


# qsgd


def norm2(x: Floats) -> np.float32:
    """Squares in 32 float64 lanes over 4096 at a time, a tree, then chunk by chunk."""
    total = 0.0
    for start in range(0, x.size, 4096):
        chunk = x[start : start + 4096].astype(float)
        lanes = np.zeros(32)
        for row in range(0, chunk.size, 32):
            part = chunk[row : row + 32]
            lanes[: part.size] += part * part
        while lanes.size > 1:
            half = lanes.size // 2
            lanes = lanes[:half] + lanes[half:]
        total += float(lanes[0])
    with np.errstate(over="ignore"):
        return np.float32(math.sqrt(total))


def unit_of(norm: np.float32, s: int) -> np.float32:
    """What a level is worth; never so much that s of them are infinite."""
    unit = norm / np.float32(s)
    with np.errstate(over="ignore"):
        whole = np.float32(s) * unit
    return np.nextafter(unit, np.float32(0)) if np.isinf(whole) else unit


def scaled(x: Floats, norm: np.float32, s: int) -> Floats:
    """t of each coordinate: |x| s / norm."""
    if norm == 0:
        return np.zeros_like(x)
    scale = np.float32(2.0**64 if norm < 2.0**-64 else 1)
    return (np.abs(x) * scale) * (np.float32(s) / (norm * scale))


def levels_of(x: Floats, norm: np.float32, s: int, bits: NDArray[np.uint32]) -> NDArray:
    """The signed level of each coordinate, from its 32 random bits."""
    t = scaled(x, norm, s).astype(float)
    below = np.floor(t)
    up = (t - below) * 2**24 > (bits >> np.uint32(8)) + 0.5
    return np.where(np.signbit(x), -1, 1) * np.minimum(below + up, s).astype(int)


def to_planes(codes: NDArray, width: int) -> bytes:
    """Sixteen coordinates at a time: bit 0 of each code, then bit 1, ..."""
    parts = []
    for start in range(0, codes.size, 16):
        group = codes[start : start + 16]
        planes = (group[None, :] >> np.arange(width)[:, None]) & 1
        parts.append(np.packbits(planes.astype(np.uint8), bitorder="little").tobytes())
    return b"".join(parts)


def from_planes(data: bytes, count: int, width: int) -> NDArray:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little").astype(int)
    codes, at = np.zeros(count, int), 0
    for start in range(0, count, 16):
        size = min(16, count - start)
        planes = bits[at : at + width * size].reshape(width, size)
        codes[start : start + 16] = (planes << np.arange(width)[:, None]).sum(0)
        at += width * size
    return codes


class Qsgd:
    """``qsgd:s``, and its form that error feedback uses."""

    def __init__(self, s: int, contracted: bool = False) -> None:
        self.s, self.contracted = s, contracted
        self.width = math.ceil(math.log2(2 * s + 1))

    def omega(self, sizes: Sizes) -> float:
        return max(min(d / self.s**2, math.sqrt(d) / self.s) for d in sizes)

    def size(self, sizes: Sizes, draw: Draw) -> int:
        return sum(4 + math.ceil(self.width * size / 8) for size in sizes)

    def alpha(self, sizes: Sizes) -> float:
        return 1 / (1 + self.omega(sizes)) if self.contracted else 0.0

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        norms, codes = [], []
        bits = random_bits(draw.own(ROUNDING), x.size)
        for start, stop in ranges(sizes):
            norm = norm2(x[start:stop])
            if not np.isfinite(norm):
                raise NotFiniteError
            norms.append(norm)
            levels = levels_of(x[start:stop], norm, self.s, bits[start:stop])
            codes.append(to_planes(levels + self.s, self.width))
        return np.array(norms, "<f4").tobytes() + b"".join(codes)

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        norms = np.frombuffer(payload[: 4 * len(sizes)], "<f4").astype(np.float32)
        gain = np.float32(1 / (1 + self.omega(sizes)) if self.contracted else 1)
        parts = []
        for norm, codes in zip(norms, self._codes(payload, sizes), strict=True):
            levels = (codes - self.s).astype(np.float32)
            parts.append(levels * (gain * unit_of(norm, self.s)))
        return np.concatenate(parts)

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        for b in range(len(sizes)):
            yield from (with_number(payload, b, bad) for bad in (*NOT_FINITE, -1.0, -1e-45))
        norms, codes = payload[: 4 * len(sizes)], self._codes(payload, sizes)
        for b, block in enumerate(codes):
            for i in range(block.size):
                for bad in (2 * self.s + 1, 2**self.width - 1):
                    wrong = block.copy()
                    wrong[i] = bad
                    blocks = [*codes[:b], wrong, *codes[b + 1 :]]
                    yield norms + b"".join(to_planes(c, self.width) for c in blocks)

    def _codes(self, payload: bytes, sizes: Sizes) -> list[NDArray]:
        at, found = 4 * len(sizes), []
        for size in sizes:
            stop = at + math.ceil(self.width * size / 8)
            found.append(from_planes(payload[at:stop], size, self.width))
            at = stop
        return found
