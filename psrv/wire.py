"""The wire protocol: messages to frames and back.

All rules about which bytes are a valid message live here. Pure functions: no sockets, threads
or clock.

    frame 0   MessagePack array [version, kind, epoch, round, bucket, sender, flags,
              checksum, body]; later versions only append
    frame 1   the payload, for the kinds that have one; checksum is its XXH3-64

``decode`` trusts nothing: it returns a message or raises ``WireError``, and allocates no more
than a small multiple of what was received. ``encode`` holds our own messages to the same rules
and raises ``ProtocolError``. The messages themselves are in psrv/messages.py, and can be
imported from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import msgpack
from xxhash import xxh3_64_intdigest

from psrv.errors import ProtocolError, PsrvError, WireError
from psrv.messages import (
    MAX_BUCKET,
    MAX_BYTES,
    MAX_EPOCH,
    MAX_HEADER,
    MAX_JOB,
    MAX_MEMBERS,
    MAX_RANK,
    MAX_ROUND,
    MAX_SUMMARY,
    MAX_TEXT,
    VERSION,
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
    Payload,
    Push,
    Result,
    State,
    Welcome,
    describe,
    show,
)
from psrv.wire_fields import BY_CLASS, BY_KIND, CHECKSUM, FLAGS, Spec
from psrv.wire_plain import pack_map, survey, unpack, unpack_map

__all__ = [
    "MAX_BUCKET",
    "MAX_BYTES",
    "MAX_EPOCH",
    "MAX_HEADER",
    "MAX_JOB",
    "MAX_MEMBERS",
    "MAX_RANK",
    "MAX_ROUND",
    "MAX_SUMMARY",
    "MAX_TEXT",
    "VERSION",
    "Bye",
    "Collect",
    "Collected",
    "Direction",
    "Epoch",
    "Error",
    "Heartbeat",
    "HeartbeatReply",
    "Hello",
    "Join",
    "Kind",
    "Message",
    "Payload",
    "Push",
    "Result",
    "State",
    "Welcome",
    "decode",
    "describe",
    "encode",
    "header_bytes",
]

_FIELDS: Final = 9  # elements of a version 1 header
_SMALL: Final = 512  # bytes; nested false lengths in a header this short cost at most 1 MiB
_HEADER_DEPTH: Final = 8  # a version 1 header needs 3; the rest is for later fields


def encode(message: Message) -> list[Payload]:
    """The frames of ``message``: a header, and the payload for the kinds that have one.

    The payload is not copied: the very buffer of the message is frame 1, so it must stay
    unchanged until it is sent.

    Raises:
        ProtocolError: a field or payload that ``decode`` would refuse, or no message at all.
    """
    spec = _spec_for(message)
    header, values = _header(message, spec, 0)
    if not spec.payload:
        return [msgpack.packb(header)]
    payload: Payload = getattr(message, spec.payload)
    if spec.limit:
        payload = pack_map(payload, f"{spec.name}: {spec.payload}", spec.limit)
    view = _outgoing(payload, spec)
    if spec.fault is not None and (fault := spec.fault(values, view.nbytes)):
        raise ProtocolError(f"{spec.name}: {fault}")
    header[7] = xxh3_64_intdigest(view)
    return [msgpack.packb(header), payload]


def header_bytes(message: Message) -> int:
    """Bytes of frame 0; with the payload's they are the message bytes of the measurements.

    Does not read the payload: its checksum is counted with 8 bytes and a tag. One payload in four
    billion has a checksum below 2**32, and a header that is up to 8 bytes shorter.
    """
    spec = _spec_for(message)
    checksum = (1 << 64) - 1 if spec.payload else 0
    return len(msgpack.packb(_header(message, spec, checksum)[0]))


def decode(frames: Sequence[Payload], *, max_payload: int, direction: Direction) -> Message:
    """The message in ``frames`` (without the routing identity that a ROUTER puts first).

    Args:
        frames: bytes-like and C-contiguous; not copied. The payload of the returned message is
            a memoryview over frame 1.
        max_payload: most bytes of a State, Push, Result, Collect or Collected payload. Join and
            Bye have fixed limits of their own.
        direction: the way the message came; EITHER takes every kind.

    Raises:
        WireError: anything but a valid message of a kind that travels this way.
    """
    if not 1 <= len(frames) <= 2:
        raise WireError(f"message of {len(frames)} frames; expected a header and at most a payload")
    row = _unpack_header(_incoming(frames[0], "header"))
    spec = _spec_of(row)
    name = spec.name
    if not spec.make.direction & direction:
        sender = "worker" if direction == Direction.TO_SERVER else "server"
        raise WireError(f"{name} came from a {sender}, which never sends it; message refused")
    values: dict[str, Any] = {}
    for slot, field, accepts, expected in spec.header:
        value = row[slot]
        if not accepts(value):
            _refuse(WireError, name, field, value, expected)
        values[field] = value
    for slot, field in spec.unused:
        # == alone would let False and 0.0 through
        if row[slot] != 0 or type(row[slot]) is not int:
            _refuse(WireError, name, field, row[slot], "0, for it has no meaning here")
    if not FLAGS.accepts(row[6]):
        _refuse(WireError, name, "flags", row[6], FLAGS.expected)
    body = row[8]
    if body is None and not spec.body:
        body = {}
    if type(body) is not dict:
        _refuse(WireError, name, "body", body, "a map")
    for field, accepts, expected in spec.body:
        if field not in body:
            raise WireError(f"{name}: field {field!r} is missing; expected {expected}")
        value = body[field]
        if not accepts(value):
            _refuse(WireError, name, field, value, expected)
        values[field] = value
    _take_payload(spec, frames, row[7], values, max_payload)
    return spec.make(**values)


def _spec_for(message: Message) -> Spec:
    spec = BY_CLASS.get(type(message))
    if spec is None:
        raise ProtocolError(f"cannot send a {type(message).__name__}: it is no protocol message")
    return spec


def _header(message: Message, spec: Spec, checksum: int) -> tuple[list[Any], dict[str, Any]]:
    """The header as a list, and the checked fields by name."""
    row: list[Any] = [VERSION, int(message.kind), 0, 0, 0, 0, 0, checksum, None]
    values: dict[str, Any] = {}
    for slot, field, accepts, expected in spec.header:
        value = getattr(message, field)
        if not accepts(value):
            _refuse(ProtocolError, spec.name, field, value, expected)
        row[slot] = values[field] = value
    body: dict[str, Any] = {}
    for field, accepts, expected in spec.body:
        value = getattr(message, field)
        if not accepts(value):
            _refuse(ProtocolError, spec.name, field, value, expected)
        body[field] = values[field] = value
    if spec.body:
        row[8] = body
    return row, values


def _outgoing(payload: Any, spec: Spec) -> memoryview:
    try:
        view = memoryview(payload)
    except (TypeError, ValueError, BufferError):
        raise ProtocolError(f"{spec.name}: payload is {show(payload)}, expected bytes") from None
    # An object array is a buffer too, of addresses.
    if view.format not in ("B", "f") or not view.c_contiguous:
        order = "" if view.c_contiguous else ", not C-contiguous"
        raise ProtocolError(
            f"{spec.name}: payload of item format {view.format!r}{order}; "
            "expected C-contiguous bytes, uint8 or float32"
        )
    return view


def _incoming(frame: Any, what: str) -> memoryview:
    try:
        view = memoryview(frame)
        if view.format == "B" and view.ndim == 1 and view.c_contiguous:
            return view
        return view.cast("B") if view.nbytes else memoryview(b"")
    except (TypeError, ValueError, BufferError):
        raise WireError(f"{what} is {show(frame)}; expected contiguous bytes") from None


def _unpack_header(view: memoryview) -> list[Any]:
    size = view.nbytes
    if size > MAX_HEADER:
        raise WireError(f"header of {size} bytes; the limit is {MAX_HEADER}")
    if size > _SMALL:
        survey(view, "header", _HEADER_DEPTH, MAX_HEADER)
    row = unpack(view, "header", MAX_TEXT)
    if type(row) is not list or not row:
        raise WireError(f"header is {show(row)}; expected an array of {_FIELDS} elements")
    return row


def _spec_of(row: list[Any]) -> Spec:
    # The version comes first: whatever else differs follows from it.
    if type(row[0]) is not int or row[0] != VERSION:
        raise WireError(
            f"message of protocol version {show(row[0])}, this side speaks version {VERSION}; "
            "use versions of psrv with the same protocol on both sides"
        )
    if len(row) < _FIELDS:
        raise WireError(f"header of {len(row)} elements; expected at least {_FIELDS}")
    spec = BY_KIND.get(row[1]) if type(row[1]) is int else None
    if spec is None:
        raise WireError(f"message of unknown kind {show(row[1])}; expected 1 to {len(BY_KIND)}")
    return spec


def _take_payload(
    spec: Spec, frames: Sequence[Payload], checksum: object, values: dict[str, Any], most: int
) -> None:
    """Check frame 1 against the header, and add what it holds to ``values``."""
    name = spec.name
    if not CHECKSUM.accepts(checksum):
        _refuse(WireError, name, "checksum", checksum, CHECKSUM.expected)
    if not spec.payload:
        if len(frames) != 1 or checksum != 0:
            raise WireError(f"{name} with a payload or checksum; expected neither")
        return
    if len(frames) != 2:
        raise WireError(f"{name} without its payload frame")
    view = _incoming(frames[1], "payload")
    size = view.nbytes
    limit = spec.limit or most
    if size > limit:
        raise WireError(f"{name}: payload of {size} bytes; the limit is {limit}")
    if (found := xxh3_64_intdigest(view)) != checksum:
        raise WireError(
            f"{name}: payload of {size} bytes has checksum {found:016x}, "
            f"its header says {checksum:016x}; it was damaged on the way"
        )
    if spec.fault is not None and (fault := spec.fault(values, size)):
        raise WireError(f"{name}: {fault}")
    what = spec.payload
    values[what] = unpack_map(view, f"{name}: {what}") if spec.limit else view


def _refuse(
    fault: type[PsrvError], name: str, field: str, value: object, expected: str
) -> NoReturn:
    raise fault(f"{name}: field {field!r} is {show(value)}; expected {expected}")
