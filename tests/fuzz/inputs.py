"""What cases are made of: compressors by their specs, vectors, and ways to cut them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np

from codec_pair import FORMS
from codec_reference import Floats, Reference
from codec_references import REFERENCES, reference_of
from fuzz.sabotage import SABOTAGED
from psrv import codec
from psrv.codec import Blocks, Compressor
from psrv.errors import CodecError, ConfigError

MORE = (
    *(f"qsgd:{2**width - 1}" for width in range(1, 16)),
    *(f"top-k:{k}" for k in ("1", "1.0", "0.5/fp16", "20/natural")),
    *(f"rand-k:{k}" for k in ("1", "1.0", "0.5/fp16", "20/natural")),
    *(f"perm-k{rest}" for rest in ("/bf16", ":groups=2", ":blocks=2", ":run=7,groups=2/fp16")),
)
"""Specs beyond the examples: every width of a code, K at its limits, ways to divide a vector."""


class Finding(Exception):
    """A promise that was not kept."""


@dataclass(frozen=True, order=True)
class Form:
    """A compressor as it is parsed, or as error feedback uses it."""

    spec: str
    contracted: bool = False

    def compressor(self) -> Compressor:
        made = SABOTAGED[self.spec]() if self.spec in SABOTAGED else codec.parse(self.spec)
        return made.contracted() if self.contracted else made

    def reference(self) -> Reference | None:
        """The transcription; none for a spec that the tests' table does not have."""
        name = f"{self.spec}, contracted" if self.contracted else self.spec
        return reference_of(self.spec, self.contracted) if name in REFERENCES else None

    def __str__(self) -> str:
        return f"{self.spec}, contracted" if self.contracted else self.spec


@cache
def forms() -> tuple[Form, ...]:
    """Every registered compressor in every form; examples first, then ``MORE``."""
    found = [Form(*form) for form in FORMS]
    for spec in MORE:
        parsed = codec.parse(spec)
        found.append(Form(spec))
        if parsed.contracted() is not parsed:
            found.append(Form(spec, True))
    return tuple(dict.fromkeys(found))


def possible(compressor: Compressor, count: int, workers: int) -> bool:
    """Whether that many senders can share a vector of ``count`` coordinates."""
    try:
        compressor.payload_bound(Blocks.of([count]), workers)
    except (CodecError, ConfigError):
        return False
    return True


def numbers(random: Random, count: int) -> Floats:
    """A vector of one of the kinds that compressors treat apart."""
    generator = np.random.default_rng(random.getrandbits(64))
    x = generator.standard_normal(count).astype(np.float32)
    kind = random.randrange(8)
    if kind == 0:
        x *= np.exp(2 * generator.standard_normal(count)).astype(np.float32)
    elif kind == 1:
        x[generator.random(count) < 0.7] = random.choice((0.0, -0.0))
    elif kind == 2:
        x[:] = random.choice((0.0, -0.0))
    elif kind == 3:
        x *= np.float32(1e-40)
    elif kind == 4:
        x = np.clip(x, -1, 1) * np.float32(1e34)
    elif kind == 5:
        x = np.sign(x)  # ties
    elif kind == 6:
        x[:] = generator.uniform(-1, 1, count) * np.finfo(np.float32).max
    return x


def cut(random: Random, count: int) -> list[int]:
    """Blocks of ``count`` coordinates."""
    way = random.randrange(5)
    if count == 1 or way == 0:
        return [count]
    if way == 1 and count <= 4200:
        return [1] * count
    if way == 2:
        size = random.randrange(1, min(count, 80))
        return [size] * (count // size) + ([count % size] if count % size else [])
    cuts = sorted(random.sample(range(1, count), random.randrange(1, min(count, 6))))
    return [b - a for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
