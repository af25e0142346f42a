"""``psrv bench codec``: every compressor against this machine's memory.

Each operation is timed in turn with ``np.copyto`` of a float32 vector of the same size, and
its fraction of memcpy is the median of the pairs' ratios; what one would write in NumPy and
in torch instead is timed in turn with psrv's (``peer.py``). Everything runs on one thread,
but where it says "2thr". Input is standard normal, in blocks of the default size.

    encode          payload out, x - C(x) left in the vector, which is refilled untimed
    encode+ef       the same of x + e, as error feedback does it in each round
    decode          one payload in
    decode_onto     the same, added to a vector in place
    reduce n=4      n payloads in, their mean out
    relay n=4       the server's step: the mean, plus e, encoded; by the same compressor, or
                    by ``dense`` where the senders divide the vector among them; without e
                    where there is no error feedback
    relay n=4 2thr  the same in buckets on two threads, beside a copy on two threads
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from math import ceil
from statistics import median
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from psrv.bench.peer import Order, Peer, Vector
from psrv.bench.plain import plain
from psrv.bench.rows import LARGE, Row
from psrv.bench.timing import Call, Step, in_turn, ratio
from psrv.bench.workload import SENDERS, SHIFT, Part, Payloads, Server, cut
from psrv.codec import Blocks, aligned, parse, warmup
from psrv.codec.base import Floats
from psrv.layout import BLOCK

SIZES = (1 << 16, 1 << 20, 11_173_962, 25_557_032)
"""Coordinates; the last two are ResNet-18 with ten classes and ResNet-50."""

SPECS = (
    "dense",
    "fp16",
    "bf16",
    "natural",
    "sign",
    "sign-unscaled",
    "qsgd:4",
    "top-k:0.001",
    "top-k:0.01",
    "top-k:0.01/bf16",
    "top-k:0.01/natural",
    "top-k:0.1",
    "rand-k:0.01",
    "perm-k",
)
WORKERS = (SENDERS, 8, 16)
REFILLED = ("encode", "encode+ef")
"""Operations that use their vector up."""

LONG = 1 << 24
"""Coordinates from which on nothing but psrv reduces and relays: a minute a compressor would
say again what shorter vectors say."""

BUCKET = 1 << 20
"""The most coordinates of a bucket, where buckets are relayed on several threads."""


class Subject(NamedTuple):
    """What is measured: a compressor, with one block for all coordinates or default blocks."""

    label: str
    spec: str
    single: bool = False


def subjects(only: Sequence[str] = ()) -> list[Subject]:
    """All, or those of the given specs; a name alone stands for all its specs.

    Raises:
        ConfigError: a name that is no compressor's.
    """
    chosen: list[str] = []
    for name in only or SPECS:
        named = [spec for spec in SPECS if name in (spec, spec.partition(":")[0])]
        chosen += named or [parse(name).spec]
    found = []
    for spec in dict.fromkeys(chosen):
        found.append(Subject(spec, spec))
        if spec == "sign":
            found.append(Subject("sign, one scale", spec, single=True))
    return found


def measure(
    sizes: Sequence[int] = SIZES,
    seconds: float = 0.25,
    only: Sequence[str] = (),
    bucket: int = BUCKET,
) -> Iterator[Row]:
    """A row for every operation, as soon as it is there.

    Args:
        sizes: coordinates of the vectors.
        seconds: for each operation, half of it for each library's, and a quarter of both
            below ``LARGE`` coordinates; but at least three rounds.
        only: specs or names; all if there are none.
        bucket: coordinates of a bucket, for what runs on two threads.

    Raises:
        ConfigError: a name in ``only`` that is no compressor's.
    """
    chosen, torch = subjects(only), _torch()
    warmup()
    with _one_thread() if torch else nullcontext():
        for d in sizes:
            room = d + SHIFT * max(WORKERS)
            normal = np.random.default_rng(0).standard_normal(room, np.float32)
            for subject in chosen:
                yield from Trial(subject, d, normal, seconds, torch).rows(bucket)


class Trial:
    """One subject at one size: vectors that have been written to, and payloads."""

    def __init__(
        self, subject: Subject, d: int, normal: Floats, seconds: float, torch: ModuleType | None
    ) -> None:
        self.subject, self.d, self.normal = subject, d, normal
        # What a cache holds takes so little time that a part of it is enough.
        self.seconds = seconds if d >= LARGE else seconds / 4
        self.blocks = Blocks.of([d]) if subject.single else cut(d)
        self.codec = parse(subject.spec)
        self.fed = self.codec.contracted()
        self.server = Server(self.codec)
        self.source, self.x, self.out, self.residual, self.sink = (aligned(d) for _ in range(5))
        # A page that was only zeroed has no memory yet, and would be given one while timed.
        for vector in (self.source, self.x, self.out, self.sink):
            vector[:] = normal[:d]
        self.residual[:] = normal[SHIFT * max(WORKERS) :]
        self.payloads = Payloads(self.codec, self.blocks, normal, WORKERS)
        self.result = self.server.room(self.blocks, self.codec.payload_bound(self.blocks, SENDERS))
        self.calls = self._calls()
        self.instead = {"numpy": self._instead(plain, _same)}
        if torch is not None:
            self.instead["torch"] = self._instead(torch.plain_torch, torch.vector)

    def rows(self, bucket: int) -> Iterator[Row]:
        """One for each operation."""
        for operation in self.calls:
            yield self._row(operation)
        if self.subject.label == "sign" and self.d > bucket:
            yield self._threaded(bucket)

    def _calls(self) -> dict[str, Call]:
        """By operation, in the order of the table."""
        codec, fed, blocks = self.codec, self.fed, self.blocks
        x, out, residual, result = self.x, self.out, self.residual, self.result
        payloads, draws = self.payloads[SENDERS]
        first, draw = payloads[0], draws[0]
        calls: dict[str, Call] = {
            "encode": lambda: codec.encode(x, blocks, draw, result),
            "encode+ef": lambda: fed.encode(x, blocks, draw, result, residual, 1.0),
            "decode": lambda: codec.decode(first, blocks, draw, out),
            "decode_onto": lambda: codec.decode_onto(first, blocks, draw, out, out),
        }
        if not fed.contractive:
            del calls["encode+ef"]
        for n in WORKERS:
            calls[f"reduce n={n}"] = partial(self._reduce, n)
        for n in WORKERS:
            calls[f"relay n={n}"] = partial(self._relay, n)
        return calls

    def _reduce(self, n: int) -> None:
        payloads, draws = self.payloads[n]
        self.codec.reduce(payloads, self.blocks, draws, self.out)

    def _relay(self, n: int) -> None:
        self.server.relay(self.payloads[n], self.blocks, self.out, self.residual, self.result)

    def _instead(
        self, make: Callable[[Order], Peer | None], vector: Callable[[Floats], Vector]
    ) -> dict[str, Call]:
        """By operation, what is done in one library instead. n payloads are copies of one,
        which changes no time, unless each has a part of its own."""
        peer, fed, encoder = (
            make(Order.of(spec, feedback, SENDERS))
            for spec, feedback in (
                (self.codec.spec, False),
                (self.codec.spec, True),
                (self.server.encoder.spec, True),
            )
        )
        if peer is None or fed is None or encoder is None:
            return {}
        blocks, x, out, residual = self.blocks, *map(vector, (self.x, self.out, self.residual))
        kept = residual if self.server.remembers else None
        self._restore()
        payload = peer.encode(x, blocks)
        calls: dict[str, Call] = {
            "encode": lambda: peer.encode(x, blocks),
            "encode+ef": lambda: fed.encode(x, blocks, residual),
            "decode": lambda: peer.decode(payload, blocks),
            "decode_onto": lambda: peer.decode_onto(payload, blocks, out),
        }
        if self.d < LONG:
            several = [
                peer.encode(x, blocks, rank=rank) if self.codec.shared else copy.deepcopy(payload)
                for rank in range(SENDERS)
            ]
            calls |= {
                f"reduce n={SENDERS}": lambda: peer.mean(several, blocks),
                f"relay n={SENDERS}": lambda: encoder.encode(
                    fed.mean(several, blocks), blocks, kept
                ),
            }
        return calls

    def _row(self, operation: str) -> Row:
        restore = self._restore if operation in REFILLED else None
        step: Step = (self.calls[operation], restore)
        copied, took = in_turn([(self._copy, None), step], self.seconds)
        compared: dict[str, Any] = {}
        for side, calls in self.instead.items():
            if operation in calls:
                ours, theirs = in_turn([step, (calls[operation], restore)], self.seconds / 2)
                compared[f"{side}_seconds"] = median(theirs)
                compared[f"times_{side}"] = ratio(theirs, ours)
        return self._made(operation, took, copied, **compared)

    def _threaded(self, bucket: int) -> Row:
        d = self.d
        # An even number of buckets, of nearly equal size, so that both threads end together.
        count = 2 * ceil(d / bucket / 2)
        edges = [*range(0, d, BLOCK * ceil(d / count / BLOCK)), d]
        parts = [
            Part(self.codec, self.normal[start:], self.out[start:stop], self.residual[start:stop])
            for start, stop in pairwise(edges)
        ]
        halves = slice(d // 2), slice(d // 2, d)
        with ThreadPoolExecutor(2) as pool:

            def relay() -> None:
                list(pool.map(Part.relay, parts))

            def both() -> None:
                list(pool.map(lambda half: np.copyto(self.sink[half], self.source[half]), halves))

            steps: list[Step] = [(self._copy, None), (both, None), (relay, None)]
            alone, copied, took = in_turn(steps, self.seconds)
        share = ratio(alone, took)
        name = f"relay n={SENDERS} 2thr"
        return self._made(name, took, copied, threads=2, of_one_memcpy=share)

    def _made(
        self, operation: str, took: Sequence[float], copied: Sequence[float], **more: Any
    ) -> Row:
        return Row(
            compressor=self.subject.label,
            operation=operation,
            dimension=self.d,
            seconds=median(took),
            memcpy_seconds=median(copied),
            of_memcpy=ratio(copied, took),
            rounds=len(took),
            payload_bytes=self.payloads[SENDERS][0][0].size,
            entries=self.payloads.entries,
            index_bytes=self.payloads.index_bytes,
            **more,
        )

    def _copy(self) -> None:
        np.copyto(self.sink, self.source)

    def _restore(self) -> None:
        np.copyto(self.x, self.source)


def _same(vector: Floats) -> Vector:
    return vector


def _torch() -> ModuleType | None:
    """The torch side, or None where there is no torch."""
    try:
        from psrv.bench import plain_torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None
    return plain_torch


@contextmanager
def _one_thread() -> Iterator[None]:
    """torch on one thread, and back to what it was."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
