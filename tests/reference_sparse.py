"""``top-k`` and ``rand-k`` in plain NumPy, after ``docs/payloads.md``."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

import reference_gaps
from codec_reference import Draw, Floats, NotFiniteError, Sizes
from reference_permk import images_of
from reference_values import BITS, broken_runs, read_run, write_run

ROUNDING, CHOICE = 2, 3
OMEGA = {"natural": 1 / 8}


def run_size(form: str, count: int) -> int:
    return math.ceil(BITS[form] * count / 8)


def amount(k: int | float, d: int) -> int:
    """How many of d coordinates are sent."""
    return min(k, d) if isinstance(k, int) else max(1, round(k * d))


class Sparse:
    def __init__(self, k: int | float, form: str = "float32", contracted: bool = False) -> None:
        self.k, self.form, self.contracted = k, form, contracted
        self.shrink = np.float32(1 / (1 + OMEGA.get(form, 0)))
        self.exact = float(self.shrink) * {"bf16": 1 - 2**-16, "fp16": 1 - 2**-22}.get(form, 1)

    def count(self, sizes: Sizes) -> int:
        return amount(self.k, sum(sizes))

    def values(self, payload: bytes, sizes: Sizes) -> Floats:
        """The values as they travel, and the rest of the payload."""
        return read_run(
            self.form, payload[: run_size(self.form, self.count(sizes))], self.count(sizes)
        )

    def rest(self, payload: bytes, sizes: Sizes) -> bytes:
        return payload[run_size(self.form, self.count(sizes)) :]

    def place(self, points: list[int], values: Floats, gain: np.float32, sizes: Sizes) -> Floats:
        out = np.zeros(sum(sizes), np.float32)
        out[points] += gain * values  # -0 becomes +0
        return out

    def broken(self, payload: bytes, sizes: Sizes, draw: Draw) -> Iterator[bytes]:
        size = run_size(self.form, self.count(sizes))
        for run in broken_runs(self.form, payload[:size], self.count(sizes)):
            yield run + payload[size:]


class RandK(Sparse):
    def points(self, sizes: Sizes, draw: Draw) -> list[int]:
        return images_of(draw.own(CHOICE), sum(sizes), range(self.count(sizes))).tolist()

    def gain(self, sizes: Sizes) -> np.float32:
        return self.shrink if self.contracted else np.float32(sum(sizes) / self.count(sizes))

    def size(self, sizes: Sizes, draw: Draw) -> int:
        return run_size(self.form, self.count(sizes))

    def alpha(self, sizes: Sizes) -> float:
        return self.count(sizes) / sum(sizes) * self.exact if self.contracted else 0.0

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        if not np.isfinite(x).all():
            raise NotFiniteError
        run = write_run(self.form, x[self.points(sizes, draw)], draw.own(ROUNDING))
        with np.errstate(over="ignore"):
            arrived = self.gain(sizes) * read_run(self.form, run, self.count(sizes))
        if not np.isfinite(arrived).all():
            raise NotFiniteError  # finite itself, and not when multiplied on arrival
        return run

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        values = self.values(payload, sizes)
        return self.place(self.points(sizes, draw), values, self.gain(sizes), sizes)


class TopK(Sparse):
    def size(self, sizes: Sizes, draw: Draw) -> None:
        return None

    def alpha(self, sizes: Sizes) -> float:
        return self.count(sizes) / sum(sizes) * self.exact

    def encode(self, x: Floats, sizes: Sizes, draw: Draw) -> bytes:
        if not np.isfinite(x).all():
            raise NotFiniteError
        order = np.argsort(-np.abs(x), kind="stable")  # ties to the lower index
        points = np.sort(order[: self.count(sizes)])
        return write_run(self.form, x[points], draw.own(ROUNDING)) + reference_gaps.encode(
            points.tolist(), sum(sizes)
        )

    def decode(self, payload: bytes, sizes: Sizes, draw: Draw) -> Floats:
        points = reference_gaps.decode(self.rest(payload, sizes), self.count(sizes), sum(sizes))
        gain = self.shrink if self.contracted else np.float32(1)
        return self.place(points, self.values(payload, sizes), gain, sizes)
