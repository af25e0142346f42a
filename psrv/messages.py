"""The messages of the protocol: what each kind says, in which direction, within which limits.

Only the vocabulary. psrv/wire.py turns messages into frames and back, and checks every field;
which message may come when is decided by the state machines. docs/protocol.md says it all for
other languages.

        worker                                server
          Hello  ------------------------------->
                 <------------------------------- Welcome
          Join   ------------------------------->
                 <------------------------------- Epoch
          State  -----(rank 0)-->  -----(others)--> State
          Push   ------------------------------->            every bucket of every round
                 <------------------------------- Result
          Bye    <------------------------------> Bye

Heartbeat, Collect and Error may come at any time after Welcome.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# What a payload may be given as: C-contiguous, of bytes or of float32. A decoded one is always
# a flat memoryview of bytes over the received frame.
Payload: TypeAlias = (
    "bytes | bytearray | memoryview | npt.NDArray[np.uint8] | npt.NDArray[np.float32]"
)

VERSION = 1
MAX_HEADER = 1 << 16  # bytes of frame 0
MAX_JOB = 8 << 20  # bytes of a Join payload
MAX_SUMMARY = 1 << 20  # bytes of a Bye payload
MAX_EPOCH = 1 << 32
MAX_ROUND = 1 << 40
MAX_BUCKET = 1 << 24
MAX_RANK = 1 << 20
MAX_MEMBERS = 1 << 13  # so that an Epoch fits MAX_HEADER whatever the ranks are
MAX_BYTES = 1 << 40  # of a payload or of a state
MAX_NANOSECONDS = (1 << 63) - 1
MAX_SECONDS = 1e6
MAX_NAME = 255  # characters of a host, version or error code
MAX_TEXT = 1000  # characters of an error text
MAX_DEPTH = 8  # maps and lists inside one another in a job or summary, itself included
MAX_ITEMS = 1 << 20  # values and keys in a job or summary
MAX_STRING = 1 << 14  # characters of a string or key in a job or summary


class Kind(IntEnum):
    """Second element of the header."""

    HELLO = 1
    WELCOME = 2
    JOIN = 3
    EPOCH = 4
    STATE = 5
    PUSH = 6
    RESULT = 7
    COLLECT = 8
    COLLECTED = 9
    HEARTBEAT = 10
    HEARTBEAT_REPLY = 11
    ERROR = 12
    BYE = 13


class Direction(IntEnum):
    """Which way a message travels; the values are bits."""

    TO_SERVER = 1
    TO_WORKER = 2
    EITHER = 3


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a worker: what it is, and which rank its launcher gave it."""

    kind: ClassVar[Kind] = Kind.HELLO
    direction: ClassVar[Direction] = Direction.TO_SERVER
    protocol: int  # highest protocol version the worker speaks
    codec_digest: bytes  # 32 bytes
    rank: int  # -1: none claimed
    host: str
    pid: int
    version: str  # of the worker's software


@dataclass(frozen=True, slots=True)
class Welcome:
    """The worker's rank and the server's terms."""

    kind: ClassVar[Kind] = Kind.WELCOME
    direction: ClassVar[Direction] = Direction.TO_WORKER
    rank: int
    workers: int
    lease_seconds: float  # a worker silent for longer is taken for lost
    heartbeat_seconds: float
    max_payload: int  # bytes of the largest payload the server accepts
    session: bytes  # 16 bytes, new whenever a server starts


@dataclass(frozen=True, slots=True)
class Join:
    """The worker's job, which must equal that of all others; plain values only."""

    kind: ClassVar[Kind] = Kind.JOIN
    direction: ClassVar[Direction] = Direction.TO_SERVER
    sender: int
    job: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Epoch:
    """Everyone has joined: these members go on from this round."""

    kind: ClassVar[Kind] = Kind.EPOCH
    direction: ClassVar[Direction] = Direction.TO_WORKER
    epoch: int
    round: int
    members: list[int]  # ascending ranks


@dataclass(frozen=True, slots=True)
class State:
    """One chunk of the replica state, from rank ``sender`` through the server to the others."""

    kind: ClassVar[Kind] = Kind.STATE
    direction: ClassVar[Direction] = Direction.EITHER
    epoch: int
    sender: int
    part: int  # 0 parameters, 1 buffers
    offset: int  # bytes of the part before this chunk
    total: int  # bytes of the whole part
    payload: Payload


