"""The keyed bijection and ``perm-k`` in plain NumPy: see ``codec_reference``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from codec_reference import Draw, Floats, NotFiniteError, Sizes, word_of
from reference_values import BITS, ROUNDING, broken_runs, read_run, write_run

PERMUTATION, ASSIGNMENT = 4, 5
SERVER = 0xFFFFFFFF


# The bijection


def halves(m: int) -> tuple[int, int]:
    """Bits of the bottom half, and how many values the top half takes."""
    most = max(m, 1024)
    width = (most - 1).bit_length()
    low = max(width // 2, width - 12)
    return low, -(-most // 2**low)


def scramble(key: int, m: int, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The six rounds, once."""
    low, high = halves(m)
    bottom, top = x % np.uint64(2**low), x >> np.uint64(low)
    for r in range(6):
        word = word_of(key, r)
        a, b = np.uint64(word % 2**32), np.uint64(word >> 32 | 1)
        h = ((bottom, top)[r % 2] ^ a) * b % np.uint64(2**32)
        h ^= h >> np.uint64(15)
        h = h * np.uint64(0x2C1B3C6D) % np.uint64(2**32)
        if r % 2:
            bottom = bottom ^ (h >> np.uint64(32 - low))
        else:
            part = (h >> np.uint64(12)) * np.uint64(high) >> np.uint64(20)
            top = (top + part) % np.uint64(high)
    return (top << np.uint64(low)) + bottom


@lru_cache(maxsize=64)
def once(key: int, m: int) -> NDArray[np.uint64]:
    """``scramble`` of every number below high * 2^low, where these are few."""
    low, high = halves(m)
    return scramble(key, m, np.arange(high * 2**low, dtype=np.uint64))


def images_of(key: int, m: int, numbers: Sequence[int] | NDArray) -> NDArray[np.int64]:
    """pi of each number."""
    x = np.asarray(numbers, np.uint64)
    outside = np.ones(x.size, bool)
    while outside.any():
        walked = once(key, m)[x] if m <= 2048 else scramble(key, m, x)
        x = np.where(outside, walked, x)
        outside = x >= m
    return (x.astype(np.int64) + word_of(key, 6) % m) % m


# Who owns what


@lru_cache(maxsize=64)
def shares_of(
    d: int, n: int, run_key: int, member_key: int, run: int | None, blocks: int | None
) -> tuple[list[NDArray[np.int64]], float]:
    """The coordinates of each of n members in the order of its payload, and the gain."""
    if blocks is None:
        length = run or (16 if d >= 1 << 16 else 1)
        edges = [*range(0, d, length), d]
    else:
        edges = [b * d // blocks for b in range(blocks + 1)]
    pieces = [np.arange(a, b) for a, b in pairwise(edges)]
    places = images_of(member_key, n, range(n)).tolist()
    nothing = np.zeros(0, np.int64)
    if blocks is not None or len(pieces) < n:
        q = n // len(pieces)
        return [pieces[j // q] if j // q < len(pieces) else nothing for j in places], n / q
    order = images_of(run_key, len(pieces), range(len(pieces)))
    k, r = divmod(len(pieces), n)
    shares = []
    for i, j in enumerate(places):
        own = [pieces[y] for y in order[k * i : k * i + k]]
        if j < r:
            own.append(pieces[order[k * n + j]])
        shares.append(np.concatenate(own))
    return shares, float(n)


class Permk:
    """``perm-k`` with its options, and its form that error feedback uses."""

    def __init__(
        self,
        run: int | None = None,
        groups: int = 1,
        blocks: int | None = None,
        format: str = "float32",
        contracted: bool = False,
    ) -> None:
        self.run, self.groups, self.blocks = run, groups, blocks
        self.format, self.contracted = format, contracted
        self.noise = 1 / 8 if format == "natural" else 0.0

    def group(self, draw: Draw) -> tuple[int, int, int]:
        """The sender's group, its place in it, and how many members that has."""
        if draw.rank == SERVER:
            draw = draw._replace(rank=0, workers=1)
        ranks = np.array_split(np.arange(draw.workers), self.groups)
        (found,) = [g for g, members in enumerate(ranks) if draw.rank in members]
        return found, draw.rank - int(ranks[found][0]), ranks[found].size

    def own(self, sizes: Sizes, draw: Draw) -> tuple[NDArray[np.int64], float]:
        """The sender's coordinates, and what C multiplies their values by."""
        group, member, members = self.group(draw)
        keys = draw.shared(PERMUTATION, group), draw.shared(ASSIGNMENT, group)
        shares, gain = shares_of(sum(sizes), members, *keys, self.run, self.blocks)
        return shares[member], 1 / (1 + self.noise) if self.contracted else gain

    def size(self, sizes: Sizes, draw: Draw) -> int:
        return math.ceil(BITS[self.format] * self.own(sizes, draw)[0].size / 8)

    def alpha(self, sizes: Sizes, workers: int = 3) -> float:
        """On average over rounds, the least of any rank."""
        if not self.contracted:
            return 0.0
        gains = []
        for rank in range(workers):
            members = self.group(Draw(rank=rank, workers=workers))[2]
            gains.append(shares_of(sum(sizes), members, 0, 0, self.run, self.blocks)[1])
        exact = {"bf16": 1 - 2**-16, "fp16": 1 - 2**-22}.get(self.format, 1.0)
        return exact / (max(gains) * (1 + self.noise))

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        own, gain = self.own(sizes, draw)
        if not np.isfinite(x).all():
            raise NotFiniteError
        payload = write_run(self.format, x[own], draw.own(ROUNDING))
        with np.errstate(over="ignore"):
            sent = np.float32(gain) * read_run(self.format, payload, own.size)
        if not np.isfinite(sent).all():
            raise NotFiniteError
        return payload

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw, gain: float | None = None) -> Floats:
        own, usual = self.own(sizes, draw)
        scale = np.float32(usual if gain is None else gain)
        out = np.zeros(sum(sizes), np.float32)
        out[own] += scale * read_run(self.format, payload, own.size)
        return out

    def reduce(
        self,
        payloads: Sequence[bytes],
        sizes: Sizes,
        draws: Sequence[Draw],
        residual: Floats | None = None,
        rho: float = 1.0,
        weights: Floats | None = None,
    ) -> Floats:
        n = len(payloads)
        total = np.zeros(sum(sizes), np.float32)
        for i, (payload, draw) in enumerate(zip(payloads, draws, strict=True)):
            gain = self.own(sizes, draw)[1]
            if weights is not None:
                gain = float(weights[i]) * gain
            elif not self.contracted:
                gain = gain / n
            total += self.decode(payload, sizes, draw, gain)
        if weights is None and self.contracted:
            total *= np.float32(1 / n)
        return total if residual is None else total + np.float32(rho) * residual

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        yield from broken_runs(self.format, payload, self.own(sizes, draw)[0].size)
