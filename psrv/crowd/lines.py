"""The uplinks of all ranks in one bucket: what ``codec/channel.py``'s ``Uplink`` does, n times.

A line forms what every rank sends from ``Rows``, sums it up in rank order with the operations
of the compressor's ``reduce``, and at the commit brings the memory up to date. So the mean is
that of n payloads, bit for bit; but the payloads of top-k, rand-k and perm-k are never
written, only their coordinates and values, and their sizes are counted.

    feedback   goes out            at the commit
    plain      v
    ef         v + rho e           e = what is left over
    markov     v - h               h = h + C(v - h)
    marina     v, or v - v_prev    v_prev = v

The matrices change places at the commit of the whole crowd (``Crowd``), not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from psrv.codec import format_kernels, scratch, selection, sign_kernels
from psrv.codec.base import Bucket, Compressor, Floats, address
from psrv.codec.channel import Channel, Feedback
from psrv.codec.dense import Dense
from psrv.codec.formats import FORMATS
from psrv.codec.kernels import finish_mean
from psrv.codec.permk import PermK
from psrv.codec.randk import RandK
from psrv.codec.sign import Sign
from psrv.codec.topk import TopK
from psrv.crowd import kernels, leaders
from psrv.crowd.draws import Owned, RandomSets, Shares
from psrv.crowd.rows import NONE, Rows
from psrv.errors import NonFiniteError

_FLOAT32 = FORMATS["float32"]
_ONE = np.float32(1)


def covered(compressor: Compressor) -> bool:
    """Whether there is a line for this compressor: float32 values, of the five kinds below."""
    if isinstance(compressor, (TopK, RandK, PermK)):
        return compressor.form is _FLOAT32
    return isinstance(compressor, (Dense, Sign))


def partial_line(compressor: Compressor, channel: Channel) -> bool:
    """Whether only those coordinates of a vector need to be known that are sent."""
    return isinstance(compressor, (RandK, PermK)) and channel.feedback is not Feedback.EF


class Line(ABC):
    """One bucket of all uplinks, with one compressor."""

    def __init__(self, compressor: Any, channel: Channel, bucket: Bucket, rows: Rows) -> None:
        self.compressor, self.channel, self.bucket, self.rows = compressor, channel, bucket, rows
        self.count = bucket.stop - bucket.start
        self.factor = np.float32(1.0 / rows.workers)

    @abstractmethod
    def encode(self, round: int, rho: float, alone: bool) -> int:
        """Form what every rank sends.

        Args:
            rho: what the memory is multiplied by: as ``Uplink`` has it.
            alone: the vector goes out as it is, without what is remembered.

        Returns:
            Payload bytes of all ranks together.

        Raises:
            NonFiniteError: with ``rank * count + coordinate`` in ``coordinate``.
        """

    @abstractmethod
    def reduce(self, out: Floats, residual: Floats | None, rho: float) -> None:
        """out = mean of what the ranks sent + rho * residual."""

    @abstractmethod
    def commit(self) -> None:
        """Bring the memory up to date, as far as it is not the values' matrix."""

    def _memory(self, alone: bool) -> int:
        """The address of what is remembered, or 0 for none."""
        plain = alone or self.channel.feedback is Feedback.PLAIN
        return 0 if plain else self.rows.memory_at(self.bucket)

    def _each(self, function: Any) -> None:
        bad = self.rows.team.each(function)
        if bad >= 0:
            row, at = divmod(bad, self.count)
            raise NonFiniteError("not a finite number", self.rows.rank(row) * self.count + at)

    def _form(self, memory: int, rho: float) -> None:
        """values = values + rho * memory, all finite."""
        x, stride, count = self.rows.at(self.bucket), self.rows.stride, self.count
        if memory:
            factor = np.float32(rho)
            self._each(lambda a, b: kernels.form_rows(x, stride, a, b, count, memory, factor))
        else:
            self._each(lambda a, b: kernels.finite_rows(x, stride, a, b, count))


