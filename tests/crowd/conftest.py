"""Objectives and jobs that a crowd and a cluster can both run."""

from __future__ import annotations

import numpy as np

from psrv.job import Job
from psrv.layout import Tensor
from psrv.methods import resolve


class Linear:
    """f_i(x) = sum_c a_ic x_c^2 / 2 - b_ic x_c, with zeros: grad f_i(x) = a_i x - b_i."""

    def __init__(self, workers: int, dimension: int, seed: int = 0) -> None:
        stream = np.random.default_rng(seed)
        self.a, self.b = (
            stream.standard_normal((workers, dimension)).astype(np.float32) for _ in range(2)
        )
        self.a = np.abs(self.a)
        self.a[:, ::7] = self.b[:, ::7] = 0

    def initial(self) -> np.ndarray:
        return np.linspace(-1, 1, self.a.shape[1], dtype=np.float32)

    def gradient(self, rank: int, x: np.ndarray, round: int) -> np.ndarray:
        return self.a[rank] * x - self.b[rank]

    def gradients(self, x: np.ndarray, round: int) -> np.ndarray:
        return self.a * x - self.b

    def loss(self, x: np.ndarray) -> float:
        return float((self.a * x * x / 2 - self.b * x).mean(0, dtype=np.float64).sum())


class InParts(Linear):
    """The same, which offers all that a crowd can use."""

    asked = 0

    def gradients(self, x: np.ndarray, round: int, out: np.ndarray | None = None) -> np.ndarray:
        found = super().gradients(x, round)
        if out is None:
            return found
        out[:] = found
        return out

    def partial_gradients(self, x, round, offsets, columns):
        self.asked += 1
        assert offsets.dtype == np.int64
        assert columns.dtype == np.int32
        rank = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        return self.a[rank, columns] * x[columns] - self.b[rank, columns]

    def mean_gradient(self, x, round):
        return (self.a * x - self.b).mean(0, dtype=np.float64)


def job_of(workers, dimension, up, compressor, down="plain", back="dense", blocks="global", **more):
    """A completed job of a method with these channels."""
    if up == "marina":
        more = {"probability": 0.4} | more
    method = resolve(
        "dist-ef-sgd" if more.pop("rescaled", False) else "sgd",
        uplink=up,
        up_compressor=compressor,
        downlink=down,
        down_compressor=back,
        **more,
    )
    tensors = (Tensor("x", (dimension,)),)
    return Job("objective", method, tensors, blocks, 3, (0.01,), check_every=0).completed(
        workers, 9
    )
