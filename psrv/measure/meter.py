"""A stopwatch for one training thread whose parts add up by construction.

Every nanosecond between ``begin_step`` and ``end_step`` is given to exactly one
part: a ``lap`` hands over all time since the lap before it, and what nobody
claimed is ``other``. Sums are kept as integers, so the ten parts equal the
step's time exactly, not within rounding.

A wait for a bucket's result is a lap cut in four by server timestamps that the
caller has already mapped to this process's clock (``clock.OffsetEstimator``).

The clock is passed in; nothing here sleeps, locks or does I/O. One meter
belongs to one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from psrv.errors import ProtocolError

LOCAL_PARTS = ("data", "compute", "encode", "decode", "update")
WAIT_PARTS = ("uplink", "straggler", "server", "downlink")
PARTS = (
    "data",
    "compute",
    "encode",
    "uplink",
    "straggler",
    "server",
    "downlink",
    "decode",
    "update",
    "other",
)

_NANO = 1e-9


class SpanSink(Protocol):
    """Receives every lap as a span; ``records.Recorder.span`` fits."""

    def __call__(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        round: int,
        bucket: int | None = None,
        lane: str = "train",
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step, as measured. All times are integers in nanoseconds.

    Attributes:
        round: the round this step belongs to.
        start_ns, end_ns: on the worker's clock. Their difference exceeds
            ``total_ns`` by what ``exclude`` took out.
        total_ns: the step's time; equal to ``sum(part_ns.values())``.
        part_ns: the ten keys of ``PARTS``, in that order.
        straggler_ns: by rank, the time spent waiting for that rank's push.
        straggler_rank: the rank most time was spent waiting for; None when
            nobody was waited for, or it was this worker itself.
        hidden_ns: time in which a bucket was under way while this thread did
            something other than wait for it.
    """

    round: int
    start_ns: int
    end_ns: int
    total_ns: int
    part_ns: Mapping[str, int]
    straggler_ns: Mapping[int, int]
    straggler_rank: int | None
    hidden_ns: int

    @property
    def seconds(self) -> float:
        return self.total_ns * _NANO

    @property
    def parts(self) -> dict[str, float]:
        """The ten parts in seconds; they sum to ``seconds`` within float rounding."""
        return {part: ns * _NANO for part, ns in self.part_ns.items()}

    @property
    def other(self) -> float:
        return self.part_ns["other"] * _NANO


@dataclass(frozen=True, slots=True)
class Busy:
    """What a thread did from ``start_ns`` to ``end_ns``: ``part`` is one of ``PARTS``."""

    part: str
    start_ns: int
    end_ns: int
    bucket: int | None = None


@dataclass(frozen=True, slots=True)
class Waited:
    """A wait for one bucket's result.

    Attributes:
        start_ns, end_ns: on this process's clock.
        stamps: when the own push arrived, when the last one did, and when the result was
            ready: the server's, on this process's clock.
        last_rank: whose push came last.
    """

    start_ns: int
    end_ns: int
    bucket: int
    stamps: tuple[int, int, int]
    last_rank: int | None


def split_wait(
    start_ns: int, end_ns: int, arrived_ns: int, last_ns: int, done_ns: int
) -> tuple[int, int, int, int]:
    """Cut the wait [start, end] for one bucket's result into four parts.

    Up to ``arrived_ns`` the own push was on its way (uplink); up to ``last_ns``
    the server waited for the slowest worker's push (straggler); up to
    ``done_ns`` it reduced and encoded (server); the rest is downlink.

    Args:
        start_ns, end_ns: the wait, on the worker's clock.
        arrived_ns, last_ns, done_ns: the server's timestamps for this bucket,
            mapped to the worker's clock. They may lie outside the wait or out
            of order (a clock offset is an estimate): each is moved into what
            is left of the interval.

    Returns:
        (uplink, straggler, server, downlink), each >= 0, summing to
        ``end_ns - start_ns`` exactly.

    Raises:
        ProtocolError: the wait ends before it starts.
    """
    if end_ns < start_ns:
        raise ProtocolError(f"a wait from {start_ns} to {end_ns} ns ends before it starts")
    arrived = min(max(arrived_ns, start_ns), end_ns)
    last = min(max(last_ns, arrived), end_ns)
    done = min(max(done_ns, last), end_ns)
    return arrived - start_ns, last - arrived, done - last, end_ns - done


