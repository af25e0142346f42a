"""The contract of a compressor.

A compressor C turns one bucket, a contiguous float32 vector made of whole blocks,
into a payload of bytes and back. It holds no state: what is remembered between
rounds belongs to the channel (``codec/channel.py``). ``codec/coder.py`` binds one to a
bucket of a run, for use on its own.

encode(buffer, blocks, draw, out, residual, rho)
    x = buffer + float32(rho) * residual, or the buffer itself. Writes the payload of x
    to the start of ``out``, returns its length, and leaves x - C(x) in ``buffer``. Equal
    inputs give equal bytes on every processor: the order of every float32 operation is
    fixed and written down in ``docs/payloads.md``. A NaN or infinity that it meets raises
    ``NonFiniteError``; ``buffer`` is then undefined, ``out`` too, and nothing else has
    changed. A ``partial`` compressor reads only the coordinates that it sends, unless
    there is a residual to add.
decode(payload, blocks, draw, out)
    out = C(x). The payload comes from a peer: its length and every number and index in
    it is checked before the first write. Any byte string gives values or ``CodecError``.
decode_onto(payload, blocks, draw, base, out)
    out = base + C(x), one float32 addition a coordinate. ``base`` may be ``out``.
reduce(payloads, blocks, draws, out, residual, rho, weights)
    out = ((w_0 c_0 + w_1 c_1) + ...) * f + float32(rho) * residual, with the payloads in
    rank order and every operation rounded to float32; w = 1 and f = float32(1/n), or with
    ``weights`` w_i = weights[i] and f = 1. No dense vector per worker is ever formed.
    Without a residual the last product and sum are left out. ``residual`` may not be ``out``.
relay(payloads, blocks, draws, out, residual, rho, encoder, draw, result)
    The server's whole step: reduce into ``out``, then ``encoder.encode`` of it into
    ``result``; returns the length. In one pass where both compressors allow it.
payload_bytes(blocks, draw), payload_bound(blocks, workers)
    The exact size that encode will write, or None where it depends on the data; and the
    most that any rank writes in any round.

Two forms. An unbiased compressor, E C(x) = x, is not what error feedback and Markov memory
need: they use ``contracted()``, C / (1 + omega), with the same payload (Horvath and others'
Lemma; permutation paper, G.1). A compressor that shrinks the error anyway is its own.

Vectors are contiguous float32[d], and what is written is writable: anything else, and a
reduction of no payload, is a ``CodecError``, since kernels check nothing themselves.
Neither vectors nor payloads need any alignment.

``blocks`` fixes which coordinates share a scale; ``draw`` says where randomness comes from
(``codec/rng.py``): a receiver is given the draw of the sender.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from psrv.codec.blocks import Blocks, Bucket, Bytes, Floats, aligned
from psrv.codec.kernels import first_not_finite
from psrv.codec.rng import Draw
from psrv.errors import CodecError, ConfigError, NonFiniteError

__all__ = ["Blocks", "Bucket", "Bytes", "Draw", "Floats", "aligned"]


class Compressor(ABC):
    """One compressor; see the module's text for what each method promises.

    Attributes:
        name: what a spec begins with.
        grammar: the specs that ``of`` accepts, for an error message.
        summary: what is sent, in a few words.
        examples: specs that the tests, the digest and the warm-up run.
        examples_of_several: more of them, that need several senders: for the digest.
        spec: the text that ``parse`` turns into this compressor.
        lossless: C(x) = x for every float32 x.
        contractive: there is an alpha > 0 with E ||C(x) - x||^2 <= (1 - alpha) ||x||^2
            for every x, which is what error feedback and Markov memory need; for every x
            of magnitudes that the value format can hold (``codec/formats.py``): below
            those, error feedback keeps a coordinate until it has grown.
        random: the payload or what it means depends on ``draw``.
        partial: encode reads only the coordinates that it sends.
        sparse: most coordinates are not sent.
        shared: the senders of a round divide the vector among them.
        whole: K counts coordinates of the whole vector, so there must be one bucket.
    """

    name: ClassVar[str]
    grammar: ClassVar[str]
    summary: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]
    examples_of_several: ClassVar[tuple[str, ...]] = ()
    spec: str
    lossless = False
    contractive = False
    random = False
    partial = False
    sparse = False
    shared = False
    whole = False

    @classmethod
    def of(cls, argument: str | None, form: str | None) -> Self:
        """The compressor of a spec ``name:argument/form``; None for what is not there.

        Raises:
            ConfigError: with what is allowed.
        """
        if argument is not None or form is not None:
            raise ConfigError(f"compressor '{cls.name}' takes no argument and no value format")
        return cls()

    @abstractmethod
    def payload_bound(self, blocks: Blocks, workers: int) -> int:
        """The most bytes that ``encode`` writes for any rank in any round."""

    def payload_bytes(self, blocks: Blocks, draw: Draw) -> int | None:
        """Exact bytes that ``encode`` will write, or None where the data decide."""
        return self.payload_bound(blocks, draw.workers)

    @abstractmethod
    def encode(
        self,
        buffer: Floats,
        blocks: Blocks,
        draw: Draw,
        out: Bytes,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> int:
        """Write the payload of x = buffer + rho * residual; leave x - C(x) in ``buffer``."""

    @abstractmethod
    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        """out = C(x)."""

    @abstractmethod
    def decode_onto(
        self, payload: Bytes, blocks: Blocks, draw: Draw, base: Floats, out: Floats
    ) -> None:
        """out = base + C(x)."""

    @abstractmethod
    def reduce(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        draws: Sequence[Draw],
        out: Floats,
        residual: Floats | None = None,
        rho: float = 1.0,
        weights: Floats | None = None,
    ) -> None:
        """out = mean (or weighted sum) of the decoded payloads, plus rho * residual."""

    def relay(
        self,
        payloads: Sequence[Bytes],
        blocks: Blocks,
        draws: Sequence[Draw],
        out: Floats,
        residual: Floats | None,
        rho: float,
        encoder: Compressor,
        draw: Draw,
        result: Bytes,
    ) -> int:
        """``reduce``, then ``encoder.encode``: the length of the payload in ``result``.

        Raises:
            NonFiniteError: anywhere in the sum, also where a partial encoder does not look.
        """
        self.reduce(payloads, blocks, draws, out, residual, rho)
        if encoder.partial:
            all_finite(out)
        return encoder.encode(out, blocks, draw, result)

    def omega(self, blocks: Blocks, workers: int) -> float | None:
        """The variance: E ||C(x) - x||^2 <= omega ||x||^2 and E C(x) = x; None if biased."""
        return 0.0 if self.lossless else None

    def contracted(self) -> Compressor:
        """C / (1 + omega): what error feedback and Markov memory use."""
        return self

    def room(self, out: Bytes, size: int) -> int:
        """``address`` of the uint8 vector that ``encode`` fills, or ``CodecError``."""
        flags = out.flags
        if (
            out.dtype != np.uint8
            or out.ndim != 1
            or out.size < size
            or not (flags.c_contiguous and flags.writeable)
        ):
            raise CodecError(
                f"{self.spec} payload needs a writable contiguous uint8[{size}], "
                f"got {out.dtype}{list(out.shape)}"
            )
        return address(out)

    def check(self, payload: Bytes, blocks: Blocks, draw: Draw) -> Bytes:
        """The payload as a flat uint8 array, or ``CodecError`` if its size is wrong."""
        try:
            view = np.frombuffer(payload, np.uint8)
        except (TypeError, ValueError) as error:
            raise CodecError(f"{self.spec} payload is not a run of bytes: {error}") from None
        expected = self.payload_bytes(blocks, draw)
        if expected is None:
            bound = self.payload_bound(blocks, draw.workers)
            if view.size > bound:
                raise CodecError(
                    f"{self.spec} payload has {view.size} bytes, expected at most {bound} "
                    f"for {blocks.dimension} coordinates"
                )
        elif view.size != expected:
            raise CodecError(
                f"{self.spec} payload has {view.size} bytes, expected {expected} "
                f"for {blocks.dimension} coordinates in {len(blocks)} blocks"
            )
        return view

    def __repr__(self) -> str:
        return f"<compressor {self.spec}>"


def alpha(
    compressor: Compressor, vector: Floats, blocks: Blocks, draw: Draw | None = None
) -> float:
    """The contraction on this data, 1 - ||C(x) - x||^2 / ||x||^2 in float64; 1 for x = 0."""
    draw = draw or Draw()
    x = vector.copy()
    room = np.empty(compressor.payload_bound(blocks, draw.workers), np.uint8)
    compressor.encode(x, blocks, draw, room)
    norm = float(np.square(vector, dtype=np.float64).sum())
    return 1.0 if norm == 0 else 1.0 - float(np.square(x, dtype=np.float64).sum()) / norm


def address(array: NDArray) -> int:
    """Where a contiguous array's first byte lies in memory. The caller keeps it alive."""
    return array.__array_interface__["data"][0]


