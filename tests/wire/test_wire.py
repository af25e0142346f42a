"""Messages survive the wire, unchanged and uncopied, as the committed vectors say."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from psrv import wire
from psrv.errors import ProtocolError, WireError
from psrv.messages import MAX_DEPTH, MAX_ITEMS, MAX_STRING
from psrv.wire import (
    MAX_BUCKET,
    MAX_BYTES,
    MAX_EPOCH,
    MAX_MEMBERS,
    MAX_RANK,
    MAX_ROUND,
    MAX_TEXT,
    Bye,
    Collect,
    Collected,
    Direction,
    Epoch,
    Error,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Join,
    Kind,
    Message,
    Push,
    Result,
    State,
    Welcome,
    describe,
    encode,
    header_bytes,
)
from wire.examples import (
    EXAMPLES,
    NAMES,
    WITH_PAYLOAD,
    as_json,
    frames_of,
    header_of,
    read,
    with_header,
)

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"

epochs = st.integers(0, MAX_EPOCH)
rounds = st.integers(0, MAX_ROUND)
buckets = st.integers(0, MAX_BUCKET)
ranks = st.integers(0, MAX_RANK)
ranks_or_none = st.integers(-1, MAX_RANK)
times = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e6, exclude_min=True)
letters = st.characters(exclude_categories=["Cs"])
names = st.text(letters, max_size=255)
payloads = st.binary(max_size=200)
vectors = st.integers(0, 50).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(letters, max_size=30)
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(letters, max_size=9), inner, max_size=4)
    ),
    max_leaves=20,
).filter(lambda value: depth_of(value) < MAX_DEPTH)
maps = st.dictionaries(st.text(letters, max_size=9), plain, max_size=5)


def depth_of(value: Any) -> int:
    """Lists and maps inside one another."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@st.composite
def states(draw: st.DrawFn) -> State:
    """Chunks that lie inside their part."""
    payload = draw(payloads)
    offset = draw(st.integers(0, MAX_BYTES - len(payload)))
    total = draw(st.integers(offset + len(payload), MAX_BYTES))
    return State(draw(epochs), draw(ranks), draw(st.integers(0, 1)), offset, total, payload)


messages = st.one_of(
    st.builds(
        Hello,
        st.integers(1, 2**16 - 1),
        st.binary(min_size=32, max_size=32),
        ranks_or_none,
        names,
        st.integers(0, 2**32 - 1),
        names,
    ),
    st.builds(
        Welcome,
        ranks,
        st.integers(1, MAX_MEMBERS),
        seconds,
        seconds,
        st.integers(1, MAX_BYTES),
        st.binary(min_size=16, max_size=16),
    ),
    st.builds(Join, ranks, maps),
    st.builds(Epoch, epochs, rounds, st.lists(ranks, min_size=1, unique=True).map(sorted)),
    states(),
    st.builds(
        Push,
        epochs,
        rounds,
        buckets,
        ranks,
        st.floats(0, allow_infinity=False),
        st.just(b"") | st.binary(min_size=32, max_size=32),
        payloads,
    ),
    st.builds(Result, epochs, rounds, buckets, payloads, times, times, ranks_or_none, times, times),
    st.builds(Collect, epochs, rounds, ranks, vectors),
    st.builds(Collected, epochs, rounds, vectors),
    st.builds(Heartbeat, ranks, rounds, times),
    st.builds(HeartbeatReply, times, times),
    st.builds(Error, names, st.text(letters, max_size=MAX_TEXT), ranks_or_none),
    st.builds(Bye, ranks_or_none, maps),
)


@settings(max_examples=400, deadline=None)
@given(messages)
def test_every_message_comes_back_equal(message: Message) -> None:
    frames = frames_of(message)
    assert read(frames, direction=type(message).direction) == message
    assert len(frames[0]) == header_bytes(message)
    line = describe(message)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 1000
    assert line.startswith(type(message).__name__)


def test_examples_cover_every_kind() -> None:
    assert {message.kind for message in EXAMPLES} == set(Kind)
    assert [vector["name"] for vector in GOLDEN["valid"]] == NAMES


@pytest.mark.parametrize("index", range(len(EXAMPLES)), ids=NAMES)
def test_golden_vectors(index: int) -> None:
    message, vector = EXAMPLES[index], GOLDEN["valid"][index]
    assert [frame.hex() for frame in frames_of(message)] == vector["frames"]
    assert as_json(message) == vector["message"]
    assert read([bytes.fromhex(frame) for frame in vector["frames"]]) == message
    document = DOCUMENT.read_text()
    for frame in vector["frames"]:
        assert frame in document