class StepMeter:
    """Where one training thread's time goes.

        begin_step -> lap | wait | exclude ... -> end_step -> StepRecord

    Args:
        clock: returns nanoseconds as int and never runs backwards. The default
            is the clock that processes on one Linux machine share.
        rank: this worker's own rank, never reported as a straggler.
        span: called with every lap and each part of a wait, for ``--trace``.
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.monotonic_ns,
        rank: int | None = None,
        span: SpanSink | None = None,
    ) -> None:
        self._clock = clock
        self._rank = rank
        self._span = span
        self._round: int | None = None
        self._start = 0
        self._mark = 0
        self._excluded = 0
        self._parts: dict[str, int] = {}
        self._stragglers: dict[int, int] = {}
        self._waits: list[tuple[int, int]] = []
        self._flights: list[tuple[int, int]] = []
        self._origin: int | None = None
        self._excluded_in_all = 0
        self._excluding_since: int | None = None

    @property
    def in_step(self) -> bool:
        return self._round is not None

    @property
    def mark_ns(self) -> int:
        """When the last lap, or the last step, ended."""
        return self._mark

    @property
    def elapsed_seconds(self) -> float:
        """Training time since the first step began, without what was excluded."""
        if self._origin is None:
            return 0.0
        now = self._clock() if self._excluding_since is None else self._excluding_since
        return (now - self._origin - self._excluded_in_all) * _NANO

    def begin_step(self, round: int, start_ns: int | None = None) -> None:
        """Open the step of ``round``, now or at ``start_ns`` (for example ``mark_ns``,
        so that no time is lost between two steps).

        Raises:
            ProtocolError: the step before it is still open.
        """
        if self._round is not None:
            raise ProtocolError(
                f"step {round} begins while step {self._round} is open; end it first"
            )
        self._round = round
        self._start = self._mark = self._clock() if start_ns is None else start_ns
        self._excluded = 0
        self._parts = dict.fromkeys(PARTS, 0)
        self._stragglers = {}
        self._waits = []
        self._flights = []
        if self._origin is None:
            self._origin = self._start

    def lap(self, part: str, bucket: int | None = None) -> int:
        """Give all time since the last lap to ``part``; returns it in ns."""
        round_ = self._open("lap")
        if part not in self._parts:
            raise ProtocolError(f"lap of unknown part {part!r}; expected one of {', '.join(PARTS)}")
        return self._give(part, self._clock(), round_, bucket)

    def _give(self, part: str, end: int, round_: int, bucket: int | None) -> int:
        start, self._mark = self._mark, end
        self._parts[part] += end - start
        if self._span is not None:
            self._span(part, start, end, round=round_, bucket=bucket, lane="train")
        return end - start

    def wait(
        self,
        arrived_ns: int,
        last_ns: int,
        done_ns: int,
        last_rank: int | None,
        bucket: int | None = None,
        end_ns: int | None = None,
    ) -> None:
        """A lap that was spent waiting for one bucket's result.

        Args:
            arrived_ns, last_ns, done_ns: see ``split_wait``.
            last_rank: whose push came last at the server.
            bucket: for the trace.
            end_ns: when the wait ended, if that is known better than "now"
                (it is moved into the time since the last lap).
        """
        round_ = self._open("wait")
        now = self._clock()
        end = now if end_ns is None else min(max(end_ns, self._mark), now)
        start, self._mark = self._mark, end
        pieces = split_wait(start, end, arrived_ns, last_ns, done_ns)
        if end > start:
            self._waits.append((start, end))
        if last_rank is not None and pieces[1] > 0:
            self._stragglers[last_rank] = self._stragglers.get(last_rank, 0) + pieces[1]
        for part, nanoseconds in zip(WAIT_PARTS, pieces, strict=True):
            self._parts[part] += nanoseconds
            if self._span is not None and nanoseconds:
                self._span(
                    part, start, start + nanoseconds, round=round_, bucket=bucket, lane="train"
                )
            start += nanoseconds

    def replay(self, log: Iterable[Busy | Waited]) -> None:
        """Give the time since the last lap to what a log says was done in it.

        Args:
            log: in order, without overlaps. What of it lies before the last lap is left out:
                it was done beside what that lap stands for, by another thread. Gaps
                are ``other``.
        """
        round_ = self._open("replay")
        for entry in log:
            start, end = max(entry.start_ns, self._mark), min(entry.end_ns, self._clock())
            if end <= start:
                continue
            if start > self._mark:
                self._give("other", start, round_, None)
            if isinstance(entry, Waited):
                self.wait(*entry.stamps, entry.last_rank, entry.bucket, end)
            else:
                self._give(entry.part, end, round_, entry.bucket)

    def flight(self, sent_ns: int, received_ns: int) -> None:
        """Note that a bucket was under way in [sent, received], on this clock.

        What of it no wait covers counts as hidden communication. It is told
        beside the parts, not among them: the thread was doing something else.
        """
        self._open("flight")
        if received_ns > sent_ns:
            self._flights.append((sent_ns, received_ns))

    @contextmanager
    def exclude(self) -> Iterator[None]:
        """Time that belongs to no step, such as an evaluation. May be nested.

        Inside an open step, close the lap before it: the time between that lap
        and this context goes to the next lap.
        """
        if self._excluding_since is not None:
            yield
            return
        self._excluding_since = self._clock()
        try:
            yield
        finally:
            spent = self._clock() - self._excluding_since
            self._excluding_since = None
            if self._origin is not None:
                self._excluded_in_all += spent
            self._excluded += spent
            self._mark += spent

    def skip(self) -> None:
        """Leave the time since the last lap out of the step, as ``exclude`` would have."""
        self._open("skip")
        now = self._clock()
        self._excluded += now - self._mark
        self._excluded_in_all += now - self._mark
        self._mark = now

    def end_step(self) -> StepRecord:
        """Close the step; time since the last lap becomes ``other``.

        Raises:
            ProtocolError: no step is open.
        """
        round_ = self._open("end_step")
        self.lap("other")
        end = self._mark
        busy = _union(self._flights, self._start, end)
        waits = _union(self._waits, self._start, end)
        own = self._rank
        waited_for = max(
            self._stragglers, key=lambda rank: (self._stragglers[rank], -rank), default=None
        )
        record = StepRecord(
            round=round_,
            start_ns=self._start,
            end_ns=end,
            total_ns=end - self._start - self._excluded,
            part_ns=self._parts,
            straggler_ns=self._stragglers,
            straggler_rank=None if waited_for == own else waited_for,
            hidden_ns=_length(busy) - _overlap(busy, waits),
        )
        self._round = None
        return record

    def abandon_step(self) -> None:
        """Forget the open step, if any: its round did not commit."""
        self._round = None

    def _open(self, what: str) -> int:
        if self._round is None:
            raise ProtocolError(f"{what} outside a step; call begin_step first")
        if self._excluding_since is not None:
            raise ProtocolError(f"{what} inside exclude(); that time belongs to no step")
        return self._round


def _union(intervals: Iterable[tuple[int, int]], low: int, high: int) -> list[tuple[int, int]]:
    """Sorted disjoint intervals that cover the same points of [low, high]."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        start, end = max(start, low), min(end, high)
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _length(intervals: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in intervals)


def _overlap(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> int:
    """Length of the intersection of two lists of sorted disjoint intervals."""
    total = i = j = 0
    while i < len(left) and j < len(right):
        total += max(0, min(left[i][1], right[j][1]) - max(left[i][0], right[j][0]))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return total
