"""The contract of a compressor.

A compressor C turns one bucket, a contiguous float32 vector made of whole blocks,
into a payload of bytes and back. It holds no state: what is remembered between
rounds belongs to the channel (``codec/channel.py``).

encode(buffer, blocks, key, out)
    Writes the payload of x = ``buffer`` into ``out`` and leaves x - C(x) in
    ``buffer``. Equal inputs give equal bytes on every processor: the order of
    every float32 sum is fixed and written down in ``docs/payloads.md``.
    A NaN or infinity anywhere raises ``NonFiniteError``; ``buffer`` is then
    undefined, ``out`` too, and nothing else has changed.
decode(payload, blocks, out)
    out = C(x). The payload comes from a peer: its length and every number in it
    is checked before the first write. Any byte string gives values or ``CodecError``.
decode_onto(payload, blocks, base, out)
    out = base + C(x), one float32 addition a coordinate. ``base`` may be ``out``.
reduce(payloads, blocks, out, residual, rho)
    out = ((c_0 + c_1) + c_2 + ...) * float32(1/n) + float32(rho) * residual, with the
    payloads in rank order and every operation rounded to float32: the server's
    whole reduction, with no dense vector per worker. Without a residual the last
    product and sum are left out.
payload_bytes(blocks)
    The exact size that encode will write.

Vectors are contiguous float32[d], and what is written is writable: anything else, and a
reduction of no payload, is a ``CodecError``, since kernels check nothing themselves.
Neither vectors nor payloads need any alignment.

``blocks`` fixes which coordinates share a scale; ``key`` seeds the counter-based
generator for compressors that draw (``codec/rng.py``), and is ignored by the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from psrv.errors import CodecError, NonFiniteError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Blocks:
    """How one bucket is cut into blocks.

    Attributes:
        edges: int64, shape (B + 1,), ascending from 0: block b is the coordinates
            ``edges[b]`` to ``edges[b + 1]``, relative to the bucket's start.
        bit_edges: int64, shape (B + 1,): where each block's sign bits begin when every
            block starts on a byte, in bytes.
        dimension: coordinates in the bucket.
    """

    edges: NDArray[np.int64]
    bit_edges: NDArray[np.int64] = field(init=False)
    dimension: int = field(init=False)

    def __post_init__(self) -> None:
        edges = np.array(self.edges, np.int64)  # a copy: kernels rely on what is checked here
        if edges.size < 2 or edges[0] != 0 or (np.diff(edges) < 1).any():
            raise CodecError("block edges must ascend from 0, with no empty block")
        bits = np.zeros(edges.size, np.int64)
        np.cumsum((np.diff(edges) + 7) // 8, out=bits[1:])
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "bit_edges", bits)
        object.__setattr__(self, "dimension", int(edges[-1]))

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Blocks:
        """Blocks of the given sizes, one after the other."""
        return cls(np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))]))

    def __len__(self) -> int:
        return self.edges.size - 1


@dataclass(frozen=True)
class Bucket:
    """Coordinates ``start`` to ``stop`` of the flat vector, cut into whole blocks.

    The unit of transfer: what one message carries. ``group`` is the parameter group that
    all its coordinates belong to, and so the step size that applies to it.
    """

    index: int
    start: int
    stop: int
    group: int
    blocks: Blocks

    @property
    def slice(self) -> slice:
        """Where the bucket lies in a flat vector."""
        return slice(self.start, self.stop)


class Compressor(ABC):
    """One compressor; see the module's text for what each method promises.

    Attributes:
        spec: the text that ``parse`` turns into this compressor.
        lossless: C(x) = x for every float32 x.
        contractive: there is an alpha > 0 with ||C(x) - x||^2 <= (1 - alpha) ||x||^2
            for every x, which is what error feedback and Markov memory need.
        random: encode draws from ``key``.
    """

    spec: str
    lossless = False
    contractive = False
    random = False

    @abstractmethod
    def payload_bytes(self, blocks: Blocks) -> int:
        """Exact bytes that ``encode`` writes for one bucket."""

    @abstractmethod
    def encode(self, buffer: Floats, blocks: Blocks, key: int, out: Bytes) -> None:
        """Write the payload of ``buffer`` to ``out``; leave x - C(x) in ``buffer``."""

    @abstractmethod
    def decode(self, payload: Bytes, blocks: Blocks, out: Floats) -> None:
        """out = C(x)."""

    @abstractmethod
    def decode_onto(self, payload: Bytes, blocks: Blocks, base: Floats, out: Floats) -> None:
        """out = base + C(x)."""

    @abstractmethod
    def reduce(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        out: Floats,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> None:
        """out = mean of the decoded payloads in rank order, plus rho * residual."""

    def alpha(self, buffer: Floats, blocks: Blocks) -> float:
        """The contraction on this data: 1 - ||C(x) - x||^2 / ||x||^2, in float64."""
        x = buffer.copy()
        self.encode(x, blocks, 0, np.empty(self.payload_bytes(blocks), np.uint8))
        norm = float(np.square(buffer, dtype=np.float64).sum())
        return 1.0 if norm == 0 else 1.0 - float(np.square(x, dtype=np.float64).sum()) / norm

    def room(self, out: Bytes, blocks: Blocks) -> int:
        """``address`` of the uint8[m] that ``encode`` fills, or ``CodecError``."""
        size = self.payload_bytes(blocks)
        flags = out.flags
        if (
            out.dtype != np.uint8
            or out.shape != (size,)
            or not (flags.c_contiguous and flags.writeable)
        ):
            raise CodecError(
                f"{self.spec} payload needs a writable contiguous uint8[{size}], "
                f"got {out.dtype}{list(out.shape)}"
            )
        return address(out)

    def check(self, payload: Bytes, blocks: Blocks) -> Bytes:
        """The payload as a flat uint8 array, or ``CodecError`` if its size is wrong."""
        try:
            view = np.frombuffer(payload, np.uint8)
        except (TypeError, ValueError) as error:
            raise CodecError(f"{self.spec} payload is not a run of bytes: {error}") from None
        expected = self.payload_bytes(blocks)
        if view.size != expected:
            raise CodecError(
                f"{self.spec} payload has {view.size} bytes, expected {expected} "
                f"for {blocks.dimension} coordinates in {len(blocks)} blocks"
            )
        return view

    def __repr__(self) -> str:
        return f"<compressor {self.spec}>"


def aligned(size: int, dtype: type[np.generic] = np.float32) -> NDArray:
    """A zeroed vector whose first byte sits on a 64-byte boundary (one cache line)."""
    item = np.dtype(dtype).itemsize
    raw = np.zeros(size * item + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * item].view(dtype)


def address(array: NDArray) -> int:
    """Where a contiguous array's first byte lies in memory. The caller keeps it alive."""
    return array.__array_interface__["data"][0]


