"""Algorithm 2 of the permutation paper: quadratics whose Hessians differ as asked.

    f_i(x) = x' A_i x / 2 - x' b_i,   A_i = nu_i T + c I,   b_i = nu_i (-1 + mu_i) e_1 / 4
    T = tridiag(-1, 2, -1) / 4,       nu_i = 1 + s xi_i,    mu_i = s zeta_i
    c = lambda - lambda_min(mean nu T),                     x_0 = (sqrt(d), 0, ..., 0)

f, the mean of the f_i, is lambda-strongly convex, so that the Polyak-Lojasiewicz condition
holds with mu = lambda; a single f_i need not be convex.

All A_i share the matrix T, whose eigenvalues are sin^2(k pi / (2 (d + 1))) for k = 1 to d:
no matrix is stored, and beside the gradients an objective takes O(n + d) memory.

The random stream: numpy.random.default_rng(seed).standard_normal((n, 2)), row i is
(xi_i, zeta_i). So worker i's noise does not depend on n. The task ``quadratic`` is the same
problem for processes, with a stream of its own.

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), section 5.1 and A.2.
Differs: lambda_min in closed form; f is the mean of the f_i, where section 5.1 prints half
their sum. Computed in float64 and rounded to float32 at the end.
"""

from __future__ import annotations

from dataclasses import replace
from math import pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.crowd.team import Team
from psrv.errors import ConfigError
from psrv.objectives import quadratic_kernels as kernels
from psrv.theory.smoothness import Smoothness, scaled_smoothness, tridiagonal_ends