@pytest.mark.parametrize("vector", GOLDEN["refused"], ids=lambda vector: vector["why"])
def test_golden_refusals(vector: dict[str, Any]) -> None:
    with pytest.raises(WireError, match=vector["match"]):
        read([bytes.fromhex(frame) for frame in vector["frames"]])
    document = DOCUMENT.read_text()
    assert vector["why"] in document
    for frame in vector["frames"]:
        assert frame in document


def test_every_kind_and_limit_is_in_the_document() -> None:
    document = DOCUMENT.read_text()
    for message in EXAMPLES:
        assert f"### {int(message.kind)} {type(message).__name__}\n" in document
        for name in as_json(message):
            assert f"`{name}`" in document


@pytest.mark.parametrize("message", EXAMPLES, ids=NAMES)
def test_a_kind_is_refused_from_the_side_that_never_sends_it(message: Message) -> None:
    frames = frames_of(message)
    for direction in (Direction.TO_SERVER, Direction.TO_WORKER):
        if type(message).direction in (direction, Direction.EITHER):
            assert read(frames, direction=direction) == message
        else:
            with pytest.raises(WireError, match="never sends it"):
                read(frames, direction=direction)


@pytest.mark.parametrize(
    "payload",
    [
        b"12345678",
        bytearray(b"12345678"),
        memoryview(b"12345678"),
        np.arange(8, dtype=np.uint8),
        np.arange(2, dtype=np.float32),
        np.zeros((2, 4), dtype=np.uint8),
        np.zeros((0, 4), dtype=np.float32),
    ],
    ids=["bytes", "bytearray", "memoryview", "uint8", "float32", "matrix", "empty"],
)
def test_payload_is_passed_on_without_a_copy(payload: Any) -> None:
    frames = encode(Push(0, 1, 2, 3, 0.5, b"", payload))
    assert frames[1] is payload
    received = wire.decode(frames, max_payload=8, direction=Direction.TO_SERVER)
    assert isinstance(received, Push)
    view = received.payload
    assert isinstance(view, memoryview)
    assert view.format == "B"
    assert view.ndim == 1
    assert bytes(view) == memoryview(payload).tobytes()
    if view.nbytes:
        assert np.shares_memory(np.frombuffer(view, np.uint8), np.frombuffer(payload, np.uint8))


def test_frames_of_zeromq_are_read_in_place() -> None:
    message = EXAMPLES[5]
    assert isinstance(message, Push)
    frames: list[Any] = [zmq.Frame(frame) for frame in frames_of(message)]
    assert wire.decode(frames, max_payload=5, direction=Direction.TO_SERVER) == message


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "text",
        [1, 2],
        np.zeros(4, np.float64),
        np.zeros(4, object),
        np.zeros(8, np.uint8)[::2],
        np.zeros((4, 4), np.float32, order="F")[1:],
    ],
    ids=["none", "text", "list", "float64", "object", "strided", "fortran"],
)
def test_a_payload_that_is_not_plain_bytes_is_our_fault(payload: Any) -> None:
    with pytest.raises(ProtocolError, match="payload"):
        encode(Push(0, 1, 2, 3, 0.5, b"", payload))


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (EXAMPLES[0], "codec_digest", b"short"),
        (EXAMPLES[0], "host", "x" * 256),
        (EXAMPLES[0], "host", "\ud800"),
        (EXAMPLES[1], "lease_seconds", 30),
        (EXAMPLES[1], "session", bytearray(16)),
        (EXAMPLES[3], "members", (0, 1)),
        (EXAMPLES[3], "members", [1, 0]),
        (EXAMPLES[4], "offset", 17),
        (EXAMPLES[5], "round", np.int64(3)),
        (EXAMPLES[5], "round", True),
        (EXAMPLES[5], "sender", -1),
        (EXAMPLES[5], "eta", np.float64(0.1)),
        (EXAMPLES[5], "eta", float("nan")),
        (EXAMPLES[5], "eta", -0.1),
        (EXAMPLES[5], "eta", float("inf")),
        (EXAMPLES[8], "payload", b"123456"),
        (EXAMPLES[12], "text", "x" * 1001),
    ],
)
def test_a_bad_field_of_our_own_is_a_protocol_error(
    message: Message, field: str, value: object
) -> None:
    changed: Any = replace(message, **{field: value})
    with pytest.raises(ProtocolError):
        encode(changed)


