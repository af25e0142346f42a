"""Compressed channels: what is sent of a sequence of vectors, and what is remembered.

    feedback   sender, given v                            receiver, given payload c
    plain      send C(v)                                  v^ = c
    ef         p = v + rho e; send C(p); e <- p - C(p)    v^ = c
    markov     send C(v - h); h <- h + C(v - h)           h <- h + c; v^ = h

Uplink: n senders, one receiver (the server) that needs only the mean. Downlink: the
server sends, n workers receive. ``Uplink`` is a worker's sending half, ``Relay`` is the
server's half of both, one per bucket, and ``Downlink`` is a worker's receiving half.

Nothing here changes what is remembered before ``commit``: a round that is refused, in
any bucket on any worker, leaves every state as it was.

rho is 1, or with ``rescale`` eta_{t-1} / eta_t (dist-EF, Algorithm 2, line 4), where
eta_{t-1} is the last step size that was not zero; it is 0 before there is one. While
eta_t is 0 a rescaled channel sends nothing and keeps what it remembers. Both channels of
a method are rescaled or neither is: half a round would leave the two ends of a Markov
channel apart.

Sources: EF: Zheng, Huang and Kwok 2019, Algorithm 2. Markov: Richtarik, Sokolov and
Fatkhullin 2021 (EF21); both ways: Wang, Lin and Chen 2022 (CD-Adam), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from psrv.codec.base import Bucket, Bytes, Compressor, Draw, Floats, aligned, all_finite
from psrv.codec.coder import Coder
from psrv.codec.registry import parse
from psrv.codec.rng import SERVER
from psrv.errors import ConfigError

EMPTY: Bytes = np.empty(0, np.uint8)


class Feedback(StrEnum):
    """What a sender remembers; see the table above."""

    PLAIN = "plain"
    EF = "ef"
    MARKOV = "markov"


@dataclass(frozen=True)
class Channel:
    """One direction: its feedback, its compressor's spec, and whether rho follows eta.

    Raises:
        ConfigError: an unknown compressor, or feedback over one that is not contractive.
    """

    feedback: Feedback
    compressor: str
    rescale: bool = False

    def __post_init__(self) -> None:
        contractive = self.codec().contractive
        if self.feedback is not Feedback.PLAIN and not contractive:
            raise ConfigError(
                f"{self.feedback} feedback cannot use compressor '{self.compressor}': it does not "
                "shrink the error (no scale is sent), so the memory would grow without bound; "
                "use sign or dense, or a plain channel"
            )

    def codec(self) -> Compressor:
        """The compressor in the form that this feedback needs: C / (1 + omega) with a memory."""
        parsed = parse(self.compressor)
        return parsed if self.feedback is Feedback.PLAIN else parsed.contracted()

    def payload_bytes(self, bucket: Bucket, eta: float, draw: Draw | None = None) -> int | None:
        """Exact bytes of a payload in a round with step size ``eta``; None: the data decide.

        Args:
            draw: the payload's; only a compressor that senders share needs it.
        """
        if self.silent(eta):
            return 0
        codec = self.codec()
        if draw is None and codec.shared:
            raise ValueError(f"the payloads of '{self.compressor}' differ by round and rank")
        return codec.payload_bytes(bucket.blocks, draw or Draw(bucket=bucket.index))

    def payload_bound(self, bucket: Bucket, workers: int) -> int:
        """The most bytes of a bucket's payload, of any of n senders in any round."""
        return self.codec().payload_bound(bucket.blocks, workers)

    def silent(self, eta: float) -> bool:
        """Whether nothing is sent: a rescaled channel while the step size is zero."""
        return self.rescale and eta == 0

    def rho(self, eta: float, last: float) -> float:
        """The factor of the remembered error; ``last`` is the last non-zero eta, or 0."""
        return last / eta if self.rescale else 1.0


