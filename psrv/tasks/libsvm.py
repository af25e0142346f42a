"""Nonconvex logistic regression on a LIBSVM file, with full gradients.

    f_i(x) = mean over rows j of part i of log(1 + exp(-y_j a_j' x)) + lambda R(x)
    R(x)   = sum over coordinates of x^2 / (1 + x^2)

The rows stay in file order (or, with ``order=shuffled``, in one that the seed gives) and are
cut into n contiguous parts; with a remainder r, the first r parts have one row more. f is the
mean of the f_i: with equal parts exactly the paper's f, otherwise a row of a longer part weighs
a little less. The two values that labels take in the file (-1 and +1, 0 and 1, or 1 and 2)
become -1 and +1, the smaller one -1. x_0 = 0.

There is no accuracy: the paper's problem has no held-out data, and a figure on
training rows would be read as one.

Source: CD-Adam (Wang, Lin, Chen 2022), equation (7.1), lambda = 0.1. Sparse products
run in one fixed order in float64 and are rounded to float32 at the end, so equal
inputs give equal bits; ``gradients`` and ``gradients_at``, which serve a simulation of all
workers in one pass over the data, give the bits of ``gradient``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.errors import ConfigError, DataError
from psrv.layout import Tensor
from psrv.tasks.base import Option, Setup, Task, require, share, zeros
from psrv.tasks.files import find_file
from psrv.tasks.libsvm_file import SOURCE, read_rows
from psrv.tasks.shards import permutation
from psrv.tasks.spec import read_count, read_number
from psrv.theory.smoothness import Smoothness, logistic_smoothness

_ROWS = 3
"""Kind of key of the rows' order; ``shards.py`` has the others."""

_CLASSES = ((-1.0, 1.0), (0.0, 1.0), (1.0, 2.0))


def read_order(text: str) -> str:
    """``file`` or ``shuffled``."""
    if text.strip() not in ("file", "shuffled"):
        raise ValueError("file or shuffled")
    return text.strip()


