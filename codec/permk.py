"""``perm-k``: the senders of a round divide the vector among them, by a shared permutation.

Payload: the values of the sender's own coordinates in a value format, run after run, and
nothing else: every process derives who owns what (``codec/permutation.py``). An idle
sender's payload is empty. Values are multiplied on arrival by n, or by n / q where every
coordinate has q owners, which makes each C_i unbiased; the mean of all n is then the values
side by side, or the mean over owners. As ``contracted`` they are not multiplied, which
shrinks the error by 1 - q/n, and a plain mean is taken.

Where values are drawn (``natural``), it is the selected ones: Q after C.

Source: Szlendak, Tyurin and Richtarik 2022, "Permutation compressors for provably faster
distributed nonconvex optimization", Definitions 5, 6, 7 and Appendices J and M.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from psrv.codec import format_kernels, run_kernels, scratch, sparse_kernels
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
    weighing,
)
from psrv.codec.formats import Format
from psrv.codec.kernels import finish_mean, first_not_finite
from psrv.codec.permutation import Deal, Division
from psrv.codec.rng import Purpose
from psrv.codec.sparse import format_of
from psrv.errors import CodecError, ConfigError, NonFiniteError

LONGEST = 65536
"""Coordinates of the longest run."""

OPTIONS = ("run", "groups", "blocks")


class _Part(NamedTuple):
    """A payload, checked, with who sent it and what its values are multiplied by."""

    data: Bytes
    deal: Deal
    member: int
    values: int
    gain: np.float32


class _Ending(NamedTuple):
    """What a sum is multiplied by, and what is added: see ``finish_mean``."""

    factor: np.float32 = np.float32(1)
    residual: int = 0
    rho: np.float32 = np.float32(1)


class PermK(Compressor):
    """C_i(x) = gain * Q(x) on the coordinates that sender i owns, 0 elsewhere.

    Attributes:
        form: of the values.
        division: which sender owns what.
    """

    name = "perm-k"
    grammar = "perm-k[:OPTION=N,...][/FORMAT]"
    summary = "each worker sends its own part of the vector, by a shared random permutation"
    examples_of_several = ("perm-k:groups=2", "perm-k:blocks=2")
    examples = ("perm-k", "perm-k:run=16", "perm-k/natural")  # those that one sender can use
    random = True
    sparse = True
    shared = True

    def __init__(
        self,
        form: Format,
        run: int | None = None,
        groups: int = 1,
        blocks: int | None = None,
        *,
        contracted: bool = False,
    ) -> None:
        if run is not None and not 1 <= run <= LONGEST:
            raise ConfigError(f"run is {run}, and runs are of 1 to {LONGEST} coordinates")
        if groups < 1 or (blocks is not None and blocks < 1):
            raise ConfigError("there is at least 1 group, and at least 1 block")
        if run is not None and blocks is not None:
            raise ConfigError("blocks are contiguous parts: they are not cut into runs as well")
        self.form, self.division = form, Division(run, groups, blocks)
        self.contractive = contracted
        given = {"run": run, "groups": groups if groups > 1 else None, "blocks": blocks}
        options = ",".join(f"{k}={v}" for k, v in given.items() if v is not None)
        suffix = "" if form.name == "float32" else f"/{form.name}"
        self.spec = self.name + (f":{options}" if options else "") + suffix

    @classmethod
    def of(cls, argument: str | None, form: str | None) -> Self:
        given: dict[str, int] = {}
        for option in [] if argument is None else argument.split(","):
            name, _, number = option.partition("=")
            if name not in OPTIONS or name in given:
                raise ConfigError(
                    f"option '{name}' is unknown, or given twice; there are {', '.join(OPTIONS)}"
                )
            if not (number.isascii() and number.isdecimal() and len(number) <= 9):
                raise ConfigError(f"{name} is '{number}', not a number of up to 9 digits")
            given[name] = int(number)
        return cls(format_of(form), given.get("run"), given.get("groups", 1), given.get("blocks"))

    # What is sent, in numbers

    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        splits = self.division.splits(blocks.dimension, workers)
        return self.form.size(max(split.most for split in splits))

    def payload_bytes(self, blocks: Blocks, draw: Draw) -> int:
        deal, member = self.division.deal(blocks.dimension, draw)
        return self.form.size(deal.values(member))

    def omega(self, blocks: Blocks, workers: int) -> float | None:
        """n - 1, or n / q - 1, of the group where it is largest; (1 + that) (1 + omega_Q) - 1."""
        if self.contractive:
            return None
        splits = self.division.splits(blocks.dimension, workers)
        return max(split.gain for split in splits) * (1 + self.form.omega) - 1

    def ab(self, blocks: Blocks, workers: int) -> tuple[float, float] | None:
        """A and B in E |mean C_i(a_i) - mean a_i|^2 <= A mean |a_i|^2 - B |mean a_i|^2.

        Theorems 8 and 9, Lemma 10. Over groups, the terms of Lemma 17 gathered into two, by
        Cauchy and Schwarz for B. With a Q, which acts on each coordinate alone and so
        commutes with the selection, Lemma 9, to which (1 - B) omega_Q / n is added: its proof
        leaves out how far the mean of Q(a_i) is from that of a_i, which counts where B < 1.
        None for the contracted form, which is biased.
        """
        if self.contractive:
            return None
        splits, noise = self.division.splits(blocks.dimension, workers), self.form.omega
        constants = [split.constant for split in splits]
        inflated = [
            (1 + noise) * c + (1 - c) * noise / split.members
            for c, split in zip(constants, splits, strict=True)
        ]
        a = max(i * split.members for i, split in zip(inflated, splits, strict=True)) / workers
        b = 1 / sum(1 / c for c in constants) if min(constants) > 0 else 0.0
        return a, b

    def contracted(self) -> PermK:
        if self.contractive:
            return self
        rule = self.division
        return PermK(self.form, rule.run, rule.groups, rule.parts, contracted=True)

    # Payloads

    def encode(
        self,
        buffer: Floats,
        blocks: Blocks,
        draw: Draw,
        out: Bytes,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> int:
        d = blocks.dimension
        deal, member = self.division.deal(d, draw)
        count = deal.values(member)
        size = self.form.size(count)
        x, payload = target(buffer, blocks), self.room(out, size)
        if residual is None:
            bad = first_not_finite(x, d)
        else:
            memory = source(residual, blocks)
            bad = sparse_kernels.add_residual(x, d, memory, np.float32(rho))
        if bad >= 0:
            raise not_finite(buffer, bad)
        starts, length = deal.starts(member)
        gain, key = np.float32(self._gain(deal)), np.uint64(draw.own(Purpose.ROUNDING))
        bad = run_kernels.encode_runs(
            self.form.code, x, d, starts, length, count, payload, key, gain, _room()
        )
        if bad >= 0:
            at = int(run_kernels.coordinate_of(starts, length, d, bad))
            raise NonFiniteError(
                f"coordinate {at} is {buffer[at]}, {gain} times which is beyond float32", at
            )
        return size

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        deal, member = self.division.deal(blocks.dimension, draw)
        part = self._part(payload, deal, member, self._gain(deal))
        at = target(out, blocks)
        out[:] = 0
        self._scatter(part, at, onto=False)

    def decode_onto(
        self, payload: Bytes, blocks: Blocks, draw: Draw, base: Floats, out: Floats
    ) -> None:
        deal, member = self.division.deal(blocks.dimension, draw)
        part = self._part(payload, deal, member, self._gain(deal))
        origin, at = source(base, blocks), target(out, blocks)
        if origin != at:
            out[:] = base
        self._scatter(part, at, onto=True)

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
        """In the unbiased form gain / n, or weight * gain, is rounded and multiplies each value.

        So where every coordinate has one owner the mean is the values themselves, exactly.
        """
        n, d = len(payloads), blocks.dimension
        if not n:
            raise CodecError("there is no payload to reduce")
        factors, factor = weighing(weights, n)
        deals = self.division.deals(d, draws)
        gains = [self._gain(deal) * w for (deal, _), w in zip(deals, factors.tolist(), strict=True)]
        if weights is None and not self.contractive:
            gains, factor = [gain / n for gain in gains], np.float32(1)
        parts = [
            self._part(payload, deal, member, gain)
            for payload, (deal, member), gain in zip(payloads, deals, gains, strict=True)
        ]
        at, memory = target(out, blocks), residual_address(residual, blocks)
        ending = _Ending(factor, memory, np.float32(rho)) if memory or factor != 1 else None
        groups = self.division.complete(draws)
        if groups is not None and all(deal.split.owners == 1 for deal, _ in deals):
            # Every group covers the vector once: these are the only passes over it.
            for group in groups:
                last = ending if group is groups[-1] else None
                for part in parts[group.first : group.first + group.members]:
                    self._scatter(part, at, group.index > 0, last)
            return
        out[:] = 0
        for part in parts:
            self._scatter(part, at, onto=True)
        if ending:
            finish_mean(at, d, *ending)

    def _gain(self, deal: Deal) -> float:
        """What C multiplies values by."""
        return 1 / (1 + self.form.omega) if self.contractive else deal.split.gain

    def _part(self, payload: Bytes, deal: Deal, member: int, gain: float) -> _Part:
        """A payload that is proved to be one; ``CodecError`` if it is not."""
        try:
            data = np.frombuffer(payload, np.uint8)
        except (TypeError, ValueError) as error:
            raise CodecError(f"{self.spec} payload is not a run of bytes: {error}") from None
        count = deal.values(member)
        expected = self.form.size(count)
        if data.size != expected:
            raise CodecError(
                f"{self.spec} payload has {data.size} bytes, expected {expected} "
                f"for {count} of {deal.split.dimension} coordinates"
            )
        scale, at = np.float32(gain), address(data)
        bad = format_kernels.check_values(self.form.code, at, count)
        if bad >= 0:
            raise CodecError(f"{self.spec} payload holds a value that is not finite: number {bad}")
        if abs(scale) > 1:
            bad = run_kernels.first_too_large(self.form.code, at, count, scale, _room())
            if bad >= 0:
                raise CodecError(
                    f"{self.spec} payload holds a value too large for its scale: number {bad}"
                )
        return _Part(data, deal, member, count, scale)

    def _scatter(self, part: _Part, out: int, onto: bool, ending: _Ending | None = None) -> None:
        starts, length = part.deal.starts(part.member)
        run_kernels.scatter_runs(
            self.form.code,
            address(part.data),
            part.deal.split.dimension,
            starts,
            length,
            part.values,
            part.gain,
            onto,
            out,
            ending is not None,
            *(ending or _Ending()),
            _room(),
        )


def _room() -> int:
    """The address of float32[PIECE] of scratch for ``run_kernels``."""
    return address(scratch.array("run values", run_kernels.PIECE, np.float32))