class Uplink:
    """A worker's sending half of the uplink, for the whole vector, bucket by bucket.

    Attributes:
        buffer: float32[d]: the vector to send this round is written here first. After a
            commit it may be another array: fetch it anew each round.
        memory: float32[d]: the error e (ef) or h (markov); None for plain.
        last_etas: by bucket, the last step size that was not zero; 0 before there is one.
    """

    def __init__(
        self, channel: Channel, buckets: Sequence[Bucket], seed: int, rank: int, workers: int
    ) -> None:
        dimension = buckets[-1].stop
        self.channel = channel
        self.buffer: Floats = aligned(dimension)
        self.memory: Floats | None = (
            None if channel.feedback is Feedback.PLAIN else aligned(dimension)
        )
        self._buckets = buckets
        self._coders = _coders(channel, buckets, seed, workers)
        self._rank, self._round = rank, 0
        self._payloads: list[Bytes] = [EMPTY] * len(buckets)
        self._etas = [0.0] * len(buckets)
        self.last_etas = [0.0] * len(buckets)

    def encode(self, bucket: Bucket, round: int, eta: float) -> Bytes:
        """The payload of one bucket of ``buffer``, whose contents are used up.

        Returns:
            uint8[m], valid until this bucket is encoded again.

        Raises:
            NonFiniteError: with the coordinate in the bucket. No state has changed.
        """
        index = bucket.index
        self._etas[index], self._round = eta, round
        x = self.buffer[bucket.slice]
        coder = self._coders[index]
        silent = self.channel.silent(eta)
        if silent or (self.memory is None and coder.compressor.partial):
            all_finite(x)
        if silent:
            self._payloads[index] = EMPTY
        elif self.memory is None:
            self._payloads[index] = coder.encode(x, round, self._rank)
        else:
            # Markov sends v - h, which is v + (-1) h to the bit.
            markov = self.channel.feedback is Feedback.MARKOV
            rho = -1.0 if markov else self.channel.rho(eta, self.last_etas[index])
            memory = self.memory[bucket.slice]
            self._payloads[index] = coder.encode(x, round, self._rank, memory, rho)
        return self._payloads[index]

    def commit(self) -> None:
        """Remember what this round's payloads left over. All buckets were encoded."""
        if self.channel.feedback is Feedback.EF:
            for bucket, eta in zip(self._buckets, self._etas, strict=True):
                if self.channel.silent(eta):
                    self.buffer[bucket.slice] = self.memory[bucket.slice]  # type: ignore[index]
            self.buffer, self.memory = self.memory, self.buffer  # type: ignore[assignment]
        elif self.channel.feedback is Feedback.MARKOV:
            for bucket, eta in zip(self._buckets, self._etas, strict=True):
                if not self.channel.silent(eta):
                    h = self.memory[bucket.slice]  # type: ignore[index]
                    payload = self._payloads[bucket.index]
                    self._coders[bucket.index].decode_onto(payload, h, h, self._round, self._rank)
        pairs = zip(self._etas, self.last_etas, strict=True)
        self.last_etas = [eta or last for eta, last in pairs]


