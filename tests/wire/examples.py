"""One message of every kind, and how to take frames apart: shared by the wire tests."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgpack
from xxhash import xxh3_64_intdigest

from psrv.wire import (
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
    Message,
    Push,
    Result,
    State,
    Welcome,
    decode,
    encode,
)

JOB = {
    "tensors": [["fc.bias", [10], 0], ["fc.weight", [10, 64], 0]],
    "groups": [{"weight_decay": 0.0}],
    "method": {"name": "cd-adam", "beta1": 0.9, "decoupled": False},
    "seed": 7,
    "note": None,
}
# These are the test vectors of docs/protocol.md: change none, only add.
EXAMPLES: tuple[Message, ...] = (
    Hello(1, bytes(range(32)), -1, "node-3.example", 4711, "0.1.0"),
    Welcome(2, 4, 30.0, 1.5, 4198400, bytes(range(16, 32))),
    Join(2, JOB),
    Epoch(0, 0, [0, 1, 2, 3]),
    State(0, 0, 0, 16, 40, bytes(range(100, 124))),
    Push(0, 812, 3, 2, 0.1, b"", bytes.fromhex("0000803f5a")),
    Push(0, 900, 0, 2, 0.0, bytes(range(32)), b""),
    Result(
        0, 812, 3, bytes.fromhex("000000bfa5"), 10**15, 10**15 + 70, 1, 10**15 + 90, 10**15 + 99
    ),
    Collect(0, 5, 2, bytes.fromhex("0000803f00000040")),
    Collected(0, 5, bytes.fromhex("0000003f0000803f")),
    Heartbeat(2, 812, 123456789),
    HeartbeatReply(123456789, 10**15),
    Error("job", "job of worker 2 differs in 'seed': got 8, expected 7 as worker 0", -1),
    Bye(2, {"rounds": 813, "loss": 0.25, "clean": True}),
)
NAMES = [f"{index}-{type(message).__name__}" for index, message in enumerate(EXAMPLES)]
WITH_PAYLOAD = [message for message in EXAMPLES if hasattr(message, "payload")]
SLOTS = {"epoch": 2, "round": 3, "bucket": 4, "sender": 5}


def frames_of(message: Message) -> list[bytes]:
    """The frames as they would come out of a socket."""
    return [bytes(frame) for frame in encode(message)]


def read(
    frames: list[bytes], max_payload: int = 1 << 20, direction: Direction = Direction.EITHER
) -> Message:
    """``decode`` with limits that let every example through."""
    return decode(frames, max_payload=max_payload, direction=direction)


def header_of(message: Message) -> list[Any]:
    """Frame 0, unpacked, to be changed and packed again."""
    row: list[Any] = msgpack.unpackb(frames_of(message)[0])
    return row


def with_header(row: Any, payload: bytes | None) -> list[bytes]:
    """Frames with this header, whatever it says about the payload."""
    return [msgpack.packb(row), *([] if payload is None else [payload])]


def with_payload(message: Message, payload: bytes) -> list[bytes]:
    """The frames of ``message`` with another payload and the checksum that belongs to it."""
    row = header_of(message)
    row[7] = xxh3_64_intdigest(payload)
    return with_header(row, payload)


def as_json(message: Message) -> dict[str, Any]:
    """Fields by name, bytes as hexadecimal."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return {
        name: value.hex() if isinstance(value, bytes | memoryview) else value
        for name, value in values.items()
    }
