"""Runs of processes over sockets, each beside the same run in simulation.

Short runs of every method give Table 2's time of an iteration. The chosen runs of
``Images.whole`` go over sockets as they are, with all workers, rounds and drops of the step
size; the short ones have the drops too, at the same shares of fewer rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psrv.repro.agreement import Agreement, over_sockets
from psrv.repro.cdadam_cifar.runs import Results, chosen, common
from psrv.repro.cdadam_cifar.setting import TABLE_2, VARIANTS, Images
from psrv.repro.learning import Result, train
from psrv.repro.study import Study


@dataclass(frozen=True)
class Sent:
    """One run over sockets.

    Attributes:
        name: of the variant. workers, rounds: n and T.
        agreement: with the simulation; None where that diverged, and nothing was sent.
    """

    name: str
    workers: int
    rounds: int
    agreement: Agreement | None


def timed(study: Study, images: Images, steps: Mapping[str, float]) -> dict[str, Sent]:
    """Short runs, by variant, for the time of an iteration."""
    cells = {}
    for name in TABLE_2:
        given = common(study, images, VARIANTS[name], images.timed_rounds)
        if "warmup" in given["options"]:
            # All rounds of 1-bit Adam after the first are compressed: those are what counts.
            given["options"]["warmup"] = 1
        cells[f"timed-{name}"] = given | {
            "workers": images.timed_workers,
            "lr": steps[name],
            "seed": study.seeds[0],
            "evaluations": 0,
        }
    simulated = study.cells(train, cells)
    return {
        name: _sent(study, f"timed-{name}", name, given, simulated[f"timed-{name}"])
        for name, given in zip(TABLE_2, cells.values(), strict=True)
    }


def whole(study: Study, images: Images, steps: Mapping[str, float], results: Results) -> list[Sent]:
    """The chosen runs of the first seed that go over sockets as they are."""
    sent = []
    for name in images.whole:
        given = chosen(study, images, name, steps[name], study.seeds[0])
        sent.append(_sent(study, f"whole-{name}", name, given, results[name][0]))
    return sent


def _sent(study: Study, key: str, name: str, given: dict[str, Any], simulated: Result) -> Sent:
    # Evaluations do not change the run, and each costs every process a pass over images.
    agreement = over_sockets(study, key, given | {"evaluations": 0}, simulated)
    return Sent(name, given["workers"], given["rounds"], agreement)
