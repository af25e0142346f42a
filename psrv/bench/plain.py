"""The compressors as one would write them in NumPy; see ``peer.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psrv.bench.peer import Order, Payload, Peer, qsgd_gain
from psrv.codec import Blocks
from psrv.codec.base import Floats

CHANCE = np.random.default_rng()

# Value formats


class Format(NamedTuple):
    """How numbers are written.

    Attributes:
        pack: float32[k] to arrays. unpack: arrays, and k, to float32[k].
        omega: of ``Q``.
    """

    pack: Callable[[Floats], Payload]
    unpack: Callable[[Payload, int], Floats]
    omega: float = 0.0


def pack_bfloat(x: Floats) -> Payload:
    """The upper half of the bits, rounded to nearest even."""
    bits = x.view(np.uint32)
    return (((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16),)


def unpack_bfloat(payload: Payload, count: int) -> Floats:
    """Shifted back."""
    return (payload[0].astype(np.uint32) << 16).view(np.float32)


def pack_natural(x: Floats) -> Payload:
    """Exponents, one up with the chance that the fraction says, and packed signs."""
    bits = x.view(np.uint32)
    chance = CHANCE.integers(0, 1 << 23, x.size, np.uint32)
    exponents = ((bits & 0x7FFFFFFF) + chance) >> 23
    return exponents.astype(np.uint8), np.packbits(x < 0, bitorder="little")


def unpack_natural(payload: Payload, count: int) -> Floats:
    """Sign and exponent put together."""
    exponents, signs = payload
    negative = np.unpackbits(signs, count=count, bitorder="little").astype(np.uint32)
    return ((exponents.astype(np.uint32) << 23) | (negative << 31)).view(np.float32)


FORMATS = {
    "": Format(lambda x: (x.copy(),), lambda payload, count: payload[0]),
    "fp16": Format(
        lambda x: (x.astype(np.float16),), lambda payload, count: payload[0].astype(np.float32)
    ),
    "bf16": Format(pack_bfloat, unpack_bfloat),
    "natural": Format(pack_natural, unpack_natural, omega=1 / 8),
}


class Values(Peer):
    """Every coordinate in a value format; the one of ``dense`` loses nothing."""

    def __init__(self, form: str, feedback: bool) -> None:
        self.form = FORMATS[form]
        self.lossless = form == ""
        self.gain = np.float32(1 / (1 + self.form.omega) if feedback else 1)

    def encode(
        self, x: Floats, blocks: Blocks, residual: Floats | None = None, rank: int = 0
    ) -> Payload:
        """Pack, subtract."""
        if residual is not None:
            x += residual
        payload = self.form.pack(x)
        if self.lossless:
            x[:] = 0
        else:
            x -= self.decode(payload, blocks)
        return payload

    def decode(self, payload: Payload, blocks: Blocks) -> Floats:
        """Unpack."""
        values = self.form.unpack(payload, blocks.dimension)
        if self.lossless:
            return values.copy()
        if self.gain != 1:
            values *= self.gain
        return values


# Signs and levels, block by block


class Sign(Peer):
    """Mean magnitude and packed bits, block by block: the same bytes as psrv's."""

    def encode(
        self, x: Floats, blocks: Blocks, residual: Floats | None = None, rank: int = 0
    ) -> Payload:
        """abs, mean, packbits, where, subtract."""
        scales, bits = np.empty(len(blocks), np.float32), []
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            part = x[start:stop]
            if residual is not None:
                part += residual[start:stop]
            scales[b] = np.abs(part).mean()
            negative = part < 0
            bits.append(np.packbits(negative, bitorder="little"))
            part -= np.where(negative, -scales[b], scales[b])
        return (np.concatenate([scales.view(np.uint8), *bits]),)

    def decode(self, payload: Payload, blocks: Blocks) -> Floats:
        """unpackbits, where."""
        out = np.empty(blocks.dimension, np.float32)
        scales = payload[0][: 4 * len(blocks)].view(np.float32)
        bits = payload[0][4 * len(blocks) :]
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            own = bits[blocks.bit_edges[b] : blocks.bit_edges[b + 1]]
            negative = np.unpackbits(own, count=stop - start, bitorder="little")
            out[start:stop] = np.where(negative, -scales[b], scales[b])
        return out