@dataclass(frozen=True, slots=True)
class Push:
    """One worker's contribution to one bucket of one round."""

    kind: ClassVar[Kind] = Kind.PUSH
    direction: ClassVar[Direction] = Direction.TO_SERVER
    epoch: int
    round: int
    bucket: int
    sender: int
    eta: float  # step size of the bucket's parameter group
    digest: bytes  # SHA-256 of the replica's parameters, or b"" when not asked for
    payload: Payload


@dataclass(frozen=True, slots=True)
class Result:
    """What the server made of a bucket; the times are its monotonic clock, in nanoseconds."""

    kind: ClassVar[Kind] = Kind.RESULT
    direction: ClassVar[Direction] = Direction.TO_WORKER
    epoch: int
    round: int
    bucket: int
    payload: Payload
    arrived_ns: int  # this worker's push came in
    last_ns: int  # the last push came in
    last_rank: int  # whose it was; -1: unknown
    start_ns: int  # reduction began
    done_ns: int  # this result was ready


@dataclass(frozen=True, slots=True)
class Collect:
    """A small float32 vector to be averaged over the workers, outside the rounds."""

    kind: ClassVar[Kind] = Kind.COLLECT
    direction: ClassVar[Direction] = Direction.TO_SERVER
    epoch: int
    serial: int  # counts the collections of a run
    sender: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Collected:
    """The average of the vectors with this serial."""

    kind: ClassVar[Kind] = Kind.COLLECTED
    direction: ClassVar[Direction] = Direction.TO_WORKER
    epoch: int
    serial: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life, and one half of a clock comparison."""

    kind: ClassVar[Kind] = Kind.HEARTBEAT
    direction: ClassVar[Direction] = Direction.TO_SERVER
    sender: int
    round: int
    sent_ns: int  # worker's monotonic clock


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The other half: the worker's time given back, and the server's."""

    kind: ClassVar[Kind] = Kind.HEARTBEAT_REPLY
    direction: ClassVar[Direction] = Direction.TO_WORKER
    sent_ns: int
    server_ns: int  # server's monotonic clock


@dataclass(frozen=True, slots=True)
class Error:
    """The sender turned the other side away, or ends the run; ``text`` is one line for people."""

    kind: ClassVar[Kind] = Kind.ERROR
    direction: ClassVar[Direction] = Direction.EITHER
    code: str
    text: str
    rank: int  # who reports it; -1: the server

    @classmethod
    def clipped(cls, code: str, text: str, rank: int = -1) -> Error:
        """An error that can be sent whatever ``text`` holds: cut to MAX_TEXT, valid UTF-8."""
        safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
        return cls(code, safe if len(safe) <= MAX_TEXT else safe[: MAX_TEXT - 3] + "...", rank)


@dataclass(frozen=True, slots=True)
class Bye:
    """A clean end, with what the sender has to report; plain values only."""

    kind: ClassVar[Kind] = Kind.BYE
    direction: ClassVar[Direction] = Direction.EITHER
    sender: int  # -1: the server
    summary: dict[str, Any]


Message: TypeAlias = (
    Hello
    | Welcome
    | Join
    | Epoch
    | State
    | Push
    | Result
    | Collect
    | Collected
    | Heartbeat
    | HeartbeatReply
    | Error
    | Bye
)


def describe(message: Message) -> str:
    """One line of plain ASCII for logs, of bounded length; a peer's text comes out escaped."""
    parts = [type(message).__name__]
    for field in fields(message):
        value = getattr(message, field.name)
        # A view, so that a short payload is shown by its size like a long one.
        if field.name == "payload" and isinstance(value, bytes):
            value = memoryview(value)
        parts.append(f"{field.name}={show(value)}")
    return " ".join(parts)


def show(value: object) -> str:
    """A value from a peer in some 300 printable ASCII characters at most."""
    if isinstance(value, str):
        text = ascii(value[:200])
        return text if len(value) <= 200 and len(text) <= 300 else f"{text[:300]}..."
    if isinstance(value, bytes) and len(value) <= 32:
        return f"0x{value.hex()}" if value else "none"
    if isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"integer of {value.bit_length()} bits"
    if value is None or isinstance(value, int | float):
        return str(value)
    try:
        return f"{memoryview(value).nbytes} bytes"  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return f"a {type(value).__name__}"
