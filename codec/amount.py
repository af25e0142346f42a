"""How many coordinates a sparse compressor sends: a count, or a fraction of each bucket."""

from __future__ import annotations

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
        try:
            value = int(text or "") if (text or "").isdecimal() else float(text or "")
        except ValueError:
            raise ConfigError(
                f"K is '{text or ''}', neither a count such as 20 nor a fraction such as 0.01"
            ) from None
        if isinstance(value, int) and not 1 <= value < 1 << 31:
            raise ConfigError(f"K is {value}, and at least 1 coordinate has to be sent")
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
