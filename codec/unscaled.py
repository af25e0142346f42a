"""``sign-unscaled``: one bit a coordinate and nothing else, as signSGD and signum send it.

Payload: ceil(d / 8) bytes, bit j of byte i for coordinate 8 i + j, 1 for negative. An
exact zero (of either sign) has no sign to send: it takes the generator's bit for its
coordinate, ``draw.own(Purpose.TIE)``. Dead units give many exact zeros, and a fixed bit
for them would make those parameters drift; on the server a zero is a tied vote.

Source: Bernstein et al. 2018, "signSGD: compressed optimisation for non-convex problems"
(majority vote). Differs: they send sign(0) = 0 as if it were a third value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psrv.codec import sign_kernels as kernels
from psrv.codec.base import (
    Blocks,
    Bytes,
    Compressor,
    Draw,
    Floats,
    address,
    addresses,
    not_finite,
    residual_address,
    source,
    target,
    weighing,
)
from psrv.codec.rng import Purpose


class SignUnscaled(Compressor):
    """C(x) = sign(x) in {-1, +1}, ties at random. Not contractive: plain channels only."""

    name = spec = "sign-unscaled"
    grammar = "sign-unscaled"
    summary = "the sign of each coordinate and nothing else; a vote, for plain channels"
    examples = ("sign-unscaled",)
    random = True

    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        return (blocks.dimension + 7) // 8

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
        bad = kernels.encode_unscaled(
            target(buffer, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
            blocks.dimension,
            np.uint64(draw.own(Purpose.TIE)),
            self.room(out, size),
        )
        if bad >= 0:
            raise not_finite(buffer, bad)
        return size

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        data = self.check(payload, blocks, draw)
        kernels.decode_unscaled(address(data), blocks.dimension, target(out, blocks))

    def decode_onto(
        self, payload: Bytes, blocks: Blocks, draw: Draw, base: Floats, out: Floats
    ) -> None:
        data = self.check(payload, blocks, draw)
        kernels.decode_unscaled_onto(
            address(data), blocks.dimension, source(base, blocks), target(out, blocks)
        )

    def reduce(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        draws: Sequence[Draw],
        out: Floats,
        residual: Floats | None = None,
        rho: float = 1.0,
        weights: Floats | None = None,
    ) -> None:
        data = [self.check(p, blocks, d) for p, d in zip(payloads, draws, strict=True)]
        factors, factor = weighing(weights, len(data))
        kernels.reduce_unscaled(
            addresses(data),
            address(factors),
            factor,
            blocks.dimension,
            target(out, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
        )
