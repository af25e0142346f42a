"""The built-in tasks, and ``make_task`` to build one from a spec.

Importing this package imports NumPy and nothing heavier; a task's own dependencies
(PyTorch, scikit-learn, SciPy) are imported when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psrv.errors import ConfigError
from psrv.tasks.base import Option, Setup, Task
from psrv.tasks.cifar import Cifar10
from psrv.tasks.digits import Digits
from psrv.tasks.libsvm import LogisticRegression
from psrv.tasks.mnist import Mnist
from psrv.tasks.quadratic import Quadratic
from psrv.tasks.spec import read_options, split_spec
from psrv.tasks.synthetic import Synthetic

TASKS: Mapping[str, type[Task]] = {
    "digits": Digits,
    "mnist": Mnist,
    "cifar10": Cifar10,
    "libsvm": LogisticRegression,
    "quadratic": Quadratic,
    "synthetic": Synthetic,
}

__all__ = ["TASKS", "Option", "Setup", "Task", "make_task", "task_class"]


def task_class(spec: str) -> type[Task]:
    """The class behind a spec, for its defaults, without building the task.

    Raises:
        ConfigError: no task of that name.
    """
    name = split_spec(spec)[0]
    if name not in TASKS:
        raise ConfigError(f"no task named '{name}'; the built-in tasks are {_forms()}")
    return TASKS[name]


def make_task(
    spec: str,
    *,
    workers: int,
    seed: int = 0,
    data: Path | str | None = None,
    batch: int | None = None,
    **options: Any,
) -> Task:
    """Build a task.

    Args:
        spec: for example ``digits``, ``libsvm:a9a``, ``quadratic:d=1000,noise=0.1``.
        workers: n, at least 1.
        seed: at least 0; fixes the initial parameters, the shards and the order of data.
        data: folder with data files, for tasks that read any.
        batch: samples per worker and round; None takes the task's default.
        options: more ``key=value`` pairs, as in the spec.

    Raises:
        ConfigError: unknown task or option, a value out of range, a batch or number of
            workers that the data cannot fill, or a missing optional dependency.
        DataError: a data file that is missing or damaged.
    """
    chosen = task_class(spec)
    name, argument, pairs = split_spec(spec)
    if argument is None and chosen.argument is not None:
        raise ConfigError(f"task {name} needs an argument: {name}:{chosen.argument}")
    if argument is not None and chosen.argument is None:
        raise ConfigError(f"task '{spec}': {name} takes no argument, only key=value pairs")
    if workers < 1:
        raise ConfigError(f"workers is {workers}; a task needs at least 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be at least 0")
    for key in options:
        if key in pairs:
            raise ConfigError(f"task '{spec}' already sets {key}; give it once")
    return chosen(
        Setup(
            spec=spec.strip(),
            argument=argument,
            options=read_options(spec, chosen.options, {**pairs, **options}),
            workers=workers,
            seed=seed,
            data=Path(data) if data is not None else None,
            batch=batch,
        )
    )


def _forms() -> str:
    return ", ".join(f"{n}:{t.argument}" if t.argument else n for n, t in TASKS.items())
