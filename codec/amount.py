"""How many coordinates a sparse compressor sends: a count, or a fraction of each bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psrv.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Amount:
    """K: ``value`` coordinates of the whole vector (int), or that share of a bucket (float)."""

    value: int | float

    @classmethod
    def of(cls, text: str | None) -> Amount:
        """From a spec's argument: ``20`` is a count, ``0.01`` or ``1e-3`` a fraction.

        Raises:
            ConfigError: with what is allowed.
        """
        text = text or ""
        if not re.fullmatch(r"[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=e))(e-?[0-9]+)?", text):
            raise ConfigError(
                f"K is '{text}', neither a count such as 20 nor a fraction such as 0.01"
            )
        value = int(text) if text.isdecimal() else float(text)
        if isinstance(value, int) and not 1 <= value < 1 << 31:
            raise ConfigError(f"K is {value}, and a count is from 1 to 2147483647")
        if isinstance(value, float) and not 0 < value <= 1:
            raise ConfigError(f"K is {text}, and a fraction is above 0 and at most 1")
        return cls(value)

    def count(self, dimension: int) -> int:
        """K for a bucket of d coordinates: the count, or max(1, round(f d)).

        Raises:
            ConfigError: a count above d.
        """
        if isinstance(self.value, int):
            if self.value > dimension:
                raise ConfigError(
                    f"K is {self.value}, but the vector has only {dimension} coordinates; "
                    "give a smaller count, or a fraction such as 0.01"
                )
            return self.value
        return max(1, round(self.value * dimension))

    @property
    def whole(self) -> bool:
        """Whether it counts coordinates of the whole vector, so that there must be one bucket."""
        return isinstance(self.value, int)

    def __str__(self) -> str:
        return repr(self.value)
