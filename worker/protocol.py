"""Decide which messages a worker may get when, and when the server counts as lost.

All rules about the worker's side of the connection live here; only ``handle`` changes
state. No sockets, threads or clock: ``now`` is monotonic nanoseconds.

    GREETING --Welcome--> WELCOMED --say Join--> JOINING --Epoch--> TRAINING
    TRAINING --say Bye--> LEAVING --Bye--> ENDED
    any      --Error, silence past a limit, Closed--> ENDED        with an error

While it trains, a worker gets State (before the first result), Result and Collected. A
result of a round or epoch that is over is dropped; once a worker leaves, all are. What it
says after the end fails instead of waiting for an answer that will not come.

Performed by worker/connection.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from psrv.errors import (
    CodecError,
    DivergedError,
    LostError,
    NonFiniteError,
    PsrvError,
    RefusedError,
    WireError,
)
from psrv.messages import (
    Bye,
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

NANO = 1_000_000_000


class Stage(Enum):
    """Where this worker stands; see the table above."""

    GREETING = "greeting"
    WELCOMED = "welcomed"
    JOINING = "joining"
    TRAINING = "training"
    LEAVING = "leaving"
    ENDED = "ended"


_ALLOWED: dict[Stage, tuple[type, ...]] = {
    Stage.GREETING: (Welcome,),
    Stage.WELCOMED: (Welcome, HeartbeatReply),
    Stage.JOINING: (HeartbeatReply, Epoch),
    Stage.TRAINING: (HeartbeatReply, State, Result, Collected),
    Stage.LEAVING: (HeartbeatReply, Bye),
    Stage.ENDED: (HeartbeatReply,),
}

_ERRORS: dict[str, type[PsrvError]] = {
    "lost": LostError,
    "diverged": DivergedError,
    "nonfinite": NonFiniteError,
    "payload": CodecError,
    "wire": WireError,
}


@dataclass(frozen=True)
class Received:
    """Event: a message from the server."""

    message: Message


@dataclass(frozen=True)
class Say:
    """Event: this worker wants to send a message."""

    message: Message


@dataclass(frozen=True)
class Closed:
    """Event: the connection broke."""


@dataclass(frozen=True)
class Garbled:
    """Event: bytes from the server that are no message; ``why`` is the decoder's word."""

    why: str


@dataclass(frozen=True)
class Tick:
    """Event: time has passed."""


Event = Received | Say | Closed | Garbled | Tick


@dataclass(frozen=True)
class Send:
    """Action: put a message on the wire."""

    message: Message


@dataclass(frozen=True)
class Deliver:
    """Action: hand a message to the training thread."""

    message: Message
    now: int


@dataclass(frozen=True)
class Clock:
    """Action: a clock comparison: this worker's send and receive time, the server's between."""

    sent_ns: int
    server_ns: int
    received_ns: int


@dataclass(frozen=True)
class Fail:
    """Action: the run is over for this worker."""

    error: PsrvError


Action = Send | Deliver | Clock | Fail


