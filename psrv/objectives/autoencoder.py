"""The linear autoencoder of the permutation paper on MNIST, split over many workers.

    f_i(D, E) = mean over a in S_i of ||D E a - a||^2 + lambda / 2 ||D E - I||_F^2

with D of 784 x 16, E of 16 x 784 and d = 25,088. f is the mean of the f_i. The images are
dealt into n + 1 parts of nearly equal size; S_i is part 0 with probability p^, else part i.
So with p^ = 1 all workers hold the same images, with p^ = 0 disjoint ones.

A flat vector holds the transpose of D and then E, each 16 x 784 by rows, so that it is one
32 x 784 matrix whose gradient at worker i is a product with its m images A_i (m x 784):

    Z = A_i E', W = A_i D                                   m x 16 each
    D' : 2/m (Z'Z D' - Z'A_i)         + lambda (E E' D' - E)
    E  : 2/m (Z D'D - W)' A_i         + lambda (D'D E - D')

4 passes of 2 * 784 * 16 operations an image; no m x 784 matrix is formed. Images that
several workers hold are treated once.

The random streams: numpy.random.default_rng([seed, 0]) first permutes the images,
``permutation(N)``, then draws ``random(n)``, of which a number below p^ gives part 0. The
first N mod (n + 1) parts have one image more. x_0 is default_rng([seed, 1])
``.standard_normal(d)`` over sqrt(784), in the order above.

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), sections 5.2 and A.5:
n = 1000, lambda of 0, 1e-5 (Figure 10) or 1e-4, 1e-3, p^ of 0, 0.5, 0.75, 0.9 or 1.
Silent there, ours: pixels are divided by 255, x_0, and the mean over workers in f (the paper
also writes f as a mean over images, which is the same for equal parts and p^ = 0).
f is a polynomial of degree 4: L+ and L+- are infinite, and exist along a run only
(``psrv.theory.Watched``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.errors import ConfigError
from psrv.objectives.autoencoder_kernels import coordinates
from psrv.tasks.files import find_file
from psrv.tasks.mnist import SOURCE, read_idx

_IMAGES = "train-images-idx3-ubyte"
_ROWS = 512  # images treated at once: 1.5 MiB, and a chunk's gradients fit beside them
_SMALL = 1 << 18  # multiplications of a product up to which OpenBLAS starts no threads


_Pass = tuple[Floats, Floats]


class Autoencoder:
    """An objective for ``psrv.simulate``; the module's text gives the formulas.

    Attributes:
        workers, dimension: n and d = 2 * code * features.
        features, code: 784 and 16 in the paper.
        lam: lambda. homogeneity: p^.
        parts: int64[n], which part each worker holds.
    """

    def __init__(
        self,
        images: Any,
        workers: int = 1000,
        homogeneity: float = 0.0,
        lam: float = 0.0,
        code: int = 16,
        seed: int = 0,
    ) -> None:
        """
        Args:
            images: uint8 (N, ...), divided by 255, or float (N, features) as they are;
                copied as float32: 188 MB for MNIST's training set, less where p^ > 0.
            workers: n, below N. homogeneity: p^ in [0, 1]. lam: at least 0.

        Raises:
            ConfigError: a number out of these ranges, or fewer than n + 1 images.
        """
        given = np.asarray(images)
        given = given.reshape(len(given), -1)
        if workers < 1 or code < 1 or len(given) <= workers:
            raise ConfigError(
                f"{len(given)} images, {workers} workers, code {code}; expected at least one "
                "worker, a code of 1 or more, and an image for each of n + 1 parts"
            )
        if not (0 <= homogeneity <= 1 and 0 <= lam < float("inf")):
            raise ConfigError(f"homogeneity is {homogeneity}, lam {lam}; expected 0 to 1, >= 0")
        self.workers, self.features, self.code = workers, given.shape[1], code
        self.lam, self.homogeneity, self.seed = lam, homogeneity, seed
        self.dimension = 2 * code * self.features
        stream = np.random.default_rng([seed, 0])
        order = stream.permutation(len(given))
        shared = stream.random(workers) < homogeneity
        self.parts: NDArray[np.int64] = np.where(shared, 0, np.arange(1, workers + 1))
        self._small = len(given) // (workers + 1) < _ROWS
        self._chunks = _deal(given, order, self.parts, workers + 1)
        self._seen: tuple[Floats, float] | None = None
        self._passed: list[tuple[Floats, list[_Pass]]] = []
        _, self.classes = np.unique(self.parts, return_inverse=True)
        """int64[n]: workers of one class hold the same images, and have the same gradient."""

    @classmethod
    def from_folder(cls, folder: Path | str, **options: Any) -> Autoencoder:
        """On MNIST's 60,000 training images, from ``train-images-idx3-ubyte`` or its ``.gz``.

        Args:
            folder: with the file. options: as of the class.

        Raises:
            DataError: no such file, or a damaged one.
        """
        path = find_file(
            Path(folder), _IMAGES, task="autoencoder", what="an IDX file of MNIST", source=SOURCE
        )
        return cls(read_idx(path, 3), **options)

    def initial(self) -> Floats:
        """x_0, float32[d]."""
        draws = np.random.default_rng([self.seed, 1]).standard_normal(self.dimension)
        return (draws / np.sqrt(self.features)).astype(np.float32)

    def gradient(self, rank: int, x: Floats, round: int = 0) -> Floats:
        """One worker's gradient, float32[d]; not bit for bit the row of ``gradients``."""
        for chunk in self._chunks:
            for slot, owners in enumerate(chunk.owners):
                if rank in owners:
                    one = _Chunk(chunk.images[slot : slot + 1], [owners])
                    found, _ = self._chunk(one, self._matrix(x))
                    return (found[0] + self._penalty(x)[0]).reshape(-1)
        raise ConfigError(f"there is no worker {rank} of {self.workers}")

    def gradients(self, x: Floats, round: int = 0, out: Floats | None = None) -> Floats:
        """All workers' gradients at ``x``, float32[n, d]; in ``out`` if it is given.

        For n = 1000 that is 100 MB, so ``out`` spares time where the gradients of another
        round are no longer needed. Beside it, a chunk's gradients for each thread.
        """
        if out is None:
            out = np.empty((self.workers, self.dimension), np.float32)
        matrix = self._matrix(x)
        penalty, value = self._penalty(x)

        def fill(chunk: _Chunk) -> float:
            found, losses = self._chunk(chunk, matrix)
            if self.lam:
                found += penalty
            for slot, owners in enumerate(chunk.owners):
                out[owners] = found[slot].reshape(-1)
            return chunk.total(losses)

        total = sum(self._each(fill))
        self._seen = x.copy(), total / self.workers + value
        return out

    def class_gradients(self, x: Floats, round: int, out: Floats) -> Floats:
        """The gradient of each class, float32[m, d]: the rows of ``gradients``, each once."""
        matrix = self._matrix(x)
        penalty, value = self._penalty(x)

        def fill(chunk: _Chunk) -> float:
            found, losses = self._chunk(chunk, matrix)
            if self.lam:
                found += penalty
            for slot, owners in enumerate(chunk.owners):
                out[self.classes[owners[0]]] = found[slot].reshape(-1)
            return chunk.total(losses)

        total = sum(self._each(fill))
        self._seen = x.copy(), total / self.workers + value
        return out

    def mean_gradient(self, x: Floats, round: int = 0) -> NDArray[np.float64]:
        """grad f(x), float64[d]: a product for each part, a sum over workers in float64."""
        matrix = self._matrix(x)
        penalty, value = self._penalty(x)
        # By chunk, since threads end in any order and sums would round accordingly.
        sums = np.zeros((len(self._chunks), self.dimension))
        place = {id(chunk): index for index, chunk in enumerate(self._chunks)}

        def add(chunk: _Chunk) -> float:
            found, losses = self._chunk(chunk, matrix)
            weights = np.array([owners.size for owners in chunk.owners], np.float64)
            sums[place[id(chunk)]] = np.tensordot(weights, found, 1).reshape(-1)
            return chunk.total(losses)

        total = sum(self._each(add))
        self._seen = x.copy(), total / self.workers + value
        mean: NDArray[np.float64] = sums.sum(0) / self.workers + penalty.reshape(-1)
        return mean

    def partial_gradients(
        self, x: Floats, round: int, offsets: NDArray[np.int64], columns: NDArray[np.int32]
    ) -> Floats:
        """Single coordinates of every worker's gradient, to rounding those of ``gradients``.

        Costs one pass over the images, half of a gradient, and little for each coordinate. The
        passes at the last two points are kept: 4 * 2 code bytes an image each.

        Args:
            offsets, columns: worker i's coordinates are ``columns[offsets[i]:offsets[i + 1]]``.

        Returns:
            float32[columns.size].
        """
        penalty, _ = self._penalty(x)
        matrix, out = self._matrix(x), np.empty(columns.size, np.float32)
        pairs = list(zip(self._chunks, self._pass(x, matrix), strict=True))

        def fill(pair: tuple[_Chunk, _Pass]) -> float:
            chunk, (left, inner) = pair
            coordinates(
                chunk.images, left, inner, matrix, penalty, chunk.slots, chunk.ranks, offsets,
                columns, out,
            )  # fmt: skip
            return 0.0

        if self._small and len(pairs) > 1:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(fill, pairs))
        else:
            for pair in pairs:
                fill(pair)
        return out

    def _pass(self, x: Floats, matrix: Floats) -> list[_Pass]:
        """What the gradient needs of each chunk beside its images; the last two are kept."""
        for point, passed in self._passed:
            if np.array_equal(point, x):
                return passed
        found: dict[int, _Pass] = {}

        def run(chunk: _Chunk) -> float:
            found[id(chunk)] = self._left(chunk, *self._codes(chunk, matrix))
            return 0.0

        self._each(run)
        passed = [found[id(chunk)] for chunk in self._chunks]
        self._passed = [*self._passed[-1:], (x.copy(), passed)]
        return passed

    def loss(self, x: Floats) -> float:
        """f(x); products in float32, sums in float64. Known already after ``gradients(x)``."""
        if self._seen is None or not np.array_equal(self._seen[0], x):
            matrix = self._matrix(x)

            def losses(chunk: _Chunk) -> float:
                return chunk.total(self._losses(chunk, *self._codes(chunk, matrix)))

            total = sum(self._each(losses))
            self._seen = x.copy(), total / self.workers + self._penalty(x)[1]
        return self._seen[1]

    def minimum(self) -> float:
        """min f over D and E, from one eigenvalue problem of 784 x 784.

        f = tr((D E - I) S (D E - I)'), S = mean over workers of A_i' A_i / m + lambda / 2 I,
        and D E is any matrix of rank 16: what is left are S's other eigenvalues.
        """
        second = np.zeros((self.features, self.features))
        for chunk in self._chunks:
            weights = np.sqrt([owners.size / self.workers for owners in chunk.owners])
            rows = chunk.images * (weights / np.sqrt(chunk.images.shape[1]))[:, None, None]
            rows = rows.reshape(-1, self.features)
            second += rows.T @ rows
        values = np.linalg.eigvalsh(second) + self.lam / 2
        return float(values[: max(0, self.features - self.code)].sum())

    def _matrix(self, x: Floats) -> Floats:
        """D' above E, (2 code, features)."""
        return np.ascontiguousarray(x, np.float32).reshape(2 * self.code, self.features)

    def _codes(self, chunk: _Chunk, matrix: Floats) -> tuple[Floats, Floats, Floats]:
        """Z, W and Z D'D - W of each part, (c, m, code) each."""
        k, images = self.code, chunk.images
        both = np.zeros((*images.shape[:2], 2 * k), np.float32)
        for part in self._columns(images):
            both += images[..., part] @ matrix[:, part].T
        codes, targets = both[..., k:], both[..., :k]
        error = codes @ (matrix[:k] @ matrix[:k].T)
        error -= targets
        return codes, targets, error

    def _losses(self, chunk: _Chunk, codes: Floats, targets: Floats, error: Floats) -> Any:
        """f_i without its penalty for each part, float64[c]: z' D'D z - 2 z' w + ||a||^2."""
        inner = (error - targets) * codes
        return (inner.sum((1, 2), dtype=np.float64) + chunk.squares) / chunk.images.shape[1]

    def _chunk(self, chunk: _Chunk, matrix: Floats) -> tuple[Floats, Any]:
        """Gradients of a chunk's parts without the penalty, (c, 2 code, features); losses."""
        k, images = self.code, chunk.images
        count, _, features = images.shape
        d = matrix[:k]
        codes, targets, error = self._codes(chunk, matrix)
        left, inner = self._left(chunk, codes, targets, error)
        found = np.empty((count, 2 * k, features), np.float32)
        for part in self._columns(images):
            np.matmul(left, images[..., part], out=found[..., part])
            found[:, :k, part] += inner @ d[:, part]
        return found, self._losses(chunk, codes, targets, error)

    def _left(self, chunk: _Chunk, codes: Floats, targets: Floats, error: Floats) -> _Pass:
        """What the images are multiplied by, (c, 2 code, m), and 2/m Z'Z, (c, code, code)."""
        k, (count, rows, _) = self.code, chunk.images.shape
        left = np.empty((count, 2 * k, rows), np.float32)
        scale = np.float32(2 / rows)
        np.multiply(codes.transpose(0, 2, 1), -scale, out=left[:, :k])
        np.multiply(error.transpose(0, 2, 1), scale, out=left[:, k:])
        inner = codes.transpose(0, 2, 1) @ codes
        inner *= scale
        return left, inner

    def _columns(self, images: Floats) -> list[slice]:
        """Columns to multiply at once, so that BLAS starts no threads for small parts.

        A product of a fraction of a millisecond that is split over threads, which then wait
        for each other, takes many times as long on a busy machine.
        """
        work = 2 * self.code * images.shape[1]
        width = max(1, _SMALL // work) if self._small else self.features
        return [slice(start, start + width) for start in range(0, self.features, width)]

    def _each(self, function: Callable[[_Chunk], float]) -> list[float]:
        """``function`` of every chunk, in order; by several threads where parts are small."""
        if not self._small or len(self._chunks) == 1:
            return [function(chunk) for chunk in self._chunks]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(function, self._chunks))

    def _penalty(self, x: Floats) -> tuple[Floats, float]:
        """Gradient (2 code, features) and value of lambda / 2 ||D E - I||_F^2."""
        if not self.lam:
            return np.zeros((2 * self.code, self.features), np.float32), 0.0
        matrix = self._matrix(x).astype(np.float64)
        d, e = matrix[: self.code], matrix[self.code :]
        dd, ee = d @ d.T, e @ e.T
        gradient = self.lam * np.concatenate([ee @ d - e, dd @ e - d])
        value = np.vdot(dd, ee) - 2 * np.vdot(d, e) + self.features
        return gradient.astype(np.float32), float(self.lam / 2 * value)


