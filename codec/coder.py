"""A compressor bound to one bucket of one run: the contract as rounds and ranks.

    coder = Coder("top-k:0.01/bf16", 1_000_000, workers=4)
    payload = coder.encode(gradient, round=0, rank=2)      # gradient is now what was not sent
    coder.decode(payload, out, round=0, rank=2)

Seed, bucket and number of workers are what both ends agree on beforehand; with round and
rank they make the ``Draw`` of a payload, so that nothing random has to be sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psrv.codec.base import Blocks, Bytes, Compressor, Draw, Floats
from psrv.codec.registry import parse
from psrv.codec.rng import SERVER


class Coder:
    """One end of a stream of payloads; it owns the payload that it encoded last.

    Attributes:
        compressor: what makes the payloads.
        blocks: the bucket's blocks.
        payload_bound: the most bytes of any payload.
    """

    def __init__(
        self,
        compressor: Compressor | str,
        blocks: Blocks | int,
        *,
        workers: int = 1,
        seed: int = 0,
        bucket: int = 0,
    ) -> None:
        """
        Args:
            compressor: one, or its spec.
            blocks: of the bucket; a number is that many coordinates in one block.
            workers: n; a payload of ``SERVER`` has one sender whatever n is.
            seed: of the run. bucket: the bucket's number.

        Raises:
            ConfigError: a spec that is not one.
                A bucket too small for K, or that cannot be cut among ``workers``.
        """
        self.compressor = parse(compressor) if isinstance(compressor, str) else compressor
        self.blocks = Blocks.of([blocks]) if isinstance(blocks, int) else blocks
        self.workers, self.seed, self.bucket = workers, seed, bucket
        self.payload_bound = self.compressor.payload_bound(self.blocks, workers)
        self._room: Bytes | None = None

    def draw(self, round: int, rank: int) -> Draw:
        """Where the randomness of that payload comes from."""
        workers = 1 if rank == SERVER else self.workers
        return Draw(self.seed, round, self.bucket, rank, workers)

    def payload_bytes(self, round: int, rank: int) -> int | None:
        """Exact bytes of a payload before it is encoded; None where the data decide."""
        return self.compressor.payload_bytes(self.blocks, self.draw(round, rank))

    def encode(
        self,
        buffer: Floats,
        round: int = 0,
        rank: int = 0,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> Bytes:
        """The payload of x = buffer + rho * residual; x - C(x) is left in ``buffer``.

        Args:
            buffer: float32[d], overwritten. residual: float32[d], unchanged.

        Returns:
            uint8[m], valid until the next ``encode``.

        Raises:
            NonFiniteError: NaN or infinity; ``buffer`` is then undefined.
        """
        if self._room is None:
            self._room = np.empty(self.payload_bound, np.uint8)
        draw = self.draw(round, rank)
        size = self.compressor.encode(buffer, self.blocks, draw, self._room, residual, rho)
        return self._room[:size]

    def decode(self, payload: Bytes, out: Floats, round: int = 0, rank: int = 0) -> None:
        """out = C(x). Raises ``CodecError``, and writes nothing, if it is no such payload."""
        self.compressor.decode(payload, self.blocks, self.draw(round, rank), out)

    def decode_onto(
        self, payload: Bytes, base: Floats, out: Floats, round: int = 0, rank: int = 0
    ) -> None:
        """out = base + C(x)."""
        self.compressor.decode_onto(payload, self.blocks, self.draw(round, rank), base, out)

    def reduce(
        self,
        payloads: Sequence[Bytes],
        out: Floats,
        round: int = 0,
        residual: Floats | None = None,
        rho: float = 1.0,
        weights: Floats | None = None,
        ranks: Sequence[int] | None = None,
    ) -> None:
        """out = mean of the decoded payloads (or their weighted sum) + rho * residual.

        Args:
            payloads: in rank order; of ranks 0, 1, ... unless ``ranks`` says which.
            weights: float32[n] in place of 1/n each.
        """
        draws = self.draws(round, range(len(payloads)) if ranks is None else ranks)
        self.compressor.reduce(payloads, self.blocks, draws, out, residual, rho, weights)

    def relay(
        self,
        payloads: Sequence[Bytes],
        out: Floats,
        encoder: Coder,
        round: int = 0,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> Bytes:
        """``reduce`` into ``out``, then ``encoder.encode`` of it as ``SERVER``, in one go."""
        if encoder._room is None:
            encoder._room = np.empty(encoder.payload_bound, np.uint8)
        size = self.compressor.relay(
            payloads,
            self.blocks,
            self.draws(round, range(len(payloads))),
            out,
            residual,
            rho,
            encoder.compressor,
            encoder.draw(round, SERVER),
            encoder._room,
        )
        return encoder._room[:size]

    def draws(self, round: int, ranks: Sequence[int]) -> list[Draw]:
        """The draw of each rank's payload."""
        return [self.draw(round, rank) for rank in ranks]
