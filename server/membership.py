"""Decide who belongs to the run, under which rank, and when it begins and ends.

All rules about members live here; only ``handle`` changes state. No sockets, threads or
clock: ``now`` is monotonic nanoseconds, and a peer is whatever names a connection.

    GATHERING --Hello, a rank is free--> GATHERING        Welcome
    GATHERING --Join, the job fits, not the last--> GATHERING
    GATHERING --last Join--> RUNNING                      Epoch to all: begin
    GATHERING --Gone--> GATHERING                         its rank is free again
    GATHERING --Tick past the deadline--> ENDED           error: who is missing
    RUNNING   --Bye, not the last--> RUNNING
    RUNNING   --last Bye--> ENDED                         Bye to all: a clean end
    RUNNING   --Gone, Error, or Tick past a lease--> ENDED   error to the others, naming it

Performed by server/core.py.
"""

from __future__ import annotations

import hmac
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from psrv.errors import CodecError, ConfigError, DivergedError, WireError
from psrv.job import Job, difference, job_from_description
from psrv.measure.summary import check_detail, check_digests
from psrv.messages import Bye, Epoch, Error, Hello, Join, Message, Welcome, show

Peer = Hashable
NANO = 1_000_000_000


class Stage(Enum):
    """Where the run stands; see the table above."""

    GATHERING = "gathering"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Terms:
    """What the server offers: fixed when it starts.

    Attributes:
        workers: n.
        codec_digest, version: what a worker must share.
        session: 16 bytes, new whenever a server starts.
        max_payload: bytes of the largest payload accepted.
        lease, heartbeat, join_timeout, round_timeout: seconds.
    """

    workers: int
    codec_digest: bytes
    version: str
    session: bytes
    max_payload: int
    lease: float = 30.0
    heartbeat: float = 1.0
    join_timeout: float = 120.0
    round_timeout: float = 1800.0


@dataclass(frozen=True)
class Heard:
    """Event: a member or stranger said Hello, Join, Error or Bye."""

    peer: Peer
    message: Message


@dataclass(frozen=True)
class Gone:
    """Event: the connection to a peer is closed; ``why`` completes "its ..."."""

    peer: Peer
    why: str = "connection closed"


@dataclass(frozen=True)
class Tick:
    """Event: time has passed."""


Event = Heard | Gone | Tick


@dataclass(frozen=True)
class Send:
    """Action: send a message to a peer."""

    peer: Peer
    message: Message


@dataclass(frozen=True)
class Begin:
    """Action: the job is fixed and all members are here; start aggregating."""

    job: Job


@dataclass(frozen=True)
class Stop:
    """Action: the run is over. ``code`` is empty for a clean end, else why it ended."""

    code: str = ""
    text: str = ""


@dataclass(frozen=True)
class Note:
    """Action: a line for the operator."""

    text: str


Action = Send | Begin | Stop | Note


@dataclass
class Member:
    """A worker with a rank."""

    peer: Peer
    rank: int
    host: str
    pid: int
    seen: int
    joined: bool = False
    summary: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"worker {self.rank} (process {self.pid} on {show(self.host)})"


