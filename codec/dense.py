"""``dense``, ``fp16``, ``bf16``, ``natural``: every coordinate, in one of the value formats.

Payload: one run of the d coordinates, as ``codec/formats.py`` says; blocks play no part.

    spec      bytes          C(x)
    dense     4 d            x
    fp16      2 d            shrinks the error by alpha = 1 - 2^-22, of magnitudes from 2^-14
                             to 65504: below, the error is up to 2^-25 a coordinate; above, the
                             number becomes 65504
    bf16      2 d            alpha = 1 - 2^-16, of magnitudes from 2^-126 on
    natural   ceil(9 d / 8)  unbiased with omega = 1/8, of magnitudes from 2^-126 to 2^127; under
                             error feedback 8/9 of that, with alpha = 8/9

A number of p significant bits, rounded to nearest, is off by at most 2^-p of itself, hence
alpha = 1 - 2^-2p: p is 11 for fp16, 8 for bf16. Outside the ranges above the error of every
number is still at most the number itself, rounded to nearest; of a denormal one drawn by
``natural``, at most 2^-126.

Source of ``natural``: Horvath and others 2019, arXiv:1905.10988, Theorem 1 (omega).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from psrv.codec import format_kernels as kernels
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
from psrv.codec.formats import FORMATS, Format
from psrv.codec.rng import Purpose
from psrv.errors import CodecError


class Values(Compressor):
    """C(x)[i] = gain * Q(x[i]) for the Q of a value format; the gain is 1 as parsed."""

    form: ClassVar[Format]

    def __init__(self, gain: float = 1.0) -> None:
        self.spec = self.name
        self.gain = np.float32(gain)
        self.random = self.form.random
        self.contractive = not self.form.random or gain != 1

    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        return self.form.size(blocks.dimension)

    def encode(
        self,
        buffer: Floats,
        blocks: Blocks,
        draw: Draw,
        out: Bytes,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> int:
        size = self.form.size(blocks.dimension)
        bad = kernels.encode_run(
            self.form.code,
            target(buffer, blocks),
            blocks.dimension,
            residual_address(residual, blocks),
            np.float32(rho),
            self.room(out, size),
            np.uint64(draw.own(Purpose.ROUNDING) if self.random else 0),
            self.gain,
        )
        if bad >= 0:
            raise not_finite(buffer, bad)
        return size

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        data = self._finite(payload, blocks, draw)
        d = blocks.dimension
        kernels.decode_values(
            self.form.code, address(data), 0, d, d, self.gain, target(out, blocks)
        )

    def decode_onto(
        self, payload: Bytes, blocks: Blocks, draw: Draw, base: Floats, out: Floats
    ) -> None:
        data = self._finite(payload, blocks, draw)
        kernels.add_values(
            self.form.code,
            address(data),
            0,
            blocks.dimension,
            blocks.dimension,
            self.gain,
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
        data = [self._finite(p, blocks, d) for p, d in zip(payloads, draws, strict=True)]
        factors, factor = weighing(weights, len(data))
        kernels.reduce_runs(
            self.form.code,
            addresses(data),
            address(factors),
            factor,
            blocks.dimension,
            self.gain,
            target(out, blocks),
            residual_address(residual, blocks),
            np.float32(rho),
            address(scratch.array("values", kernels.STRETCH, np.float32)),
        )

    def omega(self, blocks: Blocks, workers: int) -> float | None:
        unbiased = self.lossless or (self.form.random and self.gain == 1)
        return self.form.omega if unbiased else None

    def contracted(self) -> Compressor:
        return self if self.contractive else type(self)(1 / (1 + self.form.omega))

    def _finite(self, payload: Bytes, blocks: Blocks, draw: Draw) -> Bytes:
        data = self.check(payload, blocks, draw)
        bad = kernels.check_values(self.form.code, address(data), blocks.dimension)
        if bad >= 0:
            raise CodecError(
                f"{self.spec} payload holds a number that is not finite, at coordinate {bad}"
            )
        return data


class Dense(Values):
    """C(x) = x."""

    name = grammar = "dense"
    summary = "float32 as it is"
    examples = ("dense",)
    form = FORMATS["float32"]
    lossless = True


class Half(Values):
    """C(x) = x to 11 significant bits, from 2^-24 to 65504."""

    name = grammar = "fp16"
    summary = "each coordinate as IEEE binary16, rounded to nearest"
    examples = ("fp16",)
    form = FORMATS["fp16"]


class BrainFloat(Values):
    """C(x) = x to 8 significant bits, in the range of float32."""

    name = grammar = "bf16"
    summary = "the upper half of each float32, rounded to nearest"
    examples = ("bf16",)
    form = FORMATS["bf16"]


class Natural(Values):
    """C(x) = sign and exponent of x, the exponent rounded at random."""

    name = grammar = "natural"
    summary = "each coordinate as a power of two, by chance one of the two around it"
    examples = ("natural",)
    form = FORMATS["natural"]