class DenseLine(Line):
    """Every coordinate."""

    def encode(self, round: int, rho: float, alone: bool) -> int:
        memory = self._memory(alone)
        rows, count = self.rows, self.count
        self._sent = rows.at(self.bucket)
        self._form(memory, rho)
        return rows.workers * _FLOAT32.size(count)

    def reduce(self, out: Floats, residual: Floats | None, rho: float) -> None:
        n, d = self.rows.workers, self.count
        weights = np.ones(n, np.float32)
        starts = self._sent + self.rows.members * self.rows.stride
        memory = 0 if residual is None else address(residual)
        room = scratch.array("values", format_kernels.STRETCH, np.float32)
        format_kernels.reduce_runs(
            _FLOAT32.code, starts, address(weights), self.factor, d, _ONE,
            address(out), memory, np.float32(rho), address(room),
        )  # fmt: skip

    def commit(self) -> None:
        rows, count = self.rows, self.count
        x, stride = rows.at(self.bucket), rows.stride
        if self.channel.feedback is Feedback.MARKOV:
            memory = rows.memory_at(self.bucket)
            rows.team.each(lambda a, b: kernels.add_rows(x, stride, a, b, count, memory))
        elif self.channel.feedback is Feedback.EF:
            rows.team.each(lambda a, b: kernels.clear_rows(x, stride, a, b, count))


class SignLine(Line):
    """The sign of each coordinate, and a scale a block; payloads are kept, one a row."""

    def __init__(self, compressor: Sign, channel: Channel, bucket: Bucket, rows: Rows) -> None:
        super().__init__(compressor, channel, bucket, rows)
        self._size = compressor.payload_bound(bucket.blocks, rows.workers)
        self._payloads = np.empty((rows.count, self._size), np.uint8)

    def encode(self, round: int, rho: float, alone: bool) -> int:
        rows, blocks, factor = self.rows, self.bucket.blocks, np.float32(rho)
        x, memory, room = rows.at(self.bucket), self._memory(alone), address(self._payloads)
        self._each(
            lambda a, b: kernels.sign_rows(
                x, rows.stride, a, b, self.count, memory, factor, blocks.edges, blocks.bit_edges,
                room, self._size,
            )
        )  # fmt: skip
        return rows.workers * self._size

    def reduce(self, out: Floats, residual: Floats | None, rho: float) -> None:
        n, blocks = self.rows.workers, self.bucket.blocks
        starts = address(self._payloads) + self.rows.members * self._size
        weights = np.ones(n, np.float32)
        sign_kernels.reduce_sign(
            starts, address(weights), self.factor, blocks.edges, blocks.bit_edges, address(out),
            0 if residual is None else address(residual), np.float32(rho),
        )  # fmt: skip

    def commit(self) -> None:
        if self.channel.feedback is Feedback.MARKOV:
            rows, blocks = self.rows, self.bucket.blocks
            memory, payloads = rows.memory_at(self.bucket), address(self._payloads)
            rows.team.each(
                lambda a, b: kernels.add_signs_rows(
                    payloads, self._size, rows.stride, a, b, blocks.edges, blocks.bit_edges, memory
                )
            )


class PointsLine(Line):
    """Single coordinates: which ones, ``owned`` says, and ``values`` what is sent of them.

    Attributes:
        members: int64[n]: which part of ``owned`` is a rank's.
        gains: float32[n]: what each rank's values are multiplied by in the sum.
    """

    def __init__(self, compressor: Any, channel: Channel, bucket: Bucket, rows: Rows) -> None:
        super().__init__(compressor, channel, bucket, rows)
        self.gains = np.ones(rows.workers, np.float32)
        self.members = rows.members
        self.owned = Owned(np.zeros(1, np.int64), np.empty(0, np.int32))
        self.values: Floats = np.empty(0, np.float32)

    def reduce(self, out: Floats, residual: Floats | None, rho: float) -> None:
        bad = kernels.sum_points(*self.owned, self.values, self.members, self.gains, out)
        if bad >= 0:
            row = int(np.searchsorted(self.owned.offsets, bad, "right")) - 1
            rank = int(np.flatnonzero(self.members == row)[0])
            at = rank * self.count + int(self.owned.columns[bad])
            raise NonFiniteError("not a finite number, or not when it is scaled", at)
        if residual is not None or self.factor != 1:
            memory = 0 if residual is None else address(residual)
            finish_mean(address(out), self.count, self.factor, memory, np.float32(rho))

    def commit(self) -> None:
        rows, sent = self.rows, (*self.owned, self.values)
        if self.channel.feedback is Feedback.MARKOV:
            memory = rows.memory_at(self.bucket)
            rows.team.each(lambda a, b: kernels.add_points(a, b, memory, rows.stride, *sent))
        elif self.channel.feedback is Feedback.EF:
            x = rows.at(self.bucket)
            rows.team.each(lambda a, b: kernels.keep_rest(x, rows.stride, a, b, *sent))


