"""Runs of one task side by side in one process, for the choice of step sizes.

Every run has its own crowd (workers, server, replica); what they share is the pass over
the data: the gradients of up to eight runs cost three times those of one. Each run's
parameters are those of the run alone, bit for bit, and so those of the processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from psrv.codec.base import Floats
from psrv.crowd import Crowd
from psrv.errors import NonFiniteError
from psrv.job import Job
from psrv.methods import resolve
from psrv.plan import norm_of
from psrv.repro.cell_process import progress
from psrv.tasks import make_task
from psrv.tasks.base import Task

TARGET = 1e-2
"""Of the first gradient's norm: the accuracy to which bits are counted."""


class Given:
    """The objective of a run whose gradients are computed together with those of others."""

    rows: Floats

    def gradients(self, x: Floats, round: int) -> Floats:
        """What was given for this round, float32[n, d]."""
        return self.rows


@dataclass
class Lane:
    """One run: its crowd, the gradients it is given, and what is recorded of it.

    Attributes:
        norms: ||grad f|| at the rounds that are recorded. bits: bits sent until then, by one
            worker and to it. digests: of the parameters, by round.
        hit: the first round at which the norm was at most ``TARGET`` of the first, and the
            bits until then; None if there was none.
        ended: the round in which a gradient was not finite; None if that did not happen.
    """

    name: str
    lr: float
    crowd: Crowd
    given: Given
    norms: list[float] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    hit: tuple[int, float] | None = None
    ended: int | None = None
    first: float = 0.0
    sent: float = 0.0

    def look(self, norm: float, recorded: bool, marked: bool) -> None:
        """Take down the state before the next round, at whose point the norm is ``norm``."""
        done = self.crowd.round
        if done == 0:
            self.first = norm
        if self.hit is None and norm <= TARGET * self.first:
            self.hit = done, self.sent
        if recorded:
            self.norms.append(norm)
            self.bits.append(self.sent)
        if marked:
            self.digests[done] = self.crowd.replica.digest()

    def step(self, gradients: Floats) -> None:
        """One round on everybody's gradients, float32[n, d]."""
        self.given.rows = gradients
        try:
            up, down = self.crowd.step([self.lr])
            self.sent += 8 * (up + down)
        except NonFiniteError:
            self.ended = self.crowd.round

    def result(self) -> dict[str, Any]:
        """What the cell hands back, JSON-able."""
        hit = None if self.hit is None else {"round": self.hit[0], "bits": self.hit[1]}
        return {
            "norms": self.norms,
            "bits": self.bits,
            "digests": {str(done): digest for done, digest in self.digests.items()},
            "hit": hit,
            "ended": self.ended,
        }


def race(
    task: str,
    data: str,
    workers: int,
    runs: Sequence[dict[str, Any]],
    rounds: int,
    every: int,
    marks: Sequence[int],
    seed: int = 0,
) -> dict[str, Any]:
    """Train one task by several runs at once.

    Args:
        task: a spec of ``libsvm``. data: folder of its file. workers: n.
        runs: of each ``name``, ``method``, ``compressor`` (None: the method's own) and ``lr``.
        rounds: T. every: rounds between recorded norms; the last one is always recorded.
        marks: rounds after which the parameters' digest is kept.

    Returns:
        ``rounds``: those recorded, and by the runs' names what ``Lane.result`` says.
    """
    made: Any = make_task(task, workers=workers, seed=seed, data=Path(data))
    lanes = [_lane(made, workers, rounds, seed, run) for run in runs]
    recorded = sorted({*range(0, rounds + 1, every), rounds, *(m for m in marks if m <= rounds)})
    going = list(lanes)
    for done in range(rounds + 1):
        points = np.array([lane.crowd.replica.parameters for lane in going])
        gradients = made.gradients_at(points)
        for lane, rows in zip(going, gradients, strict=True):
            norm = norm_of(rows.mean(axis=0, dtype=np.float64))
            lane.look(norm if math.isfinite(norm) else math.inf, done in recorded, done in marks)
            if done < rounds:
                lane.step(rows)
        going = [lane for lane in going if lane.ended is None]
        if not going:
            break
        progress(done + 1, rounds + 1)
    return {"rounds": recorded, "runs": {lane.name: lane.result() for lane in lanes}}


def _lane(task: Task, workers: int, rounds: int, seed: int, run: dict[str, Any]) -> Lane:
    method = resolve(run["method"], compressor=run["compressor"])
    job = Job(task.name, method, task.tensors, "global", seed, (0.0,), check_every=0)
    given = Given()
    crowd = Crowd(job.completed(workers, rounds), workers, given, threads=1)
    crowd.replica.parameters[:] = task.initial()
    return Lane(run["name"], run["lr"], crowd, given)
