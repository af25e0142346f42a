"""``qsgd:s``: each coordinate as one of 2 s + 1 levels, and one float32 norm a block.

Payload: the B norms ||x_b||_2 as float32, then each block's codes, level + s in
w = ceil(log2(2 s + 1)) bits, as bit planes of sixteen coordinates; ceil(w d_b / 8) bytes a
block. 4 B + sum of ceil(w d_b / 8) bytes.

Source: Alistarh and others 2017, "QSGD: communication-efficient SGD via gradient
quantization and encoding", arXiv:1610.02132: the quantiser of section 3.1, with
omega = min(d_b / s^2, sqrt(d_b) / s) by Lemma 3.1. Differs: levels have a fixed width here
(their Elias code is shorter where s is far below sqrt(d_b)), and the sign travels with the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from psrv.codec import qsgd_kernels as kernels
from psrv.codec import scratch
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
from psrv.errors import CodecError, ConfigError, NonFiniteError

MOST_LEVELS = 32767
"""The largest s: its codes fill the sixteen bits of a word."""


class QSGD(Compressor):
    """C(x) on block b = ||x_b||_2 / s * levels; divided by 1 + omega where ``shrunk``."""

    name = "qsgd"
    grammar = "qsgd:LEVELS"
    summary = "one of 2 LEVELS + 1 levels for each coordinate, and the norm of each block"
    examples = ("qsgd:4", "qsgd:100")
    random = True

    def __init__(self, levels: int, shrunk: bool = False) -> None:
        if not 1 <= levels <= MOST_LEVELS:
            raise ConfigError(f"qsgd has 1 to {MOST_LEVELS} levels, not {levels}")
        self.spec = f"qsgd:{levels}"
        self.levels = levels
        self.width = (2 * levels).bit_length()
        self.contractive = self.shrunk = shrunk

    @classmethod
    def of(cls, argument: str | None, form: str | None) -> Self:
        if form is not None:
            raise ConfigError("qsgd takes no value format")
        if argument is None or not argument.isascii() or not argument.isdigit():
            raise ConfigError("the number of levels has to be an integer")
        if len(argument) > len(str(MOST_LEVELS)):
            raise ConfigError(f"qsgd has at most {MOST_LEVELS} levels")
        return cls(int(argument))

    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        return 4 * len(blocks) + int(kernels.code_bytes(blocks.edges, self.width)[0])

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
        bad = kernels.encode_qsgd(
            target(buffer, blocks),
            blocks.edges,
            self.levels,
            self.width,
            self._gain(blocks),
            residual_address(residual, blocks),
            np.float32(rho),
            np.uint64(draw.own(Purpose.ROUNDING)),
            self.room(out, size),
            address(scratch.array("qsgd", kernels.ROOM, np.uint8)),
        )
        if bad >= 0:
            raise _too_large(buffer, blocks, bad)
        return size

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        self._decode(payload, blocks, draw, 0, out)

    def decode_onto(
        self, payload: Bytes, blocks: Blocks, draw: Draw, base: Floats, out: Floats
    ) -> None:
        self._decode(payload, blocks, draw, source(base, blocks), out)

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
        kernels.reduce_qsgd(
            addresses(data),
            address(factors),
            factor,
            blocks.edges,
            self.levels,
            self.width,
            self._gain(blocks),
            target(out, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
        )

    def omega(self, blocks: Blocks, workers: int) -> float | None:
        return None if self.shrunk else self._omega(blocks)

    def contracted(self) -> Compressor:
        return self if self.shrunk else QSGD(self.levels, shrunk=True)

    def _omega(self, blocks: Blocks) -> float:
        largest = int(kernels.code_bytes(blocks.edges, self.width)[1])
        return min(largest / self.levels**2, largest**0.5 / self.levels)

    def _gain(self, blocks: Blocks) -> np.float32:
        return np.float32(1 / (1 + self._omega(blocks)) if self.shrunk else 1)

    def _decode(self, payload: Bytes, blocks: Blocks, draw: Draw, base: int, out: Floats) -> None:
        data = self._checked(payload, blocks, draw)
        kernels.decode_qsgd(
            address(data),
            blocks.edges,
            self.levels,
            self.width,
            self._gain(blocks),
            base,
            target(out, blocks),
        )

    def _checked(self, payload: Bytes, blocks: Blocks, draw: Draw) -> Bytes:
        data = self.check(payload, blocks, draw)
        if (bad := kernels.check_norms(address(data), len(blocks))) >= 0:
            raise CodecError(
                f"{self.spec} payload holds a norm that is negative or not finite, of block {bad}"
            )
        bad = kernels.check_codes(address(data), blocks.edges, self.levels, self.width)
        if bad >= 0:
            raise CodecError(
                f"{self.spec} payload holds a code above {2 * self.levels}, in block {bad}"
            )
        return data


def _too_large(buffer: Floats, blocks: Blocks, block: int) -> NonFiniteError:
    """The error for a block whose norm is not finite, naming the first bad coordinate."""
    start, stop = int(blocks.edges[block]), int(blocks.edges[block + 1])
    bad = np.flatnonzero(~np.isfinite(buffer[start:stop]))
    if bad.size:
        return not_finite(buffer, start + int(bad[0]))
    return NonFiniteError(
        f"the norm of coordinates {start} to {stop - 1} is more than float32 holds", start
    )
