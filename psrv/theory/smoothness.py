"""The smoothness constants of a distributed problem, f = mean of f_1 to f_n.

    L_i    Lipschitz constant of grad f_i
    L-     of grad f
    L+^2   smallest with  mean ||grad f_i(x) - grad f_i(y)||^2 <= L+^2 ||x - y||^2
    L+-^2  smallest with  that mean - ||grad f(x) - grad f(y)||^2 <= L+-^2 ||x - y||^2

L+-^2 is called the Hessian variance. Always L- <= L+, L+- <= L+ and
L+^2 <= min(L-^2 + L+-^2, mean L_i^2).

For quadratics all are exact: largest eigenvalues of mean A_i, of mean A_i^2 and of
mean (A_i - mean A_i)^2. For other losses each function says what is exact and what is an
upper bound; ``Smoothness.bounds`` says it too. A step size that is computed from upper
bounds is a smaller one, and still one that the theorems allow.

Two regularisers can be added to every f_i. Both are the same on all workers, so neither
changes L+-:

    l2          l2 / 2 ||x||^2                        second derivatives l2
    nonconvex   nonconvex * sum x_j^2 / (1 + x_j^2)   in [-1/2, 2] times nonconvex, 2 at 0

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), Assumption 2,
Definition 4, Lemma 2, Theorem 3, Example 3 and Table 2; the nonconvex regulariser is that
of CD-Adam (Wang, Lin, Chen 2022), equation (7.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psrv.errors import ConfigError

Matrix = NDArray[np.float64]

L_PLUS, L_PLUS_MINUS = "L_plus", "L_plus_minus"


@dataclass(frozen=True, eq=False)
class Smoothness:
    """The constants of one problem.

    Attributes:
        L_minus, L_plus, L_plus_minus: see the module's text.
        L_workers: L_i, float64[n].
        bounds: the names of those attributes that are upper bounds; the others are exact.
        mu: of the Polyak-Lojasiewicz condition, where one above 0 is known; a lower bound.
    """

    L_minus: float
    L_plus: float
    L_plus_minus: float
    L_workers: NDArray[np.float64]
    bounds: frozenset[str] = frozenset()
    mu: float | None = None

    def pessimistic(self) -> Smoothness:
        """L+ and L+- replaced by the bound sqrt(mean L_i^2) of Lemma 2.

        What the permutation paper's experiments use: A.1, where "L+-^2 and L+-^2" is a
        misprint for L+^2 and L+-^2.
        """
        bound = sqrt(float(np.mean(np.square(self.L_workers))))
        return replace(
            self, L_plus=bound, L_plus_minus=bound, bounds=self.bounds | {L_PLUS, L_PLUS_MINUS}
        )


def quadratic_smoothness(matrices: Sequence[Any]) -> Smoothness:
    """f_i(x) = x' A_i x / 2 - b_i' x + c_i with dense A_i: all exact (Example 3).

    Costs n eigenvalue problems of size d, and memory for four matrices beside what is given.

    Args:
        matrices: A_1 to A_n, each (d, d); only the symmetric part matters.
    """
    if not len(matrices):
        raise ConfigError("there is no worker: the list of matrices is empty")
    mean = sum(_symmetric(a) for a in matrices) / len(matrices)
    second, variance = np.zeros_like(mean), np.zeros_like(mean)
    lipschitz = np.empty(len(matrices))
    for i, given in enumerate(matrices):
        a = _symmetric(given)
        lipschitz[i] = _norm(a)
        second += a @ a
        # Not the difference of two squares: it would be lost in rounding where L+- << L+.
        a = a - mean
        variance += a @ a
    return Smoothness(
        L_minus=_norm(mean),
        L_plus=sqrt(_norm(second / len(matrices))),
        L_plus_minus=sqrt(_norm(variance / len(matrices))),
        L_workers=lipschitz,
    )


def scaled_smoothness(scales: Any, shifts: Any, low: float, high: float) -> Smoothness:
    """Quadratics with A_i = scales[i] T + shifts[i] I: all exact, in O(n), without a matrix.

    All A_i have T's eigenvectors. On the one of eigenvalue t, mean A_i, mean A_i^2 and
    mean (A_i - mean A_i)^2 are polynomials in t of which the norm is convex, so that one of
    the ends of T's spectrum is largest.

    Args:
        scales: float[n]. shifts: float[n], or one for all.
        low, high: T's smallest and largest eigenvalue; for a tridiagonal T see
            ``tridiagonal_ends``.
    """
    s = np.atleast_1d(np.asarray(scales, np.float64))
    c = np.broadcast_to(np.asarray(shifts, np.float64), s.shape)
    ends = np.multiply.outer(s, np.array([low, high])) + c[:, None]
    mean = ends.mean(0)
    return Smoothness(
        L_minus=float(np.abs(mean).max()),
        L_plus=sqrt(float(np.square(ends).mean(0).max())),
        L_plus_minus=sqrt(float(np.square(ends - mean).mean(0).max())),
        L_workers=np.abs(ends).max(1),
    )


def tridiagonal_ends(dimension: int, diagonal: float, off: float) -> tuple[float, float]:
    """Smallest and largest eigenvalue of the d x d matrix tridiag(off, diagonal, off).

    The eigenvalues are diagonal + 2 off cos(k pi / (d + 1)) for k = 1 to d.
    """
    reach = 2 * abs(off) * cos(pi / (dimension + 1))
    return diagonal - reach, diagonal + reach


def gram_matrices(features: Sequence[Any], factor: float = 1.0, mean: bool = True) -> list[Matrix]:
    """factor * X_i' X_i / m_i for each worker, float64 (d, d).

    Args:
        features: X_i, (m_i, d), arrays or sparse matrices with ``.T``, ``@`` and ``toarray``.
        mean: False leaves out the division by the number of rows m_i.
    """
    if not len(features):
        raise ConfigError("there is no worker: the list of features is empty")
    found = []
    for x in features:
        product = x.T @ x
        dense = np.asarray(product.toarray() if hasattr(product, "toarray") else product)
        found.append(dense.astype(np.float64) * (factor / (x.shape[0] if mean else 1)))
    return found


def linear_regression_smoothness(
    features: Sequence[Any], *, mean: bool = True, l2: float = 0.0, nonconvex: float = 0.0
) -> Smoothness:
    """f_i(x) = ||X_i x - y_i||^2 / (2 m_i), plus regularisers; the y_i do not matter.

    Exact (Example 3 with A_i = X_i' X_i / m_i + l2 I). With ``nonconvex``, L_minus and L_i
    stay exact, since the data's part is positive semidefinite and the regulariser's second
    derivative is largest at 0, in all coordinates; L_plus_minus too, since the regulariser
    cancels; L_plus becomes an upper bound, L_plus + 2 nonconvex (triangle inequality).

    Args:
        features: as for ``gram_matrices``.
        mean: False for ||X_i x - y_i||^2 / 2, as in the permutation paper's A.8.1 (which
            prints f as the sum over workers; its values of L+ and L+- are those of the mean).
    """
    _check(l2, nonconvex)
    matrices = gram_matrices(features, mean=mean)
    base = quadratic_smoothness([a + l2 * np.eye(len(a)) for a in matrices])
    if not nonconvex:
        return base
    # The data's part is positive semidefinite: what is added to it adds to the norms.
    return replace(
        base,
        L_minus=base.L_minus + 2 * nonconvex,
        L_plus=base.L_plus + 2 * nonconvex,
        L_workers=base.L_workers + 2 * nonconvex,
        bounds=frozenset({L_PLUS}),
    )


def logistic_smoothness(
    features: Sequence[Any], *, l2: float = 0.0, nonconvex: float = 0.0
) -> Smoothness:
    """f_i(x) = mean over rows of log(1 + exp(-y_j a_j' x)), plus regularisers; y_j = +-1.

    The data's Hessian is X_i' D X_i / m_i with 0 <= D <= 1/4, and D = 1/4 at x = 0. Let
    A_i = X_i' X_i / (4 m_i), l_i its largest eigenvalue.

    Exact: L_minus = lambda_max(mean A_i) + l2 + 2 nonconvex, and L_i likewise; both are
    reached at 0. Upper bounds: L_plus_minus^2 <= lambda_max(mean l_i A_i), since
    H^2 <= lambda_max(H) H for a positive semidefinite H, and L_plus <= the root of that plus
    l2 + 2 nonconvex. The bound on L_plus_minus does not become small where workers hold
    alike data. Lower bounds, the values at 0, are those of
    ``quadratic_smoothness(gram_matrices(features, 1 / 4))``.

    Source: Assumption 2, Definition 4 and Theorem 3 of the permutation paper; the bounds
    are ours.
    """
    _check(l2, nonconvex)
    matrices = gram_matrices(features, 1 / 4)
    norms = np.array([_norm(a) for a in matrices])
    reach = l2 + 2 * nonconvex
    bound = sqrt(_norm(sum(norm * a for norm, a in zip(norms, matrices, strict=True)) / norms.size))
    return Smoothness(
        L_minus=_norm(sum(matrices) / norms.size) + reach,
        L_plus=bound + reach,
        L_plus_minus=bound,
        L_workers=norms + reach,
        bounds=frozenset({L_PLUS, L_PLUS_MINUS}),
    )


def _check(l2: float, nonconvex: float) -> None:
    if not (l2 >= 0 and nonconvex >= 0):
        raise ConfigError(f"l2 is {l2} and nonconvex {nonconvex}; both need to be 0 or more")


def _symmetric(matrix: Any) -> Matrix:
    a = np.asarray(matrix, np.float64)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise ConfigError(f"a Hessian has shape {a.shape}; expected (d, d)")
    return (a + a.T) / 2


def _norm(symmetric: Any) -> float:
    """The largest magnitude of an eigenvalue."""
    values = np.linalg.eigvalsh(symmetric)
    return float(max(-values[0], values[-1], 0.0))
