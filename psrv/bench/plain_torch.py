"""The compressors as one would write them in torch, on the CPU; see ``peer.py``.

Imported only where torch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from psrv.bench.peer import Order, Payload, Peer, qsgd_gain
from psrv.bench.plain import count
from psrv.codec import Blocks
from psrv.codec.base import Floats

WEIGHTS = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
SHIFTS = torch.arange(8, dtype=torch.uint8)


def pack_bits(bits: Tensor) -> Tensor:
    """Eight a byte, the first in the lowest bit: torch has no packbits."""
    whole = pad(bits.to(torch.uint8), (0, -bits.numel() % 8))
    return (whole.view(-1, 8) * WEIGHTS).sum(1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, size: int) -> Tensor:
    """bool[size]."""
    return ((packed[:, None] >> SHIFTS) & 1).view(-1)[:size].bool()


# Value formats


class Format(NamedTuple):
    """How numbers are written: as in ``plain.py``."""

    pack: Callable[[Tensor], Payload]
    unpack: Callable[[Payload, int], Tensor]
    omega: float = 0.0


def pack_natural(x: Tensor) -> Payload:
    """Exponents, one up with the chance that the fraction says, and packed signs."""
    chance = torch.randint(0, 1 << 23, (x.numel(),), dtype=torch.int32)
    exponents = ((x.view(torch.int32) & 0x7FFFFFFF) + chance) >> 23
    return exponents.to(torch.uint8), pack_bits(x < 0)


def unpack_natural(payload: Payload, size: int) -> Tensor:
    """Sign and exponent put together."""
    exponents, signs = payload
    magnitude = (exponents.to(torch.int32) << 23).view(torch.float32)
    return torch.where(unpack_bits(signs, size), -magnitude, magnitude)


FORMATS = {
    "": Format(lambda x: (x.clone(),), lambda payload, size: payload[0]),
    "fp16": Format(lambda x: (x.half(),), lambda payload, size: payload[0].float()),
    "bf16": Format(lambda x: (x.bfloat16(),), lambda payload, size: payload[0].float()),
    "natural": Format(pack_natural, unpack_natural, omega=1 / 8),
}


class Values(Peer):
    """Every coordinate in a value format; the one of ``dense`` loses nothing."""

    def __init__(self, form: str, feedback: bool) -> None:
        self.form = FORMATS[form]
        self.lossless = form == ""
        self.gain = 1 / (1 + self.form.omega) if feedback else 1.0

    def encode(
        self, x: Tensor, blocks: Blocks, residual: Tensor | None = None, rank: int = 0
    ) -> Payload:
        """Pack, subtract."""
        if residual is not None:
            x += residual
        payload = self.form.pack(x)
        if self.lossless:
            x.zero_()
        else:
            x -= self.decode(payload, blocks)
        return payload

    def decode(self, payload: Payload, blocks: Blocks) -> Tensor:
        """Unpack."""
        values = self.form.unpack(payload, blocks.dimension)
        if self.lossless:
            return values.clone()
        if self.gain != 1:
            values *= self.gain
        return values


# Signs and levels, block by block


class Sign(Peer):
    """Mean magnitude and packed bits, block by block: the same bytes as psrv's."""

    def encode(
        self, x: Tensor, blocks: Blocks, residual: Tensor | None = None, rank: int = 0
    ) -> Payload:
        """abs, mean, pack, where, subtract."""
        scales, bits = torch.empty(len(blocks)), []
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            part = x[start:stop]
            if residual is not None:
                part += residual[start:stop]
            scales[b] = part.abs().mean()
            negative = part < 0
            bits.append(pack_bits(negative))
            part -= torch.where(negative, -scales[b], scales[b])
        return (torch.cat([scales.view(torch.uint8), *bits]),)

    def decode(self, payload: Payload, blocks: Blocks) -> Tensor:
        """Unpack, where."""
        out = torch.empty(blocks.dimension)
        scales = payload[0][: 4 * len(blocks)].view(torch.float32)
        bits = payload[0][4 * len(blocks) :]
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            own = bits[blocks.bit_edges[b] : blocks.bit_edges[b + 1]]
            negative = unpack_bits(own, stop - start)
            out[start:stop] = torch.where(negative, -scales[b], scales[b])
        return out


