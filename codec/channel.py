"""Compressed channels: what is sent of a sequence of vectors, and what is remembered.

    feedback   sender, given v                            receiver, given payload c
    plain      send C(v)                                  v^ = c
    ef         p = v + rho e; send C(p); e <- p - C(p)    v^ = c
    markov     send C(v - h); h <- h + C(v - h)           h <- h + c; v^ = h
    marina     heads: send v; tails: send C(v - v_prev)   heads: v^ = c; tails: v^ <- v^ + c

Uplink: n senders, one receiver (the server) that needs only the mean. Downlink: the
server sends, n workers receive. ``Uplink`` is a worker's sending half, ``Relay`` is the
server's half of both, one per bucket, and ``Downlink`` is a worker's receiving half.

In a *dense* round the payload is the vector itself, whatever the compressor: MARINA's
heads, and the first ``opening`` rounds of a channel that opens so (EF21 from the first
gradient, 1-bit Adam's warm-up). The table above stays true, with C(x) = x. Every process
tosses the same coin from the seed, so which rounds are dense costs no message.

Nothing here changes what is remembered before ``commit``: a round that is refused, in
any bucket on any worker, leaves every state as it was.

rho is 1, or with ``rescale`` eta_{t-1} / eta_t (dist-EF, Algorithm 2, line 4), where
eta_{t-1} is the last step size that was not zero; it is 0 before there is one. While
eta_t is 0 a rescaled channel sends nothing and keeps what it remembers. Both channels of
a method are rescaled or neither is: half a round would leave the two ends of a Markov
channel apart.

Sources: EF: Zheng, Huang and Kwok 2019, Algorithm 2. Markov: Richtarik, Sokolov and
Fatkhullin 2021 (EF21); both ways: Wang, Lin and Chen 2022 (CD-Adam), Algorithm 1. MARINA:
Gorbunov et al. 2021, as in Szlendak, Tyurin and Richtarik 2022, Algorithm 1; its coin of
round t decides the message of round t + 1, ours that of its own round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from psrv.codec.base import Bucket, Bytes, Compressor, Draw, Floats, aligned, all_finite
from psrv.codec.coder import Coder
from psrv.codec.registry import parse
from psrv.codec.rng import SERVER, coin
from psrv.errors import ConfigError

EMPTY: Bytes = np.empty(0, np.uint8)
_DENSE = parse("dense")


class Feedback(StrEnum):
    """What a sender remembers; see the table above."""

    PLAIN = "plain"
    EF = "ef"
    MARKOV = "markov"
    MARINA = "marina"


@dataclass(frozen=True)
class Channel:
    """One direction of a method.

    Attributes:
        feedback, compressor: what is remembered, and the compressor's spec.
        rescale: rho follows eta.
        opening: how many rounds at the start are dense; of MARINA at least one.
        probability: of a dense round, in (0, 1]: of MARINA, and None for all others.

    Raises:
        ConfigError: an unknown compressor, or one that this feedback cannot use.
    """

    feedback: Feedback
    compressor: str
    rescale: bool = False
    opening: int = 0
    probability: float | None = None

    def __post_init__(self) -> None:
        codec = self.codec()
        if self.feedback is Feedback.MARINA:
            # Unbiased is what is multiplied by less than 1 where it has to be contractive.
            if not codec.lossless and (codec.contractive or codec.contracted() is codec):
                raise ConfigError(
                    f"marina feedback cannot use compressor '{self.compressor}': it is biased, so "
                    "the error of every round would stay in the estimate; use perm-k, rand-k, "
                    "qsgd, natural or dense (or markov feedback with this compressor)"
                )
        elif self.feedback is not Feedback.PLAIN and not codec.contractive:
            raise ConfigError(
                f"{self.feedback} feedback cannot use compressor '{self.compressor}': it does not "
                "shrink the error (no scale is sent), so the memory would grow without bound; "
                "use sign or dense, or a plain channel"
            )

    def codec(self) -> Compressor:
        """The compressor in the form that this feedback needs: C / (1 + omega) with a memory.

        MARINA's form is the unbiased one: what it remembers is no error.
        """
        parsed = parse(self.compressor)
        keeps = self.feedback in (Feedback.EF, Feedback.MARKOV)
        return parsed.contracted() if keeps else parsed

    @property
    def sometimes_dense(self) -> bool:
        """Whether there may be a round whose payload is the vector itself."""
        return self.opening > 0 or self.feedback is Feedback.MARINA

    @property
    def specs(self) -> tuple[str, ...]:
        """Every compressor that runs at some time, for a warm-up."""
        return (self.compressor, "dense") if self.sometimes_dense else (self.compressor,)

    def dense(self, round: int, seed: int) -> bool:
        """Whether the payloads of this round are the vectors themselves."""
        if round < self.opening:
            return True
        if self.feedback is not Feedback.MARINA:
            return False
        if self.probability is None:
            raise ValueError("marina without a probability: see Method.completed")
        return round == 0 or coin(seed, round, self.probability)

    def payload_bytes(self, bucket: Bucket, eta: float, draw: Draw | None = None) -> int | None:
        """Exact bytes of a payload in a round with step size ``eta``; None: the data decide.

        Args:
            draw: the payload's; needed where payloads differ by round or by sender.
        """
        if self.silent(eta):
            return 0
        codec = self.codec()
        if draw is None and (codec.shared or self.sometimes_dense):
            raise ValueError(f"the payloads of '{self.compressor}' differ by round and rank")
        if draw is not None and self.dense(draw.round, draw.seed):
            codec = _DENSE
        return codec.payload_bytes(bucket.blocks, draw or Draw(bucket=bucket.index))

    def payload_bound(self, bucket: Bucket, workers: int) -> int:
        """The most bytes of a bucket's payload, of any of n senders in any round."""
        bound = self.codec().payload_bound(bucket.blocks, workers)
        dense = _DENSE.payload_bound(bucket.blocks, workers) if self.sometimes_dense else 0
        return max(bound, dense)

    def silent(self, eta: float) -> bool:
        """Whether nothing is sent: a rescaled channel while the step size is zero."""
        return self.rescale and eta == 0

    def rho(self, eta: float, last: float) -> float:
        """The factor of the remembered error; ``last`` is the last non-zero eta, or 0."""
        return last / eta if self.rescale else 1.0


