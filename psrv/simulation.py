"""All workers and the server in one process: the same objects, no sockets.

Senders, aggregator and replica are those of the processes, so the parameters are the same
bit for bit. Since every worker's replica is equal, one stands for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.crowd.drive import checkpoint_of, description, drive, engine_of, float32_vector
from psrv.crowd.history import Stop
from psrv.errors import ConfigError, note
from psrv.job import Job
from psrv.layout import BLOCK, BlockRule, Tensor
from psrv.messages import Push
from psrv.methods import resolve
from psrv.server.aggregator import Aggregator, Answer, Reduce, Refuse
from psrv.worker.replica import Replica
from psrv.worker.sender import Sender
from psrv.worker.warm import warmup

Schedule = float | str | Sequence[float] | Callable[[int], float]


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
        stopped: whether ``stop`` ended the run. The history's last value then has a loss and a
            gradient norm, at ``parameters``, and no bytes: that round was not sent.
    """

    parameters: Floats
    history: Mapping[str, NDArray[np.float64]] = field(repr=False)
    digest: str
    stopped: bool = False


class Cluster:
    """n senders, one aggregator and one replica, stepped round by round."""

    def __init__(self, job: Job, workers: int) -> None:
        warmup([job.method])
        self.job, self.workers = job, workers
        self.layout = job.layout
        self.replica = Replica(job.method, self.layout, job.seed)
        self.senders = [
            Sender(job.method, self.layout, job.seed, r, workers, self.replica.rule.state)
            for r in range(workers)
        ]
        self.aggregator = Aggregator(job, workers)
        self.round = 0
        self.sent = 0
        """Payload bytes of all workers together in the last round."""

    def step(self, etas: Sequence[float]) -> tuple[float, int]:
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
        self.sent = up
        return up / self.workers, down


def simulate(
    objective: Objective,
    method: str = "cd-adam",
    workers: int = 4,
    rounds: int = 100,
    lr: Schedule = 1e-3,
    compressor: str | None = None,
    blocks: BlockRule = BLOCK,
    seed: int = 0,
    *,
    every: int = 1,
    stop: float | Stop | None = None,
    checkpoint: Path | str | None = None,
    progress: str | bool = False,
    **options: Any,
) -> Simulation:
    """Train an objective with n simulated workers; bit-identical to the processes.

    Where the objective has ``gradients`` the workers are rows of matrices (``psrv.crowd``,
    which also says what else an objective may offer): thousands of them, the same steps.

    Args:
        objective: see ``Objective``; its d coordinates are one tensor.
        method: a row of ``psrv methods``.
        workers: n.
        rounds: T.
        lr: the step size, or one a round (a sequence of at least T, or a function of the round),
            or ``theory``, or ``theory*4``: what the method's theorem allows (psrv/theory/rates.py),
            times a number, for an objective that has ``smoothness()``.
        compressor: for both directions; None is the method's own.
        blocks: coordinates that share a scale, or ``tensor`` or ``global``.
        seed: of every random choice of the compressors.
        every: rounds between two records of loss and gradient norm; NaN in those between.
        stop: called with each record (psrv/crowd/history.py), True ends the run; or a number:
            of the squared gradient norm to that at the start, at which the run ends.
        checkpoint: a file, written about once a minute and at the end. A call with the same
            arguments goes on from it, with the result of one that was never interrupted.
        progress: a line on the terminal with the time left; a text is its title.
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
    start = float32_vector(objective.initial(), None, "initial()")
    resolved = resolve(method, compressor=compressor, **options)
    note(resolved.remarks(workers))
    job = Job(
        "objective",
        resolved,
        (Tensor("x", (start.size,)),),
        blocks,
        seed,
        (resolved.weight_decay,),
        check_every=0,
    ).completed(workers, rounds)
    step_size = schedule(_proved(lr, job, workers, objective), rounds)
    etas = [step_size(t) for t in range(rounds)]
    saved = checkpoint_of(
        checkpoint, lambda: description(job, workers, rounds, etas, objective, every=every)
    )
    engine = engine_of(job, workers, objective)
    x = engine.replica.parameters
    x[:] = start
    history, stopped = drive(
        engine, objective, rounds, step_size, every=every, stop=stop, checkpoint=saved,
        progress=progress,
    )  # fmt: skip
    return Simulation(x.copy(), history, engine.replica.digest(), stopped)


def _proved(lr: Schedule, job: Job, workers: int, objective: Objective) -> Schedule:
    """``lr``, with the theorem's number in the place of ``theory``."""
    if not isinstance(lr, str):
        return lr
    from psrv.theory import multiplier, proved_step

    known = getattr(objective, "smoothness", None)
    multiplier(lr)
    if known is None:
        raise ConfigError(
            f"lr is '{lr}', but {type(objective).__name__} has no smoothness(); give a number"
        )
    return proved_step(lr, job.method, job.layout, workers, known())


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
