"""From a configuration to a run of a built-in task, the same for processes and simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from psrv.codec.base import Floats
from psrv.codec.channel import Feedback
from psrv.errors import ConfigError
from psrv.job import Job
from psrv.methods import resolve
from psrv.options import JobConfig, drops_of
from psrv.tasks import make_task
from psrv.tasks.base import Task

_SUMS = ("loss_sum", "count", "correct", "total")
EVALUATIONS = 10


@dataclass(frozen=True)
class Plan:
    """A run with every default filled in.

    Attributes:
        rounds: T. lr: the step size of the first round. eval_every: rounds between evaluations.
        anchor: samples a worker takes in a dense round of MARINA; None where it takes all, or
            the method is another.
        drops: rounds from which on the step size is a tenth of what it was.
    """

    task: Task
    job: Job
    rounds: int
    lr: float
    eval_every: int
    anchor: int | None = None
    drops: tuple[float, ...] = ()

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
        job = Job(
            task.name,
            method,
            task.tensors,
            config.blocks,
            config.seed,
            (method.weight_decay,),
            config.check_every,
        ).completed(config.workers, rounds)
        lr = _step_size(config, task, job)
        every = config.eval_every or max(1, rounds // EVALUATIONS)
        anchor = _anchor(config, task, job)
        agreed = {
            "anchor_batch": anchor,
            "batch": config.batch,
            "eval_every": every,
            "lr": lr,
            "lr_drops": config.lr_drops,
            "rounds": rounds,
        }
        job = replace(job, options=tuple(sorted(agreed.items())))
        task.bind(job.layout)
        drops = tuple(fraction * rounds for fraction in drops_of(config.lr_drops))
        return cls(task, job, rounds, lr, every, anchor, drops)

    def etas(self, round: int) -> list[float]:
        """The step size of each parameter group in a round."""
        passed = sum(round >= drop for drop in self.drops)
        return [self.lr / 10**passed] * self.job.layout.groups

    def evaluates(self, done: int) -> bool:
        """Whether the model is evaluated when ``done`` rounds have been applied."""
        return done % self.eval_every == 0 or done == self.rounds


def _step_size(config: JobConfig, task: Task, job: Job) -> float:
    if config.lr is None:
        return task.default_lr(job.method)
    if isinstance(config.lr, str):
        from psrv.theory import proved_step

        return proved_step(config.lr, job.method, job.layout, config.workers, task.smoothness())
    return config.lr


def _anchor(config: JobConfig, task: Task, job: Job) -> int | None:
    """The batch of MARINA's dense rounds: as large as is taken between two of them."""
    batch = task.batch_size
    if batch is not None:
        job.method.check_minibatches()
    if job.method.up.feedback is not Feedback.MARINA or batch is None:
        if config.anchor_batch is not None:
            raise ConfigError(
                f"anchor_batch is {config.anchor_batch}, but method '{job.method.name}' on task "
                f"{task.name} takes none: it is for the dense rounds of marina on minibatches"
            )
        return None
    if config.anchor_batch is not None:
        return config.anchor_batch
    assert job.method.probability is not None
    return min(task.largest_batch, round(batch / job.method.probability))


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
