"""The transcription of every compressor by its spec: a new one is a line here.

The battery in ``tests/codec`` then covers it.
"""

from __future__ import annotations

from codec_reference import Dense, Reference, Sign, SignUnscaled

REFERENCES: dict[str, Reference] = {
    "dense": Dense(),
    "sign": Sign(),
    "sign-unscaled": SignUnscaled(),
}


def reference_of(spec: str, contracted: bool = False) -> Reference:
    """The transcription of a compressor, or of its form C / (1 + omega)."""
    name = f"{spec}, contracted" if contracted else spec
    assert name in REFERENCES, f"write the transcription of '{name}' and name it in {__file__}"
    return REFERENCES[name]
