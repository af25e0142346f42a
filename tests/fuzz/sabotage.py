"""Compressors that break one promise each, to show that whatever breaks it is found."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from psrv.codec.base import Blocks, Bytes, Compressor, Draw, Floats, address
from psrv.codec.unscaled import SignUnscaled


class Sabotaged(SignUnscaled):
    """``sign-unscaled``, but for what ``harm`` does once a payload has been decoded."""

    def __init__(self, spec: str, harm: Callable[[Bytes, Floats], Any]) -> None:
        self.spec = spec
        self._harm = harm

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        super().decode(payload, blocks, draw, out)
        self._harm(np.frombuffer(payload, np.uint8), out)


def _wait(payload: Bytes, out: Floats) -> None:
    while True:
        pass


def _change(payload: Bytes, out: Floats) -> None:
    if payload.flags.writeable:  # not that of ``encode``, which is kept as bytes
        payload[-1] ^= 0x80  # of which no coordinate knows, in a bed of seven


class EagerWriter(SignUnscaled):
    """It writes before it has looked at its payload."""

    spec = "eager"

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        out[0] = 1
        super().decode(payload, blocks, draw, out)


class Careless(SignUnscaled):
    """It lets an error of another kind through."""

    spec = "careless"

    def decode(self, payload: Bytes, blocks: Blocks, draw: Draw, out: Floats) -> None:
        size = self.payload_bound(blocks, 1)
        np.frombuffer(payload, np.uint8).reshape(size)
        super().decode(payload, blocks, draw, out)


HARM: dict[str, Callable[[Bytes, Floats], Any]] = {
    "reads-behind-payload": lambda payload, out: ctypes.string_at(
        address(payload) + payload.size, 1
    ),
    "writes-before-out": lambda payload, out: ctypes.memset(address(out) - 1, 0, 1),
    "changes-payload": _change,
    "gives-nan": lambda payload, out: out.__setitem__(-1, np.nan),
    "gives-another-value": lambda payload, out: out.__imul__(2),
    "hangs": _wait,
}

SABOTAGED: dict[str, Callable[[], Compressor]] = {
    **{spec: (lambda spec=spec, harm=harm: Sabotaged(spec, harm)) for spec, harm in HARM.items()},
    "eager": EagerWriter,
    "careless": Careless,
}
"""By a spec that no real compressor has."""