class SignUnscaled(Peer):
    """Packed bits, the same bytes as psrv's; an exact zero is sent as positive."""

    def encode(
        self, x: Tensor, blocks: Blocks, residual: Tensor | None = None, rank: int = 0
    ) -> Payload:
        """Pack, where, subtract."""
        if residual is not None:
            x += residual
        negative = x < 0
        x -= torch.where(negative, -1.0, 1.0)
        return (pack_bits(negative),)

    def decode(self, payload: Payload, blocks: Blocks) -> Tensor:
        """Unpack, where."""
        return torch.where(unpack_bits(payload[0], blocks.dimension), -1.0, 1.0)


class Qsgd(Peer):
    """A norm and levels rounded by chance, block by block; two levels a byte if they fit."""

    def __init__(self, levels: int, feedback: bool) -> None:
        self.levels, self.feedback = levels, feedback
        self.dtype = torch.int8 if levels < 128 else torch.int16

    def encode(
        self, x: Tensor, blocks: Blocks, residual: Tensor | None = None, rank: int = 0
    ) -> Payload:
        """Norm, scale, add chance, floor, pack, subtract."""
        norms, codes = torch.empty(len(blocks)), []
        gain = qsgd_gain(self.levels, blocks) if self.feedback else 1.0
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            part = x[start:stop]
            if residual is not None:
                part += residual[start:stop]
            norms[b] = part.norm()
            unit = norms[b] / self.levels
            level = (part.abs() / unit + torch.rand(stop - start)).floor().copysign(part)
            codes.append(self._pack(level.to(self.dtype)))
            part -= level * (unit * gain)
        return norms, codes

    def decode(self, payload: Payload, blocks: Blocks) -> Tensor:
        """Unpack, scale."""
        out = torch.empty(blocks.dimension)
        gain = qsgd_gain(self.levels, blocks) if self.feedback else 1.0
        norms, codes = payload
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            unit = norms[b] / self.levels * gain
            out[start:stop] = self._unpack(codes[b], stop - start) * unit
        return out

    def _pack(self, level: Tensor) -> Tensor:
        if self.levels > 7:
            return level
        code = pad((level + self.levels).view(torch.uint8), (0, level.numel() % 2))
        return code[::2] | (code[1::2] << 4)

    def _unpack(self, packed: Tensor, size: int) -> Tensor:
        if self.levels > 7:
            return packed.float()
        out = torch.stack([packed & 15, packed >> 4], 1).view(-1)[:size].float()
        out -= self.levels
        return out


# Some of the coordinates