def addresses(payloads: Sequence[Bytes]) -> NDArray[np.int64]:
    """``address`` of each, as int64[n] for a kernel; n >= 1, or ``CodecError``."""
    if not payloads:
        raise CodecError("there is no payload to reduce")
    return np.array([address(p) for p in payloads], np.int64)


def weighing(weights: Floats | None, count: int) -> tuple[Floats, np.float32]:
    """The factor of each payload, float32[n], and of their sum; see ``reduce``."""
    if weights is None:
        return np.ones(count, np.float32), np.float32(1.0 / max(count, 1))
    if not isinstance(weights, np.ndarray):
        raise CodecError(f"weights are {type(weights).__name__}, expected float32[{count}]")
    if weights.dtype != np.float32 or weights.shape != (count,) or not np.isfinite(weights).all():
        raise CodecError(
            f"weights of {count} payloads need to be finite float32[{count}], "
            f"got {weights.dtype}{list(weights.shape)}"
        )
    return np.ascontiguousarray(weights), np.float32(1)


def source(vector: Floats, blocks: Blocks) -> int:
    """``address`` of a float32[d] to read, or ``CodecError`` if it is something else."""
    if not isinstance(vector, np.ndarray):
        raise CodecError(f"expected a float32 array, got {type(vector).__name__}")
    if (
        vector.dtype != np.float32
        or vector.shape != (blocks.dimension,)
        or not vector.flags.c_contiguous
    ):
        raise CodecError(
            f"expected a contiguous float32[{blocks.dimension}], "
            f"got {vector.dtype}{list(vector.shape)} with strides {vector.strides}"
        )
    return address(vector)


def target(vector: Floats, blocks: Blocks) -> int:
    """``source`` for a vector that is written to."""
    found = source(vector, blocks)
    if not vector.flags.writeable:
        raise CodecError("the vector to write to is read-only")
    return found


def residual_address(residual: Floats | None, blocks: Blocks) -> int:
    """``source``, or 0 where there is no residual."""
    return 0 if residual is None else source(residual, blocks)


def not_finite(buffer: Floats, at: int) -> NonFiniteError:
    """The error for a coordinate that is NaN or infinite."""
    return NonFiniteError(f"coordinate {at} is {buffer[at]}, not a finite number", at)


def all_finite(vector: Floats) -> None:
    """Raise ``NonFiniteError`` for the first coordinate that is NaN or infinite."""
    bad = first_not_finite(address(vector), vector.size)
    if bad >= 0:
        raise not_finite(vector, bad)


def too_large(buffer: Floats, at: int, gain: np.float32) -> NonFiniteError:
    """The error for a coordinate that is finite, and not when multiplied on arrival."""
    return NonFiniteError(f"coordinate {at} is {buffer[at]}, {gain} times which is not finite", at)
