"""Compressors that send single coordinates: ``top-k`` and ``rand-k`` say which ones.

The first part of a payload is the K values in a value format (``codec/formats.py``); what
follows, if anything, says where they belong. C(x) is +0 where nothing is sent, and a -0
that is sent arrives as +0. ``decode_onto`` leaves such coordinates of ``base`` as they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psrv.codec import format_kernels, scratch, sparse_kernels
from psrv.codec.amount import Amount
from psrv.codec.base import (
    Blocks,
    Bytes,
    Compressor,
    Draw,
    Floats,
    address,
    not_finite,
    residual_address,
    source,
    target,
    too_large,
    weighing,
)
from psrv.codec.formats import FORMATS, Format
from psrv.codec.kernels import finish_mean, first_not_finite
from psrv.codec.rng import Purpose
from psrv.errors import CodecError, ConfigError

Points = NDArray[np.int32]

LARGEST = (1 << 31) - 1
"""Coordinates of the largest bucket."""


def format_of(name: str | None) -> Format:
    """The value format of a spec, float32 if none is named; ``ConfigError`` for another."""
    form = FORMATS.get(name or "float32")
    if form is None or name == "":
        raise ConfigError(f"value format '{name}' is none of {', '.join(FORMATS)}")
    return form


class Sparse(Compressor):
    """K coordinates of each bucket.

    Attributes:
        amount: K. form: of the values.
        ascending: points ascend within a payload.
    """

    sparse = True
    ascending = False

    def __init__(self, amount: Amount, form: Format) -> None:
        self.amount, self.form = amount, form
        suffix = "" if form.name == "float32" else f"/{form.name}"
        self.spec = f"{self.name}:{amount}{suffix}"
        self.whole = amount.whole
        self.random = form.random

    @abstractmethod
    def points(self, data: Bytes, blocks: Blocks, draw: Draw, out: Points) -> None:
        """Write which coordinates a payload's values belong to, or raise ``CodecError``.

        Args:
            data: what follows the values in the payload, uint8[m].
            out: int32[K]: distinct, in [0, d).
        """

    @abstractmethod
    def gain(self, blocks: Blocks) -> np.float32:
        """What the values are multiplied by on arrival."""

    def count(self, blocks: Blocks) -> int:
        """K.

        Raises:
            ConfigError: a count above d, or a d whose indices int32 cannot hold.
        """
        if blocks.dimension > LARGEST:
            raise ConfigError(
                f"{self.spec} takes buckets of up to {LARGEST:,} coordinates, "
                f"this one has {blocks.dimension:,}; use blocks that are not global"
            )
        return self.amount.count(blocks.dimension)

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        points, values = self._taken([payload], blocks, [draw])
        at = target(out, blocks)
        out[:] = 0
        sparse_kernels.scatter_add(points, address(values), np.float32(1), at)

    def decode_onto(
        self, payload: Bytes, blocks: Blocks, draw: Draw, base: Floats, out: Floats
    ) -> None:
        points, values = self._taken([payload], blocks, [draw])
        origin, at = source(base, blocks), target(out, blocks)
        if origin != at:
            out[:] = base
        sparse_kernels.scatter_add(points, address(values), np.float32(1), at)

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
        if not payloads:
            raise CodecError("there is no payload to reduce")
        n, d, k = len(payloads), blocks.dimension, self.count(blocks)
        points, values = self._taken(payloads, blocks, draws)
        factors, factor = weighing(weights, n)
        at, memory = target(out, blocks), residual_address(residual, blocks)
        if self.ascending:
            starts = np.arange(n + 1, dtype=np.int64) * k
            sparse_kernels.reduce_ascending(
                points, address(values), starts, factors, factor, d, at, memory, np.float32(rho)
            )
            return
        out[:] = 0
        for i in range(n):
            part = slice(i * k, i * k + k)
            sparse_kernels.scatter_add(points[part], address(values[part]), factors[i], at)
        finish_mean(at, d, factor, memory, np.float32(rho))

    def _send(
        self,
        buffer: Floats,
        points: Points,
        values: Floats,
        blocks: Blocks,
        draw: Draw,
        payload: int,
        *,
        gathered: bool,
    ) -> None:
        """Write the values of ``points`` to ``payload`` and leave the rest of them in ``buffer``.

        Args:
            values: float32[K], overwritten: the buffer's values at the points, if they have
                been ``gathered``.

        Raises:
            NonFiniteError: a value that is not finite, or not when multiplied on arrival.
        """
        gain = self.gain(blocks)
        bad = sparse_kernels.send(
            self.form.code,
            address(buffer),
            points,
            address(values),
            gathered,
            payload,
            np.uint64(draw.own(Purpose.ROUNDING)),
            gain,
        )
        if bad >= 0:
            at = int(points[bad])
            finite = np.isfinite(buffer[at])
            raise too_large(buffer, at, gain) if finite else not_finite(buffer, at)

    def _taken(
        self, payloads: Sequence[Bytes], blocks: Blocks, draws: Sequence[Draw]
    ) -> tuple[Points, Floats]:
        """Points and values of all payloads, each K after the other, proved and multiplied."""
        k = self.count(blocks)
        size, gain = self.form.size(k), self.gain(blocks)
        points = scratch.array("sparse points", k * len(payloads), np.int32)
        values = scratch.array("sparse values", k * len(payloads), np.float32)
        for i, (payload, draw) in enumerate(zip(payloads, draws, strict=True)):
            data = self.check(payload, blocks, draw)
            if data.size < size:
                raise CodecError(
                    f"{self.spec} payload has {data.size} bytes, expected at least {size} "
                    f"for {k} values"
                )
            bad = format_kernels.check_values(self.form.code, address(data), k)
            if bad >= 0:
                raise CodecError(f"{self.spec} payload holds a value that is not finite: {bad}")
            own = slice(i * k, i * k + k)
            self.points(data[size:], blocks, draw, points[own])
            at = address(values[own])
            format_kernels.decode_values(self.form.code, address(data), 0, k, k, gain, at)
            if gain > 1 and first_not_finite(at, k) >= 0:
                raise CodecError(f"{self.spec} payload holds a value too large for its scale")
        return points, values
