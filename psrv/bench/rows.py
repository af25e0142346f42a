"""What ``psrv bench codec`` finds out, and what it has to find: rows and targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import lgamma, log
from typing import Any, NamedTuple

LARGE, HUGE = 1 << 22, 1 << 24
"""Coordinates from which on no cache holds the vectors, and up to which the targets apply:
they are set for the 11 M of ResNet-18."""


class Target(NamedTuple):
    """One bound: the row that it is for, by compressor and operation, and which figure of it."""

    compressor: str
    operation: str
    figure: str
    bound: float

    @property
    def most(self) -> bool:
        """Whether the figure may not be above the bound, instead of below."""
        return FIGURES[self.figure].most

    def met(self, value: float) -> bool:
        """Whether that is good enough."""
        return value <= self.bound if self.most else value >= self.bound


class Figure(NamedTuple):
    """A number of a row that can have a bound: what to call it, and which side is bad."""

    words: str
    most: bool = False


FIGURES = {
    "of_memcpy": Figure("of memcpy"),
    "times_numpy": Figure("times NumPy"),
    "times_torch": Figure("times torch"),
    "ns_per_entry": Figure("ns an entry", most=True),
    "index_ratio": Figure("times the fewest index bits", most=True),
}

TARGETS = (
    Target("sign", "encode+ef", "of_memcpy", 0.60),
    Target("sign", "encode+ef", "times_numpy", 15),
    Target("sign, one scale", "encode+ef", "of_memcpy", 0.40),
    Target("sign", "decode", "of_memcpy", 0.70),
    Target("sign", "reduce n=4", "of_memcpy", 1.20),
    Target("sign", "reduce n=8", "of_memcpy", 0.75),
    Target("sign", "relay n=4", "of_memcpy", 0.40),
    Target("sign", "relay n=4 2thr", "of_memcpy", 0.75),
    Target("top-k:0.001", "encode+ef", "of_memcpy", 0.40),
    Target("top-k:0.01", "encode+ef", "times_numpy", 4),
    Target("top-k:0.01", "encode+ef", "times_torch", 20),
    Target("top-k:0.01", "decode_onto", "ns_per_entry", 15),
    Target("top-k:0.001", "encode", "index_ratio", 1.05),
    Target("top-k:0.01", "encode", "index_ratio", 1.05),
    Target("top-k:0.1", "encode", "index_ratio", 1.05),
    Target("rand-k:0.01", "encode", "of_memcpy", 2.0),
    Target("perm-k", "encode+ef", "of_memcpy", 1 / 3),
    Target("bf16", "encode", "of_memcpy", 0.50),
    Target("fp16", "encode", "of_memcpy", 0.30),
    Target("natural", "encode", "of_memcpy", 0.15),
    Target("qsgd:4", "encode", "of_memcpy", 0.10),
)


@dataclass(frozen=True)
class Row:
    """One operation of one compressor at one size.

    Attributes:
        compressor: its spec, and how the vector is cut if that is not the default.
        dimension: d, coordinates.
        seconds, memcpy_seconds: medians of one call; a copy on as many threads.
        of_memcpy: how much of memcpy's speed that is: median of the pairs' ratios.
        of_one_memcpy: the same beside a copy on one thread, if there are more.
        rounds: how often it was measured beside memcpy.
        numpy_seconds, torch_seconds: what one would write instead; None: not measured.
        times_numpy, times_torch: how many times as fast as that, likewise of pairs.
        payload_bytes: of one payload.
        entries: K, the coordinates that a payload holds, if not all.
        index_bytes: of a payload, what says where its values belong.
    """

    compressor: str
    operation: str
    dimension: int
    seconds: float
    memcpy_seconds: float
    of_memcpy: float
    rounds: int
    payload_bytes: int
    threads: int = 1
    of_one_memcpy: float | None = None
    numpy_seconds: float | None = None
    times_numpy: float | None = None
    torch_seconds: float | None = None
    times_torch: float | None = None
    entries: int | None = None
    index_bytes: int | None = None

    @property
    def ns_per_coordinate(self) -> float:
        """Nanoseconds of the call by coordinates of the vector."""
        return self.seconds / self.dimension * 1e9

    @property
    def gigabytes_per_second(self) -> float:
        """Of float32 vector: 4 d bytes in the time of the call; 1 GB = 1e9 bytes."""
        return 4e-9 * self.dimension / self.seconds

    @property
    def payload_bits(self) -> float:
        """Of one payload, by coordinates of the vector."""
        return 8 * self.payload_bytes / self.dimension

    @property
    def ns_per_entry(self) -> float | None:
        """Nanoseconds of the call by entries of one payload."""
        return self.seconds / self.entries * 1e9 if self.entries else None

    @property
    def index_bits(self) -> float | None:
        """Of one entry's place."""
        return 8 * self.index_bytes / self.entries if self.entries and self.index_bytes else None

    @property
    def fewest_index_bits(self) -> float | None:
        """log2 C(d, K) / K: no code for sets of K that are equally likely needs fewer."""
        if self.index_bits is None or self.entries is None:
            return None
        return log2_choices(self.dimension, self.entries) / self.entries

    @property
    def index_ratio(self) -> float | None:
        """Index bits by the fewest possible."""
        fewest = self.fewest_index_bits
        return None if self.index_bits is None or not fewest else self.index_bits / fewest

    def verdicts(self) -> Iterator[tuple[Target, float]]:
        """The targets for this row and what was reached; none but from ``LARGE`` to ``HUGE``."""
        for target in TARGETS if LARGE <= self.dimension < HUGE else ():
            if target[:2] == (self.compressor, self.operation):
                value = getattr(self, target.figure)
                if value is not None:
                    yield target, value

    def as_json(self) -> dict[str, Any]:
        """The fields, and what follows from them."""
        derived = (
            "ns_per_coordinate",
            "gigabytes_per_second",
            "payload_bits",
            "ns_per_entry",
            "index_bits",
            "fewest_index_bits",
            "index_ratio",
        )
        targets = [
            {"figure": t.figure, "bound": t.bound, "most": t.most, "met": t.met(value)}
            for t, value in self.verdicts()
        ]
        values = {name: getattr(self, name) for name in derived}
        return asdict(self) | values | {"targets": targets}


def log2_choices(d: int, k: int) -> float:
    """log2 of the number of ways to choose k of d."""
    return (lgamma(d + 1) - lgamma(k + 1) - lgamma(d - k + 1)) / log(2)


def misses(rows: Sequence[Row]) -> list[str]:
    """The targets that were not reached, each as one phrase."""
    return [
        f"{row.compressor} {row.operation} at {row.dimension:,}: "
        f"{value:.3g} {FIGURES[target.figure].words}, target {target.bound:.3g}"
        for row in rows
        for target, value in row.verdicts()
        if not target.met(value)
    ]
