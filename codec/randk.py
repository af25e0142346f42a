"""``rand-k``: K coordinates at random, a set of its own for each sender and round.

Payload: K values in a value format, and nothing else: both ends derive the coordinates
pi(0) to pi(K - 1) from the sender's stream (``codec/bijection.py``), so that they are
distinct and cost O(K). Multiplied by d / K on arrival, which makes it unbiased with a
variance of d / K - 1; as ``contracted`` not multiplied, which shrinks the error by 1 - K/d.

Source: Wangni et al. 2018, Stich et al. 2018 (rand-k); Szlendak, Tyurin and Richtarik 2022
(permutation compressors), section 2.2. Differs: a keyed bijection in place of a uniformly
random set: each coordinate is chosen with probability K / d exactly, sets nearly uniformly.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from psrv.codec import bijection, scratch, sparse_kernels
from psrv.codec.amount import Amount
from psrv.codec.base import Blocks, Bytes, Draw, Floats, address, not_finite, source, target
from psrv.codec.formats import Format
from psrv.codec.rng import Purpose
from psrv.codec.sparse import Points, Sparse, format_of


class RandK(Sparse):
    """C(x) = d / K x on K random coordinates, 0 elsewhere."""

    name = "rand-k"
    grammar = "rand-k:K[/FORMAT]"
    summary = "K coordinates at random, with no index"
    examples = ("rand-k:0.25", "rand-k:1", "rand-k:0.25/natural")
    partial = True

    def __init__(self, amount: Amount, form: Format, contracted: bool = False) -> None:
        super().__init__(amount, form)
        self.contractive = contracted
        self.random = True

    @classmethod
    def of(cls, argument: str | None, form: str | None) -> Self:
        return cls(Amount.of(argument), format_of(form))

    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        return self.form.size(self.count(blocks))

    def gain(self, blocks: Blocks) -> np.float32:
        if self.contractive:
            return np.float32(1 / (1 + self.form.omega))
        return np.float32(blocks.dimension / self.count(blocks))

    def omega(self, blocks: Blocks, workers: int) -> float | None:
        if self.contractive:
            return None
        return blocks.dimension / self.count(blocks) * (1 + self.form.omega) - 1

    def contracted(self) -> RandK:
        return self if self.contractive else RandK(self.amount, self.form, contracted=True)

    def points(self, data: Bytes, blocks: Blocks, draw: Draw, out: Points) -> None:
        key = np.uint64(draw.own(Purpose.CHOICE))
        bijection.images(key, blocks.dimension, 0, out.size, address(out))

    def encode(
        self,
        buffer: Floats,
        blocks: Blocks,
        draw: Draw,
        out: Bytes,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> int:
        size = self.payload_bound(blocks, draw.workers)
        x, room = target(buffer, blocks), self.room(out, size)
        if residual is not None:
            memory = source(residual, blocks)
            bad = sparse_kernels.add_residual(x, blocks.dimension, memory, np.float32(rho))
            if bad >= 0:
                raise not_finite(buffer, bad)
        points = scratch.array("sparse points", self.count(blocks), np.int32)
        self.points(out[:0], blocks, draw, points)
        values = scratch.array("sparse values", points.size, np.float32)
        self._send(buffer, points, values, blocks, draw, room, gathered=False)
        return size
