"""A run of a built-in task in one process, leaving the files that processes leave."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from psrv.measure.meter import StepMeter
from psrv.measure.records import Recorder, worker_file
from psrv.measure.summary import WorkerTotals, build_summary, write_summary
from psrv.options import JobConfig
from psrv.plan import Plan, norm_of, pack, unpack
from psrv.simulation import Cluster
from psrv.worker.task_gradient import TaskGradient

Progress = Callable[[int, int, dict[str, Any]], None]


def run_simulation(config: JobConfig, progress: Progress | None = None) -> None:
    """Train a built-in task in this process and leave the files of a run in ``config.out``.

    Args:
        config: as for the processes, and with the same resulting parameters.
        progress: called after each round with rounds done, rounds in all, and the last
            evaluation.

    Raises:
        ConfigError, DataError: as for the processes. NonFiniteError: in a gradient.
    """
    plan = Plan.of(config)
    task, job, n = plan.task, plan.job, config.workers
    cluster = Cluster(job, n)
    x = cluster.replica.parameters
    x[:] = task.initial()
    gradient = TaskGradient(plan, cluster.replica)
    meter, totals = StepMeter(), WorkerTotals(0)
    with Recorder(None if config.out is None else config.out / worker_file(0)) as recorder:
        recorder.start("simulation", 0)
        started = time.monotonic()
        last = _evaluate(plan, cluster, meter, totals, recorder)
        for done in range(1, plan.rounds + 1):
            meter.begin_step(done - 1)
            for sender in cluster.senders:
                batch = gradient.batch(sender, done - 1)
                meter.lap("data")
                gradient.compute(sender, done - 1, batch)
                meter.lap("compute")
            up, down = cluster.step(plan.etas(done - 1))
            meter.lap("update")
            counts = {"payload_up": up, "payload_down": down}
            record = meter.end_step()
            totals.add(record, counts)
            recorder.round(record, counts)
            if plan.evaluates(done):
                last = _evaluate(plan, cluster, meter, totals, recorder)
            if progress is not None:
                progress(done, plan.rounds, last)
        seconds = time.monotonic() - started
        detail = totals.detail(digest=cluster.replica.digest(), wall_seconds=seconds)
        recorder.end(0, digest=detail["digest"], rounds=plan.rounds)
    if config.out is not None:
        about = job.about(workers=n, servers=1) | {"tcp_source": "none: simulated, no sockets"}
        write_summary(config.out, build_summary(about, [detail]))


def _evaluate(
    plan: Plan, cluster: Cluster, meter: StepMeter, totals: WorkerTotals, recorder: Recorder
) -> dict[str, Any]:
    """Every rank's share of the evaluation, averaged as the server averages them."""
    task, x, ranks = plan.task, cluster.replica.parameters, range(cluster.workers)
    shares = np.zeros(4)
    for rank in ranks:
        shares += pack(task.evaluate(rank, x))
    loss, accuracy = unpack((shares / cluster.workers).astype(np.float32).tolist())
    gradient, total = np.zeros(x.size, np.float32), np.zeros(x.size)
    norm: float | None = None
    for rank in ranks:
        if not task.full_gradient(rank, x, gradient):
            break
        total += gradient
    else:
        mean = (total / cluster.workers).astype(np.float32)
        norm = norm_of(mean)
    up, down = totals.payload()
    record = {
        "round": cluster.round,
        "loss": loss,
        "accuracy": accuracy,
        "grad_norm": norm,
        "seconds": meter.elapsed_seconds,
        "payload_up": up,
        "payload_down": down,
    }
    totals.add_evaluation(record)
    recorder.evaluation(record)
    return record
