"""The compressors by name. A new one is one file beside this and one line here."""

from __future__ import annotations

from psrv.codec.base import Compressor
from psrv.codec.dense import Dense
from psrv.codec.sign import Sign
from psrv.codec.unscaled import SignUnscaled
from psrv.errors import ConfigError

COMPRESSORS: dict[str, type[Compressor]] = {kind.spec: kind for kind in (Dense, Sign, SignUnscaled)}


def parse(spec: str) -> Compressor:
    """The compressor that a spec such as ``sign`` names.

    Raises:
        ConfigError: no such compressor; the message lists those there are.
    """
    kind = COMPRESSORS.get(spec)
    if kind is None:
        raise ConfigError(
            f"compressor '{spec}' is unknown; expected one of {', '.join(COMPRESSORS)}"
        )
    return kind()
