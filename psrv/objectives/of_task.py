"""A built-in task as an objective, for ``psrv.simulate`` and the tools of ``psrv.theory``.

The gradients have the bits that the processes compute. So the nonconvex logistic regression
of the CD-Adam paper (section 7.1) is ``TaskObjective(make_task("libsvm:a9a", workers=20))``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from psrv.codec.base import Floats
from psrv.errors import ConfigError
from psrv.tasks.base import Task


class TaskObjective:
    """A task with one tensor, so that its flat vector has the task's own order.

    Attributes:
        task: the task. workers, dimension: its n and d.
    """

    def __init__(self, task: Task) -> None:
        if len(task.tensors) != 1:
            raise ConfigError(
                f"task {task.name} has {len(task.tensors)} tensors; an objective has one"
            )
        self.task, self.workers, self.dimension = task, task.workers, task.dimension

    def initial(self) -> Floats:
        """x_0, float32[d]."""
        return self.task.initial()

    def gradient(self, rank: int, x: Floats, round: int) -> Floats:
        """Worker ``rank``'s gradient, float32[d]."""
        out = np.empty(self.dimension, np.float32)
        self.task.gradient(rank, x, round, self.task.batch(rank, round), out)
        return out

    def gradients(self, x: Floats, round: int) -> Floats:
        """All workers' gradients, float32[n, d], in one go where the task can do that."""
        together: Any = getattr(self.task, "gradients", None)
        if together is not None:
            return together(x, round)
        return np.array([self.gradient(rank, x, round) for rank in range(self.workers)])

    def loss(self, x: Floats) -> float:
        """f(x)."""
        return self.task.loss(x)
