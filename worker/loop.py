"""A worker of a built-in task: data, gradient, step, evaluation, until the rounds are done."""

from __future__ import annotations

import numpy as np

from psrv.codec.base import aligned
from psrv.options import ConnectConfig, JobConfig
from psrv.plan import Plan, norm_of, pack, unpack
from psrv.worker.session import Session
from psrv.worker.task_gradient import TaskGradient
from psrv.worker.trainer import Trainer


def run_worker(config: JobConfig, connect: ConnectConfig) -> None:
    """Train a built-in task as one of its workers.

    Raises:
        PsrvError: what ended the run before its last round.
    """
    with Session(connect) as session:
        plan = Plan.of(config.model_copy(update={"workers": session.workers}))
        task = plan.task
        trainer = session.begin(plan.job, task.initial(), np.zeros(0, np.uint8))
        parameters = trainer.replica.parameters
        gradient = TaskGradient(plan, trainer.replica)
        task.gradient(  # once unmeasured: the first call allocates and loads
            session.rank, parameters, 0, task.batch(session.rank, 0), trainer.gradient
        )
        _evaluate(plan, trainer)
        for _ in range(plan.rounds):
            trainer.meter.begin_step(trainer.round)
            batch = gradient.batch(trainer.sender, trainer.round)
            trainer.meter.lap("data")
            gradient.compute(trainer.sender, trainer.round, batch)
            trainer.meter.lap("compute")
            trainer.step(plan.etas(trainer.round))
            if plan.evaluates(trainer.round):
                with trainer.meter.exclude():
                    _evaluate(plan, trainer)


def _evaluate(plan: Plan, trainer: Trainer) -> None:
    """Evaluate together: each worker its share of the data, averaged by the server."""
    task, rank, x = plan.task, trainer.rank, trainer.replica.parameters
    loss, accuracy = unpack(trainer.mean(pack(task.evaluate(rank, x))).tolist())
    gradient = aligned(plan.job.layout.dimension)
    norm = None
    if task.full_gradient(rank, x, gradient):
        norm = norm_of(trainer.mean(gradient))
    up, down = trainer.totals.payload()
    record = {
        "round": trainer.round,
        "loss": loss,
        "accuracy": accuracy,
        "grad_norm": norm,
        "seconds": trainer.meter.elapsed_seconds,
        "payload_up": up,
        "payload_down": down,
    }
    trainer.totals.add_evaluation(record)
    trainer.session.recorder.evaluation(record)