class _Coders:
    """The coders of some buckets in one direction: of every round, the right one."""

    def __init__(
        self, channel: Channel, buckets: Sequence[Bucket], seed: int, workers: int
    ) -> None:
        self._channel, self._seed = channel, seed

        def coders(codec: Compressor) -> dict[int, Coder]:
            return {
                b.index: Coder(codec, b.blocks, workers=workers, seed=seed, bucket=b.index)
                for b in buckets
            }

        self._compressed = coders(channel.codec())
        self._dense = coders(_DENSE) if channel.sometimes_dense else self._compressed

    def of(self, bucket: int, round: int) -> Coder:
        """What makes and reads that bucket's payloads in that round."""
        dense = self.dense(round)
        return self._dense[bucket] if dense else self._compressed[bucket]

    def dense(self, round: int) -> bool:
        """Whether that round is dense."""
        return self._channel.dense(round, self._seed)


class Uplink:
    """A worker's sending half of the uplink, for the whole vector, bucket by bucket.

    Attributes:
        buffer: float32[d]: the vector to send this round is written here first. After a
            commit it may be another array: fetch it anew each round.
        memory: float32[d]: the error e (ef), h (markov) or v_prev (marina); None for plain.
            MARINA on minibatches writes v_prev here, from the round's own batch.
        last_etas: by bucket, the last step size that was not zero; 0 before there is one.
    """

    def __init__(
        self, channel: Channel, buckets: Sequence[Bucket], seed: int, rank: int, workers: int
    ) -> None:
        dimension = buckets[-1].stop
        feedback = channel.feedback
        self.channel = channel
        self.buffer: Floats = aligned(dimension)
        self.memory: Floats | None = None if feedback is Feedback.PLAIN else aligned(dimension)
        self._sent: Floats | None = aligned(dimension) if feedback is Feedback.MARINA else None
        self._buckets = buckets
        self._coders = _Coders(channel, buckets, seed, workers)
        self._rank, self._round = rank, 0
        self._payloads: list[Bytes] = [EMPTY] * len(buckets)
        self._etas = [0.0] * len(buckets)
        self.last_etas = [0.0] * len(buckets)

    def dense(self, round: int) -> bool:
        """Whether the vector itself goes out in that round."""
        return self._coders.dense(round)

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
        coder = self._coders.of(index, round)
        silent = self.channel.silent(eta)
        memory = None if self.memory is None else self.memory[bucket.slice]
        # What MARINA remembers is v itself, so a dense round has no use for v_prev.
        if self._sent is not None:
            self._sent[bucket.slice] = memory if silent else x
            memory = None if self.dense(round) else memory
        if silent or (memory is None and coder.compressor.partial):
            all_finite(x)
        if silent:
            self._payloads[index] = EMPTY
        elif memory is None:
            self._payloads[index] = coder.encode(x, round, self._rank)
        else:
            # Markov sends v - h, which is v + (-1) h to the bit; likewise MARINA.
            error = self.channel.feedback is Feedback.EF
            rho = self.channel.rho(eta, self.last_etas[index]) if error else -1.0
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
                    coder = self._coders.of(bucket.index, self._round)
                    coder.decode_onto(payload, h, h, self._round, self._rank)
        elif self._sent is not None:
            self.memory, self._sent = self._sent, self.memory
        pairs = zip(self._etas, self.last_etas, strict=True)
        self.last_etas = [eta or last for eta, last in pairs]