class Link:
    """One worker's connection to the lead server.

    Args:
        address: of the server, for messages.
        connect_timeout: seconds to wait for the Welcome.
    """

    def __init__(self, address: str, connect_timeout: float) -> None:
        self.address = address
        self.stage = Stage.GREETING
        self.epoch = 0
        self.round = -1
        self._timeout = connect_timeout
        self._lease = 0.0
        self._heartbeat = 0.0
        self._rank = -1
        self._opened: int | None = None
        self._heard = 0
        self._beat = 0

    def handle(self, event: Event, now: int) -> list[Action]:
        """Take in one event; ``now`` is nanoseconds on this worker's clock."""
        if self._opened is None:
            self._opened = self._heard = now
        match event:
            case Tick():
                return self._tick(now)
            case Closed():
                return self._closed()
            case Garbled(why):
                return self._garbled(why)
            case Say(message):
                return self._say(message)
            case Received(message):
                self._heard = now
                return self._receive(message, now)

    def waiting_for(self) -> str:
        """What the server owes this worker, for messages."""
        return {
            Stage.GREETING: "an answer",
            Stage.WELCOMED: "nothing",
            Stage.JOINING: "the other workers to join",
            Stage.TRAINING: f"the results of round {self.round}",
            Stage.LEAVING: "the other workers to finish",
            Stage.ENDED: "nothing",
        }[self.stage]

    def _say(self, message: Message) -> list[Action]:
        if self.stage is Stage.ENDED and not isinstance(message, Error):
            return self._fail(
                LostError("the run has ended for this worker; an error before this one says why")
            )
        match message:
            case Hello():
                pass
            case Join() if self.stage is Stage.WELCOMED:
                self.stage = Stage.JOINING
            case Bye() if self.stage is Stage.TRAINING:
                self.stage = Stage.LEAVING
            case Error():
                self.stage = Stage.ENDED
            case Push(round=number):
                self.round = number
        return [Send(message)]

    def _receive(self, message: Message, now: int) -> list[Action]:
        if isinstance(message, Error):
            if self.stage is Stage.ENDED:
                return []
            return self._fail(_ERRORS.get(message.code, RefusedError)(f"server: {message.text}"))
        if not isinstance(message, _ALLOWED[self.stage]):
            late = isinstance(message, Result) and self.stage is Stage.LEAVING
            if late or self.stage is Stage.ENDED:
                return []
            return self._fail(
                WireError(
                    f"the server at {self.address} sent {type(message).__name__} while this "
                    f"worker was {self.stage.value}; is that a psrv server of this version?"
                )
            )
        match message:
            case HeartbeatReply(sent_ns=sent, server_ns=server):
                return [Clock(sent, server, now)]
            case Welcome() as welcome:
                if self.stage is Stage.GREETING:
                    self.stage = Stage.WELCOMED
                self._rank, self._lease = welcome.rank, welcome.lease_seconds
                self._heartbeat = welcome.heartbeat_seconds
            case Epoch() as epoch:
                self.stage, self.epoch = Stage.TRAINING, epoch.epoch
            case Result() as result if (result.epoch, result.round) < (self.epoch, self.round):
                return []
            case Bye():
                self.stage = Stage.ENDED
        return [Deliver(message, now)]

    def _tick(self, now: int) -> list[Action]:
        assert self._opened is not None
        if self.stage is Stage.ENDED:
            return []
        if self.stage is Stage.GREETING:
            if now - self._opened <= self._timeout * NANO:
                return []
            return self._fail(
                LostError(
                    f"no server answered at {self.address} within {self._timeout:g} s; start one "
                    "with 'psrv server', or check the address"
                )
            )
        silent = (now - self._heard) / NANO
        if silent > self._lease:
            return self._fail(
                LostError(
                    f"the server at {self.address} has been silent for {silent:.0f} s (its lease "
                    f"is {self._lease:g} s) while this worker waited for {self.waiting_for()}"
                )
            )
        if now - self._beat >= self._heartbeat * NANO:
            self._beat = now
            return [Send(Heartbeat(self._rank, max(self.round, 0), now))]
        return []

    def _closed(self) -> list[Action]:
        if self.stage in (Stage.GREETING, Stage.ENDED):
            return []
        return self._fail(
            LostError(
                f"the server at {self.address} closed the connection while this worker waited "
                f"for {self.waiting_for()}; its own output says why"
            )
        )

    def _garbled(self, why: str) -> list[Action]:
        if self.stage is Stage.ENDED:
            return []
        text = f"worker {self._rank} cannot read what the server at {self.address} sent: {why}"
        return [Send(Error.clipped("wire", text, self._rank)), *self._fail(WireError(text))]

    def _fail(self, error: PsrvError) -> list[Action]:
        self.stage = Stage.ENDED
        return [Fail(error)]
