"""How a flat vector is cut: blocks share a scale, buckets travel together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from psrv.errors import CodecError

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


def aligned(size: int, dtype: type[np.generic] = np.float32) -> NDArray:
    """A zeroed vector whose first byte sits on a 64-byte boundary (one cache line)."""
    item = np.dtype(dtype).itemsize
    raw = np.zeros(size * item + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * item].view(dtype)