class Relay:
    """The server's half of both channels for one bucket: n payloads in, one out.

    Where both channels are EF, or both Markov, one vector is all the server holds:
    r <- rho r + mean(c_i); send C(r); r <- r - C(r). For EF, r is the global error; for
    Markov, r is g^ - g~ of CD-Adam, whose two sequences need not be stored apart. Other
    combinations keep what their definition asks for:

        uplink markov, downlink plain or ef    g^ (the mean of the senders' h), and e
        uplink marina                          v^, and the downlink's e or h~
        uplink plain or ef, downlink markov    h~

    Attributes:
        residual: float32[d_b]: r, e or h~; None for a plain downlink.
        mean: float32[d_b]: g^ or v^, where it must be kept; else None.
    """

    def __init__(self, up: Channel, down: Channel, bucket: Bucket, seed: int, workers: int) -> None:
        size = bucket.stop - bucket.start
        sums = up.feedback in (Feedback.MARKOV, Feedback.MARINA)
        both_markov = up.feedback is down.feedback is Feedback.MARKOV
        self._fused = both_markov or (down.feedback is Feedback.EF and not sums)
        self._up, self._down, self._bucket = up, down, bucket.index
        self._decoders = _Coders(up, [bucket], seed, workers)
        self._encoders = _Coders(down, [bucket], seed, 1)
        self._payload: Bytes = EMPTY
        self._work: Floats = aligned(size)
        self.residual: Floats | None = None if down.feedback is Feedback.PLAIN else aligned(size)
        self.mean: Floats | None = aligned(size) if sums and not both_markov else None
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
        up, down = self._decoders.of(self._bucket, round), self._encoders.of(self._bucket, round)
        rho = self._down.rho(eta, self._last)
        if self._down.feedback is Feedback.MARKOV and not self._fused:
            rho = -1.0  # the residual is h~, and what goes out is the mean less h~
        if self.mean is None:
            self._payload = up.relay(payloads, x, down, round, self.residual, rho)
        else:
            assert self._next_mean is not None
            anew = self._up.feedback is Feedback.MARINA and self._decoders.dense(round)
            up.reduce(payloads, self._next_mean, round, None if anew else self.mean)
            x[:] = self._next_mean
            if down.compressor.partial and self.residual is None:
                all_finite(x)
            self._payload = down.encode(x, round, SERVER, self.residual, rho)
        self._eta, self._round = eta, round
        return self._payload

    def decode(self, payload: Bytes, out: Floats, round: int, rank: int) -> None:
        """out = one worker's payload decoded; raises ``CodecError`` if it cannot be."""
        self._decoders.of(self._bucket, round).decode(payload, out, round, rank)

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
                encoder = self._encoders.of(self._bucket, self._round)
                encoder.decode_onto(self._payload, h, h, self._round, SERVER)
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
        self._coders = _Coders(channel, buckets, seed, 1)
        self._received: Floats = aligned(dimension)
        markov = channel.feedback is Feedback.MARKOV
        self.memory: Floats | None = aligned(dimension) if markov else None

    def decode(self, bucket: Bucket, payload: Bytes, round: int, eta: float) -> None:
        """Take in one bucket's payload. Nothing is remembered before ``commit``.

        Raises:
            CodecError: not a payload of this bucket.
        """
        out = self._received[bucket.slice]
        coder = self._coders.of(bucket.index, round)
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
