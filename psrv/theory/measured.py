"""What a compressor does to given vectors, beside what is proved for all of them.

Everything is E over rounds: means over rounds 0, 1, ... of a seed, with the standard error
of that mean. A compressor without randomness needs one round, and is given one.

    relative error   E ||C(x) - x||^2 / ||x||^2
    alpha            1 - relative error     permutation paper, (29): contractive compressors
    pi               relative error         CD-Adam, Assumption 4.1: of the squared norm
    omega            relative error         permutation paper, (30): unbiased compressors
    both sides of the AB inequality         permutation paper, Assumption 4

The worst vectors, not the average ones, are what the papers' constants are about: an
alpha that is measured is an upper bound of the constant, a pi or omega a lower bound.
(CD-Adam's appendix prints the top-k bound with a norm on the left and a squared one on the
right; both are squared.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Blocks, Compressor, Draw, Floats
from psrv.codec.coder import Coder
from psrv.codec.registry import parse
from psrv.errors import ConfigError
from psrv.theory.inequality import AB

Numbers = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean over rounds for each vector, and its standard error: both float64[m]."""

    value: Numbers
    error: Numbers


class Sides(NamedTuple):
    """Both sides of the AB inequality for one set of vectors a_1 to a_n.

    Attributes:
        left: E ||mean C_i(a_i) - mean a_i||^2, a mean over rounds.
        error: its standard error.
        mean_square: mean ||a_i||^2, what A multiplies.
        square_mean: ||mean a_i||^2, what B multiplies.
    """

    left: float
    error: float
    mean_square: float
    square_mean: float

    def right(self, A: float, B: float) -> float:
        """A mean ||a_i||^2 - B ||mean a_i||^2."""
        return A * self.mean_square - B * self.square_mean

    def holds(self, A: float, B: float, errors: float = 4.0) -> bool:
        """The left side is at most the right one, or above it by ``errors`` standard errors.

        A difference of 1e-6 of mean ||a_i||^2 is float32 rounding, and allowed.
        """
        allowed = errors * self.error + 1e-6 * self.mean_square
        return self.left <= self.right(A, B) + allowed


def relative_error(
    compressor: Compressor | str,
    vectors: Any,
    *,
    blocks: Blocks | None = None,
    rounds: int = 100,
    seed: int = 0,
    workers: int = 1,
    rank: int = 0,
) -> Estimate:
    """E ||C(x) - x||^2 / ||x||^2 of each vector; 0 for x = 0.

    Args:
        compressor: one, or its spec. Norms are taken in float64.
        vectors: float32, shape (m, d) or (d,).
        blocks: of the d coordinates; None for one block.
        rounds: at least 1; one is enough, and all that is done, without randomness.
        workers, rank: the sender, for compressors that depend on who sends.

    Raises:
        ConfigError: no vector. NonFiniteError: NaN or infinity in one.
    """
    found = parse(compressor) if isinstance(compressor, str) else compressor
    rows, blocks = _vectors(vectors, blocks)
    count = max(1, rounds) if found.random else 1
    room = np.empty(found.payload_bound(blocks, workers), np.uint8)
    ratios = np.zeros((len(rows), count))
    left = np.empty(blocks.dimension, np.float32)
    for i, row in enumerate(rows):
        norm = _square(row)
        for t in range(count):
            left[:] = row
            found.encode(left, blocks, Draw(seed, t, 0, rank, workers), room)
            ratios[i, t] = _square(left) / norm if norm else 0.0
    return Estimate(ratios.mean(1), _standard_error(ratios))


def measured_alpha(compressor: Compressor | str, vectors: Any, **options: Any) -> Estimate:
    """The contraction on each vector, 1 - relative error; options as for ``relative_error``.

    ``psrv.codec.alpha`` is the same for one vector and one draw.
    """
    value, error = relative_error(compressor, vectors, **options)
    return Estimate(1 - value, error)


def measured_pi(compressor: Compressor | str, vectors: Any, **options: Any) -> Estimate:
    """CD-Adam's pi on each vector (Assumption 4.1), of squared norms: 1 - alpha."""
    return relative_error(compressor, vectors, **options)


def measured_omega(
    compressor: Compressor | str,
    vectors: Any,
    *,
    blocks: Blocks | None = None,
    workers: int = 1,
    **options: Any,
) -> Estimate:
    """The variance on each vector; the compressor has to be an unbiased one."""
    found = parse(compressor) if isinstance(compressor, str) else compressor
    rows, blocks = _vectors(vectors, blocks)
    if found.omega(blocks, workers) is None:
        raise ConfigError(f"compressor {found.spec} is biased: it has no omega, but an alpha")
    return relative_error(found, rows, blocks=blocks, workers=workers, **options)


def ab_sides(
    compressor: Compressor | str,
    vectors: Any,
    *,
    blocks: Blocks | None = None,
    rounds: int = 100,
    seed: int = 0,
) -> Sides:
    """Both sides of the AB inequality for the vectors of n workers, through real payloads.

    Args:
        vectors: a_1 to a_n, float32, shape (n, d): row i is what rank i encodes.
    """
    rows, blocks = _vectors(vectors, blocks)
    n = len(rows)
    coder = Coder(compressor, blocks, workers=n, seed=seed)
    count = max(1, rounds) if coder.compressor.random else 1
    mean = rows.mean(0, dtype=np.float64)
    buffer, reduced = np.empty_like(rows[0]), np.empty_like(rows[0])
    errors = np.empty((1, count))
    for t in range(count):
        payloads = []
        for rank, row in enumerate(rows):
            buffer[:] = row
            payloads.append(coder.encode(buffer, t, rank).copy())
        coder.reduce(payloads, reduced, t)
        errors[0, t] = _square(reduced - mean)
    return Sides(
        left=float(errors.mean()),
        error=float(_standard_error(errors)[0]),
        mean_square=float(np.mean([_square(row) for row in rows])),
        square_mean=_square(mean),
    )


def fitted_ab(sides: Sequence[Sides]) -> AB:
    """The A and B that fit measured sides best, in the least squares of left / mean_square.

    For perm-k, rand-k and their like the inequality is an equality, so a fit to two sets of
    vectors, one of equal and one of independent ones, finds their constants. Otherwise it
    describes the given vectors alone.
    """
    usable = [s for s in sides if s.mean_square > 0]
    system = np.array([[1.0, -s.square_mean / s.mean_square] for s in usable])
    if len(usable) < 2 or np.linalg.matrix_rank(system, tol=1e-6) < 2:
        raise ConfigError(
            "A and B need two sets of vectors that differ in ||mean a_i||^2 / mean ||a_i||^2"
        )
    values = np.array([s.left / s.mean_square for s in usable])
    a, b = np.linalg.lstsq(system, values)[0]
    return AB(float(a), float(b))


def _vectors(vectors: Any, blocks: Blocks | None) -> tuple[Floats, Blocks]:
    rows = np.atleast_2d(np.ascontiguousarray(vectors))
    if rows.dtype != np.float32 or rows.ndim != 2 or not rows.size:
        raise ConfigError(f"vectors are {rows.dtype}{list(rows.shape)}; expected float32[m, d]")
    return rows, blocks or Blocks.of([rows.shape[1]])


def _square(vector: Any) -> float:
    """||x||^2 in float64."""
    return float(np.square(vector, dtype=np.float64).sum())


def _standard_error(samples: Numbers) -> Numbers:
    """Of the mean of each row; 0 for one sample."""
    count = samples.shape[1]
    if count == 1:
        return np.zeros(len(samples))
    return samples.std(1, ddof=1) / np.sqrt(count)