class SignUnscaled(Peer):
    """Packed bits, the same bytes as psrv's; an exact zero is sent as positive."""

    def encode(
        self, x: Floats, blocks: Blocks, residual: Floats | None = None, rank: int = 0
    ) -> Payload:
        """packbits, where, subtract."""
        if residual is not None:
            x += residual
        negative = x < 0
        x -= np.where(negative, np.float32(-1), np.float32(1))
        return (np.packbits(negative, bitorder="little"),)

    def decode(self, payload: Payload, blocks: Blocks) -> Floats:
        """unpackbits, where."""
        negative = np.unpackbits(payload[0], count=blocks.dimension, bitorder="little")
        return np.where(negative, np.float32(-1), np.float32(1))


class Qsgd(Peer):
    """A norm and levels rounded by chance, block by block; two levels a byte if they fit."""

    def __init__(self, levels: int, feedback: bool) -> None:
        self.levels, self.feedback = levels, feedback
        self.dtype = np.int8 if levels < 128 else np.int16

    def encode(
        self, x: Floats, blocks: Blocks, residual: Floats | None = None, rank: int = 0
    ) -> Payload:
        """Norm, scale, add chance, floor, pack, subtract."""
        norms, codes = np.empty(len(blocks), np.float32), []
        gain = np.float32(qsgd_gain(self.levels, blocks) if self.feedback else 1)
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            part = x[start:stop]
            if residual is not None:
                part += residual[start:stop]
            norms[b] = np.sqrt(np.square(part).sum())
            unit = norms[b] / np.float32(self.levels)
            level = np.floor(np.abs(part) / unit + CHANCE.random(stop - start, np.float32))
            level = np.copysign(level, part)
            codes.append(self._pack(level.astype(self.dtype)))
            part -= level * (unit * gain)
        return norms, codes

    def decode(self, payload: Payload, blocks: Blocks) -> Floats:
        """Unpack, scale."""
        out = np.empty(blocks.dimension, np.float32)
        gain = np.float32(qsgd_gain(self.levels, blocks) if self.feedback else 1)
        norms, codes = payload
        for b, (start, stop) in enumerate(pairwise(blocks.edges.tolist())):
            unit = norms[b] / np.float32(self.levels) * gain
            out[start:stop] = self._unpack(codes[b], stop - start) * unit
        return out

    def _pack(self, level: NDArray[Any]) -> NDArray[Any]:
        if self.levels > 7:
            return level
        code = (level + self.levels).view(np.uint8)
        if code.size % 2:
            code = np.append(code, np.uint8(0))
        return code[::2] | code[1::2] << 4

    def _unpack(self, packed: NDArray[Any], count: int) -> NDArray[Any]:
        if self.levels > 7:
            return packed.astype(np.float32)
        out = np.empty(2 * packed.size, np.float32)
        out[::2] = packed & 15
        out[1::2] = packed >> 4
        out -= self.levels
        return out[:count]


# Some of the coordinates


class Sparse(Peer):
    """K coordinates; which ones is sent, or derived from a seed."""

    form: Format
    gain: np.float32

    def taken(self, payload: Payload, blocks: Blocks) -> tuple[NDArray[Any], Floats]:
        """Coordinates and what C(x) is there."""
        chosen, values = payload
        return chosen, self._arrived(values, chosen.size)

    def send(self, x: Floats, chosen: NDArray[Any]) -> Payload:
        """The values of the coordinates, packed; what is left of them stays in ``x``."""
        payload = self.form.pack(x[chosen])
        if self.form is FORMATS[""] and self.gain == 1:
            x[chosen] = 0
        else:
            x[chosen] -= self._arrived(payload, chosen.size)
        return payload

    def _arrived(self, values: Payload, count: int) -> Floats:
        unpacked = self.form.unpack(values, count)
        return unpacked if self.gain == 1 else unpacked * self.gain

    def decode(self, payload: Payload, blocks: Blocks) -> Floats:
        """Zeros, scatter."""
        out = np.zeros(blocks.dimension, np.float32)
        chosen, values = self.taken(payload, blocks)
        out[chosen] = values
        return out

    def decode_onto(self, payload: Payload, blocks: Blocks, base: Floats) -> None:
        """Scatter."""
        chosen, values = self.taken(payload, blocks)
        base[chosen] += values

    def mean(self, payloads: Sequence[Payload], blocks: Blocks) -> Floats:
        """Zeros, scatter each, scale."""
        out = np.zeros(blocks.dimension, np.float32)
        for payload in payloads:
            self.decode_onto(payload, blocks, out)
        out *= np.float32(1 / len(payloads))
        return out


