"""What the runs left, and how it is asked for: the norm at a round, the best step, the bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Case(NamedTuple):
    """One method on one set. Without a compressor (``amsgrad``) ``kind`` is still the figure's."""

    dataset: str
    kind: str
    method: str
    order: str = "file"


@dataclass
class Run:
    """One run with one step size.

    Attributes:
        norms, bits: ||grad f||, and the bits sent by and to one worker, by round.
        digests: of the parameters, by round.
        hit: bits until ||grad f|| was first at most 1e-2 of the first; None if it never was.
        hit_round: that round.
        ended: the round in which a gradient was not finite; None if that did not happen.
    """

    norms: Mapping[int, float]
    bits: Mapping[int, float]
    digests: Mapping[int, str] = field(default_factory=dict)
    hit: float | None = None
    hit_round: int | None = None
    ended: int | None = None

    @classmethod
    def of(cls, rounds: list[int], result: Mapping[str, Any]) -> Run:
        """From what ``race`` returned."""
        norms, bits, hit = result["norms"], result["bits"], result["hit"]
        return cls(
            dict(zip(rounds, norms, strict=False)),
            dict(zip(rounds, bits, strict=False)),
            {int(done): digest for done, digest in result["digests"].items()},
            None if hit is None else hit["bits"],
            None if hit is None else hit["round"],
            result["ended"],
        )


@dataclass
class Found:
    """All runs, by case and step size."""

    runs: dict[Case, dict[float, Run]] = field(default_factory=dict)

    def run(self, case: Case, step: float) -> Run | None:
        """One run, or None where it was not done."""
        return self.runs.get(_dense(case), {}).get(step)

    def norm(self, case: Case, step: float, at: int) -> float | None:
        """||grad f|| after ``at`` rounds; infinite where the run had diverged by then.

        None where it was not done, or not to that round.
        """
        run = self.run(case, step)
        if run is None:
            return None
        return math.inf if run.ended is not None and run.ended <= at else run.norms.get(at)

    def best(
        self, case: Case, at: int, among: Sequence[float] | None = None
    ) -> tuple[float, float] | None:
        """The step size with the least ||grad f|| after ``at`` rounds, and that norm.

        Args:
            among: the only step sizes to choose from; None for all.
        """
        found = [
            (norm, step)
            for step in self.runs.get(_dense(case), {})
            if (among is None or step in among)
            and (norm := self.norm(case, step, at)) is not None
            and not math.isnan(norm)
        ]
        if not found:
            return None
        norm, step = min(found)
        return step, norm

    def at_edge(self, case: Case, step: float) -> bool:
        """Whether no smaller, or no larger, step size was tried than this one."""
        steps = self.runs.get(_dense(case), {})
        return step in (min(steps), max(steps))

    def fewest_bits(self, case: Case) -> tuple[float, float] | None:
        """The step size that takes the fewest bits to 1e-2 of the first norm, and those."""
        found = [
            (run.hit, step)
            for step, run in self.runs.get(_dense(case), {}).items()
            if run.hit is not None
        ]
        if not found:
            return None
        bits, step = min(found)
        return step, bits


def _dense(case: Case) -> Case:
    """Uncompressed runs are the same in both figures, and kept once."""
    return case._replace(kind="sign") if case.method == "amsgrad" else case
