"""``psrv bench codec``: every compressor against this machine's memory.

Each operation is timed in turn with ``np.copyto`` of a float32 vector of the same size, so
that a slow spell of the machine hits both, and its fraction of memcpy is the median of the
pairs' ratios. One thread. Input is standard normal.

    encode      payload out, residual left in the vector
    decode      and decode_onto: one payload in
    reduce n=4  n payloads in, their mean out
    server n=4  what a server does in a round with error feedback: reduce with the residual
                added, encode
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from psrv.bench.plain import PLAIN, mean
from psrv.codec import COMPRESSORS, Blocks, aligned, parse, warmup
from psrv.codec.base import Floats
from psrv.layout import BLOCK

if TYPE_CHECKING:
    from rich.table import Table

SIZES = (1 << 16, 1 << 20, 11_173_962)
"""Coordinates; the last is ResNet-18 with ten classes."""

LARGE = 1 << 22
"""From here on no cache holds the vectors, and the targets apply."""

WORKERS = (4, 8)
TARGETS = {
    ("sign", "encode"): 0.60,
    ("sign, one scale", "encode"): 0.40,
    ("sign", "decode"): 0.70,
    ("sign", "server n=4"): 0.40,
}
"""The least fraction of memcpy, by compressor and operation."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One operation of one compressor at one size.

    Attributes:
        seconds, memcpy_seconds, numpy_seconds: medians of one call; None: not in NumPy.
        of_memcpy: median of memcpy's time by the operation's, taken together.
    """

    compressor: str
    operation: str
    dimension: int
    seconds: float
    memcpy_seconds: float
    of_memcpy: float
    numpy_seconds: float | None
    payload_bits: float

    @property
    def target(self) -> float | None:
        """The least ``of_memcpy`` that is good enough, if one is set for this size."""
        return TARGETS.get((self.compressor, self.operation)) if self.dimension >= LARGE else None

    def as_json(self) -> dict[str, Any]:
        """The fields, and what follows from them."""
        return asdict(self) | {
            "ns_per_coordinate": self.seconds / self.dimension * 1e9,
            "gigabytes_per_second": 4e-9 * self.dimension / self.seconds,
            "times_numpy": self.numpy_seconds and self.numpy_seconds / self.seconds,
            "target": self.target,
        }


def measure(sizes: Sequence[int] = SIZES, seconds: float = 0.5) -> Iterator[Row]:
    """A row for every operation, as soon as it is there.

    Args:
        sizes: coordinates of the vectors.
        seconds: for each operation, and as long again for NumPy's; at least three calls.
    """
    warmup()
    for d in sizes:
        whole, rest = divmod(d, BLOCK)
        default = Blocks.of([BLOCK] * whole + ([rest] if rest else []))
        for spec in COMPRESSORS:
            yield from _operations(spec, spec, default, seconds)
            if spec == "sign":
                yield from _operations(spec, f"{spec}, one scale", Blocks.of([d]), seconds)


def _operations(spec: str, label: str, blocks: Blocks, seconds: float) -> Iterator[Row]:
    codec, plain, d = parse(spec), PLAIN[spec], blocks.dimension
    source, x, out, residual = (aligned(d) for _ in range(4))
    payloads = [np.empty(codec.payload_bytes(blocks), np.uint8) for _ in range(max(WORKERS))]
    for rank, payload in enumerate(payloads):
        np.random.default_rng(rank).standard_normal(out=residual, dtype=np.float32)
        if rank == 0:
            source[:] = residual
        codec.encode(residual, blocks, 0, payload)
    first, result = payloads[0], np.empty_like(payloads[0])

    def restore() -> None:
        x[:] = source

    def reduce(n: int) -> None:
        codec.reduce(payloads[:n], blocks, out)

    def reduce_instead(n: int) -> None:
        out[:] = mean(plain, payloads[:n], blocks)

    def server(n: int) -> None:
        codec.reduce(payloads[:n], blocks, out, residual, 1.0)
        codec.encode(out, blocks, 0, result)

    cases: list[tuple[str, Call, Call | None]] = [
        (
            "encode",
            lambda: codec.encode(x, blocks, 0, result),
            lambda: plain.encode(x, blocks),
        ),
        (
            "decode",
            lambda: codec.decode(first, blocks, out),
            lambda: np.copyto(out, plain.decode(first, blocks)),
        ),
        (
            "decode_onto",
            lambda: codec.decode_onto(first, blocks, x, out),
            lambda: np.add(x, plain.decode(first, blocks), out=out),
        ),
        *((f"reduce n={n}", partial(reduce, n), partial(reduce_instead, n)) for n in WORKERS),
    ]
    if codec.contractive:
        cases.extend((f"server n={n}", partial(server, n), None) for n in WORKERS)
    for operation, call, instead in cases:
        took, copied = _time(call, restore, source, seconds)
        slow = None if instead is None else median(_time(instead, restore, source, seconds)[0])
        yield Row(
            compressor=label,
            operation=operation,
            dimension=d,
            seconds=median(took),
            memcpy_seconds=median(copied),
            of_memcpy=median(c / t for c, t in zip(copied, took, strict=True)),
            numpy_seconds=slow,
            payload_bits=8 * first.size / d,
        )


def _time(call: Call, restore: Call, x: Floats, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds of one call, and of one copy of ``x``, in turn."""
    sink = aligned(x.size)

    def copy() -> None:
        np.copyto(sink, x)

    def clock(function: Call, repeat: int) -> float:
        start = time.perf_counter()
        for _ in range(repeat):
            function()
        return (time.perf_counter() - start) / repeat

    def several(function: Call) -> int:
        # Long beside the clock's resolution, short beside a scheduler's time slice; and a
        # vector that is encoded again and again must not end in denormals.
        return max(1, min(50, int(2e-4 / min(clock(function, 1) for _ in range(3)))))

    restore()
    calls, copies = several(call), several(copy)
    took: list[float] = []
    copied: list[float] = []
    limit = time.perf_counter() + seconds
    while len(took) < 3 or (time.perf_counter() < limit and len(took) < 1000):
        restore()
        copied.append(clock(copy, copies))
        took.append(clock(call, calls))
    return took, copied