class TopK(Sparse):
    """argpartition; an index is 32 bits."""

    def __init__(self, argument: str, form: str, feedback: bool) -> None:
        self.argument, self.form = argument, FORMATS[form]
        self.gain = np.float32(1 / (1 + self.form.omega) if feedback else 1)

    def encode(
        self, x: Floats, blocks: Blocks, residual: Floats | None = None, rank: int = 0
    ) -> Payload:
        """abs, argpartition, gather, subtract."""
        if residual is not None:
            x += residual
        first = x.size - count(self.argument, x.size)
        chosen = np.argpartition(np.abs(x), first)[first:]
        return chosen.astype(np.uint32), self.send(x, chosen)


class RandK(Sparse):
    """``Generator.choice`` without replacement, from a seed that both ends have."""

    def __init__(self, argument: str, form: str, feedback: bool) -> None:
        self.argument, self.form, self.feedback = argument, FORMATS[form], feedback

    def encode(
        self, x: Floats, blocks: Blocks, residual: Floats | None = None, rank: int = 0
    ) -> Payload:
        """choice, gather, subtract."""
        if residual is not None:
            x += residual
        return rank, self.send(x, self._draw(rank, x.size))

    def taken(self, payload: Payload, blocks: Blocks) -> tuple[NDArray[Any], Floats]:
        """Draws again."""
        rank, values = payload
        return super().taken((self._draw(rank, blocks.dimension), values), blocks)

    def _draw(self, rank: int, d: int) -> NDArray[np.int64]:
        k = count(self.argument, d)
        self.gain = np.float32(1 / (1 + self.form.omega) if self.feedback else d / k)
        return np.random.default_rng(rank).choice(d, k, replace=False, shuffle=False)


class PermK(Sparse):
    """``Generator.permutation`` cut among the senders, from a seed that all have."""

    def __init__(self, form: str, feedback: bool, workers: int) -> None:
        self.form, self.workers = FORMATS[form], workers
        self.gain = np.float32(1 / (1 + self.form.omega) if feedback else workers)

    def encode(
        self, x: Floats, blocks: Blocks, residual: Floats | None = None, rank: int = 0
    ) -> Payload:
        """permutation, gather, subtract."""
        if residual is not None:
            x += residual
        return rank, self.send(x, self._parts(x.size)[rank])

    def taken(self, payload: Payload, blocks: Blocks) -> tuple[NDArray[Any], Floats]:
        """Draws again."""
        rank, values = payload
        return super().taken((self._parts(blocks.dimension)[rank], values), blocks)

    def mean(self, payloads: Sequence[Payload], blocks: Blocks) -> Floats:
        """One permutation for all."""
        out = np.zeros(blocks.dimension, np.float32)
        parts = self._parts(blocks.dimension)
        for rank, values in payloads:
            chosen, own = super().taken((parts[rank], values), blocks)
            out[chosen] = own
        out *= np.float32(1 / self.workers)
        return out

    def _parts(self, d: int) -> list[NDArray[np.int64]]:
        return np.array_split(np.random.default_rng(0).permutation(d), self.workers)


def count(argument: str, d: int) -> int:
    """K of a spec's argument: a count, or a fraction of d."""
    return min(int(argument), d) if argument.isdecimal() else max(1, round(float(argument) * d))


def plain(order: Order) -> Peer | None:
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
