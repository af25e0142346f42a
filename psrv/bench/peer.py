"""What a user would write instead of psrv: the other side of ``psrv bench codec``.

Each peer is as short as its library allows, with the same mathematics and payloads that are
about as large, but without the fixed order of sums, the specified ties and draws, and any
check: of NaN, of payloads, of indices. What a line of it allocates is part of its time.
``plain.py`` has them in NumPy, ``plain_torch.py`` in torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from psrv.codec import Blocks

Vector = Any
"""float32[d], of NumPy or of torch."""

Payload = tuple[Any, ...]
"""What is sent, in arrays of one library."""


class Order(NamedTuple):
    """Which peer is wanted.

    Attributes:
        name, argument, form: of the spec ``name:argument/form``; "" for what is not there.
        feedback: C / (1 + omega), as error feedback uses it, in place of C.
        workers: n, the senders of a round.
    """

    name: str
    argument: str
    form: str
    feedback: bool
    workers: int

    @classmethod
    def of(cls, spec: str, feedback: bool, workers: int) -> Order:
        """The peer of a compressor by its spec."""
        head, _, form = spec.partition("/")
        name, _, argument = head.partition(":")
        return cls(name, argument, form, feedback, workers)


class Peer(ABC):
    """One compressor, written in one library."""

    @abstractmethod
    def encode(
        self, x: Vector, blocks: Blocks, residual: Vector | None = None, rank: int = 0
    ) -> Payload:
        """The payload of x, plus the residual if there is one; x - C(x) stays in ``x``."""

    @abstractmethod
    def decode(self, payload: Payload, blocks: Blocks) -> Vector:
        """C(x), in a new vector."""

    def decode_onto(self, payload: Payload, blocks: Blocks, base: Vector) -> None:
        """base += C(x)."""
        base += self.decode(payload, blocks)

    def mean(self, payloads: Sequence[Payload], blocks: Blocks) -> Vector:
        """The mean of the decoded payloads, in a new vector."""
        total = self.decode(payloads[0], blocks)
        for payload in payloads[1:]:
            total += self.decode(payload, blocks)
        total *= 1 / len(payloads)
        return total


def qsgd_gain(levels: int, blocks: Blocks) -> float:
    """1 / (1 + omega) of ``qsgd``: Alistarh and others 2017, Lemma 3.1."""
    largest = int(np.diff(blocks.edges).max())
    return 1 / (1 + min(largest / levels**2, largest**0.5 / levels))
