"""The lead server as one state machine: who may say what, and what follows from it.

Joins membership, the rounds, the relay of rank 0's state and collections. Pure: the
process around it (server/process.py) receives, calls ``handle``, and performs the actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from psrv.messages import (
    Bye,
    Collect,
    Collected,
    Error,
    Heartbeat,
    HeartbeatReply,
    Hello,
    Join,
    Push,
    State,
)
from psrv.server.aggregator import Aggregator, Answer, Reduce, Refuse
from psrv.server.membership import (
    Action,
    Begin,
    Gone,
    Heard,
    Member,
    Membership,
    Note,
    Peer,
    Send,
    Stage,
    Stop,
    Terms,
    Tick,
)


@dataclass(frozen=True)
class Invalid:
    """Event: a peer sent bytes that are no message; ``why`` is the decoder's word."""

    peer: Peer
    why: str


@dataclass
class _Collection:
    """Vectors to be averaged over the workers, outside the rounds."""

    serial: int
    vectors: dict[int, np.ndarray] = field(default_factory=dict)


class ServerCore:
    """Everything the server decides. ``handle`` is the only mutator beside ``reduced``."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.membership = Membership(terms)
        self.aggregator: Aggregator | None = None
        self.invalid = 0
        """Messages that could not be decoded or did not belong."""
        self._collection: _Collection | None = None
        self._state_next: dict[int, int] = {}
        self._warned: dict[Peer, int] = {}
        self._greeted: dict[Peer, int] = {}
        self._progress = 0

    def handle(self, event: Heard | Gone | Tick | Invalid, now: int) -> list[Action | Reduce]:
        """Take in one event.

        Args:
            now: nanoseconds on the server's monotonic clock.
        """
        if self.aggregator is not None:
            self.membership.round = max(0, self.aggregator.round())
        if isinstance(event, Invalid):
            return self._complain(event.peer, "wire", event.why, now)
        if isinstance(event, Tick) and self.membership.stage is Stage.RUNNING:
            stuck = self._stuck(now)
            if stuck is not None:
                return list(self.membership.end("timeout", stuck))
        if isinstance(event, Heard) and isinstance(event.message, Hello):
            return self._hello(event, now)
        if not isinstance(event, Heard):
            return self._perform(self.membership.handle(event, now), now)
        member = self.membership.member(event.peer)
        if member is None:
            return self._complain(
                event.peer, "protocol", "say Hello first: this connection is not a member", now
            )
        self.membership.seen(event.peer, now)
        sender = getattr(event.message, "sender", member.rank)
        if sender != member.rank:
            text = f"a message in the name of worker {sender} came from worker {member.rank}"
            return self._complain(event.peer, "protocol", text, now)
        match event.message:
            case Join() | Bye() | Error():
                return self._perform(self.membership.handle(event, now), now) or self._uneven()
            case Heartbeat(sent_ns=sent):
                return [Send(event.peer, HeartbeatReply(sent, now))]
        if self.membership.stage is not Stage.RUNNING or self.aggregator is None:
            text = f"{type(event.message).__name__} before the run has begun, or after its end"
            return self._complain(event.peer, "protocol", text, now)
        self._progress = now
        match event.message:
            case Push() as push:
                return self._rounds(self.aggregator.handle(push, now)) or self._uneven()
            case State() as state:
                return self._relay(member, state, now)
            case Collect() as collect:
                return self._collect(member, collect, now) or self._uneven()
        return self._complain(event.peer, "protocol", "a message that workers never send", now)

    def reduced(
        self, action: Reduce, payload: np.ndarray, started: int, done: int
    ) -> list[Action | Reduce]:
        """Take in the outcome of a ``Reduce`` action."""
        assert self.aggregator is not None
        return self._rounds(self.aggregator.reduced(action, payload, started, done))

    def failed(self, code: str, text: str) -> list[Action]:
        """End the run because of an error on the server, or in a reduction."""
        return self.membership.end(code, text)

    def _rounds(self, actions: list[Reduce | Answer | Refuse]) -> list[Action | Reduce]:
        out: list[Action | Reduce] = []
        for action in actions:
            if isinstance(action, Reduce):
                out.append(action)
            elif isinstance(action, Answer):
                out.append(Send(self.membership.members[action.rank].peer, action.result))
            else:
                out += self.membership.end(action.code, action.text)
        return out

    def _perform(self, actions: list[Action], now: int) -> list[Action | Reduce]:
        for action in actions:
            if isinstance(action, Begin):
                self.aggregator = Aggregator(action.job, self.terms.workers, self.membership.epoch)
                self._progress = now
        return list(actions)

    def _averaging(self) -> list[int]:
        """Ranks that wait for an average which is not complete."""
        c = self._collection
        return [] if c is None or len(c.vectors) == self.terms.workers else sorted(c.vectors)

    def _uneven(self) -> list[Action | Reduce]:
        """End a run in which some worker has left while another needs it for a round."""
        left = sorted(r for r, m in self.membership.members.items() if m.summary is not None)
        if self.aggregator is None or not left or self.membership.stage is not Stage.RUNNING:
            return []
        if not self.aggregator.open() and not self._averaging():
            return []
        rounds = self.aggregator.round() + (not self.aggregator.open())
        text = (
            f"worker {', '.join(map(str, left))} finished after {rounds} rounds, "
            "others went on; every worker needs the same number of steps"
        )
        return list(self.membership.end("uneven", text))

    def _stuck(self, now: int) -> str | None:
        """Why the run cannot go on, if workers that are alive wait for one another."""
        assert self.aggregator is not None
        seconds = (now - self._progress) / 1e9
        round, missing = self.aggregator.waiting_for()
        averaging = self._averaging()
        if self.aggregator.open() and averaging and set(missing) <= set(averaging) and seconds > 1:
            return (
                f"worker {', '.join(map(str, averaging))} waits for an average while the others "
                f"wait for it in round {round}; every worker must call average_buffers() and the "
                "like at the same place"
            )
        if seconds <= self.terms.round_timeout:
            return None
        whom = missing if self.aggregator.open() else range(self.terms.workers)
        return (
            f"round {round} has waited {seconds:.0f} s for worker {', '.join(map(str, whom))}, "
            f"the round timeout is {self.terms.round_timeout:g} s; is it stuck?"
        )

    def _relay(self, member: Member, state: State, now: int) -> list[Action | Reduce]:
        """Rank 0's initial state goes to all others, chunk by chunk, unread."""
        assert self.aggregator is not None
        at = self._state_next.get(state.part, 0)
        size = memoryview(state.payload).nbytes
        whole = 4 * self.aggregator.job.layout.dimension
        if member.rank != 0 or self.aggregator.round() >= 0 or state.part not in (0, 1):
            text = "state may come from worker 0 only, before the first round"
        elif state.part == 0 and state.total != whole:
            text = f"state of {state.total} bytes, expected {whole} for this model"
        elif state.offset != at or at + size > state.total:
            text = f"a chunk of state at {state.offset}, expected it at {at} of {state.total}"
        else:
            self._state_next[state.part] = at + size
            others = (m for r, m in self.membership.members.items() if r != 0)
            return [Send(m.peer, state) for m in others]
        return self._complain(member.peer, "protocol", text, now)

    def _collect(self, member: Member, collect: Collect, now: int) -> list[Action | Reduce]:
        """Average small vectors over the workers: summed in rank order in float64."""
        data = memoryview(collect.payload)
        if self._collection is None or collect.serial > self._collection.serial:
            self._collection = _Collection(collect.serial)
        c = self._collection
        if collect.serial < c.serial or member.rank in c.vectors:
            return []
        sizes = {v.nbytes for v in c.vectors.values()}
        if data.nbytes % 4 or (sizes and data.nbytes not in sizes):
            text = (
                f"worker {member.rank} gave {data.nbytes} bytes to be averaged, others gave "
                f"{sizes or 'float32'}; the workers are not doing the same"
            )
            return list(self.membership.end("protocol", text))
        c.vectors[member.rank] = np.frombuffer(data, "<f4")
        if len(c.vectors) < self.terms.workers:
            return []
        total = np.zeros(data.nbytes // 4)
        for rank in range(self.terms.workers):
            total += c.vectors[rank]
        mean = (total / self.terms.workers).astype("<f4")
        reply = Collected(self.membership.epoch, c.serial, mean)
        c.vectors = dict.fromkeys(c.vectors, mean)
        return [Send(m.peer, reply) for m in self.membership.members.values()]

    def _hello(self, event: Heard, now: int) -> list[Action | Reduce]:
        """At most one answer a peer a second, as for complaints."""
        if self._is_limited(self._greeted, event.peer, now):
            self.invalid += 1
            return []
        return self._perform(self.membership.handle(event, now), now)

    @staticmethod
    def _is_limited(answered: dict[Peer, int], peer: Peer, now: int) -> bool:
        """Whether a peer was answered less than a second ago; notes the answer if not."""
        last = answered.get(peer)
        if last is not None and now - last < 1_000_000_000:
            return True
        if len(answered) > 4096:
            answered.clear()
        answered[peer] = now
        return False

    def _complain(self, peer: Peer, code: str, text: str, now: int) -> list[Action | Reduce]:
        """Turn one message down, with at most one line and one reply a peer a second."""
        self.invalid += 1
        if self._is_limited(self._warned, peer, now):
            return []
        member = self.membership.member(peer)
        who = f"worker {member.rank}" if member else "a stranger"
        return [Send(peer, Error.clipped(code, text)), Note(f"rejected a message of {who}: {text}")]


__all__ = [
    "Begin",
    "Gone",
    "Heard",
    "Invalid",
    "Note",
    "Send",
    "ServerCore",
    "Stop",
    "Terms",
    "Tick",
]
