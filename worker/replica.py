"""The replica: parameters, rule state and received memory, equal on every worker.

Whatever is here, a peer can hand to a worker that is behind. Pure: no sockets, threads
or clock; driven by the session over sockets and by the simulation alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from psrv.codec.base import Bucket, Bytes, Floats, aligned
from psrv.codec.channel import Downlink
from psrv.layout import Layout, digest_of
from psrv.methods import Method
from psrv.worker.rules import make_rule


class Replica:
    """One copy of the model.

    Attributes:
        parameters: float32[d] in layout order; the same array for the replica's life.
        previous: float32[d], the parameters before the last round, once ``keep_previous`` is
            called: where MARINA evaluates a minibatch for the second time.
        round: rounds applied.
        rule: the update rule with its state.
        downlink: the receiving half of the downlink.
    """

    def __init__(self, method: Method, layout: Layout, seed: int) -> None:
        self.method, self.layout = method, layout
        self.parameters: Floats = aligned(layout.dimension)
        self.previous: Floats | None = None
        self.round = 0
        self.rule = make_rule(method, layout.dimension)
        self.downlink = Downlink(method.down, layout.buckets, seed)

    def keep_previous(self) -> None:
        """From now on, keep the parameters that a round replaces."""
        self.previous = self.parameters.copy()

    def receive(self, bucket: Bucket, payload: Bytes, round: int, eta: float) -> None:
        """Decode one bucket's result; nothing is applied before ``commit``.

        Raises:
            CodecError: not a payload of this bucket. No state changes.
        """
        self.downlink.decode(bucket, payload, round, eta)

    def commit(self, etas: Sequence[float], decays: Sequence[float]) -> None:
        """Apply the round. Every bucket has been received.

        Args:
            etas, decays: step size and weight decay of each parameter group.
        """
        u, x = self.downlink.commit(), self.parameters
        if self.previous is not None:
            self.previous[:] = x
        for bucket in self.layout.buckets:
            eta, decay = etas[bucket.group], decays[bucket.group]
            self.rule.apply(x, u, bucket, eta, decay, self.round)
        self.round += 1

    def digest(self) -> str:
        """sha256 of the parameters, hex."""
        return digest_of(self.parameters)

    def state(self) -> dict[str, Floats]:
        """Every vector of the replica by name, as views: what a peer would need."""
        vectors = {"parameters": self.parameters}
        vectors |= {f"rule.{name}": v for name, v in self.rule.state.items()}
        if self.downlink.memory is not None:
            vectors["downlink.memory"] = self.downlink.memory
        if self.previous is not None:
            vectors["previous"] = self.previous
        return vectors
