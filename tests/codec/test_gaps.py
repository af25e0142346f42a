"""The index code: the bytes of its transcription, and indices or a refusal from any bytes."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import reference_gaps as reference
from guard_pages import Guarded
from psrv.codec import gaps
from psrv.codec.base import address

LIMIT = 2**31 - 1
CANARY = -7

Indices = Sequence[int]


def choose(indices: Indices, d: int) -> tuple[int, int]:
    array = np.array(indices, np.int32)
    return gaps.choose(address(array), array.size, d)


def encode(indices: Indices, d: int, form: int | None = None) -> bytes:
    """What the kernels write, in the form they choose or in another one; nothing beside it."""
    array = np.array(indices, np.int32)
    chosen, size = choose(indices, d)
    if form is not None and form != chosen:
        chosen = form
        packed = form == gaps.PACKED
        size = len(reference.packed(indices, d) if packed else reference.rice(indices, form))
    room = np.full(size + 16, 0xA5, np.uint8)
    gaps.encode(address(array), len(indices), d, chosen, address(room) + 8)
    assert (room[:8] == 0xA5).all()
    assert (room[8 + size :] == 0xA5).all()
    return room[8 : 8 + size].tobytes()


def decode(code: bytes, k: int, d: int) -> list[int] | int:
    """The indices, or the reason for which they are refused; nothing is written beside them."""
    data = np.frombuffer(code, np.uint8).copy()
    room = np.full(k + 2, CANARY, np.int32)
    status = gaps.decode(address(data), len(code), k, d, address(room) + 4)
    assert room[0] == room[-1] == CANARY
    assert 0 <= status < len(gaps.REASONS)
    return status or room[1:-1].tolist()


def same_verdict(code: bytes, k: int, d: int) -> None:
    """The transcription reads the same, or refuses as well; what is read has only this code."""
    got = decode(code, k, d)
    try:
        want = reference.decode(code, k, d)
    except reference.Refused:
        assert isinstance(got, int)
        return
    assert got == want
    form = gaps.PACKED if len(code) == reference.packed_bytes(k, d) else code[0]
    assert encode(want, d, form) == code


def neighbours(code: bytes) -> Iterator[bytes]:
    """Every truncation, some continuations, and every flip of one bit."""
    for size in range(len(code)):
        yield code[:size]
    yield from (code + more for more in (b"\0", b"\1", b"\x80", b"\xff", b"\0" * 8, b"\xff" * 9))
    for bit in range(8 * len(code)):
        flipped = bytearray(code)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)


@st.composite
def sets(draw: st.DrawFn, most: int = 60) -> tuple[list[int], int]:
    """Indices with gaps of many sizes, and a d that may begin right behind the last."""
    bits = draw(st.lists(st.integers(0, 25), min_size=1, max_size=most))
    seed = draw(st.integers(0, 2**32))
    chance = random.Random(seed)
    indices, last = [], -1
    for b in bits:
        step = 1 + chance.randrange(2**b)
        if last + step >= LIMIT - 1:
            break
        last += step
        indices.append(last)
    beyond = draw(st.sampled_from((1, 2, 3, 1000, 2**20)))
    return indices, min(last + beyond, LIMIT)


# The format


@given(sets())
def test_the_code_is_that_of_the_transcription(case: tuple[list[int], int]) -> None:
    indices, d = case
    code = encode(indices, d)
    assert code == reference.encode(indices, d)
    assert decode(code, len(indices), d) == indices


@given(sets(most=400))
@example(([0], 1))
@example(([LIMIT - 1], LIMIT))
@example((list(range(0, 2**28, 2**21)), LIMIT))
def test_the_form_is_the_smallest_of_all(case: tuple[list[int], int]) -> None:
    indices, d = case
    sizes = [reference.rice_bytes(indices, b) for b in range(32)]
    packed = reference.packed_bytes(len(indices), d)
    expected = (sizes.index(min(sizes)), min(sizes))
    assert choose(indices, d) == (expected if min(sizes) < packed else (gaps.PACKED, packed))


def test_gaps_of_two_sizes_do_not_mislead_the_choice() -> None:
    """Sums whose parts favour different b, in the same order of size."""
    for small in range(0, 20, 3):
        for large in range(small, 26, 2):
            for share in (1, 2, 5, 17, 33, 64):
                steps = np.where(np.arange(67) % share, 2**small, 2**large) + 1
                indices = (np.cumsum(steps) - 1)[np.cumsum(steps) < LIMIT].tolist()
                sizes = [reference.rice_bytes(indices, b) for b in range(32)]
                packed = reference.packed_bytes(len(indices), indices[-1] + 1)
                form, size = choose(indices, indices[-1] + 1)
                assert size == min(*sizes, packed)
                assert form == (sizes.index(size) if size < packed else gaps.PACKED)


@given(sets(), st.integers(0, 31))
def test_every_form_that_is_shorter_than_packed_can_be_read(
    case: tuple[list[int], int], b: int
) -> None:
    indices, d = case
    if reference.rice_bytes(indices, b) < reference.packed_bytes(len(indices), d):
        code = encode(indices, d, b)
        assert code == reference.rice(indices, b)
        assert decode(code, len(indices), d) == indices
    packed = encode(indices, d, gaps.PACKED)
    assert packed == reference.packed(indices, d)
    assert decode(packed, len(indices), d) == indices


def test_a_worked_example() -> None:
    """The one of the documentation."""
    indices, d = [3, 4, 9, 20, 21, 40, 47], 50
    assert reference.gaps(indices) == [3, 0, 4, 10, 0, 18, 6]
    assert choose(indices, d) == (2, 5)
    assert encode(indices, d) == bytes.fromhex("02 8328 cb50")
    assert encode(indices, d, gaps.PACKED) == bytes.fromhex("03915015fa02")


def test_sizes_at_the_edges() -> None:
    assert [gaps.index_bits(d) for d in (1, 2, 3, 4, 5, 2**20, 2**20 + 1, LIMIT)] == [
        *(0, 1, 2, 2, 3, 20, 21, 31)
    ]
    assert encode([0], 1) == b""
    assert encode([0], 2) == b"\0"
    assert encode([1], 2) == b"\1"
    assert encode(range(16), 16) == b"\0\xff\xff"
    assert decode(b"", 1, 1) == [0]
    assert gaps.packed_bytes(LIMIT, LIMIT) == -(-31 * LIMIT // 8)


@pytest.mark.parametrize("percent", [0.1, 1, 10])
def test_random_sets_take_at_most_a_twentieth_more_than_their_entropy(percent: float) -> None:
    d = 1_000_000
    k = round(d * percent / 100)
    bound = (math.lgamma(d + 1) - math.lgamma(k + 1) - math.lgamma(d - k + 1)) / math.log(2)
    for seed in range(5):
        chosen = np.random.default_rng(seed).choice(d, k, replace=False, shuffle=False)
        assert bound < 8 * choose(np.sort(chosen).tolist(), d)[1] < 1.05 * bound


@pytest.mark.parametrize("k", [1, 2, 100, 2000])
def test_indices_spread_over_the_largest_vector(k: int) -> None:
    chance = random.Random(k)
    for d in (LIMIT, LIMIT - 1, 2**30 + 1, 2**30):
        for indices in (
            sorted(chance.sample(range(d), k)),
            range(d - k, d),
            [*range(k - 1), d - 1],
        ):
            code = encode(indices, d)
            assert code == reference.encode(indices, d)
            assert decode(code, k, d) == list(indices)


# Any bytes


@pytest.mark.parametrize("d", range(1, 11))
def test_every_subset_and_what_is_near_its_code(d: int) -> None:
    for k in range(1, d + 1):
        for indices in combinations(range(d), k):
            code = encode(indices, d)
            assert code == reference.encode(indices, d)
            assert decode(code, k, d) == list(indices)
            for other in neighbours(code):
                same_verdict(other, k, d)


@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 300), (3, 40), (7, 12), (8, 2**16), (12, 12)])
def test_every_code_of_two_bytes(k: int, d: int) -> None:
    for code in range(2**16):
        same_verdict(code.to_bytes(2, "little"), k, d)
    for code in range(2**8):
        same_verdict(bytes([code]), k, d)


@given(sets(most=30))
def test_whatever_is_near_a_code(case: tuple[list[int], int]) -> None:
    indices, d = case
    for code in {encode(indices, d), encode(indices, d, gaps.PACKED)}:
        for other in neighbours(code):
            same_verdict(other, len(indices), d)


def test_codes_with_several_words_and_every_parameter() -> None:
    """Enough indices for whole words, in which ones are counted and fields read at once."""
    chance = random.Random(1)
    for d, k in ((5000, 500), (LIMIT, 150), (2000, 1990)):
        indices = sorted(chance.sample(range(d), k))
        for form in {choose(indices, d)[0], gaps.PACKED}:
            code = encode(indices, d, form)
            for bit in range(8 * len(code)):
                if bit < 64 or bit > 8 * len(code) - 64 or chance.random() < 0.03:
                    flipped = bytearray(code)
                    flipped[bit // 8] ^= 1 << bit % 8
                    same_verdict(bytes(flipped), k, d)
        for size in range(0, reference.packed_bytes(k, d) + 2, 1 + k // 8):
            for b in (*range(33), 64, 255):
                noise = bytes([b]) + chance.randbytes(size)
                same_verdict(noise[:size], k, d)
                sparse = bytes([b]) + bytes(chance.choice((0, 0, 0, 16)) for _ in range(size))
                same_verdict(sparse[:size], k, d)


@pytest.mark.parametrize(
    ("code", "k", "d", "reason"),
    [
        (b"", 3, 100, "length"),
        (b"\0\xff\xff\xff", 3, 100, "length"),
        (b"\x04\xff", 3, 100, "length"),
        (b"\x20\x07", 3, 100, "parameter"),
        (b"\xff\x07", 3, 100, "parameter"),
        (b"\0\0\xe0", 4, 100, "another number"),
        (b"\0\x0f", 3, 100, "another number"),
        (b"\0\x07\0", 4, 2**20, "padding"),
        (b"\x01\x08\x07", 3, 2**20, "padding"),
        (b"\0\0\x80", 4, 100, "another number"),
        (b"\6\xff\xff\xff\xff\xff\xff\x00\xff", 8, 600, "beyond"),
        (b"\0" * 1248 + b"\x80", 1000, 1001, "beyond"),
        ((1 | 1 << 7 | 3 << 14).to_bytes(3, "little"), 3, 100, "ascend"),
        ((1 | 2 << 7 | 100 << 14).to_bytes(3, "little"), 3, 100, "beyond"),
        ((1 | 2 << 7 | 3 << 14 | 1 << 21).to_bytes(3, "little"), 3, 100, "padding"),
    ],
)
def test_what_is_wrong_is_said(code: bytes, k: int, d: int, reason: str) -> None:
    status = decode(code, k, d)
    assert isinstance(status, int)
    assert reason in gaps.REASONS[status]


# Memory


@pytest.mark.skipif(sys.platform == "win32", reason="no mprotect")
def test_nothing_is_read_or_written_outside() -> None:
    """A touch outside ends the process."""
    codes, room = Guarded(2000), Guarded(2000)
    chance = random.Random(3)
    for k in (*range(1, 40), 64, 65, 127, 129, 500):
        for d in (k, k + 1, 3 * k, 20 * k, 700 * k, LIMIT):
            indices = np.array(sorted(chance.sample(range(d), k)), np.int32)
            for form in {choose(indices.tolist(), d)[0], gaps.PACKED}:
                good = encode(indices.tolist(), d, form)
                for at_end in (True, False):
                    code, out = codes.place(len(good), at_end), room.place(4 * k, at_end)
                    out[:] = indices.view(np.uint8)
                    assert gaps.choose(address(out), k, d)[1] <= len(good)
                    gaps.encode(address(out), k, d, form, address(code))
                    assert code.tobytes() == good
                    out[:] = 0
                    assert gaps.decode(address(code), len(good), k, d, address(out)) == 0
                    assert (out.view(np.int32) == indices).all()
                for size in {*range(min(len(good), 20)), *range(len(good))[-20:]}:
                    noise = bytes([chance.randrange(33)]) + chance.randbytes(len(good))
                    for bad in (good, noise):
                        for at_end in (True, False):
                            code, out = codes.place(size, at_end), room.place(4 * k, at_end)
                            code[:] = np.frombuffer(bad[:size], np.uint8)
                            gaps.decode(address(code), size, k, d, address(out))
