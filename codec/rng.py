"""psrv's own random generator: SplitMix64 with a key per draw site.

Counter based, so that word i of a stream is computed without the words before it and
every process derives the same bits without a message. It is specified here and in
``docs/payloads.md`` with test vectors, and never changes with a library's version.

    mix(z)      z ^= z >> 30; z *= 0xBF58476D1CE4E5B9
                z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31      (mod 2^64)
    key(seed, purpose, round, bucket, rank)
                k = mix(seed + GAMMA); then for each further field k = mix((k ^ field) + GAMMA)
    word(key, i)  = mix(key + (i + 1) * GAMMA)
    bit(key, j)   = bit j mod 64 of word(key, j // 64)

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"
(``mix`` is the finaliser of their SplitMix64; the chaining of fields is ours).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import NDArray

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15

SERVER = 0xFFFFFFFF
"""The rank that stands for the server in a key."""


class Purpose(IntEnum):
    """What a stream is drawn for, so that no two uses share bits; its number is in the format."""

    TIE = 1
    ROUNDING = 2
    CHOICE = 3
    PERMUTATION = 4
    ASSIGNMENT = 5
    COIN = 6


def mix(z: int) -> int:
    """The 64-bit finaliser above, on Python integers."""
    z &= MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key(seed: int, purpose: Purpose, round: int, bucket: int, rank: int) -> int:
    """The key of one stream: an integer in [0, 2^64)."""
    k = mix(seed + GAMMA)
    for part in (int(purpose), round, bucket, rank):
        k = mix((k ^ part) + GAMMA)
    return k


@dataclass(frozen=True, slots=True)
class Draw:
    """Where the randomness of one payload comes from: the same at both ends, never sent.

    Attributes:
        seed: of the run, in [0, 2^64).
        round, bucket: what the payload belongs to.
        rank: its sender, 0 to workers - 1, or ``SERVER``.
        workers: n, the senders among whom a round's coordinates may be split.
    """

    seed: int = 0
    round: int = 0
    bucket: int = 0
    rank: int = 0
    workers: int = 1

    def own(self, purpose: Purpose) -> int:
        """The key of a stream that this sender has for itself."""
        return key(self.seed, purpose, self.round, self.bucket, self.rank)

    def shared(self, purpose: Purpose, part: int = 0) -> int:
        """The key of a stream that all senders of the round have in common."""
        return key(self.seed, purpose, self.round, self.bucket, part)


def word(key: int, index: int) -> int:
    """Word ``index`` of the stream, an integer in [0, 2^64)."""
    return mix(key + (index + 1) * GAMMA)


def coin(seed: int, round: int, probability: float) -> bool:
    """The toss that all processes of a run share in a round: heads with ``probability``."""
    return (word(key(seed, Purpose.COIN, round, 0, 0), 0) >> 11) * 2.0**-53 < probability


@njit(nogil=True, cache=True)
def word64(key, index):
    """``word`` for kernels: uint64 key, int64 index."""
    z = np.uint64(key) + np.uint64(index + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def bits(key: int, count: int) -> NDArray[np.uint8]:
    """The first ``count`` bits of a stream as uint8 zeros and ones (for tests and small draws)."""
    words = np.array([word(key, i) for i in range((count + 63) // 64)], "<u8")
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:count]
