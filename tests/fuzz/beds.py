"""One compressor, one cut of one vector, n senders: what a spoilt payload is laid into.

Everything in a bed follows from its name, so that a case can be repeated. Payloads and vectors
lie between forbidden pages; what a receiver promises (``codec/base.py``) is checked against
the payload's neighbours, plain NumPy and the transcription of the format.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from codec_pair import real_draw
from codec_reference import Draw, Floats, Reference, mean
from fuzz.inputs import Finding, Form, cut, forms, numbers, possible
from fuzz.mutations import mutated
from guard_pages import Guarded
from psrv import codec
from psrv.codec import Blocks
from psrv.codec.blocks import Bytes
from psrv.codec.rng import SERVER
from psrv.errors import CodecError, NonFiniteError

FAR = (127, 128, 1000, 2047, 2048, 2049, 4095, 4096, 4097, 4110, 6145, 32767, 32768, 32769, 33000)
"""Sizes about those at which kernels change over, after all sizes to 70."""
NEAR = 70
SWEEP = NEAR + len(FAR)
"""Beds 0 to SWEEP - 1 of a form go through every size; later ones draw theirs."""
SENDERS = (1, 3, 9)


class Arenas:
    """Guarded memory for everything that one call reads or writes; one set a process."""

    def __init__(self, largest: int = 1 << 20) -> None:
        self.payloads = [Guarded(largest) for _ in range(max(SENDERS))]
        self.out, self.base, self.residual, self.result, self.spare = (
            Guarded(largest) for _ in range(5)
        )


class Bed:
    """A form with its blocks, draws and valid payloads.

    Attributes:
        payloads: of ranks 0 to n - 1, as bytes.
        values: what each decodes to.
    """

    def __init__(
        self, form: Form, sizes: Sequence[int], draws: Sequence[Draw], random: Random, room: Arenas
    ) -> None:
        self.form, self.sizes, self.room = form, list(sizes), room
        self.compressor = form.compressor()
        self.blocks = Blocks.of(self.sizes)
        self.count = self.blocks.dimension
        self.plain_draws = list(draws)
        self.draws = [real_draw(draw) for draw in draws]
        self.fixed = self.compressor.payload_bytes(self.blocks, self.draws[0]) is not None
        self.bound = self.compressor.payload_bound(self.blocks, self.draws[0].workers)
        self.base, self.residual = numbers(random, self.count), numbers(random, self.count)
        self.rho = random.choice((1.0, -1.0, 0.5, 0.0, 1 / 3))
        self.weights = np.array([random.random() for _ in draws], np.float32)
        self.payloads = [self._encoded(random, rank) for rank in range(len(draws))]
        self.values = [self._valid(rank) for rank in range(len(draws))]
        self._relay_to(random)

    @classmethod
    def named(cls, form: Form, seed: int, number: int, room: Arenas) -> tuple[Bed, Random]:
        """The bed of that name, and the generator of its cases."""
        random = Random(f"{seed}/{form}/{number}")
        if number < SWEEP:
            count = number + 1 if number < NEAR else FAR[number - NEAR]
        else:
            count = random.choice((random.randrange(1, NEAR + 1), random.randrange(1, 700)))
        # Some need more coordinates, or more senders to divide them among.
        pairs = [(d, n) for d in (count, count + 20) for n in (SENDERS[number % 3], *SENDERS)]
        count, workers = next(pair for pair in pairs if possible(form.compressor(), *pair))
        round, bucket = random.choice((0, 1, random.randrange(1 << 40))), random.randrange(9)
        draws = [Draw(seed, round, bucket, rank, workers) for rank in range(workers)]
        return cls(form, cut(random, count), draws, random, room), random

    # Valid payloads

    def _encoded(self, random: Random, rank: int) -> bytes:
        """A payload of some vector, encoded between forbidden pages."""
        end = bool(random.getrandbits(1))
        buffer = self.room.base.floats(self.count, end)
        residual = None
        if random.random() < 0.5:
            residual = self.room.residual.floats(self.count, not end)
            residual[:] = numbers(random, self.count)
        room = self.room.payloads[rank].place(self.bound, end)
        for attempt in range(2):
            buffer[:] = numbers(random, self.count) if attempt == 0 else 1
            if attempt == 0 and random.random() < 0.1:  # must be refused, or not looked at
                buffer[random.randrange(self.count)] = random.choice((np.nan, np.inf, -np.inf))
            try:
                size = self.compressor.encode(
                    buffer, self.blocks, self.draws[rank], room, residual, self.rho
                )
            except NonFiniteError:
                residual = None
                continue
            exact = self.compressor.payload_bytes(self.blocks, self.draws[rank])
            if not (size == exact or (exact is None and 0 <= size <= self.bound)):
                raise Finding(
                    f"encode wrote {size} bytes, of at most {self.bound}, exactly {exact}"
                )
            return room[:size].tobytes()
        raise Finding("a vector of ones could not be encoded")

    def _valid(self, rank: int) -> Floats:
        out = np.full(self.count, np.nan, np.float32)
        data = np.frombuffer(self.payloads[rank], np.uint8)
        try:
            self.compressor.decode(data, self.blocks, self.draws[rank], out)
        except CodecError as error:
            raise Finding(f"a payload that encode wrote is refused: {error}") from None
        if not np.isfinite(out).all():
            raise Finding("a payload that encode wrote decodes to what is not finite")
        return out

    def _relay_to(self, random: Random) -> None:
        chosen = random.choice((*forms(), Form("dense"), Form("sign")))
        if not possible(chosen.compressor(), self.count, 1):
            chosen = Form("dense")
        self.encoder = chosen.compressor()
        self.server = codec.Draw(*self.plain_draws[0][:3], SERVER, 1)
        self.result_bound = self.encoder.payload_bound(self.blocks, 1)

    # Spoilt payloads

    def spoilt(self, random: Random) -> tuple[bytes, int]:
        """A payload that may be anything, and the rank in whose place it comes."""
        rank = random.randrange(len(self.payloads))
        return self.spoil(random, rank), rank

    def spoil(self, random: Random, rank: int) -> bytes:
        return mutated(random, self.payloads[rank], self.payloads, self.bound, self.fixed)

    def receive(self, payload: bytes, rank: int, end: bool, turn: int, thorough: bool) -> Outcome:
        """Decode and add ``payload``, reduce or relay it; check everything that is promised.

        Args:
            end: payload and vectors end at a forbidden page, or else begin at one.
            turn: modulo 3, whether to reduce it, to do so with weights, or to relay it.
            thorough: do all three, and compare with the transcription as well.

        Raises:
            Finding: a promise was broken.
        """
        data = self.room.payloads[rank].place(len(payload), end)
        data[:] = np.frombuffer(payload, np.uint8) if payload else 0
        out = self.room.out.floats(self.count, end)
        blocks, draw, compressor = self.blocks, self.draws[rank], self.compressor
        reference = self.form.reference() if thorough else None

        error = self._call("decode", out, lambda: compressor.decode(data, blocks, draw, out))
        value: Floats | None = None
        if error is None:
            value = out.copy()
            if not np.isfinite(value).all():
                raise Finding(f"decode gave {value[~np.isfinite(value)][0]}")
            if reference is not None:
                expected = reference.decode(payload, self.sizes, self.plain_draws[rank])
                if expected.tobytes() != value.tobytes():
                    raise Finding("decode differs from the transcription")
        received = Received(payload, data, rank, end, error, value, reference)
        self._add(received)
        if thorough or turn % 3 == 0:
            self._reduce(received, None)
        if thorough or turn % 3 == 1:
            self._reduce(received, self.weights)
        relayed = self._relay(received) if thorough or turn % 3 == 2 else None
        if data.tobytes() != payload:
            raise Finding("the payload was changed while it was read")
        return Outcome(None if error is None else str(error), value, relayed)

    def _call(
        self, what: str, out: Floats, call: Callable[[], Any], sends: bool = False
    ) -> CodecError | None:
        """The error with which ``call`` refuses its payload, or None; ``out`` stays as it was.

        Args:
            sends: it encodes too, which a number may be too large for; ``out`` is undefined then.
        """
        out.view(np.uint8)[:] = 0xFF  # NaNs, so that what is never written shows
        try:
            call()
        except NonFiniteError as error:
            if sends:
                return error
            raise Finding(f"{what} refused like a sender: {error}") from error
        except CodecError as error:
            text = str(error)
            if not text.isprintable() or len(text) > 1000:
                raise Finding(f"{what} refused with no line of text: {text[:200]!r}") from None
            if (out.view(np.uint8) != 0xFF).any():
                raise Finding(f"{what} refused ({text}), but wrote to its output") from None
            return error
        except Exception as error:
            raise Finding(f"{what} raised {type(error).__name__}: {error}") from error
        return None

    def _agree(self, what: str, received: Received, error: CodecError | None) -> bool:
        """Whether there is an outcome to look at; ``what`` refuses what decode refuses.

        A compressor that divides the vector multiplies by less when it takes a mean, so that
        a number that is too large for decode may be good there.
        """
        both = f"{received.error}, {error}"
        if (error is None) != (received.error is None) and not (
            self.compressor.shared and "too large for its scale" in both
        ):
            raise Finding(f"decode and {what} differ about a payload: {both}")
        return error is None

    def _add(self, received: Received) -> None:
        data, end, value = received.data, received.end, received.value
        base = self.room.base.floats(self.count, not end)
        base[:] = self.base
        out = self.room.out.floats(self.count, end)
        blocks, draw, add = self.blocks, self.draws[received.rank], self.compressor.decode_onto
        error = self._call("decode_onto", out, lambda: add(data, blocks, draw, base, out))
        if self._agree("decode_onto", received, error):
            with np.errstate(over="ignore"):
                self._equal("decode_onto", out, self.base + value)
            add(data, blocks, draw, base, base)
            self._equal("decode_onto in place", base, out)

    def _reduce(self, received: Received, weights: Floats | None) -> None:
        out = self.room.out.floats(self.count, received.end)
        arrays, residual = self._beside(received)
        what = "reduce" if weights is None else "reduce with weights"

        def call() -> None:
            self.compressor.reduce(
                arrays, self.blocks, self.draws, out, residual, self.rho, weights
            )

        error = self._call(what, out, call)
        if self._agree(what, received, error):
            expected = self._mean(received, residual, weights)
            self._equal(what, out, out if expected is None else expected)

    def _mean(
        self, received: Received, residual: Floats | None, weights: Floats | None
    ) -> Floats | None:
        """What reduce has to give; None where only the transcription says it, and is not asked."""
        rank, reference = received.rank, received.reference
        own = getattr(reference, "reduce", None)
        if own is not None:
            payloads = [*self.payloads[:rank], received.payload, *self.payloads[rank + 1 :]]
            with np.errstate(over="ignore"):
                return own(payloads, self.sizes, self.plain_draws, residual, self.rho, weights)
        if self.compressor.shared or received.value is None:
            return None
        values = [*self.values[:rank], received.value, *self.values[rank + 1 :]]
        with np.errstate(over="ignore"):
            return mean(values, residual, self.rho, weights)

    def _relay(self, received: Received) -> str | None:
        """Why the reduced vector could not be sent on, if it could not."""
        end = received.end
        out = self.room.out.floats(self.count, end)
        result = self.room.result.place(self.result_bound, end)
        result[:] = 0xA5
        arrays, residual = self._beside(received)
        size = 0

        def call() -> None:
            nonlocal size
            size = self.compressor.relay(
                arrays, self.blocks, self.draws, out, residual, self.rho,
                self.encoder, self.server, result,
            )  # fmt: skip

        what = f"relay to {self.encoder.spec}"
        error = self._call(what, out, call, sends=True)
        if isinstance(error, NonFiniteError):
            return str(error)
        if not self._agree(what, received, error):
            if (result != 0xA5).any():
                raise Finding("relay refused a payload, but wrote to its result")
            return None
        after = self.room.spare.floats(self.count, end)
        try:
            self.encoder.decode(result[:size], self.blocks, self.server, after)
        except CodecError as error:
            raise Finding(f"what relay wrote is refused by {self.encoder.spec}: {error}") from None
        return None

    def _beside(self, received: Received) -> tuple[list[Bytes], Floats | None]:
        """All payloads, with that one in the place of its rank; the residual, or none."""
        arrays = []
        for k, payload in enumerate(self.payloads):
            if k != received.rank:
                array = self.room.payloads[k].place(len(payload), received.end)
                array[:] = np.frombuffer(payload, np.uint8) if payload else 0
                arrays.append(array)
            else:
                arrays.append(received.data)
        if self.rho == 0:
            return arrays, None
        residual = self.room.residual.floats(self.count, received.end)
        residual[:] = self.residual
        return arrays, residual

    @staticmethod
    def _equal(what: str, found: Floats, expected: Floats) -> None:
        """Equal as numbers: where a sparse payload has nothing, a -0 may stay or not."""
        if np.isnan(found).any():
            raise Finding(f"{what} gave NaN")
        if not np.array_equal(found, expected):
            at = int(np.flatnonzero(found != expected)[0])
            raise Finding(f"{what} gave {found[at]} at {at}, expected {expected[at]}")


@dataclass(frozen=True)
class Received:
    """A payload where it lies, whose it is, and what decode and the transcription made of it."""

    payload: bytes
    data: Bytes
    rank: int
    end: bool
    error: CodecError | None
    value: Floats | None
    reference: Reference | None


@dataclass(frozen=True)
class Outcome:
    """What became of a payload.

    Attributes:
        refusal: the error's text, or None where there was a value.
        value: C(x), float32[d].
        relayed: why the server could not send the sum on, or None.
    """

    refusal: str | None
    value: Floats | None
    relayed: str | None

    def kind(self) -> str:
        """The refusal without its numbers."""
        return "value" if self.refusal is None else re.sub(r"[\d.]+", "#", self.refusal)
