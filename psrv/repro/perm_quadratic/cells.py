"""What is computed: a search for the best step size, and races at it.

One problem for each number of workers, noise and lambda, the built-in task ``quadratic`` of
seed 0, so that the same functions can be run over sockets. Seeds of a race are those of the
coins and of the drawn coordinates; perm-k and rand-k of one seed toss the same coins, which
depend on the seed, the round and p, and p = K / d is the same for both. What is spread over
seeds is therefore due to coins and draws, never to the functions.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any

from psrv.objectives import Quadratics
from psrv.repro.step_search import race, search

DIMENSION = 1000
TARGET = 1e-9
COMPRESSORS = ("perm-k", "rand-k", "top-k")


def task_spec(noise: float, lam: float) -> str:
    """The built-in task with these functions."""
    return f"quadratic:d={DIMENSION},noise={noise!r},lam={lam!r}"


@lru_cache(maxsize=4)
def problem(n: int, noise: float, lam: float) -> Quadratics:
    """The functions, of the task's seed 0."""
    from psrv.tasks import make_task
    from psrv.tasks.quadratic import Quadratic

    task = make_task(task_spec(noise, lam), workers=n, seed=0)
    assert isinstance(task, Quadratic)
    return task.problem


def method_of(n: int, compressor: str) -> dict[str, Any]:
    """The method with K = ceil(d / n), as options of a run (paper, A.1)."""
    k = ceil(DIMENSION / n)
    if compressor == "top-k":
        return {"method": "ef21", "up_compressor": f"top-k:{k}"}
    spec = compressor if compressor == "perm-k" else f"rand-k:{k / DIMENSION!r}"
    return {"method": "marina", "up_compressor": spec}


def race_cell(
    n: int,
    noise: float,
    lam: float,
    compressor: str,
    multiplier: float,
    seed: int,
    rounds: int,
    every: int,
    most_bits: float,
) -> dict[str, Any]:
    """One run at a multiple of the theorem's step size."""
    return race(
        problem(n, noise, lam), method_of(n, compressor), f"theory*{multiplier!r}", workers=n,
        seed=seed, rounds=rounds, every=every, target=TARGET, most_bits=most_bits,
    )  # fmt: skip


def search_cell(
    n: int,
    noise: float,
    lam: float,
    compressor: str,
    start: float,
    seeds: int,
    rounds: int,
    every: int,
    most_bits: float,
) -> dict[str, Any]:
    """The best multiplier, and its races."""

    def run(multiplier: float, seed: int, most: float) -> dict[str, Any]:
        return race_cell(n, noise, lam, compressor, multiplier, seed, rounds, every, most)

    return search(run, start, seeds, most_bits)


def step_of(n: int, noise: float, lam: float, compressor: str) -> float:
    """The theorem's step size."""
    from psrv.job import Job
    from psrv.layout import Tensor
    from psrv.methods import resolve
    from psrv.theory import theory_step

    options = method_of(n, compressor)
    method = resolve(options["method"], up_compressor=options["up_compressor"])
    tensors = (Tensor("x", (DIMENSION,)),)
    job = Job("objective", method, tensors, "global").completed(n)
    return theory_step(job.method, job.layout, n, problem(n, noise, lam).smoothness())
