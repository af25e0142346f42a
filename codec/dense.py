"""``dense``: every coordinate as a little-endian float32; nothing is lost."""

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
from psrv.errors import CodecError, NonFiniteError


class Dense(Compressor):
    """C(x) = x. Payload: 4 d bytes."""

    spec = "dense"
    lossless = True
    contractive = True

    def payload_bytes(self, blocks: Blocks) -> int:
        return 4 * blocks.dimension

    def encode(self, buffer: Floats, blocks: Blocks, key: int, out: Bytes) -> None:
        self.room(out, blocks)
        bad = kernels.first_not_finite(target(buffer, blocks), buffer.size)
        if bad >= 0:
            raise NonFiniteError(f"coordinate {bad} is {buffer[bad]}, not a finite number", bad)
        out[:] = buffer.view(np.uint8)
        buffer[:] = 0

    def decode(self, payload: Bytes, blocks: Blocks, out: Floats) -> None:
        data = self._finite(payload, blocks)
        target(out, blocks)
        out.view(np.uint8)[:] = data

    def decode_onto(self, payload: Bytes, blocks: Blocks, base: Floats, out: Floats) -> None:
        data = self._finite(payload, blocks)
        kernels.add_onto(address(data), out.size, source(base, blocks), target(out, blocks))

    def reduce(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        out: Floats,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> None:
        data = [self._finite(p, blocks) for p in payloads]
        kernels.reduce_dense(
            addresses(data),
            out.size,
            target(out, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
        )

    def _finite(self, payload: Bytes, blocks: Blocks) -> Bytes:
        data = self.check(payload, blocks)
        bad = kernels.first_not_finite(address(data), blocks.dimension)
        if bad >= 0:
            raise CodecError(
                f"dense payload holds a number that is not finite, at coordinate {bad}"
            )
        return data