class _Chunk:
    """Parts of one size that are treated together.

    Attributes:
        images: float32 (c, m, features). owners: for each part its workers, int64.
        squares: the sum of ||a||^2 of each part, float64[c].
        ranks, slots: the owners one after the other, and the part of each, int64.
    """

    def __init__(self, images: Floats, owners: list[NDArray[np.int64]]) -> None:
        self.images, self.owners = images, owners
        self.ranks = np.concatenate(owners).astype(np.int64)
        self.slots = np.repeat(np.arange(len(owners)), [o.size for o in owners])
        self.squares = np.square(images, dtype=np.float64).sum((1, 2))

    def total(self, losses: Any) -> float:
        """The sum over workers of what is given for each part."""
        return float(sum(v * owners.size for v, owners in zip(losses, self.owners, strict=True)))


def _deal(
    images: NDArray, order: NDArray[np.int64], parts: NDArray[np.int64], count: int
) -> list[_Chunk]:
    """The parts that somebody holds, as float32, those of one size side by side."""
    size, longer = divmod(len(order), count)
    used = np.unique(parts)
    by_part = np.argsort(parts, kind="stable")
    owners = np.split(by_part, np.searchsorted(parts[by_part], used[1:]))
    chunks = []
    for rows, start, chosen in (
        (size + 1, 0, used < longer),
        (size, longer, used >= longer),
    ):
        numbers = used[chosen]
        holders = [owner for owner, yes in zip(owners, chosen, strict=True) if yes]
        step = max(1, _ROWS // rows)
        for first in range(0, numbers.size, step):
            now = numbers[first : first + step]
            # Parts before ``longer`` have size + 1 images, and come first in the order.
            begins = start * (size + 1) + (now - start) * rows
            found = images[order[begins[:, None] + np.arange(rows)]].astype(np.float32)
            if images.dtype == np.uint8:
                found /= np.float32(255)
            chunks.append(_Chunk(found, holders[first : first + step]))
    return chunks
