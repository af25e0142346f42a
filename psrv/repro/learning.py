"""Training runs as cells of a study, and what the learning experiments share.

``train`` is a run of a built-in task with simulated workers, as ``psrv simulate`` does it
(the same parameters, bit for bit), with what these experiments need beside: the contraction
along the way, and a run that diverges as a result and not as an error. Its accuracy then
counts as minus infinity and its loss as infinity: no value is missing, and what needs it is
not held.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psrv.errors import NonFiniteError
from psrv.layout import BlockRule
from psrv.options import JobConfig
from psrv.plan import Plan, norm_of, pack, unpack
from psrv.repro.cell_process import progress
from psrv.repro.contraction import Watch, block_edges
from psrv.repro.verdict import Value
from psrv.simulation import Cluster
from psrv.worker.task_gradient import TaskGradient

Result = dict[str, Any]


def train(
    *,
    task: str,
    method: str,
    workers: int,
    rounds: int,
    lr: float,
    lr_drops: str | None = None,
    batch: int | None = None,
    blocks: BlockRule = "tensor",
    seed: int = 0,
    data: str | None = None,
    evaluations: int = 4,
    watched: Sequence[BlockRule] = (),
    watched_workers: int = 1,
    watched_epoch: int = 1,
    norm_every: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Result:
    """One run with n simulated workers; a cell.

    Args:
        task, method, workers, rounds, lr, lr_drops, batch, blocks, seed, data: as for
            ``psrv simulate``.
        evaluations: on the test data, evenly over the run and at its end; 0: at the end.
        watched: rules of blocks whose contraction is measured each round on the p_t of the
            first ``watched_workers`` workers, least over ``watched_epoch`` rounds.
        norm_every: rounds between norms of the mean minibatch gradient; 0 for none.
        options: of the method, such as ``weight_decay`` or ``warmup``.

    Returns:
        ``round``, ``loss``, ``accuracy``, ``bits`` (sent and received by one worker so far)
        by evaluation; ``norm``: [round, norm, bits before it] triples; ``contraction``: see
        ``Watch.result``;
        ``gradient_seconds`` (one worker's) and ``step_seconds`` (all else of a round, all
        workers together) by round; ``bytes``: of a worker and round, up and down;
        ``dimension``, ``digest``; ``diverged``: the round in which a gradient was not finite,
        or None. Its evaluations are then those before it.
    """
    every = max(1, rounds // evaluations) if evaluations else rounds
    config = JobConfig(
        task=task, method=method, workers=workers, rounds=rounds, lr=lr, lr_drops=lr_drops,
        batch=batch, blocks=blocks, seed=seed, eval_every=every,
        data=None if data is None else Path(data), **(options or {}),
    )  # fmt: skip
    plan = Plan.of(config)
    cluster = Cluster(plan.job, workers)
    cluster.replica.parameters[:] = plan.task.initial()
    gradients = TaskGradient(plan, cluster.replica)
    watch = None
    if watched:
        edges = {str(rule): block_edges(plan.task.tensors, rule) for rule in watched}
        watch = Watch(edges, watched_epoch)
    result: Result = {
        "round": [], "loss": [], "accuracy": [], "bits": [], "norm": [], "diverged": None,
        "dimension": plan.task.dimension,
    }  # fmt: skip
    sent = [0.0, 0.0]
    gradient_seconds = step_seconds = 0.0
    for round in range(rounds):
        etas = plan.etas(round)
        started = time.perf_counter()
        for sender in cluster.senders:
            gradients.compute(sender, round, gradients.batch(sender, round))
        gradient_seconds += time.perf_counter() - started
        if watch is not None:
            watch.look(cluster.senders[:watched_workers], round, etas[0])
        if norm_every and round % norm_every == 0:
            rows = np.stack([sender.gradient for sender in cluster.senders])
            norm = norm_of(rows.sum(0) / np.float32(workers))
            result["norm"].append([round, norm, 8 * sum(sent)])
        started = time.perf_counter()
        try:
            up, down = cluster.step(etas)
        except NonFiniteError:
            result["diverged"] = round
            break
        step_seconds += time.perf_counter() - started
        sent[0] += up
        sent[1] += down
        if plan.evaluates(round + 1):
            loss, accuracy = evaluate(plan, cluster)
            for name, value in (
                ("round", round + 1), ("loss", loss), ("accuracy", accuracy),
                ("bits", 8 * sum(sent)),
            ):  # fmt: skip
                result[name].append(value)
        progress(round + 1, rounds)
    done = max(cluster.round, 1)
    return result | {
        "contraction": None if watch is None else watch.result(),
        "gradient_seconds": gradient_seconds / done / workers,
        "step_seconds": step_seconds / done,
        "bytes": [count / done for count in sent],
        "digest": cluster.replica.digest(),
    }


def evaluate(plan: Plan, cluster: Cluster) -> tuple[float, float | None]:
    """Loss and accuracy on the test data, from every rank's share as the processes do it."""
    shares = np.zeros(4)
    for rank in range(cluster.workers):
        shares += pack(plan.task.evaluate(rank, cluster.replica.parameters))
    return unpack((shares / cluster.workers).astype(np.float32).tolist())


def percent(result: Result) -> Value:
    """Test accuracy at the end, in percent; minus infinity for a run that diverged.

    None for a task without accuracy.
    """
    if result["diverged"] is not None:
        return -math.inf
    last = result["accuracy"][-1] if result["accuracy"] else None
    return None if last is None else 100 * last


def in_percent(value: float) -> str:
    """What ``percent`` gives, in words."""
    return f"{value:.2f} %" if math.isfinite(value) else "diverged"


def last_loss(result: Result) -> float:
    """Test loss at the end; infinite for a run that diverged or has no finite one."""
    if result["diverged"] is not None or not result["loss"]:
        return float("inf")
    loss = float(result["loss"][-1])
    return loss if np.isfinite(loss) else float("inf")


def mean_curve(
    results: Sequence[Result], of: str, scale: float = 1.0
) -> tuple[list[float], list[float], list[float]]:
    """Mean, least and largest over seeds of ``accuracy`` or ``loss``, by evaluation.

    Runs that diverged have fewer evaluations: only those that all runs have are shown.
    """
    rows = np.array(list(zip(*(r[of] for r in results), strict=False)), float) * scale
    if not rows.size:
        return [], [], []
    return rows.mean(1).tolist(), rows.min(1).tolist(), rows.max(1).tolist()


def differences(a: Sequence[Value], b: Sequence[Value]) -> list[Value]:
    """a - b, over the first seeds that both have.

    Infinite where one of the two diverged; None where a value is missing or both diverged.
    """
    return [
        None if x is None or y is None or math.isnan(x - y) else x - y
        for x, y in zip(a, b, strict=False)
    ]
