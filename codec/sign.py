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

from psrv.codec import sign_kernels as kernels
from psrv.codec.base import (
    Blocks,
    Bytes,
    Compressor,
    Draw,
    Floats,
    address,
    addresses,
    residual_address,
    source,
    target,
    weighing,
)
from psrv.errors import CodecError, NonFiniteError


class Sign(Compressor):
    """C(x) on block b = ||x_b||_1 / d_b * sign(x_b)."""

    name = spec = "sign"
    grammar = "sign"
    summary = "the sign of each coordinate, and the mean magnitude of each block"
    examples = ("sign",)
    contractive = True

    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        return 4 * len(blocks) + int(blocks.bit_edges[-1])

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
        bad = kernels.encode_sign(
            target(buffer, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
            blocks.edges,
            blocks.bit_edges,
            self.room(out, size),
        )
        if bad >= 0:
            raise _too_large(buffer, blocks, bad)
        return size

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        data = self._checked(payload, blocks, draw)
        kernels.decode_sign(address(data), blocks.edges, blocks.bit_edges, target(out, blocks))

    def decode_onto(
        self, payload: Bytes, blocks: Blocks, draw: Draw, base: Floats, out: Floats
    ) -> None:
        data = self._checked(payload, blocks, draw)
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
        draws: Sequence[Draw],
        out: Floats,
        residual: Floats | None = None,
        rho: float = 1.0,
        weights: Floats | None = None,
    ) -> None:
        data = [self._checked(p, blocks, d) for p, d in zip(payloads, draws, strict=True)]
        factors, factor = weighing(weights, len(data))
        kernels.reduce_sign(
            addresses(data),
            address(factors),
            factor,
            blocks.edges,
            blocks.bit_edges,
            target(out, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
        )

    def relay(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        draws: Sequence[Draw],
        out: Floats,
        residual: Floats | None,
        rho: float,
        encoder: Compressor,
        draw: Draw,
        result: Bytes,
    ) -> int:
        if not isinstance(encoder, Sign):
            return super().relay(payloads, blocks, draws, out, residual, rho, encoder, draw, result)
        data = [self._checked(p, blocks, d) for p, d in zip(payloads, draws, strict=True)]
        factors, factor = weighing(None, len(data))
        size = self.payload_bound(blocks, draw.workers)
        bad = kernels.relay_sign(
            addresses(data),
            address(factors),
            factor,
            blocks.edges,
            blocks.bit_edges,
            residual_address(residual, blocks),
            np.float32(rho),
            target(out, blocks),
            self.room(result, size),
        )
        if bad >= 0:
            raise _too_large(out, blocks, bad)
        return size

    def _checked(self, payload: Bytes, blocks: Blocks, draw: Draw) -> Bytes:
        data = self.check(payload, blocks, draw)
        if not kernels.finite_scales(address(data), len(blocks)):
            raise CodecError("sign payload holds a scale that is negative or not finite")
        return data


def _too_large(buffer: Floats, blocks: Blocks, block: int) -> NonFiniteError:
    """The error for a block whose norm is not finite, naming the first bad coordinate."""
    start, stop = int(blocks.edges[block]), int(blocks.edges[block + 1])
    bad = np.flatnonzero(~np.isfinite(buffer[start:stop]))
    if bad.size:
        at = start + int(bad[0])
        return NonFiniteError(f"coordinate {at} is {buffer[at]}, not a finite number", at)
    return NonFiniteError(
        f"the magnitudes of coordinates {start} to {stop - 1} sum to more than float32 holds", start
    )
