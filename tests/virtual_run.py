"""Server and worker cores on virtual time: no sockets, threads, sleeps or clocks.

``Network`` joins one ``ServerCore`` with n ``CoreWorker`` by queues of frames in memory. A seed
decides in which order messages arrive, which pushes arrive twice, and when reductions end.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

import numpy as np

from psrv.codec.base import Bucket, Bytes, aligned
from psrv.codec.coder import Coder
from psrv.codec.rng import SERVER
from psrv.job import Job
from psrv.layout import Tensor
from psrv.measure.summary import WorkerTotals
from psrv.messages import (
    Bye,
    Direction,
    Epoch,
    Hello,
    Join,
    Push,
    Result,
    State,
    Welcome,
)
from psrv.methods import resolve
from psrv.server.aggregator import Aggregator, Reduce
from psrv.server.core import Gone, Heard, Note, Send, ServerCore, Stop, Terms, Tick
from psrv.server.membership import Begin
from psrv.simulation import Cluster
from psrv.wire import decode, encode
from psrv.worker import protocol
from psrv.worker.protocol import Link
from psrv.worker.replica import Replica
from psrv.worker.rules import make_rule
from psrv.worker.sender import Sender

MS = 1_000_000
SECOND = 1_000_000_000
CODEC = bytes(range(32))

# Two parameter groups, since no bucket spans two: a job of three buckets and few coordinates.
TENSORS = (Tensor("conv", (5, 3), 0), Tensor("bias", (6,), 1), Tensor("fc", (4, 10), 0))


def make_job(method="cd-adam", tensors=TENSORS, blocks=7, seed=3, check_every=2, **options) -> Job:
    groups = 1 + max(t.group for t in tensors)
    if method == "onebit-adam":
        options.setdefault("warmup", 2)
    if method == "marina":
        options.setdefault("probability", 0.4)
    resolved = resolve(method, **options)
    job = Job("made-up", resolved, tensors, blocks, seed, (0.0,) * groups, check_every)
    return job.completed(workers=2)


def a_result(job: Job, bucket: Bucket, round: int) -> Bytes:
    """Some result that a server of the job could send in that round."""
    down = job.method.down
    codec = "dense" if down.dense(round, job.seed) else down.codec()
    coder = Coder(codec, bucket.blocks, seed=job.seed, bucket=bucket.index)
    values = np.linspace(-1, 1, bucket.stop - bucket.start, dtype=np.float32)
    return coder.encode(values, round, SERVER)


def make_terms(workers=2, **changes) -> Terms:
    terms = Terms(workers, CODEC, "1.0", bytes(16), 1 << 20)
    return replace(terms, lease=30.0, heartbeat=1.0, join_timeout=60.0, **changes)


def hello(rank=-1, **changes) -> Hello:
    return replace(Hello(1, CODEC, rank, "host", 100 + rank, "1.0"), **changes)


def report(rank: int, digest: str = "ab" * 32, **changes) -> dict:
    """What a worker says in its Bye."""
    return WorkerTotals(rank).detail(digest=digest, wall_seconds=1.0) | changes


def sends(actions) -> list[tuple[object, object]]:
    """(peer, message) of the Send actions, in order."""
    return [(a.peer, a.message) for a in actions if isinstance(a, Send)]


def stop(actions) -> Stop | None:
    found = [a for a in actions if isinstance(a, Stop)]
    assert len(found) < 2
    return found[0] if found else None


def running_core(job: Job, workers=2, now=0, **terms) -> ServerCore:
    """A core whose workers, peers "p0", "p1", ..., have all joined."""
    core = ServerCore(make_terms(workers, **terms))
    for rank in range(workers):
        core.handle(Heard(f"p{rank}", hello(rank)), now)
    for rank in range(workers):
        actions = core.handle(Heard(f"p{rank}", Join(rank, job.describe())), now)
    assert isinstance(actions[0], Begin)
    return core


class Pushes:
    """Pushes with real payloads of made-up gradients; rounds in order, one ``Sender`` a rank."""

    def __init__(self, job: Job, workers: int, gradients=None) -> None:
        self.job, self.workers = job, workers
        shared = make_rule(job.method, job.layout.dimension).state
        self.senders = [
            Sender(job.method, job.layout, job.seed, r, workers, shared) for r in range(workers)
        ]
        self._gradients = gradients or made_up_gradient

    def round(self, t: int, eta=0.1) -> list[list[Push]]:
        """Pushes of round t by bucket and rank. Each call commits the round before it."""
        pushes: list[list[Push]] = [[] for _ in self.job.layout.buckets]
        for sender in self.senders:
            if t:
                sender.commit()
            sender.gradient[:] = self._gradients(sender.rank, self.job.layout.dimension, t)
            for bucket in self.job.layout.buckets:
                payload = sender.encode(bucket, t, eta).tobytes()
                pushes[bucket.index].append(
                    Push(0, t, bucket.index, sender.rank, eta, b"", payload)
                )
        return pushes


def made_up_gradient(rank: int, dimension: int, t: int) -> np.ndarray:
    return np.random.default_rng((rank, t)).standard_normal(dimension).astype(np.float32)


def feed(aggregator: Aggregator, pushes: list[Push], now=0) -> np.ndarray:
    """Hand over one bucket's pushes, reduce, and return a copy of the result's payload."""
    for push in pushes:
        actions = aggregator.handle(push, now)
    (reduce,) = actions
    assert isinstance(reduce, Reduce)
    payload = aggregator.reduce(reduce)
    answers = aggregator.reduced(reduce, payload, now + 1, now + 2)
    assert [a.rank for a in answers] == list(range(aggregator.workers))
    return payload.copy()


class CoreWorker:
    """What a worker process does, as one machine: messages in, messages out."""

    def __init__(
        self, rank: int, workers: int, job: Job, rounds: int, gradient, start: np.ndarray
    ) -> None:
        self.rank, self.job, self.rounds, self._gradient = rank, job, rounds, gradient
        self.link = Link("memory", 30.0)
        self.replica = Replica(job.method, job.layout, job.seed)
        shared = self.replica.rule.state
        self.sender = Sender(job.method, job.layout, job.seed, rank, workers, shared)
        self.replica.parameters[:] = start if rank == 0 else 0
        self.round = 0
        self.done = False
        self.outgoing: deque[object] = deque()
        self._waiting: set[int] = set()
        self._state = 0

    def etas(self) -> list[float]:
        # A warm-up from zero, and other step sizes in each group.
        return [0.01 * min(self.round, 3) * (1 + k) for k in range(self.job.layout.groups)]

    def say(self, message, now: int) -> None:
        self._perform(self.link.handle(protocol.Say(message), now), now)

    def take(self, message, now: int) -> None:
        self._perform(self.link.handle(protocol.Received(message), now), now)

    def tick(self, now: int) -> None:
        self._perform(self.link.handle(protocol.Tick(), now), now)

    def _perform(self, actions, now: int) -> None:
        for action in actions:
            match action:
                case protocol.Send(message):
                    self.outgoing.append(message)
                case protocol.Deliver(message, _):
                    self._deliver(message, now)
                case protocol.Fail(error):
                    raise error

    def _deliver(self, message, now: int) -> None:
        match message:
            case Welcome():
                assert message.rank == self.rank
                self.say(Join(self.rank, self.job.describe()), now)
            case Epoch() if self.rank == 0:
                data = self.replica.parameters.tobytes()
                half = len(data) // 2
                self.say(State(0, 0, 0, 0, len(data), data[:half]), now)
                self.say(State(0, 0, 0, half, len(data), data[half:]), now)
                self._push(now)
            case State(offset=at, payload=payload):
                assert at == self._state
                self._state += payload.nbytes
                self.replica.parameters.view(np.uint8)[at : self._state] = payload
                if self._state == self.replica.parameters.nbytes:
                    self._push(now)
            case Result():
                self._result(message, now)
            case Bye():
                self.done = True

    def _push(self, now: int) -> None:
        self.sender.gradient[:] = self._gradient(self.rank, self.replica.parameters, self.round)
        digest = bytes.fromhex(self.replica.digest())
        self._waiting = {b.index for b in self.job.layout.buckets}
        for bucket in self.job.layout.buckets:
            eta = self.etas()[bucket.group]
            payload = self.sender.encode(bucket, self.round, eta)
            self.say(Push(0, self.round, bucket.index, self.rank, eta, digest, payload), now)
            digest = b""

    def _result(self, result: Result, now: int) -> None:
        if result.bucket not in self._waiting:
            return
        assert result.round == self.round
        bucket = self.job.layout.buckets[result.bucket]
        payload = np.frombuffer(result.payload, np.uint8)
        self.replica.receive(bucket, payload, self.round, self.etas()[bucket.group])
        self._waiting.remove(result.bucket)
        if self._waiting:
            return
        self.sender.commit()
        self.replica.commit(self.etas(), self.job.decays)
        self.round += 1
        if self.round < self.rounds:
            self._push(now)
        else:
            self.say(Bye(self.rank, report(self.rank, self.replica.digest())), now)


class Network:
    """A run in memory. Pushes and results may overtake each other and come twice; what a
    connection keeps in order otherwise stays in order."""

    def __init__(self, job: Job, workers: int, rounds: int, gradient, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.core = ServerCore(make_terms(workers))
        start = aligned(job.layout.dimension)
        start[:] = np.random.default_rng(seed).standard_normal(start.size)
        self.workers = [
            CoreWorker(r, workers, job, rounds, gradient, start) for r in range(workers)
        ]
        self.stopped: Stop | None = None
        self.notes: list[str] = []
        self._start = start
        self._up = [deque() for _ in self.workers]
        self._down = [deque() for _ in self.workers]
        self._reductions: list[Reduce] = []

    def run(self) -> list[str]:
        """Until all is quiet; returns the replicas' digests."""
        order = list(self.workers)
        self.random.shuffle(order)
        for worker in order:
            worker.say(hello(worker.rank), self.now)
            self._collect()
        while self._step():
            self._collect()
        return [worker.replica.digest() for worker in self.workers]

    def simulated(self, job: Job, rounds: int, gradient) -> str:
        """The digest of the same run in the simulation."""
        cluster = Cluster(job, len(self.workers))
        cluster.replica.parameters[:] = self._start
        for t in range(rounds):
            for sender in cluster.senders:
                sender.gradient[:] = gradient(sender.rank, cluster.replica.parameters, t)
            self.workers[0].round = t
            cluster.step(self.workers[0].etas())
        return cluster.replica.digest()

    def _step(self) -> bool:
        self.now += self.random.randrange(20 * MS)
        if self.random.random() < 0.1:
            for worker in self.workers:
                worker.tick(self.now)
            self._serve(self.core.handle(Tick(), self.now))
            self._collect()
        choices = [("up", i) for i, queue in enumerate(self._up) if queue]
        choices += [("down", i) for i, queue in enumerate(self._down) if queue]
        choices += [("reduce", i) for i in range(len(self._reductions))]
        if not choices:
            return False
        kind, i = self.random.choice(choices)
        if kind == "reduce":
            action = self._reductions.pop(i)
            payload = self.core.aggregator.reduce(action)
            self._serve(self.core.reduced(action, payload, self.now, self.now + 1))
        elif kind == "up":
            frames = self._pick(self._up[i], Push)
            message = decode(frames, max_payload=1 << 20, direction=Direction.TO_SERVER)
            self._serve(self.core.handle(Heard(i, message), self.now))
        else:
            frames = self._pick(self._down[i], Result)
            message = decode(frames, max_payload=1 << 20, direction=Direction.TO_WORKER)
            self.workers[i].take(message, self.now)
        return True

    def _pick(self, queue: deque, kind: type):
        """The next message, or one of those of ``kind`` right behind it; at times it stays
        there to come again."""
        free = 0
        while free < len(queue) and queue[free][0] is kind:
            free += 1
        at = self.random.randrange(free) if free else 0
        chosen, frames = queue[at]
        if chosen is not kind or self.random.random() < 0.7:
            del queue[at]
        return frames

    def _serve(self, actions) -> None:
        for action in actions:
            match action:
                case Send(peer, message):
                    self._down[peer].append((type(message), _frames(message)))
                case Reduce():
                    self._reductions.append(action)
                case Stop():
                    self.stopped = action
                case Note(text):
                    self.notes.append(text)

    def _collect(self) -> None:
        for worker, queue in zip(self.workers, self._up, strict=True):
            while worker.outgoing:
                message = worker.outgoing.popleft()
                queue.append((type(message), _frames(message)))


def _frames(message) -> list[bytes]:
    return [bytes(memoryview(frame).cast("B")) for frame in encode(message)]


__all__ = [
    "CODEC",
    "MS",
    "SECOND",
    "TENSORS",
    "CoreWorker",
    "Gone",
    "Network",
    "Pushes",
    "feed",
    "hello",
    "made_up_gradient",
    "make_job",
    "make_terms",
    "running_core",
    "sends",
    "stop",
]