class Relay:
    """The server's half of both channels for one bucket: n payloads in, one out.

    Where both channels are EF, or both Markov, one vector is all the server holds:
    r <- rho r + mean(c_i); send C(r); r <- r - C(r). For EF, r is the global error; for
    Markov, r is g^ - g~ of CD-Adam, whose two sequences need not be stored apart. Other
    combinations keep what their definition asks for:

        uplink markov, downlink plain or ef    g^ (the mean of the senders' h), and e
        uplink plain or ef, downlink markov    h~

    Attributes:
        residual: float32[d_b]: r, e or h~; None for a plain downlink.
        mean: float32[d_b]: g^, where it must be kept; else None.
    """

    def __init__(self, up: Channel, down: Channel, bucket: Bucket, seed: int, workers: int) -> None:
        size = bucket.stop - bucket.start
        markov_up = up.feedback is Feedback.MARKOV
        markov_down = down.feedback is Feedback.MARKOV
        self._fused = down.feedback is Feedback.EF if not markov_up else markov_down
        self._up, self._down = up, down
        self._decoder = _coders(up, [bucket], seed, workers)[0]
        self._encoder = _coders(down, [bucket], seed, 1)[0]
        self._payload: Bytes = EMPTY
        self._work: Floats = aligned(size)
        self.residual: Floats | None = None if down.feedback is Feedback.PLAIN else aligned(size)
        self.mean: Floats | None = aligned(size) if markov_up and not markov_down else None
        self._next_mean: Floats | None = None if self.mean is None else aligned(size)
        self._last = 0.0
        self._eta: float | None = None
        self._round = 0

    def run(self, payloads: Sequence[Bytes], round: int, eta: float) -> Bytes:
        """Reduce one round's payloads, in rank order, to the payload for all workers.

        Returns:
            uint8[m], valid until the next ``run``.

        Raises:
            CodecError: a payload that its format does not allow, or NaN or infinity in the
                sum (``NonFiniteError``). The state is unchanged.
        """
        self._eta = None
        x = self._work
        if self._down.silent(eta):
            self._eta = eta
            return EMPTY
        up, down = self._decoder, self._encoder
        rho = self._down.rho(eta, self._last)
        if self._fused:
            self._payload = up.relay(payloads, x, down, round, self.residual, rho)
        elif self.mean is not None:
            assert self._next_mean is not None
            up.reduce(payloads, self._next_mean, round, self.mean)
            x[:] = self._next_mean
            if down.compressor.partial and self.residual is None:
                all_finite(x)
            self._payload = down.encode(x, round, SERVER, self.residual, rho)
        else:
            # A Markov downlink's residual is h~, and mean - h~ goes out.
            self._payload = up.relay(payloads, x, down, round, self.residual, -1.0)
        self._eta, self._round = eta, round
        return self._payload

    def decode(self, payload: Bytes, out: Floats, round: int, rank: int) -> None:
        """out = one worker's payload decoded; raises ``CodecError`` if it cannot be."""
        self._decoder.decode(payload, out, round, rank)

    def commit(self) -> None:
        """Remember what the last ``run`` left over; without one, nothing happens."""
        if self._eta is None:
            return
        if not self._down.silent(self._eta):
            if self.mean is not None:
                self.mean, self._next_mean = self._next_mean, self.mean
            if self._down.feedback is Feedback.MARKOV and not self._fused:
                h = self.residual
                assert h is not None
                self._encoder.decode_onto(self._payload, h, h, self._round, SERVER)
            elif self.residual is not None:
                self.residual, self._work = self._work, self.residual
        self._last = self._eta or self._last
        self._eta = None


class Downlink:
    """A worker's receiving half of the downlink. All workers' are equal, bit for bit.

    Attributes:
        memory: float32[d]: h of a Markov channel; None otherwise.
    """

    def __init__(self, channel: Channel, buckets: Sequence[Bucket], seed: int) -> None:
        dimension = buckets[-1].stop
        self.channel = channel
        self._coders = _coders(channel, buckets, seed, 1)
        self._received: Floats = aligned(dimension)
        markov = channel.feedback is Feedback.MARKOV
        self.memory: Floats | None = aligned(dimension) if markov else None

    def decode(self, bucket: Bucket, payload: Bytes, round: int, eta: float) -> None:
        """Take in one bucket's payload. Nothing is remembered before ``commit``.

        Raises:
            CodecError: not a payload of this bucket.
        """
        out = self._received[bucket.slice]
        coder = self._coders[bucket.index]
        if self.channel.silent(eta):
            out[:] = 0 if self.memory is None else self.memory[bucket.slice]
        elif self.memory is None:
            coder.decode(payload, out, round, SERVER)
        else:
            coder.decode_onto(payload, self.memory[bucket.slice], out, round, SERVER)

    def commit(self) -> Floats:
        """v^ of the round, float32[d], valid until the next ``decode``."""
        if self.memory is None:
            return self._received
        self.memory, self._received = self._received, self.memory
        return self.memory


def _coders(channel: Channel, buckets: Sequence[Bucket], seed: int, workers: int) -> list[Coder]:
    codec = channel.codec()
    return [Coder(codec, b.blocks, workers=workers, seed=seed, bucket=b.index) for b in buckets]
