"""Compressors and the channels that use them; useful on its own: ``from psrv import codec``."""

from __future__ import annotations

from psrv.codec import rng
from psrv.codec.base import Blocks, Compressor, Draw, aligned, alpha
from psrv.codec.coder import Coder
from psrv.codec.fingerprint import digest
from psrv.codec.registry import COMPRESSORS, EXAMPLES, OF_SEVERAL, parse
from psrv.codec.warm import warmup

__all__ = [
    "COMPRESSORS",
    "EXAMPLES",
    "OF_SEVERAL",
    "Blocks",
    "Coder",
    "Compressor",
    "Draw",
    "aligned",
    "alpha",
    "digest",
    "parse",
    "rng",
    "warmup",
]
