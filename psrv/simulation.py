"""All workers and the server in one process: the same objects, no sockets.

Senders, aggregator and replica are those of the processes, so the parameters are the same
bit for bit. Since every worker's replica is equal, one stands for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.errors import ConfigError
from psrv.job import Job
from psrv.layout import BLOCK, BlockRule, Tensor
from psrv.messages import Push
from psrv.methods import resolve
from psrv.server.aggregator import Aggregator, Answer, Reduce, Refuse
from psrv.worker.replica import Replica
from psrv.worker.sender import Sender
from psrv.worker.warm import warmup

Schedule = float | Sequence[float] | Callable[[int], float]


@runtime_checkable
class Objective(Protocol):
    """What ``simulate`` minimises: the mean of n functions on float32[d].

    ``gradients(x, round) -> float32[n, d]`` may be offered beside ``gradient``; it is then
    used instead, one call for all workers.
    """

    def initial(self) -> Floats:
        """x_0, float32[d]."""

    def gradient(self, rank: int, x: Floats, round: int) -> Floats:
        """Worker ``rank``'s gradient at x in this round, float32[d]."""

    def loss(self, x: Floats) -> float:
        """f(x), for the history."""


@dataclass(frozen=True)
class Simulation:
    """What ``simulate`` returns.

    Attributes:
        parameters: float32[d] after the last round, in the objective's own order.
        history: float arrays, one value a round: ``loss`` and ``grad_norm`` (of the mean
            gradient) at the point where the round's gradients were taken, ``payload_up``
            and ``payload_down`` in bytes per worker.
        digest: sha256 of the parameters, hex.
    """

    parameters: Floats
    history: Mapping[str, NDArray[np.float64]] = field(repr=False)
    digest: str


class Cluster:
    """n senders, one aggregator and one replica, stepped round by round."""

    def __init__(self, job: Job, workers: int) -> None:
        warmup([job.method])
        self.job, self.workers = job, workers
        self.layout = job.layout
        self.replica = Replica(job.method, self.layout, job.seed)
        self.senders = [
            Sender(job.method, self.layout, job.seed, r, workers) for r in range(workers)
        ]
        self.aggregator = Aggregator(job, workers)
        self.round = 0

    def step(self, etas: Sequence[float]) -> tuple[int, int]:
        """One round over the gradients that were written into ``senders[i].gradient``.

        Args:
            etas: the step size of each parameter group.

        Returns:
            Payload bytes per worker, up and down.

        Raises:
            NonFiniteError: no state has changed.
        """
        up = down = 0
        # All is encoded before anything is pushed: a refused round can be stepped again.
        encoded = [
            [sender.encode(bucket, self.round, etas[bucket.group]) for sender in self.senders]
            for bucket in self.layout.buckets
        ]
        for bucket, payloads in zip(self.layout.buckets, encoded, strict=True):
            eta = etas[bucket.group]
            for sender, payload in zip(self.senders, payloads, strict=True):
                up += payload.nbytes
                push = Push(0, self.round, bucket.index, sender.rank, eta, b"", payload)
                actions = self.aggregator.handle(push, 0)
            for action in actions:
                if isinstance(action, Refuse):
                    raise ConfigError(action.text)
                assert isinstance(action, Reduce)
                reduced = self.aggregator.reduce(action)
                down += reduced.nbytes
                answer = self.aggregator.reduced(action, reduced, 0, 0)[0]
                assert isinstance(answer, Answer)
                self.replica.receive(bucket, reduced, self.round, eta)
        for sender in self.senders:
            sender.commit()
        self.replica.commit(etas, self.job.decays)
        self.round += 1
        return up // self.workers, down


def simulate(
    objective: Objective,
    method: str = "cd-adam",
    workers: int = 4,
    rounds: int = 100,
    lr: Schedule = 1e-3,
    compressor: str | None = None,
    blocks: BlockRule = BLOCK,
    seed: int = 0,
    **options: Any,
) -> Simulation:
    """Train an objective with n simulated workers; bit-identical to the processes.

    Args:
        objective: see ``Objective``; its d coordinates are one tensor.
        method: a row of ``psrv methods``.
        workers: n.
        rounds: T.
        lr: the step size, or one a round (a sequence of at least T, or a function of the round).
        compressor: for both directions; None is the method's own.
        blocks: coordinates that share a scale, or ``tensor`` or ``global``.
        seed: of every random choice of the compressors.
        options: method options such as ``momentum`` or ``weight_decay``.

    Raises:
        ConfigError: an option that cannot work, or an objective of the wrong shape or dtype.
        NonFiniteError: NaN or infinity in a gradient.
    """
    if workers < 1 or rounds < 1:
        raise ConfigError(f"workers is {workers} and rounds {rounds}; both need to be at least 1")
    if not isinstance(objective, Objective):
        raise ConfigError(
            f"{type(objective).__name__} is not an objective: it needs initial(), "
            "gradient(rank, x, round) and loss(x)"
        )
    start = _vector(objective.initial(), None, "initial()")
    resolved = resolve(method, compressor=compressor, **options)
    job = Job(
        "objective",
        resolved,
        (Tensor("x", (start.size,)),),
        blocks,
        seed,
        (resolved.weight_decay,),
        check_every=0,
    )
    step_size = schedule(lr, rounds)
    cluster = Cluster(job, workers)
    x = cluster.replica.parameters
    x[:] = start
    history = {k: np.zeros(rounds) for k in ("loss", "grad_norm", "payload_up", "payload_down")}
    for t in range(rounds):
        at, mean = x.copy(), np.zeros(start.size)  # a copy: objectives may keep what they are given
        for sender, g in zip(cluster.senders, _gradients(objective, workers, at, t), strict=True):
            sender.gradient[:] = _vector(g, start.size, f"gradient of worker {sender.rank}")
            mean += g
        history["loss"][t] = objective.loss(at)
        history["grad_norm"][t] = np.linalg.norm(mean / workers)
        history["payload_up"][t], history["payload_down"][t] = cluster.step([step_size(t)])
    return Simulation(x.copy(), history, cluster.replica.digest())


def schedule(lr: Schedule, rounds: int) -> Callable[[int], float]:
    """The step size as a function of the round, checked for the rounds to come.

    Raises:
        ConfigError: a step size below 0 or not finite, or a sequence that is too short.
    """
    if callable(lr):
        values = [float(lr(t)) for t in range(rounds)]
    elif isinstance(lr, (Sequence, np.ndarray)):
        if len(lr) < rounds:
            raise ConfigError(
                f"lr has {len(lr)} step sizes; expected one for each of {rounds} rounds"
            )
        values = [float(v) for v in lr]
    else:
        values = [float(lr)] * rounds
    for t, value in enumerate(values):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"lr is {value} in round {t}; expected a finite number of 0 or more")
    return values.__getitem__


def _gradients(objective: Objective, workers: int, x: Floats, round: int) -> Any:
    together = getattr(objective, "gradients", None)
    if together is None:
        return (objective.gradient(rank, x, round) for rank in range(workers))
    rows = np.asarray(together(x, round))
    if rows.ndim != 2 or len(rows) != workers:
        raise ConfigError(f"gradients() has shape {rows.shape}; expected ({workers}, {x.size})")
    return rows


def _vector(values: Any, size: int | None, what: str) -> Floats:
    array = np.asarray(values)
    if array.dtype != np.float32 or array.ndim != 1 or size not in (None, array.size):
        expected = "(d,)" if size is None else f"({size},)"
        raise ConfigError(f"{what} gave {array.dtype} {array.shape}; expected float32 {expected}")
    return array