def table(rows: Sequence[Row]) -> Table:
    """The rows, for a terminal."""
    from rich import box
    from rich.table import Table

    from psrv.report.units import ABSENT, human_count, significant, times

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    for title in ("size", "compressor", "operation"):
        shown.add_column(title, no_wrap=True, vertical="bottom")
    for title in ("ns per\ncoord", "GB/s", "of\nmemcpy", "target", "times\nNumPy", "bits"):
        shown.add_column(title, justify="right", no_wrap=True, vertical="bottom")
    previous = None
    for row in rows:
        if previous and previous != (row.dimension, row.compressor):
            shown.add_section()
        new = previous != (row.dimension, row.compressor)
        previous = row.dimension, row.compressor
        values = row.as_json()
        missed = row.target is not None and row.of_memcpy < row.target
        shown.add_row(
            human_count(row.dimension) if new else "",
            row.compressor if new else "",
            row.operation,
            significant(values["ns_per_coordinate"]),
            significant(values["gigabytes_per_second"]),
            f"{row.of_memcpy:.2f}",
            ABSENT if row.target is None else f"{row.target:.2f}",
            times(values["times_numpy"]),
            significant(row.payload_bits),
            style="bold red" if missed else None,
        )
    return shown


def misses(rows: Sequence[Row]) -> list[str]:
    """The targets that were not reached."""
    return [
        f"{row.compressor} {row.operation} at {row.dimension:,}: "
        f"{row.of_memcpy:.2f} of memcpy, target {row.target:.2f}"
        for row in rows
        if row.target is not None and row.of_memcpy < row.target
    ]
