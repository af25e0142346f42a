"""One worker's part of a round, bucket by bucket: encode, push, take the result, decode.

All buckets go out in their own order, whatever order they became ready in: so the pushes
that the server waits for are under way on every worker. At most ``WINDOW`` of them wait for
their results at a time. A worker that is ahead of the others so leaves the link to them:
without that, early buckets' results would wait for the slowest worker's last push, and one
direction of the links would stand idle while the other is full.

What was done when is written down and handed to the meter afterwards.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from psrv.codec.base import Bucket
from psrv.errors import WireError
from psrv.measure.meter import Busy, Waited
from psrv.messages import Push, Result

if TYPE_CHECKING:
    from psrv.worker.connection import Connection
    from psrv.worker.replica import Replica
    from psrv.worker.sender import Sender

WINDOW = 4
"""Pushes without a result at a time. A bucket is about 4 MiB of float32."""


class Exchange:
    """The rounds' pushes and results on one connection.

    Attributes:
        log: what this exchange did in its last round, in order.
        flights: (bucket, sent, arrived) of the last round, nanoseconds on this clock.
        payload_up, payload_down: bytes of the last round.
    """

    def __init__(
        self, connection: Connection, sender: Sender, replica: Replica, epoch: int, rank: int
    ) -> None:
        self._connection, self._sender, self._replica = connection, sender, replica
        self._epoch, self._rank = epoch, rank
        self._buckets = replica.layout.buckets
        self.log: list[Busy | Waited] = []
        self.flights: list[tuple[int, int, int]] = []
        self.payload_up = self.payload_down = 0

    def run(self, round: int, etas: Sequence[float], digest: bytes) -> None:
        """Exchange every bucket; returns when all results are decoded. Nothing is applied.

        Args:
            etas: step size of each parameter group.
            digest: of the replica's parameters, for the check that all are equal, or none.

        Raises:
            NonFiniteError: NaN or infinity in the gradient of any worker.
            PsrvError: the run ended, or the server sent what it should not.
        """
        self.log, self.flights = [], []
        self.payload_up = self.payload_down = 0
        to_push = deque(self._buckets)
        sent: dict[int, int] = {}
        while to_push or sent:
            if to_push and len(sent) < WINDOW:
                bucket = to_push.popleft()
                self._push(bucket, round, etas[bucket.group], digest)
                digest = b""
                sent[bucket.index] = self.log[-1].end_ns
            else:
                self._take(round, etas, sent)

    def _push(self, bucket: Bucket, round: int, eta: float, digest: bytes) -> None:
        started = time.monotonic_ns()
        payload = self._sender.encode(bucket, round, eta)
        encoded = time.monotonic_ns()
        self.log.append(Busy("encode", started, encoded, bucket.index))
        self._connection.send(
            Push(self._epoch, round, bucket.index, self._rank, eta, digest, payload)
        )
        self.log.append(Busy("uplink", encoded, time.monotonic_ns(), bucket.index))
        self.payload_up += payload.nbytes

    def _take(self, round: int, etas: Sequence[float], sent: dict[int, int]) -> None:
        """Wait for a result, decode it, and take its bucket out of ``sent``."""
        started = time.monotonic_ns()
        message, arrived = self._connection.receive()
        if not isinstance(message, Result) or message.bucket >= len(self._buckets):
            raise WireError(
                f"expected a result of round {round}, the server sent {type(message).__name__}"
            )
        if message.round != round:
            raise WireError(f"expected round {round}, the server sent {message.round}")
        if message.bucket not in sent:
            return  # a kept result, sent again
        local = self._connection.clock.to_local
        stamps = local(message.arrived_ns), local(message.last_ns), local(message.done_ns)
        arrived = max(arrived, started)
        self.log.append(Waited(started, arrived, message.bucket, stamps, message.last_rank))
        self.flights.append((message.bucket, sent.pop(message.bucket), arrived))
        bucket = self._buckets[message.bucket]
        payload = np.frombuffer(message.payload, np.uint8)
        self._replica.receive(bucket, payload, round, etas[bucket.group])
        self.log.append(Busy("decode", arrived, time.monotonic_ns(), bucket.index))
        self.payload_down += payload.nbytes