@dataclass
class Membership:
    """The members of one run on the lead server."""

    terms: Terms
    stage: Stage = Stage.GATHERING
    epoch: int = 0
    job: Job | None = None
    members: dict[int, Member] = field(default_factory=dict)
    turned_away: int = 0
    last_refusal: str = ""
    round: int = 0
    """The latest round, for messages; the aggregator's, told by the core."""
    _by_peer: dict[Peer, Member] = field(default_factory=dict)
    _described: dict[str, Any] | None = None
    _started: int | None = None

    def member(self, peer: Peer) -> Member | None:
        """The member behind a connection."""
        return self._by_peer.get(peer)

    def summaries(self) -> list[dict[str, Any]]:
        """What each worker reported at its end, by rank."""
        return [m.summary for _, m in sorted(self.members.items()) if m.summary is not None]

    def handle(self, event: Event, now: int) -> list[Action]:
        """Take in one event; ``now`` is nanoseconds on the server's monotonic clock."""
        if self._started is None:
            self._started = now
        if isinstance(event, Tick):
            return self._tick(now)
        if isinstance(event, Gone):
            return self._gone(event)
        member = self._by_peer.get(event.peer)
        if member is not None:
            member.seen = now
        match event.message:
            case Hello() as hello:
                return self._hello(event.peer, hello, now)
            case Join() as join if member is not None:
                return self._join(member, join)
            case Error() as error if member is not None:
                return self._failed(member, error)
            case Bye() as bye if member is not None:
                return self._bye(member, bye)
            case _:
                return self._turn_away(event.peer, "protocol", "say Hello first: not a member here")

    def seen(self, peer: Peer, now: int) -> None:
        """Any message is a sign of life."""
        member = self._by_peer.get(peer)
        if member is not None:
            member.seen = now

    def end(self, code: str, text: str, besides: int | None = None) -> list[Action]:
        """End the run with an error, told to every member but ``besides``."""
        if self.stage is Stage.ENDED:
            return []
        self.stage = Stage.ENDED
        told: list[Action] = [
            Send(m.peer, Error.clipped(code, text))
            for m in self.members.values()
            if m.rank != besides
        ]
        return [*told, Stop(code, text)]

    def _hello(self, peer: Peer, hello: Hello, now: int) -> list[Action]:
        terms = self.terms
        known = self._by_peer.get(peer)
        if known is not None:
            return [Send(peer, self._welcome(known.rank))]
        if hello.version != terms.version:
            text = f"the worker runs psrv {show(hello.version)}, the server {terms.version}; "
            return self._turn_away(peer, "version", text + "install the same version on both")
        if not hmac.compare_digest(hello.codec_digest, terms.codec_digest):
            text = "the worker's codec makes other payloads than the server's; install the same "
            return self._turn_away(peer, "version", text + "version of psrv on both")
        if self.stage is not Stage.GATHERING or len(self.members) == terms.workers:
            there = ", ".join(str(rank) for rank in sorted(self.members))
            text = (
                f"the run has its {terms.workers} workers (ranks {there}); start the server with "
                "a larger --workers to admit more"
            )
            return self._turn_away(peer, "full", text)
        rank = hello.rank
        if rank < 0:
            rank = next(r for r in range(terms.workers) if r not in self.members)
        elif rank >= terms.workers:
            text = f"rank {rank} was claimed, the run has ranks 0 to {terms.workers - 1}"
            return self._turn_away(peer, "rank", text)
        elif rank in self.members:
            text = f"rank {rank} was claimed, but is taken by {self.members[rank]}"
            return self._turn_away(peer, "rank", text)
        member = Member(peer, rank, hello.host, hello.pid, now)
        self.members[rank] = self._by_peer[peer] = member
        return [Send(peer, self._welcome(rank)), Note(f"{member} is here")]

    def _welcome(self, rank: int) -> Welcome:
        t = self.terms
        return Welcome(rank, t.workers, t.lease, t.heartbeat, t.max_payload, t.session)

    def _join(self, member: Member, join: Join) -> list[Action]:
        if member.joined or self.stage is not Stage.GATHERING:
            return []
        try:
            job = job_from_description(join.job)
        except ConfigError as error:
            return self._expel(member, "job", str(error))
        try:
            needed = max(
                max(
                    job.method.up.payload_bound(b, self.terms.workers),
                    job.method.down.payload_bound(b, 1),
                )
                for b in job.layout.buckets
            )
        except (CodecError, ConfigError) as error:
            return self._expel(member, "job", str(error))
        if needed > self.terms.max_payload:
            return self._expel(
                member,
                "job",
                f"its largest bucket needs a payload of {needed} bytes, the server accepts "
                f"{self.terms.max_payload}; start the server with a larger --max-message, or "
                "use smaller blocks",
            )
        if self._described is not None:
            text = difference(join.job, self._described)
            if text is not None:
                return self._expel(member, "job", text)
        else:
            self._described, self.job = dict(join.job), job
        member.joined = True
        if sum(m.joined for m in self.members.values()) < self.terms.workers:
            return []
        self.stage = Stage.RUNNING
        ranks = sorted(self.members)
        epoch = Epoch(self.epoch, 0, ranks)
        assert self.job is not None
        return [Begin(self.job), *(Send(self.members[r].peer, epoch) for r in ranks)]

    def _bye(self, member: Member, bye: Bye) -> list[Action]:
        if self.stage is not Stage.RUNNING:
            return self._gone(Gone(member.peer, "process left"))
        try:
            detail = check_detail(bye.summary)
            if detail["rank"] != member.rank:
                raise WireError(f"it is that of worker {detail['rank']}")
            member.summary = detail
        except WireError as error:
            text = f"worker {member.rank} left with a report that is none: {error}"
            return self.end("protocol", text)
        if any(m.summary is None for m in self.members.values()):
            return []
        try:
            check_digests(self.summaries())
        except DivergedError as error:
            return self.end("diverged", str(error))
        self.stage = Stage.ENDED
        farewell = Bye(-1, {})
        return [*(Send(m.peer, farewell) for m in self.members.values()), Stop()]

    def _failed(self, member: Member, error: Error) -> list[Action]:
        if self.stage is Stage.GATHERING:
            return self._gone(Gone(member.peer, f"process reported: {error.text}"))
        return self.end(error.code or "failed", error.text, besides=member.rank)

    def _gone(self, gone: Gone) -> list[Action]:
        member = self._by_peer.get(gone.peer)
        if member is None or self.stage is Stage.ENDED or member.summary is not None:
            return []
        if self.stage is Stage.GATHERING:
            self._forget(member)
            return [Note(f"{member} left before the run began: its {gone.why}")]
        text = (
            f"{member} was lost in round {self.round}: its {gone.why}; the run cannot go on "
            "without it and has ended"
        )
        return self.end("lost", text, besides=member.rank)

    def _tick(self, now: int) -> list[Action]:
        assert self._started is not None
        if self.stage is Stage.GATHERING and now - self._started > self.terms.join_timeout * NANO:
            joined = sorted(r for r, m in self.members.items() if m.joined)
            ranks = ", ".join(map(str, joined)) or "none"
            text = (
                f"waited {self.terms.join_timeout:g} s for {self.terms.workers} workers to join; "
                f"{len(joined)} did (ranks: {ranks})"
            )
            if self.last_refusal:
                text += f"; the last one turned away: {self.last_refusal}"
            return self.end("timeout", text)
        actions: list[Action] = []
        for member in list(self.members.values()):
            silent = (now - member.seen) / NANO
            if silent > self.terms.lease and self.stage is not Stage.ENDED:
                why = (
                    f"last sign of life was {silent:.0f} s ago, the lease is {self.terms.lease:g} s"
                )
                actions += self._gone(Gone(member.peer, why))
        return actions

    def _expel(self, member: Member, code: str, text: str) -> list[Action]:
        self._forget(member)
        return self._turn_away(member.peer, code, f"worker {member.rank}: {text}")

    def _forget(self, member: Member) -> None:
        del self.members[member.rank]
        del self._by_peer[member.peer]
        if not any(m.joined for m in self.members.values()):
            self._described = self.job = None

    def _turn_away(self, peer: Peer, code: str, text: str) -> list[Action]:
        self.turned_away += 1
        self.last_refusal = text
        return [Send(peer, Error.clipped(code, text)), Note(f"turned a peer away: {text}")]
