"""Step sizes by short runs: up and down a ladder until the best is between two that were tried.

Three rungs at first, then one more on the side where the best lies, as long as the best is
the outermost that was tried and the ladder goes on. Where it ends at the best, the words say
so: a larger or a smaller step might have been better still.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psrv.repro.learning import Result, percent, train
from psrv.repro.study import Study


@dataclass(frozen=True)
class Ladder:
    """Step sizes that may be tried.

    Attributes:
        rungs: ascending. start: one of them; with its neighbours it comes first.
    """

    rungs: tuple[float, ...]
    start: float


@dataclass(frozen=True)
class Search:
    """What was tried.

    Attributes:
        ladder: where. results: of the short runs, by step size.
    """

    ladder: Ladder
    results: Mapping[float, Result]

    @property
    def best(self) -> float:
        """The step whose run ended with the highest accuracy; of equals the smallest."""
        return min(self.results, key=lambda lr: (-_accuracy(self.results[lr]), lr))

    @property
    def at_edge(self) -> bool:
        """Whether nothing was tried on one side of the best."""
        return self.best in (min(self.results), max(self.results))

    def wanted(self) -> list[float]:
        """The rungs to try next; none when the best lies inside or the ladder ends."""
        rungs = self.ladder.rungs
        at = rungs.index(self.best if self.results else self.ladder.start)
        return [lr for lr in rungs[max(at - 1, 0) : at + 2] if lr not in self.results]

    def tried(self) -> str:
        """Steps and accuracies in words: ``0.01: 83.5 %, 0.03: 91.3 %, 0.1: diverged``."""
        shown = []
        for lr in sorted(self.results):
            accuracy = _accuracy(self.results[lr])
            shown.append(f"{lr:g}: " + (f"{accuracy:.1f} %" if accuracy >= 0 else "diverged"))
        return ", ".join(shown)

    def taken(self) -> str:
        """The best step in words, and whether it is the outermost that was tried."""
        return f"{self.best:g}" + (" (the outermost tried)" if self.at_edge else "")


def tuned(
    study: Study, ladders: Mapping[str, Ladder], common: Mapping[str, Mapping[str, Any]]
) -> dict[str, Search]:
    """Searches by name, by short runs on another seed than the study's.

    Args:
        ladders: by name. common: name -> the other arguments of ``train``.
    """
    searches = {name: Search(ladder, {}) for name, ladder in ladders.items()}
    while wanted := {
        f"tune-{name}-{lr:g}": (name, lr)
        for name, search in searches.items()
        for lr in search.wanted()
    }:
        cells = {key: {**common[name], "lr": lr} for key, (name, lr) in wanted.items()}
        for key, result in study.cells(train, cells).items():
            name, lr = wanted[key]
            old = searches[name]
            searches[name] = Search(old.ladder, {**old.results, lr: result})
    return searches


def _accuracy(result: Result) -> float:
    """In percent; minus infinity for a run that diverged."""
    value = percent(result)
    return -math.inf if value is None else value
