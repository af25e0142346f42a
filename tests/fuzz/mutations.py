"""Ways to spoil a valid payload, from one bit to all of it; no knowledge of any format."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random

SPECIAL = tuple(
    struct.pack("<I", word)
    for word in (
        0x7FC00000,  # NaN
        0xFFC00001,
        0x7F800001,  # a signalling NaN
        0x7F800000,  # infinity
        0xFF800000,
        0x80000000,  # -0
        0x00000000,
        0x00000001,  # the smallest denormal number
        0x807FFFFF,  # the largest, negative
        0x00800000,  # the smallest normal number
        0x7F7FFFFF,  # the largest number
        0xFF7FFFFF,
        0x7F000000,  # 2^127
        0xBF800000,  # -1
        0x7FFFFFFF,  # the largest index, and a NaN
        0xFFFFFFFF,
    )
)
"""float32 numbers, or indices, that a kernel might not expect."""

HALVES = tuple(
    struct.pack("<H", word)
    for word in (0x7C00, 0xFC00, 0x7C01, 0x7E00, 0x7BFF, 0x7F80, 0xFF80, 0x7F81, 0x7F7F, 0x8000)
)
"""The same for numbers of 16 bits."""


def _place(random: Random, size: int, unit: int = 1) -> int:
    """A position in ``size`` bytes, a multiple of ``unit``; often near one of the ends."""
    count = max(1, size // unit)
    choice = random.random()
    near = min(count, 8)
    if choice < 0.25:
        index = random.randrange(near)
    elif choice < 0.5:
        index = count - 1 - random.randrange(near)
    else:
        index = random.randrange(count)
    return index * unit


def flip_bits(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        data[_place(random, len(data))] ^= 1 << random.randrange(8)


def set_bytes(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        data[_place(random, len(data))] = random.choice(
            (0, 1, 127, 128, 255, random.randrange(256))
        )


def step_bytes(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = _place(random, len(data))
    data[at] = (data[at] + random.choice((1, -1, 2, -2, 16, -16))) % 256


def set_special(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    for _ in range(random.choice((1, 1, 2, 4))):
        word = random.choice(random.choice((SPECIAL, SPECIAL, HALVES)))
        unit = random.choice((len(word), len(word), 1))
        at = _place(random, len(data) - len(word) + 1, unit) if len(data) > len(word) else 0
        size = min(len(word), len(data) - at)
        data[at : at + size] = word[:size]


def fill_run(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = _place(random, len(data))
    size = min(len(data) - at, random.choice((1, 2, 4, 8, 16, 64, 1 << 20)))
    data[at : at + size] = bytes([random.choice((0, 255, 255, 127, 128))]) * size


def splice(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    other = random.choice(others)
    at = _place(random, len(data))
    size = random.randrange(1, len(data) - at + 1)
    source = at if random.random() < 0.5 else random.randrange(len(other) + 1)
    piece = other[source : source + size]
    data[at : at + len(piece)] = piece


def move(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """A piece of it stands elsewhere as well."""
    source, at = random.randrange(len(data)), random.randrange(len(data))
    piece = data[source : source + random.choice((1, 2, 4, 8, 32))][: len(data) - at]
    data[at : at + len(piece)] = piece


def scramble(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    data[:] = random.randbytes(len(data))


def scramble_rest(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    at = _place(random, len(data))
    data[at:] = random.randbytes(len(data) - at)


def truncate(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    del data[-random.choice((1, 1, 2, 3, 4, 8, len(data), random.randrange(1, len(data) + 1))) :]


def extend(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    more = random.choice((1, 1, 2, 3, 4, 8, 64, random.randrange(1, len(data) + 2)))
    data += random.choice((bytes(more), b"\xff" * more, random.randbytes(more)))


def replace(random: Random, data: bytearray, others: Sequence[bytes]) -> None:
    data[:] = random.choice(others)


Mutation = Callable[[Random, bytearray, Sequence[bytes]], None]

SAME_SIZE: tuple[Mutation, ...] = (
    flip_bits,
    flip_bits,
    set_bytes,
    step_bytes,
    set_special,
    set_special,
    fill_run,
    splice,
    move,
    scramble,
    scramble_rest,
)
OTHER_SIZE: tuple[Mutation, ...] = (truncate, extend, replace)


def mutated(
    random: Random, payload: bytes, others: Sequence[bytes], bound: int, fixed: bool
) -> bytes:
    """``payload`` spoilt in one to three ways, or random bytes in its place.

    Args:
        others: valid payloads to take pieces from.
        bound: the most bytes of a valid payload.
        fixed: only one size is valid, so others, refused at once, are tried less often.
    """
    if random.random() < 0.05:
        return random.randbytes(len(payload) if fixed else random.randrange(bound + 1))
    data = bytearray(payload)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        kinds = OTHER_SIZE if random.random() < (0.05 if fixed else 0.25) else SAME_SIZE
        if data:
            random.choice(kinds)(random, data, others)
        else:
            extend(random, data, others)
    return bytes(data)
