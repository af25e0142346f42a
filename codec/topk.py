"""``top-k``: the K coordinates of largest magnitude, exactly K, ties to the lower index.

Payload: the K values in a value format, in ascending order of their coordinates, then the
coordinates in the code of ``codec/gaps.py``: Golomb-Rice on gaps, or bit-packed where that is
no longer. Its size depends on the data; never above ceil(log2 d) bits a coordinate.

alpha = K / d. Source: Stich, Cordonnier and Jaggi 2018, "Sparsified SGD with memory";
Wang, Lin and Chen 2022 (CD-Adam), section 4. Differs: which of equal magnitudes is sent is
specified.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from psrv.codec import gaps, selection
from psrv.codec.amount import Amount
from psrv.codec.base import (
    Blocks,
    Bytes,
    Draw,
    Floats,
    address,
    not_finite,
    residual_address,
    target,
)
from psrv.codec.formats import Format
from psrv.codec.sparse import Points, Sparse, format_of
from psrv.errors import CodecError


class TopK(Sparse):
    """C(x) = x on the K largest magnitudes, 0 elsewhere; with a value format, Q(x) there."""

    name = "top-k"
    grammar = "top-k:K[/FORMAT]"
    summary = "the K coordinates of largest magnitude, with their indices in a Rice code"
    examples = ("top-k:0.25", "top-k:1", "top-k:0.25/bf16", "top-k:0.25/natural")
    contractive = True
    ascending = True

    def __init__(self, amount: Amount, form: Format, contracted: bool = False) -> None:
        super().__init__(amount, form)
        self._contracted = contracted or not form.omega

    @classmethod
    def of(cls, argument: str | None, form: str | None) -> Self:
        return cls(Amount.of(argument), format_of(form))

    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        k = self.count(blocks)
        return self.form.size(k) + gaps.packed_bytes(k, blocks.dimension)

    def payload_bytes(self, blocks: Blocks, draw: Draw) -> int | None:
        return None

    def gain(self, blocks: Blocks) -> np.float32:
        return np.float32(1 / (1 + self.form.omega) if self._contracted else 1)

    def contracted(self) -> TopK:
        return self if self._contracted else TopK(self.amount, self.form, contracted=True)

    def points(self, data: Bytes, blocks: Blocks, draw: Draw, out: Points) -> None:
        d = blocks.dimension
        status = gaps.decode(address(data), data.size, out.size, d, address(out))
        if status:
            raise CodecError(
                f"{self.spec} payload's code of {out.size} indices below {d} {gaps.REASONS[status]}"
            )

    def encode(
        self,
        buffer: Floats,
        blocks: Blocks,
        draw: Draw,
        out: Bytes,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> int:
        room = self.room(out, self.payload_bound(blocks, draw.workers))
        x, memory = target(buffer, blocks), residual_address(residual, blocks)
        d, k = blocks.dimension, self.count(blocks)
        found = selection.select(x, d, k, memory, rho)
        if found.bad >= 0:
            raise not_finite(buffer, found.bad)
        self._send(buffer, found.indices, found.values, blocks, draw, room, gathered=True)
        size, indices = self.form.size(k), address(found.indices)
        code, more = gaps.choose(indices, k, d)
        gaps.encode(indices, k, d, code, room + size)
        return size + more