def addresses(payloads: Sequence[Bytes]) -> NDArray[np.int64]:
    """``address`` of each, as int64[n] for a kernel; n >= 1, or ``CodecError``."""
    if not payloads:
        raise CodecError("there is no payload to reduce")
    return np.array([address(p) for p in payloads], np.int64)


def source(vector: Floats, blocks: Blocks) -> int:
    """``address`` of a float32[d] to read, or ``CodecError`` if it is something else."""
    if (
        vector.dtype != np.float32
        or vector.shape != (blocks.dimension,)
        or not vector.flags.c_contiguous
    ):
        raise CodecError(
            f"expected a contiguous float32[{blocks.dimension}], "
            f"got {vector.dtype}{list(vector.shape)} with strides {vector.strides}"
        )
    return address(vector)


def target(vector: Floats, blocks: Blocks) -> int:
    """``source`` for a vector that is written to."""
    if not vector.flags.writeable:
        raise CodecError("the vector to write to is read-only")
    return source(vector, blocks)


def residual_address(residual: Floats | None, blocks: Blocks) -> int:
    """``source``, or 0 where there is no residual."""
    return 0 if residual is None else source(residual, blocks)


def first_not_finite(buffer: Floats, start: int, stop: int) -> NonFiniteError:
    """The error for a block whose norm is not finite, naming the first bad coordinate."""
    bad = np.flatnonzero(~np.isfinite(buffer[start:stop]))
    if bad.size:
        at = start + int(bad[0])
        return NonFiniteError(f"coordinate {at} is {buffer[at]}, not a finite number", at)
    return NonFiniteError(
        f"the magnitudes of coordinates {start} to {stop - 1} sum to more than float32 holds", start
    )