class Quadratics:
    """An objective for ``psrv.simulate``; the module's text gives the formulas.

    Attributes:
        workers, dimension: n and d.
        scales: nu_i, float64[n]. linear: the first entry of b_i, float64[n].
        shift: c. lam: lambda, the smallest eigenvalue of the mean Hessian.
    """

    def __init__(self, scales: Any, linear: Any, dimension: int = 1000, lam: float = 1e-6) -> None:
        """Take nu_i and the first entries of b_i as they are: float[n] each.

        Two scales alone, half of the workers each, are the example of the paper's Appendix M.

        Raises:
            ConfigError: no worker, other shapes, d < 1 or lambda <= 0.
        """
        self.scales: NDArray[np.float64] = np.array(scales, np.float64)
        self.linear: NDArray[np.float64] = np.array(linear, np.float64)
        if self.scales.ndim != 1 or self.scales.shape != self.linear.shape or not self.scales.size:
            raise ConfigError(
                f"scales and linear have shapes {self.scales.shape} and {self.linear.shape}; "
                "expected one number for each worker"
            )
        if dimension < 1 or not lam > 0:
            raise ConfigError(f"dimension is {dimension}, lam {lam}; expected 1 or more, above 0")
        self.workers, self.dimension, self.lam = self.scales.size, dimension, lam
        self._ends = tridiagonal_ends(dimension, 0.5, -0.25)
        mean = float(self.scales.mean())
        self.shift = lam - min(mean * end for end in self._ends)
        self._means = mean, float(self.linear.mean())
        self._team = Team(self.workers, dimension)

    @classmethod
    def generate(
        cls,
        workers: int,
        dimension: int = 1000,
        noise: float = 0.0,
        lam: float = 1e-6,
        seed: int = 0,
    ) -> Quadratics:
        """Algorithm 2; the paper takes noise 0, 0.05, 0.1, 0.2, 0.8 and lam 1e-6, 1e-4.

        Args:
            noise: s, how much the workers' functions differ: L+- is close to it.
            seed: of the stream in the module's text.
        """
        if workers < 1:
            raise ConfigError(f"workers is {workers}; expected 1 or more")
        draws = np.random.default_rng(seed).standard_normal((workers, 2))
        scales = 1.0 + noise * draws[:, 0]
        return cls(scales, scales / 4 * (noise * draws[:, 1] - 1.0), dimension, lam)

    def initial(self) -> Floats:
        """x_0 = (sqrt(d), 0, ..., 0), float32[d]."""
        x = np.zeros(self.dimension, np.float32)
        x[0] = sqrt(self.dimension)
        return x

    def gradient(self, rank: int, x: Floats, round: int = 0) -> Floats:
        """A_i x - b_i, float32[d]: the bits of row ``rank`` of ``gradients``."""
        product, shifted = np.empty(self.dimension), np.empty(self.dimension)
        kernels.products(x, self.shift, product, shifted)
        out = np.empty((1, self.dimension), np.float32)
        own = slice(rank, rank + 1)
        kernels.rows(product, shifted, self.scales[own], self.linear[own], 0, 1, out)
        return out[0]

    def gradients(self, x: Floats, round: int = 0, out: Floats | None = None) -> Floats:
        """All workers' gradients at ``x``, float32[n, d]; in ``out`` if it is given."""
        product, shifted = np.empty(self.dimension), np.empty(self.dimension)
        kernels.products(x, self.shift, product, shifted)
        if out is None:
            out = np.empty((self.workers, self.dimension), np.float32)
        self._team.each(
            lambda a, b: kernels.rows(product, shifted, self.scales, self.linear, a, b, out)
        )
        return out

    def partial_gradients(
        self, x: Floats, round: int, offsets: NDArray[np.int64], columns: NDArray[np.int32]
    ) -> Floats:
        """Single coordinates, in O(their number): the bits that ``gradients`` has there.

        Args:
            offsets, columns: int64[n + 1] and int32: worker i's coordinates are
                ``columns[offsets[i]:offsets[i + 1]]``.

        Returns:
            float32[columns.size].
        """
        out = np.empty(columns.size, np.float32)
        kernels.parts(x, self.shift, self.scales, self.linear, offsets, columns, out)
        return out

    def mean_gradient(self, x: Floats, round: int = 0) -> NDArray[np.float64]:
        """grad f(x), float64[d], in O(d): not rounded to float32 for each worker."""
        out = np.empty(self.dimension)
        kernels.mean(x, self.shift, *self._means, out)
        return out

    def loss(self, x: Floats) -> float:
        """f(x), in float64."""
        return self._value(x, float(self.scales.mean()), float(self.linear.mean()))

    def value(self, rank: int, x: Floats) -> float:
        """f_i(x), in float64."""
        return self._value(x, float(self.scales[rank]), float(self.linear[rank]))

    def _value(self, x: Floats, scale: float, linear: float) -> float:
        wide = x.astype(np.float64)
        # Not BLAS's products, whose last bits depend on its number of threads.
        quadratic = scale * np.sum(wide * _product(wide)) + self.shift * np.sum(wide * wide)
        return float(quadratic / 2 - wide[0] * linear)

    def smoothness(self) -> Smoothness:
        """L-, L+, L+- and all L_i, exactly; mu = lambda."""
        known = scaled_smoothness(self.scales, self.shift, *self._ends)
        return replace(known, mu=self.lam)

    def minimum(self) -> float:
        """min f = -b_1^2 / 2 times the first entry of the mean Hessian's inverse, exactly.

        T's eigenvectors are sqrt(2 / (d + 1)) sin(j k pi / (d + 1)), j = 1 to d.
        """
        d, mean = self.dimension, float(self.scales.mean())
        half = np.arange(1, d + 1) * (pi / (2 * (d + 1)))
        first = 2 / (d + 1) * np.square(np.sin(2 * half))
        # sin^2 a - sin^2 b = sin(a + b) sin(a - b): the distance to the smallest eigenvalue.
        end = half[0] if mean >= 0 else half[-1]
        eigenvalues = self.lam + mean * np.sin(half + end) * np.sin(half - end)
        return -(float(self.linear.mean()) ** 2) / 2 * float(np.sum(first / eigenvalues))


def _product(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    """T x."""
    product = 2.0 * wide
    product[1:] -= wide[:-1]
    product[:-1] -= wide[1:]
    product *= 0.25
    return product
