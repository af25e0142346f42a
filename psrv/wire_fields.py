"""How each kind of message is laid out: where a field stands, and what it may hold.

One table for both directions: psrv/wire.py walks it to encode and to decode. Adding a message
is a class in psrv/messages.py and a row here. A field added to an old message goes last in the
table and must be optional when decoding, since older peers do not send it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, NamedTuple

from psrv.messages import (
    MAX_BUCKET,
    MAX_BYTES,
    MAX_EPOCH,
    MAX_JOB,
    MAX_MEMBERS,
    MAX_NAME,
    MAX_NANOSECONDS,
    MAX_RANK,
    MAX_ROUND,
    MAX_SECONDS,
    MAX_SUMMARY,
    MAX_TEXT,
    Bye,
    Collect,
    Collected,
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
from psrv.wire_plain import is_unicode


class Field(NamedTuple):
    """A name, whether a value fits, and in words what would."""

    name: str
    accepts: Callable[[Any], bool]
    expected: str


def _integer(name: str, low: int, high: int) -> Field:
    # type() and not isinstance(): True must not pass for 1.
    def accepts(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    return Field(name, accepts, f"an integer from {low} to {high}")


def _seconds(name: str) -> Field:
    def accepts(value: Any) -> bool:
        return type(value) is float and 0.0 < value <= MAX_SECONDS

    return Field(name, accepts, f"a float above 0, at most {MAX_SECONDS:.0f}")


def _octets(name: str, *sizes: int) -> Field:
    def accepts(value: Any) -> bool:
        return type(value) is bytes and len(value) in sizes

    return Field(name, accepts, f"{' or '.join(map(str, sizes))} bytes")


def _text(name: str, limit: int) -> Field:
    def accepts(value: Any) -> bool:
        return type(value) is str and len(value) <= limit and is_unicode(value)

    return Field(name, accepts, f"text of at most {limit} characters")


def _is_step_size(value: Any) -> bool:
    return type(value) is float and value >= 0.0 and isfinite(value)


def _are_members(value: Any) -> bool:
    if type(value) is not list or not 1 <= len(value) <= MAX_MEMBERS:
        return False
    previous = -1
    for rank in value:
        if type(rank) is not int or not previous < rank <= MAX_RANK:
            return False
        previous = rank
    return True


def _state_fault(values: Mapping[str, Any], size: int) -> str:
    if values["offset"] + size > values["total"]:
        return f"chunk of {size} bytes at {values['offset']} goes past the total {values['total']}"
    return ""


def _vector_fault(values: Mapping[str, Any], size: int) -> str:
    return f"payload of {size} bytes is not a whole number of float32" if size % 4 else ""


SLOTS: Final = {"epoch": 2, "round": 3, "bucket": 4, "sender": 5}


class Spec:
    """The layout of one kind.

    Attributes:
        name: of the message class ``make``.
        header: (slot, name, accepts, expected) of the fields that have a slot in the header.
        unused: (slot, name) of the slots that must be 0.
        body: fields carried by name in the body.
        payload: name of the field that frame 1 holds, or "" for messages of one frame.
        limit: most bytes of a field that is packed into the payload as a map of plain values;
            0 for one that is bytes already, whose limit depends on the job.
        fault: what is wrong between fields and payload size, or "".
    """

    __slots__ = ("body", "fault", "header", "limit", "make", "name", "payload", "unused")

    def __init__(
        self,
        make: type[Message],
        *fields: Field,
        payload: str = "",
        limit: int = 0,
        fault: Callable[[Mapping[str, Any], int], str] | None = None,
    ) -> None:
        names = [field.name for field in fields]
        self.make = make
        self.name = make.__name__
        self.header = tuple((SLOTS[field.name], *field) for field in fields if field.name in SLOTS)
        self.unused = tuple((slot, name) for name, slot in SLOTS.items() if name not in names)
        self.body = tuple(field for field in fields if field.name not in SLOTS)
        self.payload = payload
        self.limit = limit
        self.fault = fault


_EPOCH = _integer("epoch", 0, MAX_EPOCH)
_ROUND = _integer("round", 0, MAX_ROUND)
_BUCKET = _integer("bucket", 0, MAX_BUCKET)
_SENDER = _integer("sender", 0, MAX_RANK)
_SERIAL = _integer("serial", 0, MAX_ROUND)
_SENT = _integer("sent_ns", 0, MAX_NANOSECONDS)
FLAGS: Final = _integer("flags", 0, (1 << 32) - 1)
CHECKSUM: Final = _integer("checksum", 0, (1 << 64) - 1)

_SPECS: Final = (
    Spec(
        Hello,
        _integer("protocol", 1, (1 << 16) - 1),
        _octets("codec_digest", 32),
        _integer("rank", -1, MAX_RANK),
        _text("host", MAX_NAME),
        _integer("pid", 0, (1 << 32) - 1),
        _text("version", MAX_NAME),
    ),
    Spec(
        Welcome,
        _integer("rank", 0, MAX_RANK),
        _integer("workers", 1, MAX_MEMBERS),
        _seconds("lease_seconds"),
        _seconds("heartbeat_seconds"),
        _integer("max_payload", 1, MAX_BYTES),
        _octets("session", 16),
    ),
    Spec(Join, _SENDER, payload="job", limit=MAX_JOB),
    Spec(
        Epoch,
        _EPOCH,
        _ROUND,
        Field("members", _are_members, f"1 to {MAX_MEMBERS} ascending ranks, all <= {MAX_RANK}"),
    ),
    Spec(
        State,
        _EPOCH,
        _SENDER,
        _integer("part", 0, 1),
        _integer("offset", 0, MAX_BYTES),
        _integer("total", 0, MAX_BYTES),
        payload="payload",
        fault=_state_fault,
    ),
    Spec(
        Push,
        _EPOCH,
        _ROUND,
        _BUCKET,
        _SENDER,
        Field("eta", _is_step_size, "a finite float of at least 0"),
        _octets("digest", 0, 32),
        payload="payload",
    ),
    Spec(
        Result,
        _EPOCH,
        _ROUND,
        _BUCKET,
        _integer("arrived_ns", 0, MAX_NANOSECONDS),
        _integer("last_ns", 0, MAX_NANOSECONDS),
        _integer("last_rank", -1, MAX_RANK),
        _integer("start_ns", 0, MAX_NANOSECONDS),
        _integer("done_ns", 0, MAX_NANOSECONDS),
        payload="payload",
    ),
    Spec(Collect, _EPOCH, _SENDER, _SERIAL, payload="payload", fault=_vector_fault),
    Spec(Collected, _EPOCH, _SERIAL, payload="payload", fault=_vector_fault),
    Spec(Heartbeat, _SENDER, _ROUND, _SENT),
    Spec(HeartbeatReply, _SENT, _integer("server_ns", 0, MAX_NANOSECONDS)),
    Spec(Error, _text("code", MAX_NAME), _text("text", MAX_TEXT), _integer("rank", -1, MAX_RANK)),
    Spec(Bye, _integer("sender", -1, MAX_RANK), payload="summary", limit=MAX_SUMMARY),
)
BY_KIND: Final[dict[int, Spec]] = {int(spec.make.kind): spec for spec in _SPECS}
BY_CLASS: Final[dict[type, Spec]] = {spec.make: spec for spec in _SPECS}
