"""``docs/payloads.md`` in plain NumPy, for tests: slow, and sharing no code with ``psrv.codec``.

The generator, the norm and the sign compressors; ``reference_*.py`` hold the others and
``codec_references.py`` the table of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Sizes = Sequence[int]

WORD = 1 << 64
NOT_FINITE = (np.nan, -np.nan, np.inf, -np.inf)


class NotFiniteError(Exception):
    """The input, or a sum over it, is not a finite number."""


class Draw(NamedTuple):
    """Where the randomness of a payload comes from."""

    seed: int = 0
    round: int = 0
    bucket: int = 0
    rank: int = 0
    workers: int = 1

    def own(self, purpose: int) -> int:
        return key_of(self.seed, purpose, self.round, self.bucket, self.rank)

    def shared(self, purpose: int, part: int = 0) -> int:
        return key_of(self.seed, purpose, self.round, self.bucket, part)


class Reference(Protocol):
    """What the battery asks of a compressor's transcription; ``sizes`` are its blocks'."""

    def size(self, sizes: Sizes, draw: Draw) -> int | None:
        """Bytes of the payload, from DESIGN section 6; None where the data decide."""

    def alpha(self, sizes: Sizes) -> float:
        """A contraction that holds for every x (on average over draws); 0 if there is none."""

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        """The payload."""

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        """C(x)."""

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        """Payloads of a possible size that a reader has to refuse."""


# The generator


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def key_of(seed: int, purpose: int, round: int, bucket: int, rank: int) -> int:
    key = mix((seed + 0x9E3779B97F4A7C15) % WORD)
    for field in (purpose, round, bucket, rank):
        key = mix(((key ^ field) + 0x9E3779B97F4A7C15) % WORD)
    return key


def word_of(key: int, index: int) -> int:
    return mix((key + (index + 1) * 0x9E3779B97F4A7C15) % WORD)


def bit_of(key: int, index: int) -> int:
    return word_of(key, index // 64) >> (index % 64) & 1


# Sums and bits


def norm1(x: Floats) -> float:
    """Sum of magnitudes: 64 float32 lanes over 4096 at a time, a tree, then float64."""
    total = 0.0
    with np.errstate(over="ignore"):
        for start in range(0, x.size, 4096):
            chunk = np.abs(x[start : start + 4096])
            lanes = np.zeros(64, np.float32)
            for row in range(0, chunk.size, 64):
                part = chunk[row : row + 64]
                lanes[: part.size] += part
            while lanes.size > 1:
                half = lanes.size // 2
                lanes = lanes[:half] + lanes[half:]
            total += float(lanes[0])
    return total


def pack(negative: NDArray[np.bool_]) -> bytes:
    """Bit j of byte i for coordinate 8 i + j; the last byte is filled up with zeros."""
    return np.packbits(negative, bitorder="little").tobytes()


def unpack(data: bytes, count: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return bits[:count].astype(bool)


def ranges(sizes: Sizes) -> list[tuple[int, int]]:
    """Start and stop of each block."""
    stops = np.cumsum(sizes).tolist()
    return [(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]


def with_number(payload: bytes, index: int, value: float) -> bytes:
    """``payload`` with its float32 number ``index`` replaced."""
    at = 4 * index
    return payload[:at] + np.array(value, "<f4").tobytes() + payload[at + 4 :]


# The compressors


class Dense:
    def size(self, sizes: Sizes, draw: Draw) -> int:
        return 4 * sum(sizes)

    def alpha(self, sizes: Sizes) -> float:
        return 1.0

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        if not np.isfinite(x).all():
            raise NotFiniteError
        return x.astype("<f4").tobytes()

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        return np.frombuffer(payload, "<f4").astype(np.float32)

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        for i in range(sum(sizes)):
            yield from (with_number(payload, i, bad) for bad in NOT_FINITE)


class Sign:
    def size(self, sizes: Sizes, draw: Draw) -> int:
        return sum(4 + math.ceil(size / 8) for size in sizes)

    def alpha(self, sizes: Sizes) -> float:
        return 1 / max(sizes)

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        scales, bits = [], []
        for start, stop in ranges(sizes):
            with np.errstate(over="ignore"):
                scale = np.float32(norm1(x[start:stop]) / (stop - start))
            if not np.isfinite(scale):
                raise NotFiniteError
            scales.append(scale)
            bits.append(pack(np.signbit(x[start:stop])))
        return np.array(scales, "<f4").tobytes() + b"".join(bits)

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        scales = np.frombuffer(payload[: 4 * len(sizes)], "<f4").astype(np.float32)
        at, parts = 4 * len(sizes), []
        for size, scale in zip(sizes, scales, strict=True):
            negative = unpack(payload[at : at + math.ceil(size / 8)], size)
            parts.append(np.where(negative, -scale, scale))
            at += math.ceil(size / 8)
        return np.concatenate(parts)

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        for b in range(len(sizes)):
            yield from (with_number(payload, b, bad) for bad in (*NOT_FINITE, -1.0, -1e-45))


class SignUnscaled:
    def size(self, sizes: Sizes, draw: Draw) -> int:
        return math.ceil(sum(sizes) / 8)

    def alpha(self, sizes: Sizes) -> float:
        return 0.0

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        if not np.isfinite(x).all():
            raise NotFiniteError
        negative = x < 0
        for i in np.flatnonzero(x == 0).tolist():
            negative[i] = bit_of(draw.own(1), i)
        return pack(negative)

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        one = np.float32(1)
        return np.where(unpack(payload, sum(sizes)), -one, one)

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        yield from ()  # any bits are signs


def mean(
    vectors: Sequence[Floats],
    residual: Floats | None = None,
    rho: float = 1.0,
    weights: Floats | None = None,
) -> Floats:
    """What ``reduce`` promises, from decoded payloads in rank order."""
    parts = vectors if weights is None else [w * v for w, v in zip(weights, vectors, strict=True)]
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    total *= np.float32(1 / len(vectors)) if weights is None else np.float32(1)
    return total if residual is None else total + np.float32(rho) * residual


# Inputs


def wide(count: int, seed: int = 0) -> Floats:
    """Normal numbers over many magnitudes, so that the order of a sum shows in its bits."""
    random = np.random.default_rng([seed, count])
    return (random.standard_normal(count) * np.exp(2 * random.standard_normal(count))).astype("f4")


def _some_zeros(count: int) -> Floats:
    x = wide(count, 1)
    x[::3], x[1::5] = 0.0, -0.0
    return x


VALUES: dict[str, Callable[[int], Floats]] = {
    "wide": wide,
    "some zeros": _some_zeros,
    "zeros": lambda count: np.zeros(count, "f4"),
    "negative zeros": lambda count: np.full(count, -0.0, "f4"),
    "smallest": lambda count: np.float32(1e-45) * np.sign(wide(count, 2)),
    "denormal": lambda count: np.float32(1e-40) * np.clip(wide(count, 3), -9, 9),
    "huge": lambda count: np.float32(5e34) * np.tanh(wide(count, 4)),
    "one huge": lambda count: np.where(
        np.arange(count) == count // 2, -3e38, wide(count, 5)
    ).astype("f4"),
}
