"""Synthetic quadratics whose Hessians differ between workers as much as one asks.

    f_i(x) = x' A_i x / 2 - x' b_i,  A_i = nu_i T + c I,  b_i = nu_i (-1 + mu_i) e_1 / 4
    T = tridiag(-1, 2, -1) / 4,      nu_i = 1 + s xi_i,   mu_i = s zeta_i
    c = lambda - lambda_min(mean nu T),                   x_0 = (sqrt(d), 0, ..., 0)

with xi_i, zeta_i standard normal. f, the mean of the f_i, is lambda-strongly convex;
a single f_i need not be convex.

The arithmetic is that of ``psrv.objectives.Quadratics``; what differs is where the noise comes
from: here the run's seed, through a stream of the task's own.

Source: Szlendak et al. 2021 (Permutation compressors, MARINA), Algorithm 2. Differs:
lambda_min in closed form; f is the mean of the f_i, where section 5.1 prints half
their sum. Computed in float64 and rounded to float32 at the end.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.layout import Tensor
from psrv.objectives.quadratics import Quadratics
from psrv.tasks.base import Option, Setup, Task
from psrv.tasks.spec import read_count, read_number
from psrv.theory.smoothness import Smoothness

_NOISE = 3


class Quadratic(Task):
    """Algorithm 2 of the permutation paper; the module's text gives the formulas."""

    summary = "tridiagonal quadratics, one per worker (permutation paper, Algorithm 2)"
    options: ClassVar = {
        "d": Option(read_count, 1000, "dimension"),
        "noise": Option(read_number, 0.0, "s, how much the workers' functions differ"),
        "lam": Option(read_number, 1e-6, "lambda, the smallest eigenvalue of the mean Hessian"),
    }
    default_rounds = 1000
    step_sizes: ClassVar = {"sgd": 0.1, "momentum": 0.005, "sign": 0.03, "adam": 0.05}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        d, noise = self.settings["d"], self.settings["noise"]
        self.tensors = (Tensor("x", (d,)),)
        seeds = np.random.SeedSequence((_NOISE, setup.seed))
        draws = np.random.Generator(np.random.Philox(seeds)).standard_normal((self.workers, 2))
        scales = 1.0 + noise * draws[:, 0]
        linear = scales / 4 * (noise * draws[:, 1] - 1.0)
        self.problem = Quadratics(scales, linear, d, self.settings["lam"])
        """The same functions as an objective for ``psrv.simulate``."""

    @property
    def scales(self) -> NDArray[np.float64]:
        """nu_i, float64[n]."""
        return self.problem.scales

    @property
    def linear(self) -> NDArray[np.float64]:
        """The first entry of each b_i, float64[n]."""
        return self.problem.linear

    @property
    def shift(self) -> float:
        """c."""
        return self.problem.shift

    def initial(self) -> Floats:
        return self.problem.initial()

    def gradient(self, rank: int, x: Floats, round: int, batch: object, out: Floats) -> None:
        out[:] = self.problem.gradient(rank, x)

    def gradients(self, x: Floats, round: int) -> Floats:
        """The gradients of all workers at ``x``: float32, shape (n, d).

        Row i has the bits that ``gradient`` writes for rank i.
        """
        return self.problem.gradients(x)

    def full_gradient(self, rank: int, x: Floats, out: Floats) -> bool:
        self.gradient(rank, x, 0, None, out)
        return True

    def evaluate(self, rank: int, x: Floats) -> dict[str, float]:
        return {"loss_sum": self.problem.value(rank, x), "count": 1.0}

    def loss(self, x: Floats) -> float:
        return self.problem.loss(x)

    def constants(self) -> dict[str, float]:
        """Smoothness constants, exactly, in the permutation paper's notation.

        ``L_minus`` belongs to f; ``L_plus``^2 = lambda_max(mean A_i^2); ``L_pm``^2 is the
        Hessian variance, lambda_max(mean A_i^2 - (mean A_i)^2).
        """
        s = self.smoothness()
        return {"L_minus": s.L_minus, "L_plus": s.L_plus, "L_pm": s.L_plus_minus}

    def smoothness(self) -> Smoothness:
        return self.problem.smoothness()

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"constants": self.constants()}
