"""Where every parameter lives in the flat vectors that are compressed and sent.

The order is the one in which backward produces gradients: the last tensor of the
model comes first. A *block* is a run of coordinates of one tensor that shares a
scale; a *bucket* is a run of whole blocks, about 4 MiB of float32, of one parameter
group: the unit of transfer. The layout depends on the model and the options alone,
never on servers, workers or overlap, so that every process derives the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Blocks, Bucket, Floats
from psrv.errors import ConfigError

BLOCK = 1 << 15
"""Coordinates in a block by default: both passes of the sign codec stay in the L2 cache."""

BUCKET_BYTES = 4 << 20

MAX_BLOCKS = 1 << 20
"""A bound on what a layout costs to build, whoever asks for it."""

BlockRule = int | Literal["tensor", "global"]


@dataclass(frozen=True)
class Tensor:
    """A model parameter: its name, shape, and the parameter group it belongs to."""

    name: str
    shape: tuple[int, ...]
    group: int = 0

    @property
    def size(self) -> int:
        """Coordinates; a scalar has one."""
        return prod(self.shape)


class Layout:
    """Tensors in layout order, and the buckets over them. Build one with ``Layout.build``."""

    def __init__(
        self, tensors: tuple[Tensor, ...], blocks: BlockRule, buckets: tuple[Bucket, ...]
    ) -> None:
        self.tensors = tensors
        self.blocks = blocks
        self.buckets = buckets
        self.dimension = buckets[-1].stop
        self.groups = 1 + max(t.group for t in tensors)
        self.offsets: dict[str, int] = {}
        position = 0
        for tensor in tensors:
            self.offsets[tensor.name] = position
            position += tensor.size
        self._edges = np.cumsum([t.size for t in tensors])

    @classmethod
    def build(
        cls,
        tensors: Sequence[Tensor],
        blocks: BlockRule = BLOCK,
        bucket_bytes: int = BUCKET_BYTES,
        whole: bool = False,
    ) -> Layout:
        """Lay out the parameters of a model.

        Args:
            tensors: in the model's own (forward) order; each name once, none empty.
            blocks: coordinates in a block, or ``"tensor"`` (one block a tensor, as in the
                dist-EF paper), or ``"global"`` (one block and one bucket in all).
            bucket_bytes: a bucket is closed before it would exceed this many bytes of
                float32; a single larger block makes a bucket of its own.
            whole: one bucket in all, as a compressor asks for that counts coordinates of the
                whole vector (``top-k:20``). The blocks stay what they are.

        Raises:
            ConfigError: no tensors, a repeated name, an empty tensor, a block size that is
                not positive, or one bucket over several parameter groups.
        """
        ordered = tuple(reversed(tensors))
        _check(ordered, blocks, whole)
        buckets: list[Bucket] = []
        sizes: list[int] = []
        group = ordered[0].group
        start = 0

        def close() -> None:
            nonlocal start
            if sizes:
                stop = start + sum(sizes)
                buckets.append(Bucket(len(buckets), start, stop, group, Blocks.of(sizes)))
                start = stop
                sizes.clear()

        if isinstance(blocks, int):
            count = sum(-(-t.size // blocks) for t in ordered)
            if count > MAX_BLOCKS:
                raise ConfigError(
                    f"blocks of {blocks} cut this model into {count} blocks; "
                    f"at most {MAX_BLOCKS} are served, use larger blocks"
                )
        if blocks == "global":
            sizes.append(sum(t.size for t in ordered))
            close()
            return cls(ordered, blocks, tuple(buckets))
        room = sum(t.size for t in ordered) if whole else bucket_bytes // 4
        filled = 0
        for tensor in ordered:
            for size in _cut(tensor.size, blocks):
                if tensor.group != group or (sizes and filled + size > room):
                    close()
                    group, filled = tensor.group, 0
                sizes.append(size)
                filled += size
        close()
        return cls(ordered, blocks, tuple(buckets))

    def views(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The tensors inside a flat vector of shape (d,), by name, without copying."""
        return {
            t.name: flat[self.offsets[t.name] : self.offsets[t.name] + t.size].reshape(t.shape)
            for t in self.tensors
        }

    def tensor_at(self, coordinate: int) -> Tensor:
        """The tensor that holds a coordinate of the flat vector."""
        return self.tensors[int(np.searchsorted(self._edges, coordinate, side="right"))]

    def digest(self) -> bytes:
        """sha256 over names, shapes, groups and bucket and block edges."""
        hasher = hashlib.sha256()
        for t in self.tensors:
            hasher.update(f"{t.name}\0{t.shape}\0{t.group}\n".encode())
        for b in self.buckets:
            hasher.update(f"{b.start} {b.stop} {b.group}\n".encode())
            hasher.update(b.blocks.edges.astype("<i8").tobytes())
        return hasher.digest()


def digest_of(parameters: Floats) -> str:
    """sha256, in hex, of float32 parameters in layout order, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").tobytes()).hexdigest()


def _cut(size: int, blocks: BlockRule) -> list[int]:
    if blocks == "tensor":
        return [size]
    step = int(blocks)
    whole, rest = divmod(size, step)
    return [step] * whole + ([rest] if rest else [])


def _check(tensors: tuple[Tensor, ...], blocks: BlockRule, whole: bool) -> None:
    if not tensors:
        raise ConfigError("the model has no parameters to train")
    seen: set[str] = set()
    for t in tensors:
        if t.name in seen:
            raise ConfigError(f"parameter '{t.name}' is listed twice; each may appear once")
        if t.size < 1:
            raise ConfigError(f"parameter '{t.name}' of shape {t.shape} has no elements")
        seen.add(t.name)
    if whole and len({t.group for t in tensors}) > 1:
        raise ConfigError(
            "a compressor that counts coordinates of the whole vector needs one parameter group, "
            "since no bucket spans two; give a fraction instead of a count, such as top-k:0.01"
        )
    if isinstance(blocks, str):
        if blocks not in ("tensor", "global"):
            raise ConfigError(f"blocks is '{blocks}'; expected tensor, global, or a whole number")
        if blocks == "global" and len({t.group for t in tensors}) > 1:
            raise ConfigError("blocks: global needs one parameter group, since no bucket spans two")
    elif blocks < 1:
        raise ConfigError(f"blocks is {blocks}; a block needs at least 1 coordinate")