class LogisticRegression(Task):
    """Problem (7.1) of the CD-Adam paper; the module's text gives the formulas."""

    summary = "nonconvex logistic regression on a LIBSVM file (CD-Adam paper, 7.1)"
    argument = "NAME"
    options: ClassVar = {
        "lam": Option(read_number, 0.1, "lambda, the weight of the regulariser"),
        "order": Option(read_order, "file", "of the rows: file, or shuffled by the seed"),
        "features": Option(read_count, None, "columns, where the file's last ones are empty"),
    }
    default_rounds = 300
    step_sizes: ClassVar = {"sgd": 0.5, "momentum": 0.02, "sign": 1e-3, "adam": 1e-3}

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        name = setup.argument or ""
        if not name or name in (".", "..") or "/" in name or "\\" in name:
            raise ConfigError(
                f"task '{setup.spec}': NAME is '{name}'; expected a file's name such as a9a; "
                "the folder goes into --data"
            )
        path = find_file(
            setup.data, name, task=setup.spec, what="a LIBSVM text file", source=SOURCE
        )
        rows = read_rows(path)
        found = np.unique(rows.labels)
        if tuple(found.tolist()) not in _CLASSES:
            shown = ", ".join(f"{v:g}" for v in found[:5]) + (", ..." if found.size > 5 else "")
            raise DataError(
                f"{path} has {found.size} distinct labels ({shown}); expected two classes: "
                "-1 and +1, 0 and 1, or 1 and 2"
            )
        samples = rows.labels.size
        if self.workers > samples:
            raise ConfigError(
                f"task {setup.spec} has {samples} rows for {self.workers} workers; "
                "each worker needs at least one"
            )
        wanted = self.settings["features"]
        if wanted is not None and wanted < rows.features:
            raise ConfigError(
                f"task '{setup.spec}': features is {wanted}, but {path} has index {rows.features}"
            )
        features = max(1, rows.features) if wanted is None else wanted
        self.samples = samples
        self.tensors = (Tensor("x", (features,)),)
        sparse: Any = require("scipy.sparse", "SciPy", "learn", setup.spec)
        signs = np.where(rows.labels == found[1], 1.0, -1.0)
        # y_j goes into row j: the data is only ever used as y_j a_j.
        signed = rows.values * np.repeat(signs, np.diff(rows.starts))
        self._rows = sparse.csr_array(
            (signed, rows.columns, rows.starts.astype(np.int32)), shape=(samples, features)
        )
        if self.settings["order"] == "shuffled":
            self._rows = self._rows[permutation(samples, _ROWS, self.seed)]
        self._parts: dict[int, tuple[Any, Any]] = {}
        self._unsigned: tuple[NDArray[np.uint32], ...] | None = None
        # Working memory of ``gradients_at`` by points in a pass: allocating it costs more than
        # using it.
        self._rooms: dict[int, tuple[NDArray[np.float64], ...]] = {}

    def initial(self) -> Floats:
        return zeros(self.dimension)

    def gradient(self, rank: int, x: Floats, round: int, batch: object, out: Floats) -> None:
        part, transposed = self._part(rank)
        wide = x.astype(np.float64)
        margins = part @ wide
        result = transposed @ _sigmoid_of_minus(margins)
        result *= -1.0 / margins.size
        result += self.settings["lam"] * 2.0 * wide / np.square(1.0 + np.square(wide))
        out[:] = result

    def gradients(self, x: Floats, round: int) -> Floats:
        """All workers' gradients at x, float32[n, d]: the bits of ``gradient``, in one pass."""
        return self.gradients_at(x[None])[0]

    def gradients_at(self, points: Floats) -> Floats:
        """All workers' gradients at several points, at little more than the price of one.

        Args:
            points: float32[m, d].

        Returns:
            float32[m, n, d], with the bits of ``gradient``.
        """
        from psrv.tasks.libsvm_kernels import LANES

        wide = points.astype(np.float64)
        out = np.empty((len(points), self.workers, self.dimension), np.float32)
        lanes = 1 if len(points) == 1 else LANES
        for first in range(0, len(points), lanes):
            chunk = wide[first : first + lanes]
            sums = self._sums(chunk, lanes)[:, :, : len(chunk)]
            sums *= (-1.0 / np.diff(self._bounds()))[:, None, None]
            penalty = self.settings["lam"] * 2.0 * chunk / np.square(1.0 + np.square(chunk))
            sums += penalty.T
            out[first : first + lanes] = sums.transpose(2, 0, 1)
        return out

    def _sums(self, points: NDArray[np.float64], lanes: int) -> NDArray[np.float64]:
        """Each part's sum of sigmoid(-y a'x) y a: float64[m, d] to float64[n, d, lanes].

        What is returned is overwritten by the next call.
        """
        from psrv.tasks import libsvm_kernels as kernels

        if self._unsigned is None:
            signed = self._rows.indptr, self._rows.indices
            self._unsigned = tuple(indices.astype(np.uint32) for indices in signed)
        rows, bounds = (*self._unsigned, self._rows.data), self._bounds().astype(np.uint64)
        if lanes not in self._rooms:
            parts = (self.samples, lanes), (self.workers, self.dimension, lanes)
            self._rooms[lanes] = tuple(map(np.empty, parts))
        margins, sums = self._rooms[lanes]
        if lanes == 1:
            kernels.margins_of_one(*rows, points[0], margins[:, 0])
            weights = _sigmoid_of_minus(margins, margins)
            kernels.gather_one(*rows, weights[:, 0], bounds, sums[:, :, 0])
        else:
            columns = np.zeros((self.dimension, lanes))
            columns[:, : len(points)] = points.T
            kernels.margins(*rows, columns, margins)
            kernels.gather(*rows, _sigmoid_of_minus(margins, margins), bounds, sums)
        return sums

    def _bounds(self) -> NDArray[np.int64]:
        """Where the parts begin and end: int64[n + 1]."""
        stops = [share(self.samples, self.workers, rank).stop for rank in range(self.workers)]
        return np.array([0, *stops])

    def full_gradient(self, rank: int, x: Floats, out: Floats) -> bool:
        self.gradient(rank, x, 0, None, out)
        return True

    def evaluate(self, rank: int, x: Floats) -> dict[str, float]:
        wide = x.astype(np.float64)
        squares = np.square(wide)
        data = np.logaddexp(0.0, -(self._part(rank)[0] @ wide)).mean()
        penalty = self.settings["lam"] * np.sum(squares / (1.0 + squares))
        # One value f_i a rank, so that the mean over ranks is f also with unequal parts.
        return {"loss_sum": float(data + penalty), "count": 1.0}

    def smoothness(self) -> Smoothness:
        """Of the nonconvex regression; L+ and L+- are upper bounds."""
        parts = [self._part(rank)[0].toarray() for rank in range(self.workers)]
        return logistic_smoothness(parts, nonconvex=self.settings["lam"])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"samples": self.samples}

    def _part(self, rank: int) -> tuple[Any, Any]:
        """Rank's rows times their labels, (m, d), and the transpose, sharing its memory."""
        if rank not in self._parts:
            part = self._rows[share(self.samples, self.workers, rank)]
            self._parts[rank] = part, part.T
        return self._parts[rank]


def _sigmoid_of_minus(
    z: NDArray[np.float64], out: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """1 / (1 + exp(z)); past 700 exp would overflow and the result is below 1e-304."""
    found = np.minimum(z, 700.0, out=out)
    np.exp(found, out=found)
    found += 1.0
    return np.divide(1.0, found, out=found)
