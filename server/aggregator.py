"""Decide which pushes count, when a bucket is reduced, and what a repeat is answered with.

All rules about rounds live here; only ``handle`` and ``reduced`` change state. No sockets,
threads or clock: ``now`` is monotonic nanoseconds. One bucket's life:

    COLLECTING t --Push of t, not the last--> COLLECTING t
    COLLECTING t --last Push of t--> REDUCING t           action Reduce
    REDUCING t   --reduced--> DONE t                      action Answer, to every member
    DONE t       --Push of t + 1--> COLLECTING t + 1      what round t left over is final
    DONE t       --Push of t again--> DONE t              the kept result again

A push of round t + 1 proves that its worker applied round t, so every bucket of round t
was complete and none was refused: only then does the residual become the state. That may
take a pass over memory, so it is left to the next ``reduce``. Pushes are reduced in rank
order whatever the order of arrival, so a run is reproducible.

Performed by server/core.py; messages in psrv/messages.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from psrv.codec.base import Bytes, Draw
from psrv.codec.channel import Relay
from psrv.errors import CodecError, NonFiniteError, ProtocolError
from psrv.job import Job
from psrv.messages import Push, Result


class Phase(Enum):
    """Where a bucket stands; see the table above."""

    COLLECTING = "collecting"
    REDUCING = "reducing"
    DONE = "done"


@dataclass(frozen=True)
class Reduce:
    """Action: call ``reduce`` for this bucket, then hand its outcome to ``reduced``."""

    round: int
    bucket: int


@dataclass(frozen=True)
class Answer:
    """Action: send this result to worker ``rank``."""

    rank: int
    result: Result


@dataclass(frozen=True)
class Refuse:
    """Action: worker ``rank`` sent what the run cannot go on with; ``text`` says what."""

    rank: int
    code: str
    text: str


Action = Reduce | Answer | Refuse


@dataclass
class _Slot:
    """One bucket: the round it is in, and what has come for it."""

    relay: Relay
    round: int = -1
    phase: Phase = Phase.DONE
    eta: float = 0.0
    payloads: dict[int, Bytes] = field(default_factory=dict)
    arrived: dict[int, int] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    last: tuple[int, int] = (-1, 0)
    started: int = 0
    done: int = 0
    payload: Bytes | None = None
    final: bool = False  # the relay's last run is to be committed


class Aggregator:
    """The rounds of one job on one server.

    Args:
        job: layout, method and seed.
        workers: n; ranks are 0 to n - 1.
        buckets: indices of the buckets that this server holds; all of them by default.
        first_round: the round the epoch starts from.
    """

    def __init__(
        self,
        job: Job,
        workers: int,
        epoch: int = 0,
        first_round: int = 0,
        buckets: Sequence[int] | None = None,
    ) -> None:
        self.job, self.workers, self.epoch = job, workers, epoch
        every = job.layout.buckets
        held = range(len(every)) if buckets is None else buckets
        self._slots = {
            i: _Slot(
                Relay(job.method.up, job.method.down, every[i], job.seed, workers), first_round - 1
            )
            for i in held
        }
        self.stale = 0
        """Pushes that were dropped because their round is over."""
        self.repeated = 0
        """Pushes that had come before."""

    def round(self) -> int:
        """The latest round that any bucket has reached."""
        return max(slot.round for slot in self._slots.values())

    def waiting_for(self) -> tuple[int, list[int]]:
        """The open round and the ranks whose push some bucket of it still lacks."""
        current = self.round()
        missing: set[int] = set()
        for slot in self._slots.values():
            if slot.round < current:
                missing.update(range(self.workers))
            elif slot.phase is Phase.COLLECTING:
                missing.update(set(range(self.workers)) - set(slot.payloads))
        return current, sorted(missing)

    def open(self) -> bool:
        """Whether some bucket has pushes of a round that is not complete."""
        return any(slot.phase is Phase.COLLECTING for slot in self._slots.values())

    def handle(self, push: Push, now: int) -> list[Action]:
        """Take in one push from a member; its sender has been verified.

        Args:
            now: nanoseconds of arrival on this server's monotonic clock.
        """
        slot = self._slots.get(push.bucket)
        if slot is None:
            return [self._refuse(push, "protocol", "this server does not hold that bucket")]
        if push.epoch < self.epoch or push.round < slot.round:
            self.stale += 1
            return []
        if push.epoch > self.epoch or push.round > slot.round + 1:
            text = f"expected epoch {self.epoch} and a round up to {slot.round + 1}"
            return [self._refuse(push, "protocol", text)]
        if push.round == slot.round:
            if push.sender in slot.arrived or slot.phase is not Phase.COLLECTING:
                self.repeated += 1
                return (
                    [self._answer(slot, push.bucket, push.sender)]
                    if slot.payload is not None
                    else []
                )
        elif slot.phase is not Phase.DONE:
            return [self._refuse(push, "protocol", f"round {slot.round} is not over")]
        refusal = self._unfit(slot, push)
        if refusal is not None:
            return [refusal]
        if push.round > slot.round:
            slot.final = True
            slot.round, slot.phase, slot.eta = push.round, Phase.COLLECTING, push.eta
            slot.payload, slot.arrived, slot.digests = None, {}, {}
        slot.payloads[push.sender] = np.frombuffer(push.payload, np.uint8)
        slot.digests[push.sender] = push.digest
        slot.arrived[push.sender] = now
        slot.last = (push.sender, now)
        if len(slot.payloads) < self.workers:
            return []
        diverged = self._compare(slot)
        if diverged is not None:
            return [diverged]
        slot.phase = Phase.REDUCING
        return [Reduce(push.round, push.bucket)]

    def reduce(self, action: Reduce) -> Bytes:
        """The payload for all workers: the heavy part, which may run on another thread.

        Changes only what is the bucket's own; one call a bucket at a time.

        Raises:
            CodecError: naming the worker whose payload cannot be decoded, or a sum that is
                not finite.
        """
        slot = self._slots[action.bucket]
        payloads = [slot.payloads[rank] for rank in range(self.workers)]
        self._settle(slot)
        try:
            return slot.relay.run(payloads, action.round, slot.eta)
        except CodecError as error:
            raise self._blame(action, payloads, error) from error

    def reduced(self, action: Reduce, payload: Bytes, started: int, done: int) -> list[Action]:
        """Take in a reduced bucket: every member gets the result.

        Args:
            started, done: when ``reduce`` began and ended, nanoseconds on the server's clock.
        """
        slot = self._slots[action.bucket]
        if slot.phase is not Phase.REDUCING or slot.round != action.round:
            raise ProtocolError(
                f"bucket {action.bucket} is {slot.phase.value} in round {slot.round}; "
                f"a reduction of round {action.round} was not asked for"
            )
        slot.phase, slot.payload, slot.started, slot.done = Phase.DONE, payload, started, done
        slot.payloads = {}
        return [self._answer(slot, action.bucket, rank) for rank in range(self.workers)]

    def residual(self, bucket: int) -> Relay:
        """The channel state of one bucket, for tests and for checkpoints."""
        self._settle(self._slots[bucket])
        return self._slots[bucket].relay

    @staticmethod
    def _settle(slot: _Slot) -> None:
        """Make what the round before left over the state, once it is known to be applied."""
        if slot.final:
            slot.final = False
            slot.relay.commit()

    def _answer(self, slot: _Slot, bucket: int, rank: int) -> Answer:
        assert slot.payload is not None
        last_rank, last = slot.last
        result = Result(
            self.epoch, slot.round, bucket, slot.payload,
            slot.arrived[rank], last, last_rank, slot.started, slot.done,
        )  # fmt: skip
        return Answer(rank, result)

    def _unfit(self, slot: _Slot, push: Push) -> Refuse | None:
        bucket = self.job.layout.buckets[push.bucket]
        up, size = self.job.method.up, memoryview(push.payload).nbytes
        draw = Draw(self.job.seed, push.round, push.bucket, push.sender, self.workers)
        expected = up.payload_bytes(bucket, push.eta, draw)
        if expected is None:
            bound = up.payload_bound(bucket, self.workers)
            if size > bound:
                text = f"its payload has {size} bytes, expected at most {bound}"
                return self._refuse(push, "payload", text)
        elif size != expected:
            text = f"its payload has {size} bytes, expected {expected}"
            return self._refuse(push, "payload", text)
        if push.round == slot.round and push.eta != slot.eta:
            other = next(iter(slot.arrived))
            text = (
                f"its step size is {push.eta!r}, worker {other} has {slot.eta!r}; "
                "all workers need the same learning-rate schedule"
            )
            return self._refuse(push, "step-size", text)
        return None

    def _compare(self, slot: _Slot) -> Refuse | None:
        digests = {rank: digest for rank, digest in slot.digests.items() if digest}
        if len(set(digests.values())) < 2:
            return None
        common = max(digests.values(), key=list(digests.values()).count)
        odd = sorted(rank for rank, digest in digests.items() if digest != common)
        return Refuse(
            odd[0],
            "diverged",
            f"replicas differ before round {slot.round}: the parameters of worker "
            f"{', '.join(map(str, odd))} are not those of the others; something changed them "
            "outside optimizer.step(), or the machines compute differently",
        )

    def _blame(self, action: Reduce, payloads: list[Bytes], error: CodecError) -> CodecError:
        bucket = self.job.layout.buckets[action.bucket]
        out = np.empty(bucket.stop - bucket.start, np.float32)
        for rank, payload in enumerate(payloads):
            try:
                self._slots[action.bucket].relay.decode(payload, out, action.round, rank)
            except CodecError as fault:
                return CodecError(
                    f"worker {rank}, round {action.round}, bucket {action.bucket}: {fault}"
                )
        kind = NonFiniteError if isinstance(error, NonFiniteError) else CodecError
        return kind(
            f"the sum over workers is not finite in round {action.round}, bucket "
            f"{action.bucket}: {error}"
        )

    def _refuse(self, push: Push, code: str, text: str) -> Refuse:
        return Refuse(
            push.sender,
            code,
            f"push from worker {push.sender}, round {push.round}, bucket {push.bucket}: {text}; "
            "push rejected",
        )
