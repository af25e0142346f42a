"""Whatever bytes come, the outcome is a message or a WireError, at a bounded cost."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from psrv.errors import WireError
from psrv.messages import MAX_ITEMS
from psrv.wire import (
    MAX_BUCKET,
    MAX_BYTES,
    MAX_EPOCH,
    MAX_HEADER,
    MAX_JOB,
    MAX_MEMBERS,
    MAX_RANK,
    MAX_ROUND,
    MAX_SUMMARY,
    Bye,
    Collect,
    Epoch,
    Error,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Join,
    Message,
    Push,
    Result,
    State,
    Welcome,
)
from wire.examples import (
    EXAMPLES,
    NAMES,
    SLOTS,
    WITH_PAYLOAD,
    frames_of,
    header_of,
    read,
    with_header,
    with_payload,
)

ALIEN: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, -2, 1.5, -1.5, float("nan"), float("inf"), -float("inf"),
    2**63, 2**64 - 1, -(2**63), "", "1", "x" * 1001, b"", b"x", b"x" * 33,
    [], [0], [[]], {}, {"a": 1},
)  # fmt: skip


def first(cls: type) -> Message:
    """The example of a kind."""
    return next(message for message in EXAMPLES if type(message) is cls)


def accepted(frames: list[bytes], max_payload: int = 1 << 20) -> Message | None:
    """The message, or None if it was refused; any other exception fails the test."""
    try:
        return read(frames, max_payload)
    except WireError as error:
        text = str(error)
        assert text.isprintable()
        assert len(text) < 1000
        return None


@pytest.mark.parametrize("message", EXAMPLES, ids=NAMES)
def test_truncated_at_each_offset(message: Message) -> None:
    frames = frames_of(message)
    for index, frame in enumerate(frames):
        for length in range(len(frame)):
            cut = [*frames[:index], frame[:length], *frames[index + 1 :]]
            with pytest.raises(WireError):
                read(cut)


@pytest.mark.parametrize("message", EXAMPLES, ids=NAMES)
def test_trailing_bytes_and_frames(message: Message) -> None:
    frames = frames_of(message)
    for index in range(len(frames)):
        for extra in (b"\x00", b"\xc0", frames[0]):
            longer = [*frames[:index], frames[index] + extra, *frames[index + 1 :]]
            with pytest.raises(WireError):
                read(longer)
    for extra in (b"", b"x", frames[0]):
        with pytest.raises(WireError):
            read([*frames, extra])
    with pytest.raises(WireError):
        read(frames[1:])
    with pytest.raises(WireError):
        read([b"identity", *frames])
    if len(frames) == 2:
        with pytest.raises(WireError, match="without its payload"):
            read(frames[:1])
    with pytest.raises(WireError, match="0 frames"):
        read([])


@pytest.mark.parametrize("message", EXAMPLES, ids=NAMES)
def test_wrong_types_field_by_field(message: Message) -> None:
    row, payload = header_of(message), frames_of(message)[1:]
    places = [(row, slot) for slot in range(9)] + [(row[8], key) for key in row[8] or ()]
    for holder, key in places:
        right = holder[key]
        for alien in ALIEN:
            holder[key] = alien
            found = accepted([msgpack.packb(row), *payload])
            # What has another type never passes; a map is as good as nil where no field is.
            mistyped = type(alien) is not type(right) and (key != 8 or right is not None)
            if mistyped or (isinstance(alien, float) and not 0 < alien < 1e6):
                assert found is None, (key, alien)
            elif found is not None and key in (0, 1, 7):
                assert alien == right
        if isinstance(key, str):
            del holder[key]
            assert accepted([msgpack.packb(row), *payload]) is None
        holder[key] = right
    assert accepted([msgpack.packb(row), *payload]) == message


RANGES: list[tuple[type, str, int, int]] = [
    (Hello, "protocol", 1, 2**16 - 1),
    (Hello, "rank", -1, MAX_RANK),
    (Hello, "pid", 0, 2**32 - 1),
    (Welcome, "rank", 0, MAX_RANK),
    (Welcome, "workers", 1, MAX_MEMBERS),
    (Welcome, "max_payload", 1, MAX_BYTES),
    (Join, "sender", 0, MAX_RANK),
    (Epoch, "epoch", 0, MAX_EPOCH),
    (Epoch, "round", 0, MAX_ROUND),
    (State, "part", 0, 1),
    (State, "offset", 0, 16),
    (State, "total", 40, MAX_BYTES),
    (Push, "epoch", 0, MAX_EPOCH),
    (Push, "round", 0, MAX_ROUND),
    (Push, "bucket", 0, MAX_BUCKET),
    (Push, "sender", 0, MAX_RANK),
    (Result, "arrived_ns", 0, 2**63 - 1),
    (Result, "last_ns", 0, 2**63 - 1),
    (Result, "last_rank", -1, MAX_RANK),
    (Result, "start_ns", 0, 2**63 - 1),
    (Result, "done_ns", 0, 2**63 - 1),
    (Collect, "serial", 0, MAX_ROUND),
    (Heartbeat, "sent_ns", 0, 2**63 - 1),
    (HeartbeatReply, "server_ns", 0, 2**63 - 1),
    (Error, "rank", -1, MAX_RANK),
    (Bye, "sender", -1, MAX_RANK),
]


@pytest.mark.parametrize(("cls", "field", "low", "high"), RANGES)
def test_ranges(cls: type, field: str, low: int, high: int) -> None:
    message = first(cls)
    payload = frames_of(message)[1:]
    for value in (low - 1, low, high, high + 1):
        row = header_of(message)
        holder, key = (row, SLOTS[field]) if field in SLOTS else (row[8], field)
        holder[key] = value
        found = accepted([msgpack.packb(row), *payload])
        assert (found is not None) == (low <= value <= high), value
        if found is not None:
            assert getattr(found, field) == value


@pytest.mark.parametrize("message", EXAMPLES, ids=NAMES)
def test_header_fields_without_a_meaning_must_be_zero(message: Message) -> None:
    payload = frames_of(message)[1:]
    for field, slot in SLOTS.items():
        row = header_of(message)
        row[slot] = 1
        found = accepted([msgpack.packb(row), *payload])
        assert (found is not None) == hasattr(message, field), field


@pytest.mark.parametrize(
    ("message", "payload", "limit"),
    [(m, bytes(1000), 999) for m in WITH_PAYLOAD]
    + [(first(Join), bytes(MAX_JOB + 1), 1 << 40), (first(Bye), bytes(MAX_SUMMARY + 1), 1 << 40)],
)
def test_oversized_payload(message: Message, payload: bytes, limit: int) -> None:
    with pytest.raises(WireError, match="the limit is"):
        read(with_payload(message, payload), limit)


def test_small_limit_for_payloads_leaves_the_handshake_alone() -> None:
    for message in (first(Join), first(Bye)):
        assert read(frames_of(message), max_payload=1) == message


def test_oversized_header() -> None:
    row = [*header_of(EXAMPLES[0]), b"x" * MAX_HEADER]
    with pytest.raises(WireError, match="the limit is 65536"):
        read(with_header(row, None))
    row = [*header_of(EXAMPLES[0]), b"x" * (MAX_HEADER - 300)]
    assert read(with_header(row, None)) == EXAMPLES[0]


@pytest.mark.parametrize("message", WITH_PAYLOAD + [first(Join), first(Bye)])
def test_checksum_mismatch(message: Message) -> None:
    header, payload = frames_of(message)
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError, match="checksum"):
            read([header, bytes(damaged)])
    row = header_of(message)
    row[7] ^= 1
    with pytest.raises(WireError, match="checksum"):
        read(with_header(row, payload))


def test_extension_types_are_refused_even_where_values_are_ignored() -> None:
    for padding in (b"", b"x" * 1000):
        for extension in (b"\xd4\x05\x01", b"\xd6\xff\x00\x00\x00\x01", b"\xc7\x01\x05\x00"):
            row = [*header_of(first(Heartbeat)), padding]
            assert accepted(with_header(row, None)) is not None
            header = msgpack.packb([*row, None])[:-1]
            assert accepted([header + extension]) is None


def test_members_must_ascend_and_fit() -> None:
    for members, good in (
        (list(range(MAX_MEMBERS)), True),
        (list(range(MAX_RANK + 1 - MAX_MEMBERS, MAX_RANK + 1)), True),
        (list(range(MAX_MEMBERS + 1)), False),
        ([MAX_RANK + 1], False),
        ([-1], False),
        ([1, 1], False),
        ([1, 0], False),
        ([0, True], False),
        ([], False),
    ):
        row = header_of(first(Epoch))
        row[8]["members"] = members
        assert (accepted(with_header(row, None)) is not None) == good


ARRAY, MAP, TEXT, RAW = b"\xdd", b"\xdf", b"\xdb", b"\xc6"
FALSE_LENGTHS = {
    "array": ARRAY + b"\xff\xff\xff\xff",
    "map": MAP + b"\x7f\xff\xff\xff",
    "text": TEXT + b"\xff\xff\xff\xff",
    "bytes": RAW + b"\xff\xff\xff\xff",
    "extension": b"\xc9\xff\xff\xff\xff\x00",
    "just more": b"\x91\xdc\x00\x02\x01",
    "nested arrays": (ARRAY + struct.pack(">I", 13_000)) * 13_000,
    "nested short arrays": b"\xdc\x01\x90" * 170,
    "nested maps": b"".join(b"\xde\x02\x00\xa1" + bytes([65 + i % 26]) for i in range(800)),
    "nested behind a text": b"\x92\xdb"
    + struct.pack(">I", 99_999)
    + b"x" * 99_999
    + (ARRAY + struct.pack(">I", 99_000)) * 6,
    "deep": b"\x91" * 60_000 + b"\x00",
    "deep and short": b"\x91" * 511 + b"\x00",
}


@pytest.mark.parametrize("data", FALSE_LENGTHS.values(), ids=FALSE_LENGTHS)
def test_false_lengths_cost_no_memory(data: bytes) -> None:
    """As a header, inside one, and as the payload of a Join."""
    header = frames_of(EXAMPLES[0])[0]
    cases = [[data], [b"\x9a" + header[1:] + data], with_payload(first(Join), b"\x81\xa1k" + data)]
    for frames in cases:
        tracemalloc.start()
        started = time.process_time()
        try:
            assert accepted(frames) is None
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 << 20
        assert time.process_time() - started < 1.0


def test_a_job_full_of_values_is_refused_early() -> None:
    data = b"\x81\xa1k\xdd" + struct.pack(">I", MAX_JOB - 8) + bytes(MAX_JOB - 8)
    assert accepted(with_payload(first(Join), data)) is None
    started = time.process_time()
    data = b"\x81\xa1k\xdd" + struct.pack(">I", MAX_ITEMS - 3) + bytes(MAX_ITEMS - 3)
    assert accepted(with_payload(first(Join), data)) is not None
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize(
    "payload",
    [
        b"\x90",
        b"\xc0",
        b"",
        b"\x80\x80",
        b"\x81\x01\x02",
        b"\x81\xc4\x01a\x02",
        b"\x82\xa1a\x01\xa1a\x02",
        b"\x81\xa1a\xc4\x01b",
        b"\x81\xa1a\xd4\x01b",
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",
        b"\x81\xa1a\xc1",
        b"\x81\xa1a\xa1\xff",
        b"\x81\xa1a\xa3\xed\xa0\x80",
        b"\x81\xa1a\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"\x81\xa1a\xca\x7f\xc0\x00\x00",
        b"\x81\xa1a" * 9 + b"\x01",
        b"\x81\xa1a" * 400 + b"\x01",
        b"\x81\x90\x01",
        b"\x81\x81\xa1a\x01\x01",
    ],
)
def test_jobs_that_are_not_plain_maps(payload: bytes) -> None:
    for message in (first(Join), first(Bye)):
        assert accepted(with_payload(message, payload)) is None


def test_repeated_or_odd_keys_in_the_body() -> None:
    header = frames_of(first(Heartbeat))[0]
    body = header.index(b"\x81\xa7sent_ns")
    for fields in (
        b"\x82\xa7sent_ns\x01\xa7sent_ns\x02",
        b"\x82\xa7sent_ns\x01\xc4\x01x\x02",
        b"\x82\xa7sent_ns\x01\x05\x02",
        b"\x82\xa7sent_ns\x01\x90\x02",
    ):
        assert accepted([header[:body] + fields]) is None
    assert accepted([header[:body] + b"\x82\xa7sent_ns\x01\xa1x\x02"]) == Heartbeat(2, 812, 1)


def test_frames_that_are_no_bytes_are_refused() -> None:
    header, payload = frames_of(first(Push))
    for alien in (None, 5, "text", [1], memoryview(payload * 2)[::2]):
        for frames in ([alien], [header, alien], [alien, payload]):
            with pytest.raises(WireError):
                read(frames)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=3))
def test_random_bytes(frames: list[bytes]) -> None:
    assert accepted(frames) is None


words = st.text(max_size=9)
integers = st.integers(-(2**63), 2**64 - 1)
anything = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | words | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(EXAMPLES), st.dictionaries(st.integers(0, 11), anything, max_size=3), st.data()
)
def test_arbitrary_values_anywhere(
    message: Message, changes: dict[int, Any], data: st.DataObject
) -> None:
    row = [*header_of(message), None, None, None]
    for slot, value in changes.items():
        row[slot] = value
    if isinstance(row[8], dict) and row[8] and data.draw(st.booleans()):
        row[8][data.draw(st.sampled_from(sorted(row[8])))] = data.draw(anything)
    again(accepted([msgpack.packb(row), *frames_of(message)[1:]]))


def again(message: Message | None) -> None:
    """What was accepted can be sent, and comes back equal."""
    if message is not None:
        assert read(frames_of(message)) == message


def mutate(random_: random.Random, frames: list[bytes]) -> list[bytes]:
    """Some bytes changed, put in, taken out or repeated, in one of the frames."""
    index = random_.randrange(len(frames))
    data = bytearray(frames[index])
    for _ in range(random_.choice((1, 1, 1, 2, 4))):
        at = random_.randrange(len(data) + 1)
        choice = random_.randrange(5)
        if choice == 0:
            data.insert(at, random_.randrange(256))
        elif choice == 1:
            del data[at : at + random_.choice((1, 1, 2, 8))]
        elif choice == 2:
            data[at:at] = data[at : at + random_.randrange(1, 9)]
        elif at < len(data):
            data[at] = random_.choice(
                (data[at] ^ 1 << random_.randrange(8), random_.randrange(256))
            )
    return [*frames[:index], bytes(data), *frames[index + 1 :]]


def test_fifty_thousand_mutations() -> None:
    random_ = random.Random(20)
    originals = [frames_of(message) for message in EXAMPLES]
    valid = refused = 0
    for _ in range(50_000):
        original = random_.choice(originals)
        frames = mutate(random_, original)
        if len(frames) == 2 and frames[1] != original[1] and random_.random() < 0.9:
            # Repair the checksum, or nothing behind it would be tried.
            old, new = (
                xxh3_64_intdigest(data).to_bytes(8, "big") for data in (original[1], frames[1])
            )
            frames[0] = frames[0].replace(old, new)
        message = accepted(frames)
        again(message)
        valid += message is not None
        refused += message is None
    # Both outcomes are common, or the mutations would not be worth much.
    assert valid > 5_000
    assert refused > 20_000
