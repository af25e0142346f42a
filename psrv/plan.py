"""From a configuration to a run of a built-in task, the same for processes and simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psrv.codec.base import Floats
from psrv.errors import ConfigError
from psrv.job import Job
from psrv.methods import resolve
from psrv.options import JobConfig
from psrv.tasks import make_task
from psrv.tasks.base import Task

_SUMS = ("loss_sum", "count", "correct", "total")
EVALUATIONS = 10


@dataclass(frozen=True)
class Plan:
    """A run with every default filled in.

    Attributes:
        rounds: T. lr: the step size of every round. eval_every: rounds between evaluations.
    """

    task: Task
    job: Job
    rounds: int
    lr: float
    eval_every: int

    @classmethod
    def of(cls, config: JobConfig) -> Plan:
        """Resolve a configuration.

        Raises:
            ConfigError: an unknown task or method, or values that cannot work.
            DataError: the task's data is missing or damaged.
        """
        if config.task is None:
            raise ConfigError("no task is named; give --task NAME ('psrv tasks' lists them)")
        method = resolve(config.method, **config.method_options())
        task = make_task(
            config.task,
            workers=config.workers,
            seed=config.seed,
            data=config.data,
            batch=config.batch,
        )
        rounds = config.rounds or task.default_rounds
        lr = task.default_lr(method) if config.lr is None else config.lr
        every = config.eval_every or max(1, rounds // EVALUATIONS)
        agreed = {"batch": config.batch, "eval_every": every, "lr": lr, "rounds": rounds}
        job = Job(
            task.name,
            method,
            task.tensors,
            config.blocks,
            config.seed,
            (method.weight_decay,),
            config.check_every,
            tuple(sorted(agreed.items())),
        )
        task.bind(job.layout)
        return cls(task, job, rounds, lr, every)

    def evaluates(self, done: int) -> bool:
        """Whether the model is evaluated when ``done`` rounds have been applied."""
        return done % self.eval_every == 0 or done == self.rounds


def pack(sums: dict[str, float]) -> Floats:
    """A worker's share of an evaluation as float32[4], to be averaged over workers."""
    return np.array([sums.get(name, 0.0) for name in _SUMS], np.float32)


def norm_of(vector: Floats) -> float:
    """The Euclidean norm. Not BLAS's, whose last bits depend on its number of threads."""
    return float(np.sqrt(np.square(vector, dtype=np.float64).sum()))


def unpack(mean: Sequence[float]) -> tuple[float, float | None]:
    """Loss, and accuracy where the task has one, from the averaged shares."""
    loss_sum, count, correct, total = (float(v) for v in mean)
    return loss_sum / count if count else 0.0, correct / total if total else None