def test_what_is_no_message_is_a_protocol_error() -> None:
    for call in (encode, header_bytes):
        with pytest.raises(ProtocolError, match="dict"):
            call({})


def test_error_text_is_clipped_to_what_can_be_sent() -> None:
    error = Error.clipped("job", "\ud800" + "ü" * 5000, 3)
    assert len(error.text) == MAX_TEXT
    assert error.text.endswith("...")
    assert read(frames_of(error)) == error
    assert Error.clipped("job", "plain") == Error("job", "plain", -1)


def nested(depth: int) -> Any:
    """A map with ``depth`` maps inside one another, itself included."""
    return {"inner": nested(depth - 1)} if depth > 1 else {}


def itself() -> dict[str, Any]:
    """A map that holds itself."""
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    return loop


@pytest.mark.parametrize(
    ("job", "match"),
    [
        ({"lr": float("nan")}, r"\['lr'\] is nan; expected a finite number"),
        ({"a": [0, {"b": b"raw"}]}, r"\['a'\]\[1\]\['b'\] is 0x726177; expected a plain value"),
        ({"a": np.float32(1)}, "expected a plain value"),
        ({"a": {1, 2}}, "expected a plain value"),
        ({1: 2}, "has the key 1"),
        ({"a": 2**64}, "integer of 65 bits; expected an integer of at most 64 bits"),
        ({"a": -(2**63) - 1}, "at most 64 bits"),
        ({"a": "x" * (MAX_STRING + 1)}, "text of at most"),
        ({"\ud800": 1}, "has the key"),
        (nested(MAX_DEPTH + 1), "nested deeper than 8"),
        (itself(), "nested deeper than 8"),
        ({"a": ["x" * MAX_STRING] * 600}, "packs into 98.* the limit is 8388608"),
        ({"a": [None] * MAX_ITEMS}, "too many values"),
        ([], "expected a dict"),
    ],
)
def test_a_job_that_is_not_plain_is_refused_with_its_place(job: Any, match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        encode(Join(0, job))


def test_jobs_at_the_limits_pass() -> None:
    for job in (
        {},
        nested(MAX_DEPTH),
        {"a": [None] * (MAX_ITEMS - 3)},
        {"x" * MAX_STRING: "ü" * MAX_STRING, "long": "\U0001f600" * MAX_STRING},
        {"low": -(2**63), "high": 2**64 - 1, "tiny": 5e-324},
        {str(key): {str(key): [key]} for key in range(70_000)},
        {"tensors": [[f"layer{index}.weight", [512, 512], 0] for index in range(20_000)]},
    ):
        assert read(frames_of(Join(1, job))) == Join(1, job)
    assert read(frames_of(Join(1, {"shape": (2, 3)}))) == Join(1, {"shape": [2, 3]})


def test_later_versions_may_append() -> None:
    for message in EXAMPLES:
        frames = frames_of(message)
        row = header_of(message)
        row[6] = 1 << 31
        row[8] = {**(row[8] or {}), "added": [1, {"later": None}]}
        row += [None, {"more": 1}, b"x"]
        assert read([msgpack.packb(row), *frames[1:]]) == message


def test_another_version_is_named_with_ours() -> None:
    for row in ([2], [2, "anything"], [2, *header_of(EXAMPLES[0])[1:]]):
        with pytest.raises(WireError, match="protocol version 2, this side speaks version 1"):
            read(with_header(row, None))


def test_header_bytes_does_not_read_the_payload() -> None:
    for message in WITH_PAYLOAD:
        bare = replace(message, payload=None)
        assert header_bytes(bare) == header_bytes(message) == len(frames_of(message)[0])


def test_describe_shows_what_matters_and_escapes_the_rest() -> None:
    assert describe(EXAMPLES[5]) == (
        "Push epoch=0 round=812 bucket=3 sender=2 eta=0.1 digest=none payload=5 bytes"
    )
    line = describe(Error("job\n", "\x1b[31m\u202e" + "ü" * 900, 10**30))
    assert line.isascii()
    assert line.isprintable()
    assert "\\x1b[31m\\u202e" in line
    assert "rank=integer of 100 bits" in line
    assert len(line) < 400


def test_importing_the_protocol_loads_no_transport() -> None:
    code = "import sys, psrv.wire; print({'zmq', 'torch', 'numpy', 'numba'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
