"""``sign-unscaled``: one bit a coordinate and nothing else, as signSGD and signum send it.

Payload: ceil(d / 8) bytes, bit j of byte i for coordinate 8 i + j, 1 for negative. An
exact zero (of either sign) has no sign to send: it takes the generator's bit for its
coordinate, ``rng.key(seed, TIE, round, bucket, rank)``. Dead units give many exact zeros,
and a fixed bit for them would make those parameters drift; on the server a zero is a
tied vote.

Source: Bernstein et al. 2018, "signSGD: compressed optimisation for non-convex problems"
(majority vote). Differs: they send sign(0) = 0 as if it were a third value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psrv.codec import kernels
from psrv.codec.base import (
    Blocks,
    Bytes,
    Compressor,
    Floats,
    address,
    addresses,
    residual_address,
    source,
    target,
)
from psrv.errors import NonFiniteError


class SignUnscaled(Compressor):
    """C(x) = sign(x) in {-1, +1}, ties at random. Not contractive: plain channels only."""

    spec = "sign-unscaled"
    random = True

    def payload_bytes(self, blocks: Blocks) -> int:
        return (blocks.dimension + 7) // 8

    def encode(self, buffer: Floats, blocks: Blocks, key: int, out: Bytes) -> None:
        x, bits = target(buffer, blocks), self.room(out, blocks)
        bad = kernels.encode_unscaled(x, buffer.size, np.uint64(key), bits)
        if bad >= 0:
            raise NonFiniteError(f"coordinate {bad} is {buffer[bad]}, not a finite number", bad)
        kernels.subtract_signs(bits, buffer.size, x)

    def decode(self, payload: Bytes, blocks: Blocks, out: Floats) -> None:
        data = self.check(payload, blocks)
        kernels.decode_unscaled(address(data), out.size, target(out, blocks))

    def decode_onto(self, payload: Bytes, blocks: Blocks, base: Floats, out: Floats) -> None:
        data = self.check(payload, blocks)
        kernels.decode_unscaled_onto(
            address(data), out.size, source(base, blocks), target(out, blocks)
        )

    def reduce(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        out: Floats,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> None:
        data = [self.check(p, blocks) for p in payloads]
        kernels.reduce_unscaled(
            addresses(data),
            out.size,
            target(out, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
        )
