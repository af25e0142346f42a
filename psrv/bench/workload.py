"""What ``psrv bench codec`` feeds to compressors: payloads of several senders, and a server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psrv.codec import Blocks, Compressor, Draw, aligned, parse, rng
from psrv.codec.base import Bytes, Floats
from psrv.codec.permk import PermK
from psrv.codec.sparse import Sparse
from psrv.layout import BLOCK

SENDERS = 4
"""As many send what is encoded and decoded alone, and what other libraries add up."""

SHIFT = 1000
"""Each sender's vector begins that much later in one run of numbers."""

Sent = tuple[list[Bytes], list[Draw]]


def cut(d: int) -> Blocks:
    """Blocks of the default size, and one for the rest."""
    whole, rest = divmod(d, BLOCK)
    return Blocks.of([BLOCK] * whole + ([rest] if rest else []))


class Payloads:
    """What n senders send, by n: the payloads, and the draws they were made with.

    Args:
        normal: numbers for d coordinates, and ``SHIFT`` more for each sender.
        counts: each n that is asked for.

    Attributes:
        entries: coordinates in the first payload, where they are few; else None.
        index_bytes: of it, what says where its values belong; None for nothing.
    """

    def __init__(
        self, codec: Compressor, blocks: Blocks, normal: Floats, counts: Sequence[int]
    ) -> None:
        self._codec, self._largest = codec, max(counts)
        buffer = aligned(blocks.dimension)
        self._made: dict[int, Sent] = {}
        for n in counts if codec.shared else (self._largest,):
            draws = [Draw(rank=rank, workers=n) for rank in range(n)]
            room = np.empty(codec.payload_bound(blocks, n), np.uint8)
            payloads = []
            for draw in draws:
                start = SHIFT * draw.rank
                buffer[:] = normal[start : start + blocks.dimension]
                payloads.append(room[: codec.encode(buffer, blocks, draw, room)].copy())
            self._made[n] = payloads, draws
        self.entries: int | None = None
        self.index_bytes: int | None = None
        size = self[min(counts)][0][0].size
        if isinstance(codec, Sparse):
            self.entries = codec.count(blocks)
            self.index_bytes = size - codec.form.size(self.entries) or None
        elif isinstance(codec, PermK):
            self.entries = 8 * size // codec.form.bits

    def __getitem__(self, n: int) -> Sent:
        payloads, draws = self._made[n if self._codec.shared else self._largest]
        return payloads[:n], draws[:n]


class Server:
    """How a server relays what a compressor sends.

    Attributes:
        encoder: what it sends with.
        remembers: whether there is an error feedback, and so an error to add.
    """

    def __init__(self, codec: Compressor) -> None:
        fed = codec.contracted()
        self.encoder = parse("dense") if codec.shared else fed
        self.remembers = self.encoder.contractive and not self.encoder.lossless
        self._decoder = fed if self.remembers else codec

    def room(self, blocks: Blocks, least: int) -> Bytes:
        """Where it writes its payload."""
        return np.ones(max(least, self.encoder.payload_bound(blocks, 1)), np.uint8)

    def relay(
        self, sent: Sent, blocks: Blocks, out: Floats, residual: Floats, result: Bytes
    ) -> None:
        """Its whole step."""
        kept = residual if self.remembers else None
        draw = Draw(rank=rng.SERVER)
        self._decoder.relay(sent[0], blocks, sent[1], out, kept, 1.0, self.encoder, draw, result)


class Part:
    """A bucket, which is relayed by itself.

    Args:
        normal: numbers for what its senders send.
        out, residual: the bucket's part of the vectors.
    """

    def __init__(self, codec: Compressor, normal: Floats, out: Floats, residual: Floats) -> None:
        self._server, self._blocks = Server(codec), cut(out.size)
        self._sent = Payloads(codec, self._blocks, normal, [SENDERS])[SENDERS]
        self._out, self._residual = out, residual
        self._result = self._server.room(self._blocks, 0)

    def relay(self) -> None:
        """The server's step."""
        self._server.relay(self._sent, self._blocks, self._out, self._residual, self._result)