class TopKLine(PointsLine):
    """The K largest of every rank."""

    def __init__(self, compressor: TopK, channel: Channel, bucket: Bucket, rows: Rows) -> None:
        super().__init__(compressor, channel, bucket, rows)
        m, self._k = rows.count, compressor.count(bucket.blocks)
        self.owned = Owned(
            np.arange(m + 1, dtype=np.int64) * self._k, np.empty(m * self._k, np.int32)
        )
        self.values = np.empty(m * self._k, np.float32)
        self._codes = leaders.single_code_bytes(self.count) if self._k == 1 else None

    def encode(self, round: int, rho: float, alone: bool) -> int:
        k, d, n = self._k, self.count, self.rows.workers
        columns = self.owned.columns
        if k <= leaders.MOST:
            self._lead(rho, alone)
        else:
            self._select(rho, alone)
        if self._codes is not None:
            sizes = self._codes[columns]
        else:
            sizes = np.empty(self.rows.count, np.int64)
            self.rows.team.each(lambda a, b: leaders.code_bytes(columns, k, d, a, b, sizes))
        return n * _FLOAT32.size(k) + int(sizes @ self.rows.weights)

    def _lead(self, rho: float, alone: bool) -> None:
        rows, bucket = self.rows, self.bucket
        memory = rows.memory if self._memory(alone) else NONE
        keep, factor = self.channel.feedback is Feedback.EF, np.float32(rho)
        self._each(
            lambda a, b: leaders.lead_rows(
                rows.values, memory, a, b, bucket.start, bucket.stop, factor, keep, self._k,
                self.owned.columns, self.values,
            )
        )  # fmt: skip

    def _select(self, rho: float, alone: bool) -> None:
        rows, d, k = self.rows, self.count, self._k
        x, memory, factor = rows.at(self.bucket), self._memory(alone), np.float32(rho)
        room, sample = min(d, 2 * k + selection.ROOM), selection.sample_size(d, k)

        def part(a: int, b: int) -> int:
            indices = scratch.array("selection.indices", room + selection.SLACK, np.int32)
            picked = scratch.array("selection.values", room + selection.SLACK, np.float32)
            sampled = scratch.array("selection.sample", sample, np.float32)
            return leaders.select_rows(
                x, rows.stride, a, b, d, k, memory, factor, self.owned.columns, self.values,
                address(indices), address(picked), address(sampled), sample, room,
            )  # fmt: skip

        self._each(part)


class DrawnLine(PointsLine):
    """rand-k and perm-k: coordinates that the round's streams say."""

    def __init__(
        self, compressor: RandK | PermK, channel: Channel, bucket: Bucket, rows: Rows, seed: int
    ) -> None:
        super().__init__(compressor, channel, bucket, rows)
        n, d, self._seed = rows.workers, self.count, seed
        self.members = np.arange(n)  # every rank draws for itself
        self._source: RandomSets | Shares
        if isinstance(compressor, PermK):
            self._source = Shares(d, n, compressor.division)
            if not compressor.contractive:
                self.gains = (self._source.gains / n).astype(np.float32)
                self.factor = _ONE
        else:
            self._source = RandomSets(d, compressor.count(bucket.blocks), n)
            self.gains[:] = compressor.gain(bucket.blocks)

    def draw(self, round: int) -> Owned:
        """This round's coordinates."""
        self.owned = self._source.of(self._seed, round, self.bucket.index)
        if self.values.size != self.owned.columns.size:
            self.values = np.empty(self.owned.columns.size, np.float32)
        return self.owned

    def encode(self, round: int, rho: float, alone: bool) -> int:
        rows, memory = self.rows, self._memory(alone)
        self.draw(round)
        if self.channel.feedback is Feedback.EF:
            self._form(memory, rho)
            memory = 0
        else:
            self._form(0, 0.0)
        x, sent = rows.at(self.bucket), (*self.owned, self.values)
        self._each(lambda a, b: kernels.gather(x, rows.stride, a, b, memory, *sent))
        return self.size

    @property
    def size(self) -> int:
        """Payload bytes of all ranks together."""
        return _FLOAT32.size(self.owned.columns.size)


def line_of(
    compressor: Compressor, channel: Channel, bucket: Bucket, rows: Rows, seed: int
) -> Line:
    """The line for a compressor that is ``covered``."""
    if isinstance(compressor, TopK):
        return TopKLine(compressor, channel, bucket, rows)
    if isinstance(compressor, (RandK, PermK)):
        return DrawnLine(compressor, channel, bucket, rows, seed)
    if isinstance(compressor, Sign):
        return SignLine(compressor, channel, bucket, rows)
    return DenseLine(compressor, channel, bucket, rows)
