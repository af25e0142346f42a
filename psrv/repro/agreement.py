"""A run of processes over sockets beside the same run in simulation.

What ``learning.train`` was given goes to ``psrv launch``: all rounds, workers, and the drops of
the step size. The parameters must then agree bit for bit; the test loss is of the same
parameters, and the payload bytes are those that were counted on the wire.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psrv.repro.learning import Result
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

_SHARED = ("task", "method", "workers", "rounds", "lr", "lr_drops", "batch", "blocks", "seed")


@dataclass(frozen=True)
class Agreement:
    """Two runs with the same settings.

    Attributes:
        simulated: what ``train`` returned; it did not diverge.
        files: what the processes left.
    """

    simulated: Result
    files: RunFiles

    @property
    def verdict(self) -> Verdict:
        """Held if parameters, test loss and payload bytes a round are the same."""
        summary, simulated = self.files.summary, self.simulated
        sent = summary["bytes_per_worker_round"]
        same = (
            summary["replica_digest"] == simulated["digest"]
            # The rank's shares of the test images are summed in the order of their arrival.
            and math.isclose(summary["final"]["loss"], simulated["loss"][-1], rel_tol=1e-6)
            and math.isclose(sent["payload_up"], simulated["bytes"][0])
            and math.isclose(sent["payload_down"], simulated["bytes"][1])
        )
        return Verdict.HELD if same else Verdict.NOT_HELD

    def words(self) -> str:
        """Digest, loss and bytes of both, or once where they are equal."""
        summary = self.files.summary
        sent = summary["bytes_per_worker_round"]
        over = _line(
            summary["replica_digest"],
            summary["final"]["loss"],
            sent["payload_up"] + sent["payload_down"],
        )
        simulated = self.simulated
        here = _line(simulated["digest"], simulated["loss"][-1], sum(simulated["bytes"]))
        return f"both {over}" if over == here else f"sockets {over}; simulation {here}"


def over_sockets(
    study: Study, name: str, given: Mapping[str, Any], simulated: Result
) -> Agreement | None:
    """Launch what ``train`` was given; None where that diverged, which processes end at.

    Args:
        name: of the run. given: arguments of ``train``, ``seed`` among them; what it watches
            is left out. simulated: what it returned.
    """
    if simulated["diverged"] is not None:
        return None
    rounds, evaluations = given["rounds"], given["evaluations"]
    files = study.launch(
        name,
        **{option: given[option] for option in _SHARED},
        **given["options"],
        eval_every=max(1, rounds // evaluations) if evaluations else rounds,
    )
    return Agreement(simulated, files)


def _line(digest: str, loss: float, sent: float) -> str:
    return f"digest {digest[:8]}, test loss {loss:.5f}, {sent:,.0f} bytes a round"
