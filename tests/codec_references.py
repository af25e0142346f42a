"""The transcription of every compressor by its spec: a new one is a line here.

The battery in ``tests/codec`` then covers it.
"""

from __future__ import annotations

from codec_reference import Dense, Reference, Sign, SignUnscaled
from reference_permk import Permk
from reference_sparse import RandK, TopK
from reference_values import Qsgd, Values

REFERENCES: dict[str, Reference] = {
    "dense": Dense(),
    "bf16": Values("bf16"),
    "fp16": Values("fp16"),
    "natural": Values("natural"),
    "natural, contracted": Values("natural", contracted=True),
    "qsgd:4": Qsgd(4),
    "qsgd:4, contracted": Qsgd(4, contracted=True),
    "qsgd:100": Qsgd(100),
    "qsgd:100, contracted": Qsgd(100, contracted=True),
    "sign": Sign(),
    "sign-unscaled": SignUnscaled(),
    "top-k:0.25": TopK(0.25),
    "top-k:1": TopK(1),
    "top-k:0.25/bf16": TopK(0.25, "bf16"),
    "top-k:0.25/natural": TopK(0.25, "natural"),
    "top-k:0.25/natural, contracted": TopK(0.25, "natural", contracted=True),
    "rand-k:0.25": RandK(0.25),
    "rand-k:0.25, contracted": RandK(0.25, contracted=True),
    "rand-k:1": RandK(1),
    "rand-k:1, contracted": RandK(1, contracted=True),
    "rand-k:0.25/natural": RandK(0.25, "natural"),
    "rand-k:0.25/natural, contracted": RandK(0.25, "natural", contracted=True),
    "perm-k": Permk(),
    "perm-k, contracted": Permk(contracted=True),
    "perm-k:run=16": Permk(run=16),
    "perm-k:run=16, contracted": Permk(run=16, contracted=True),
    "perm-k:groups=2": Permk(groups=2),
    "perm-k:blocks=2": Permk(blocks=2),
    "perm-k/natural": Permk(format="natural"),
    "perm-k/natural, contracted": Permk(format="natural", contracted=True),
}


def reference_of(spec: str, contracted: bool = False) -> Reference:
    """The transcription of a compressor, or of its form C / (1 + omega)."""
    name = f"{spec}, contracted" if contracted else spec
    assert name in REFERENCES, f"write the transcription of '{name}' and name it in {__file__}"
    return REFERENCES[name]
