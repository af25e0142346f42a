"""All rounds of a simulation: history, stopping early, progress, going on later.

An *engine* steps one round at a time: a ``Crowd`` where it covers the method and the objective
offers ``gradients``, else ``Clustered``, the ``Cluster`` of psrv/simulation.py with the same
face. The result does not depend on which, where DESIGN asks for bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.crowd.checkpoint import Arrays, Checkpoint
from psrv.crowd.crowd import Crowd, covers
from psrv.crowd.history import History, Stop, Target
from psrv.errors import ConfigError
from psrv.job import Job
from psrv.progress import Bar
from psrv.server.aggregator import Aggregator
from psrv.worker.replica import Replica

if TYPE_CHECKING:
    from psrv.simulation import Cluster


class Engine(Protocol):
    """n workers, a server and a replica that are stepped together."""

    replica: Replica

    @property
    def round(self) -> int:
        """The round to come."""

    def gradient_norm(self) -> float:
        """Of the mean gradient at the present point."""

    def step(self, etas: Sequence[float]) -> tuple[float, float]:
        """One round; payload bytes per worker, up and down."""

    def state(self) -> Arrays:
        """What the next rounds depend on."""

    def restore(self, held: Arrays) -> None:
        """Go on from a ``state``."""


class Clustered:
    """A ``Cluster`` that asks the objective for its gradients itself."""

    def __init__(self, cluster: Cluster, objective: Any) -> None:
        self._cluster, self._objective = cluster, objective
        self.replica = cluster.replica
        self._mean: NDArray[np.float64] | None = None

    @property
    def round(self) -> int:
        """The round to come."""
        return self._cluster.round

    def gradient_norm(self) -> float:
        """Of the mean gradient at the present point."""
        return float(np.linalg.norm(self._load() / self._cluster.workers))

    def step(self, etas: Sequence[float]) -> tuple[float, float]:
        """One round; payload bytes per worker, up and down."""
        self._load()
        _, down = self._cluster.step(etas)
        self._mean = None
        return self._cluster.sent / self._cluster.workers, down

    def _load(self) -> NDArray[np.float64]:
        """Give every sender its gradient, once a round; their sum."""
        if self._mean is None:
            cluster, at = self._cluster, self.replica.parameters.copy()
            mean = np.zeros(at.size)
            found = self._gradients(at)
            for sender, g in zip(cluster.senders, found, strict=True):
                vector = float32_vector(g, at.size, f"gradient of worker {sender.rank}")
                sender.gradient[:] = vector
                mean += vector
            self._mean = mean
        return self._mean

    def _gradients(self, x: Floats) -> Any:
        n, t = self._cluster.workers, self.round
        together = getattr(self._objective, "gradients", None)
        if together is None:
            return (self._objective.gradient(rank, x, t) for rank in range(n))
        rows = np.asarray(together(x, t))
        if rows.ndim != 2 or len(rows) != n:
            raise ConfigError(f"gradients() has shape {rows.shape}; expected ({n}, {x.size})")
        return rows

    def state(self) -> Arrays:
        """What the next rounds depend on."""
        cluster = self._cluster
        held: Arrays = {"round": np.array(cluster.round)}
        held |= {f"replica.{k}": v for k, v in self.replica.state().items()}
        for sender in cluster.senders:
            held[f"sender.{sender.rank}.etas"] = np.array(sender.uplink.last_etas)
            for name, vector in _vectors(sender):
                held[f"sender.{sender.rank}.{name}"] = vector
        for i in range(len(cluster.layout.buckets)):
            relay = cluster.aggregator.residual(i)
            relay.commit()  # the round is over: the aggregator would do it at the next push
            held[f"relay.{i}.last"] = np.array(relay._last)
            held |= {f"relay.{i}.{name}": vector for name, vector in _kept(relay)}
        return held

    def restore(self, held: Arrays) -> None:
        """Go on from a ``state``."""
        cluster = self._cluster
        cluster.round = self.replica.round = int(held["round"])
        cluster.aggregator = Aggregator(cluster.job, cluster.workers, first_round=cluster.round)
        for name, vector in self.replica.state().items():
            vector[:] = held[f"replica.{name}"]
        for sender in cluster.senders:
            sender.uplink.last_etas = held[f"sender.{sender.rank}.etas"].tolist()
            for name, vector in _vectors(sender):
                vector[:] = held[f"sender.{sender.rank}.{name}"]
        for i in range(len(cluster.layout.buckets)):
            relay = cluster.aggregator.residual(i)
            relay._last = float(held[f"relay.{i}.last"])
            for name, vector in _kept(relay):
                vector[:] = held[f"relay.{i}.{name}"]


def _vectors(sender: Any) -> list[tuple[str, Floats]]:
    pairs = [("memory", sender.uplink.memory), ("momentum", sender.momentum)]
    return [(name, vector) for name, vector in pairs if vector is not None]


def _kept(relay: Any) -> list[tuple[str, Floats]]:
    pairs = [("residual", relay.residual), ("mean", relay.mean)]
    return [(name, vector) for name, vector in pairs if vector is not None]


def engine_of(job: Job, workers: int, objective: Any) -> Engine:
    """The fastest engine that can run this job on this objective."""
    if callable(getattr(objective, "gradients", None)) and covers(job):
        return Crowd(job, workers, objective)
    from psrv.simulation import Cluster

    return Clustered(Cluster(job, workers), objective)


def drive(
    engine: Engine,
    objective: Any,
    rounds: int,
    step_size: Callable[[int], float],
    *,
    every: int = 1,
    stop: float | Stop | None = None,
    checkpoint: Checkpoint | None = None,
    progress: str | bool = False,
) -> tuple[dict[str, NDArray[np.float64]], bool]:
    """Step an engine to the end, or until it is told to stop.

    Args:
        every: rounds between two records of loss and gradient norm, the first in round 0.
        stop: called with each ``Record``; or a number, as ``Target`` takes it.
        checkpoint: where to go on from and what to leave.
        progress: a line on the terminal with the time left; a text is its title.

    Returns:
        The history, and whether ``stop`` ended it: then its last value has a loss and a norm,
        and no bytes, since that round was not sent.
    """
    if every < 1:
        raise ConfigError(f"every is {every}; expected a number of rounds, 1 or more")
    if isinstance(stop, (int, float)):
        stop = Target(float(stop))
    history, x = History(rounds, every), engine.replica.parameters
    held = None if checkpoint is None else checkpoint.load()
    if held is not None:
        engine.restore(held)
        history.restore(held, engine.round)
        for record in history.records(engine.round) if stop else ():
            assert stop is not None
            stop(record)
    title = progress if isinstance(progress, str) else "simulation"
    stopped, latest = False, {}
    with Bar(title, rounds, shown=bool(progress)) as bar:
        while engine.round < rounds and not stopped:
            t = engine.round
            if t % every == 0:
                norm = engine.gradient_norm()
                latest = {"loss": objective.loss(x.copy())}
                record = history.record(t, latest["loss"], norm)
                stopped = stop is not None and stop(record)
            if not stopped:
                history.sent(t, *engine.step([step_size(t)]))
                bar.at(t + 1, rounds, latest | {"payload_up": history.up + history.down})
                if checkpoint is not None and checkpoint.due:
                    checkpoint.save(engine.state() | history.state(t + 1))
    if checkpoint is not None:
        checkpoint.save(engine.state() | history.state(engine.round))
    return history.ended(engine.round + stopped), stopped


def description(
    job: Job, workers: int, rounds: int, etas: Sequence[float], objective: Any, **more: Any
) -> dict[str, Any]:
    """What a checkpoint has to share with the run that goes on from it.

    The objective is known by its start and by all workers' gradients there.
    """
    start = np.asarray(objective.initial())
    return {
        "job": job.describe(),
        "workers": workers,
        "rounds": rounds,
        "step sizes": _digest(np.asarray(etas, np.float64)),
        "objective": type(objective).__name__,
        "start": _digest(start),
        "gradients": _of_all(objective, start, workers),
        **more,
    }


def _of_all(objective: Any, x: NDArray[Any], workers: int) -> str:
    together = getattr(objective, "gradients", None)
    if together is not None:
        return _digest(np.asarray(together(x, 0)))
    parts = (_digest(np.asarray(objective.gradient(rank, x, 0))) for rank in range(workers))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def checkpoint_of(
    path: Path | str | None, about: Callable[[], dict[str, Any]]
) -> Checkpoint | None:
    """The checkpoint at a path, described by ``about``; None for none."""
    return None if path is None else Checkpoint(path, about())


def float32_vector(values: Any, size: int | None, what: str) -> Floats:
    """``values``, which have to be float32[size]; ``ConfigError`` if they are not."""
    array = np.asarray(values)
    if array.dtype != np.float32 or array.ndim != 1 or size not in (None, array.size):
        expected = "(d,)" if size is None else f"({size},)"
        raise ConfigError(f"{what} gave {array.dtype} {array.shape}; expected float32 {expected}")
    return array


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]
