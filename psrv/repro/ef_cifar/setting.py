"""What is run: methods, the two settings, and the paper's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psrv.repro.ladder import Ladder

METHODS = {
    "sgd": "SGD",
    "dist-ef-sgd": "dist-EF-blockSGD",
    "signsgd": "signSGD",
    "sgdm": "SGDM",
    "dist-ef-sgdm": "dist-EF-blockSGDM",
    "signum": "signum",
}
STEP_OF = {"dist-ef-sgd": "sgd", "dist-ef-sgdm": "sgdm"}
"""Whose tuned step a method takes (Appendix A.1)."""

REQUIRED = ("sgdm", "dist-ef-sgdm")
"""The pair that the main claim is about."""

LR_DROPS = "0.5,0.75"
"""The paper's: divided by 10 at epochs 100 and 150 of 200."""

WEIGHT_DECAY = 5e-4
RULES = ("tensor", 32768, "global")
TUNING_SEED = 1000
PAPER_STEPS = {
    8: {"sgd": 0.25, "sgdm": 0.05, "signsgd": 0.001, "signum": 0.0005},
    16: {"sgd": 0.5, "sgdm": 0.05, "signsgd": 0.001, "signum": 0.0005},
    32: {"sgd": 1.0, "sgdm": 0.1, "signsgd": 0.002, "signum": 0.0005},
}
"""Table 2 of the paper, by batch size."""


@dataclass(frozen=True)
class Setting:
    """One setting of the study.

    Attributes:
        task: what is trained. workers: n.
        rounds: T by batch size a worker. main: the batch size with all seeds and methods.
        tune_rounds: of the short runs. ladders: the steps that may be tried, by method.
        side_methods: what is run at the other batch sizes.
        delta_task, delta_batch, delta_rounds: the runs of Figure 1.
        delta_lr: their step size; None for SGDM's tuned one.
        delta_epoch: rounds of which Figure 1 shows the least value; the paper's are epochs.
        delta_workers: whose p_t are measured.
        evaluations: on the test data, in a run.
        over_sockets: methods whose run of the first seed, at the main batch size, also goes
            over sockets.
        fewer_seeds: all seeds only for ``REQUIRED`` at the main batch size, else two; one at
            other batch sizes.
    """

    task: str
    workers: int
    rounds: Mapping[int, int]
    main: int
    tune_rounds: int
    ladders: Mapping[str, Ladder]
    side_methods: tuple[str, ...]
    delta_task: str
    delta_batch: int
    delta_rounds: int
    delta_epoch: int
    delta_workers: int
    delta_lr: float | None = None
    evaluations: int = 4
    over_sockets: tuple[str, ...] = ("dist-ef-sgdm",)
    fewer_seeds: bool = False

    def seeds(self, method: str, batch: int, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """The seeds of one method at one batch size."""
        if not self.fewer_seeds:
            return seeds
        if batch != self.main:
            return seeds[:1]
        return seeds if method in REQUIRED else seeds[:2]


QUICK = Setting(
    task="mnist",
    workers=8,
    rounds={8: 180, 32: 180},
    main=32,
    tune_rounds=40,
    ladders={
        "sgd": Ladder((0.05, 0.1, 0.2, 0.4, 0.8), 0.2),
        "sgdm": Ladder((0.003, 0.01, 0.03, 0.1, 0.3), 0.03),
        "signsgd": Ladder((0.0005, 0.001, 0.002, 0.004, 0.008, 0.016), 0.004),
        "signum": Ladder((0.0005, 0.001, 0.002, 0.004, 0.008, 0.016), 0.004),
    },
    side_methods=("sgdm", "dist-ef-sgdm", "signsgd"),
    delta_task="cifar10:model=resnet8,train=4096,test=1000",
    delta_batch=16,
    delta_rounds=64,
    delta_epoch=8,
    delta_workers=8,
    delta_lr=PAPER_STEPS[16]["sgdm"],
    evaluations=2,
    fewer_seeds=True,
)
FULL = Setting(
    task="cifar10:model=resnet20,augment=yes",
    workers=8,
    rounds={8: 15620, 16: 7800, 32: 3900},
    main=16,
    tune_rounds=1560,
    ladders={
        "sgd": Ladder((0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0), 0.2),
        "sgdm": Ladder((0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), 0.1),
        "signsgd": Ladder((0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02), 0.002),
        "signum": Ladder((0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01), 0.001),
    },
    side_methods=tuple(METHODS),
    delta_task="cifar10:model=resnet20,augment=yes",
    delta_batch=16,
    delta_rounds=3900,
    delta_epoch=390,
    delta_workers=1,
    evaluations=20,
    over_sockets=REQUIRED,
)
