"""What one worker sends: its gradient, local momentum, and the memory of its uplink.

This is the part of a worker that no peer has: lost when the worker is lost. The part that
all workers share is ``worker/replica.py``. Pure: no sockets, threads or clock.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from psrv.codec.base import Bucket, Bytes, Floats, aligned
from psrv.codec.channel import Feedback, Uplink
from psrv.errors import NonFiniteError
from psrv.layout import Layout
from psrv.methods import Method
from psrv.worker import update_kernels as kernels


class Sender:
    """The sending half of worker ``rank``.

    Each round: write the gradient into ``gradient``, ``encode`` every bucket once, then
    ``commit`` when the round is complete, or leave it: without a commit nothing happened.

    Attributes:
        momentum: float32[d], local momentum; None where the method has none.
    """

    def __init__(
        self,
        method: Method,
        layout: Layout,
        seed: int,
        rank: int,
        workers: int,
        shared: Mapping[str, Floats] | None = None,
    ) -> None:
        """
        Args:
            shared: the rule's vectors of this worker's replica, for a method that sends the
                momentum they have in common (1-bit Adam); they are only read.
        """
        self.method, self.layout, self.rank = method, layout, rank
        self.uplink = Uplink(method.up, layout.buckets, seed, rank, workers)
        self.momentum: Floats | None = None
        self._next: Floats | None = None
        self._first_moment: Floats | None = None
        if method.outgoing == "first-moment":
            if shared is None:
                raise ValueError(f"method '{method.name}' sends a momentum of the replica's")
            self._first_moment = shared["m"]
        elif method.outgoing != "gradient":
            self.momentum, self._next = aligned(layout.dimension), aligned(layout.dimension)

    @property
    def gradient(self) -> Floats:
        """float32[d] to write this round's gradient into. Another array after a commit."""
        return self.uplink.buffer

    @property
    def previous(self) -> Floats | None:
        """float32[d]: MARINA's gradient at the last round's parameters; None for others.

        It is that of the last commit. On minibatches, write the one of this round's own batch
        into it before ``encode``, unless the round is dense. Another array after a commit.
        """
        return self.uplink.memory if self.method.up.feedback is Feedback.MARINA else None

    def dense(self, round: int) -> bool:
        """Whether the gradient itself goes out in that round, in full."""
        return self.uplink.dense(round)

    def encode(self, bucket: Bucket, round: int, eta: float) -> Bytes:
        """The payload of one bucket; uses up that part of ``gradient``.

        Raises:
            NonFiniteError: naming the tensor, its element and the round. No state changes.
        """
        self._prepare(bucket, round)
        try:
            return self.uplink.encode(bucket, round, eta)
        except NonFiniteError as error:
            at = bucket.start + (error.coordinate or 0)
            tensor = self.layout.tensor_at(at)
            index = np.unravel_index(at - self.layout.offsets[tensor.name], tensor.shape)
            place = ", ".join(str(int(i)) for i in index)
            raise NonFiniteError(
                f"worker {self.rank}: the gradient of '{tensor.name}' is not finite in round "
                f"{round}, at element [{place}] ({error}); no parameter or memory was changed",
                at,
            ) from error

    def _prepare(self, bucket: Bucket, round: int) -> None:
        s, method = bucket.slice, self.method
        if self._first_moment is not None:
            if round >= (method.warmup or 0):
                beta, rest = np.float32(method.beta1), np.float32(1.0 - method.beta1)
                kernels.shared_ema(self.gradient[s], self._first_moment[s], beta, rest)
        elif self.momentum is not None and self._next is not None:
            mu = method.momentum
            g, m, following = self.gradient[s], self.momentum[s], self._next[s]
            if method.outgoing == "nesterov":
                kernels.local_nesterov(g, m, following, np.float32(mu))
            else:
                kernels.local_ema(g, m, following, np.float32(mu), np.float32(1.0 - mu))

    def commit(self) -> None:
        """Make this round's momentum and memory the state."""
        self.uplink.commit()
        if self.momentum is not None:
            self.momentum, self._next = self._next, self.momentum