class Sparse(Peer):
    """K coordinates; which ones is sent, or derived from a seed."""

    form: Format
    gain: float

    def taken(self, payload: Payload, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Coordinates and what C(x) is there."""
        chosen, values = payload
        return chosen, self._arrived(values, chosen.numel())

    def send(self, x: Tensor, chosen: Tensor) -> Payload:
        """The values of the coordinates, packed; what is left of them stays in ``x``."""
        payload = self.form.pack(x[chosen])
        if self.form is FORMATS[""] and self.gain == 1:
            x[chosen] = 0
        else:
            x[chosen] -= self._arrived(payload, chosen.numel())
        return payload

    def decode(self, payload: Payload, blocks: Blocks) -> Tensor:
        """Zeros, scatter."""
        out = torch.zeros(blocks.dimension)
        chosen, values = self.taken(payload, blocks)
        out[chosen] = values
        return out

    def decode_onto(self, payload: Payload, blocks: Blocks, base: Tensor) -> None:
        """Scatter."""
        chosen, values = self.taken(payload, blocks)
        base.index_add_(0, chosen, values)

    def mean(self, payloads: Sequence[Payload], blocks: Blocks) -> Tensor:
        """Zeros, scatter each, scale."""
        out = torch.zeros(blocks.dimension)
        for payload in payloads:
            self.decode_onto(payload, blocks, out)
        out *= 1 / len(payloads)
        return out

    def _arrived(self, values: Payload, size: int) -> Tensor:
        unpacked = self.form.unpack(values, size)
        return unpacked if self.gain == 1 else unpacked * self.gain


class TopK(Sparse):
    """``torch.topk``; an index is 32 bits."""

    def __init__(self, argument: str, form: str, feedback: bool) -> None:
        self.argument, self.form = argument, FORMATS[form]
        self.gain = 1 / (1 + self.form.omega) if feedback else 1.0

    def encode(
        self, x: Tensor, blocks: Blocks, residual: Tensor | None = None, rank: int = 0
    ) -> Payload:
        """abs, topk, gather, subtract."""
        if residual is not None:
            x += residual
        k = count(self.argument, x.numel())
        chosen = torch.topk(x.abs(), k, sorted=False).indices
        return chosen.int(), self.send(x, chosen)


class RandK(Sparse):
    """The first K of ``torch.randperm``, from a seed that both ends have."""

    def __init__(self, argument: str, form: str, feedback: bool) -> None:
        self.argument, self.form, self.feedback = argument, FORMATS[form], feedback

    def encode(
        self, x: Tensor, blocks: Blocks, residual: Tensor | None = None, rank: int = 0
    ) -> Payload:
        """randperm, gather, subtract."""
        if residual is not None:
            x += residual
        return rank, self.send(x, self._draw(rank, x.numel()))

    def taken(self, payload: Payload, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Draws again."""
        rank, values = payload
        return super().taken((self._draw(rank, blocks.dimension), values), blocks)

    def _draw(self, rank: int, d: int) -> Tensor:
        k = count(self.argument, d)
        self.gain = 1 / (1 + self.form.omega) if self.feedback else d / k
        return permutation(rank, d)[:k]


class PermK(Sparse):
    """``torch.randperm`` cut among the senders, from a seed that all have."""

    def __init__(self, form: str, feedback: bool, workers: int) -> None:
        self.form, self.workers = FORMATS[form], workers
        self.gain = 1 / (1 + self.form.omega) if feedback else float(workers)

    def encode(
        self, x: Tensor, blocks: Blocks, residual: Tensor | None = None, rank: int = 0
    ) -> Payload:
        """randperm, gather, subtract."""
        if residual is not None:
            x += residual
        return rank, self.send(x, self._parts(x.numel())[rank])

    def taken(self, payload: Payload, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Draws again."""
        rank, values = payload
        return super().taken((self._parts(blocks.dimension)[rank], values), blocks)

    def mean(self, payloads: Sequence[Payload], blocks: Blocks) -> Tensor:
        """One permutation for all."""
        out = torch.zeros(blocks.dimension)
        parts = self._parts(blocks.dimension)
        for rank, values in payloads:
            chosen, own = super().taken((parts[rank], values), blocks)
            out[chosen] = own
        out *= 1 / self.workers
        return out

    def _parts(self, d: int) -> Sequence[Tensor]:
        return permutation(0, d).tensor_split(self.workers)


def vector(x: Floats) -> Tensor:
    """The same memory as a tensor."""
    return torch.from_numpy(x)


def permutation(seed: int, d: int) -> Tensor:
    """int64[d]."""
    return torch.randperm(d, generator=torch.Generator().manual_seed(seed))


def plain_torch(order: Order) -> Peer | None:
    """The peer of a compressor; None where nobody has written one."""
    match order.name:
        case "dense":
            return Values("", order.feedback)
        case "fp16" | "bf16" | "natural":
            return Values(order.name, order.feedback)
        case "sign":
            return Sign()
        case "sign-unscaled":
            return SignUnscaled()
        case "qsgd":
            return Qsgd(int(order.argument), order.feedback)
        case "top-k":
            return TopK(order.argument, order.form, order.feedback)
        case "rand-k":
            return RandK(order.argument, order.form, order.feedback)
        case "perm-k":
            return PermK(order.form, order.feedback, order.workers)
    return None
