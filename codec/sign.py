"""``sign``: one bit a coordinate and one float32 scale a block.

Payload: the B scales ||x_b||_1 / d_b as float32, then each block's sign bits, bit j of
byte i for coordinate 8 i + j, 1 for negative (the IEEE sign bit, so -0 is negative);
every block starts on a byte. 4 B + sum of ceil(d_b / 8) bytes.

Source: Zheng, Huang and Kwok 2019 (dist-EF-blockSGDM), section 3.2: the blockwise
compressor C_B, Proposition 1: alpha = min_b ||x_b||_1^2 / (d_b ||x_b||_2^2) >= min_b 1/d_b.
Differs: their sign(0) is left open; here a coordinate is sent by its sign bit.
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
    first_not_finite,
    residual_address,
    source,
    target,
)
from psrv.errors import CodecError


class Sign(Compressor):
    """C(x) on block b = ||x_b||_1 / d_b * sign(x_b)."""

    spec = "sign"
    contractive = True

    def payload_bytes(self, blocks: Blocks) -> int:
        return 4 * len(blocks) + int(blocks.bit_edges[-1])

    def encode(self, buffer: Floats, blocks: Blocks, key: int, out: Bytes) -> None:
        lanes = np.empty(64, np.float32)
        bad = kernels.encode_sign(
            target(buffer, blocks),
            blocks.edges,
            blocks.bit_edges,
            self.room(out, blocks),
            address(lanes),
        )
        if bad >= 0:
            start, stop = int(blocks.edges[bad]), int(blocks.edges[bad + 1])
            raise first_not_finite(buffer, start, stop)

    def decode(self, payload: Bytes, blocks: Blocks, out: Floats) -> None:
        data = self._checked(payload, blocks)
        kernels.decode_sign(address(data), blocks.edges, blocks.bit_edges, target(out, blocks))

    def decode_onto(self, payload: Bytes, blocks: Blocks, base: Floats, out: Floats) -> None:
        data = self._checked(payload, blocks)
        kernels.decode_sign_onto(
            address(data),
            blocks.edges,
            blocks.bit_edges,
            source(base, blocks),
            target(out, blocks),
        )

    def reduce(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        out: Floats,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> None:
        data = [self._checked(p, blocks) for p in payloads]
        kernels.reduce_sign(
            addresses(data),
            blocks.edges,
            blocks.bit_edges,
            target(out, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
        )

    def _checked(self, payload: Bytes, blocks: Blocks) -> Bytes:
        data = self.check(payload, blocks)
        if not kernels.finite_scales(address(data), len(blocks)):
            raise CodecError("sign payload holds a scale that is negative or not finite")
        return data
