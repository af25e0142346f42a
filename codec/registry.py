"""The compressors by name. A new one is one file beside this and one line here."""

from __future__ import annotations

from functools import lru_cache

from psrv.codec.base import Compressor
from psrv.codec.dense import BrainFloat, Dense, Half, Natural
from psrv.codec.permk import PermK
from psrv.codec.qsgd import QSGD
from psrv.codec.randk import RandK
from psrv.codec.sign import Sign
from psrv.codec.topk import TopK
from psrv.codec.unscaled import SignUnscaled
from psrv.errors import ConfigError

COMPRESSORS: dict[str, type[Compressor]] = {
    kind.name: kind
    for kind in (
        Dense,
        BrainFloat,
        Half,
        Natural,
        QSGD,
        Sign,
        SignUnscaled,
        TopK,
        RandK,
        PermK,
    )
}

EXAMPLES: tuple[str, ...] = tuple(spec for kind in COMPRESSORS.values() for spec in kind.examples)
"""What the tests and the warm-up run: every compressor, in all of its forms."""

OF_SEVERAL: tuple[str, ...] = tuple(
    spec for kind in COMPRESSORS.values() for spec in kind.examples_of_several
)
"""Forms that need several senders, which the digest and the golden files cover as well."""

LONGEST = 100
"""Characters of a spec."""


@lru_cache(maxsize=256)  # bounded: specs may come from a peer
def parse(spec: str) -> Compressor:
    """The compressor that ``name[:argument][/format]`` stands for; its ``spec`` prints back.

    Raises:
        ConfigError: with what is allowed.
    """
    if not isinstance(spec, str):
        raise ConfigError(f"a compressor is named by a text, not by {type(spec).__name__}")
    if len(spec) > LONGEST:
        raise ConfigError(
            f"compressor '{spec[:20]}...' has {len(spec)} characters; none has more than {LONGEST}"
        )
    if not (spec.isascii() and spec.isprintable()):
        raise ConfigError(f"compressor {spec!a} holds characters that no spec has")
    head, slash, form = spec.partition("/")
    name, colon, argument = head.partition(":")
    kind = COMPRESSORS.get(name)
    if kind is None:
        raise ConfigError(
            f"compressor '{spec}' is unknown; expected one of "
            f"{', '.join(known.grammar for known in COMPRESSORS.values())}"
        )
    try:
        return kind.of(argument if colon else None, form if slash else None)
    except ConfigError as error:
        raise ConfigError(
            f"compressor '{spec}' cannot be: {error}; expected {kind.grammar}"
        ) from None
