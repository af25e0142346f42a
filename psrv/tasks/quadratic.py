"""Synthetic quadratics whose Hessians differ between workers as much as one asks.

    f_i(x) = x' A_i x / 2 - x' b_i,  A_i = nu_i T + c I,  b_i = nu_i (-1 + mu_i) e_1 / 4
    T = tridiag(-1, 2, -1) / 4,      nu_i = 1 + s xi_i,   mu_i = s zeta_i
    c = lambda - lambda_min(mean nu T),                   x_0 = (sqrt(d), 0, ..., 0)

with xi_i, zeta_i standard normal. f, the mean of the f_i, is lambda-strongly convex;
a single f_i need not be convex.

All A_i share the matrix T, whose eigenvalues are sin^2(k pi / (2 (d + 1))) for k = 1 to d.
So no matrix is stored, lambda_min needs no eigenvalue solver, and all n gradients are
one product with T and an outer product.

Source: Szlendak et al. 2021 (Permutation compressors, MARINA), Algorithm 2. Differs:
lambda_min in closed form; f is the mean of the f_i, where section 5.1 prints half
their sum. Computed in float64 and rounded to float32 at the end.
"""

from __future__ import annotations

from math import cos, pi, sin, sqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.layout import Tensor
from psrv.tasks.base import Option, Setup, Task, zeros
from psrv.tasks.spec import read_count, read_number

_NOISE = 3
_CHUNK = 1 << 20  # coordinates of all gradients formed at once in float64: 8 MiB


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
        d = self.settings["d"]
        self.tensors = (Tensor("x", (d,)),)
        seeds = np.random.SeedSequence((_NOISE, setup.seed))
        draws = np.random.Generator(np.random.Philox(seeds)).standard_normal((self.workers, 2))
        noise = self.settings["noise"]
        self.scales: NDArray[np.float64] = 1.0 + noise * draws[:, 0]
        self.linear: NDArray[np.float64] = self.scales / 4 * (noise * draws[:, 1] - 1.0)
        angle = pi / (2 * (d + 1))
        self._spectrum = sin(angle) ** 2, cos(angle) ** 2
        mean = float(self.scales.mean())
        self.shift = self.settings["lam"] - min(mean * end for end in self._spectrum)

    def initial(self) -> Floats:
        x = zeros(self.dimension)
        x[0] = sqrt(self.dimension)
        return x

    def gradient(self, rank: int, x: Floats, round: int, batch: object, out: Floats) -> None:
        wide, product = _product(x)
        product *= self.scales[rank]
        wide *= self.shift
        product += wide
        product[0] -= self.linear[rank]
        out[:] = product

    def gradients(self, x: Floats, round: int) -> Floats:
        """The gradients of all workers at ``x``: float32, shape (n, d).

        Row i has the bits that ``gradient`` writes for rank i.
        """
        wide, product = _product(x)
        wide *= self.shift
        out = np.empty((self.workers, self.dimension), np.float32)
        step = max(1, _CHUNK // self.dimension)
        for start in range(0, self.workers, step):
            rows = slice(start, start + step)
            block = np.multiply.outer(self.scales[rows], product)
            block += wide
            block[:, 0] -= self.linear[rows]
            out[rows] = block
        return out

    def full_gradient(self, rank: int, x: Floats, out: Floats) -> bool:
        self.gradient(rank, x, 0, None, out)
        return True

    def evaluate(self, rank: int, x: Floats) -> dict[str, float]:
        return {"loss_sum": self._value(x, self.scales[rank], self.linear[rank]), "count": 1.0}

    def loss(self, x: Floats) -> float:
        return self._value(x, self.scales.mean(), self.linear.mean())

    def constants(self) -> dict[str, float]:
        """Smoothness constants, exactly, in the permutation paper's notation.

        ``L_minus`` belongs to f; ``L_plus``^2 = lambda_max(mean A_i^2); ``L_pm``^2 is the
        Hessian variance, lambda_max(mean A_i^2 - (mean A_i)^2).
        """
        low, high = self._spectrum
        mean = float(self.scales.mean())
        # Both are convex functions of T's eigenvalue, so an end of the spectrum is largest.
        second = max(float(np.mean((self.scales * t + self.shift) ** 2)) for t in (low, high))
        return {
            "L_minus": max(abs(mean * t + self.shift) for t in (low, high)),
            "L_plus": sqrt(second),
            "L_pm": float(self.scales.std()) * high,
        }

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"constants": self.constants()}

    def _value(self, x: Floats, scale: float, linear: float) -> float:
        wide, product = _product(x)
        quadratic = scale * np.sum(wide * product) + self.shift * np.sum(wide * wide)
        return float(quadratic / 2 - wide[0] * linear)


def _product(x: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x in float64, and T x: both float64, shape (d,), and both fresh."""
    wide = x.astype(np.float64)
    product = 2.0 * wide
    product[1:] -= wide[:-1]
    product[:-1] -= wide[1:]
    product *= 0.25
    return wide, product
