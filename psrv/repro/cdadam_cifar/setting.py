"""What is run: methods, the two settings, and the paper's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psrv.repro.ladder import Ladder

LR_DROPS = "0.5,0.75"
"""The paper's: the step size is divided by ten at epochs 50 and 75 of 100."""

WEIGHT_DECAY = 5e-4
WARMUP = 13 / 100
"""The paper's 13 epochs of 100 in which 1-bit Adam sends dense."""

TOP_K = 0.016
"""K = 0.016 d: a sixty-fourth of the coordinates, each 32 bits of value and 32 of index."""

PAPER_PI = (0.597, 0.713)
"""Range of the measured pi on ResNet-18 (appendix D)."""

TUNING_SEED = 1000


@dataclass(frozen=True)
class Variant:
    """One curve of the figures.

    Attributes:
        method: psrv's name. label: for people.
        blocks: coordinates that share a scale.
        family: whose grid of steps is tried.
        options: of the method; ``warmup`` is a share of the run here.
    """

    method: str
    label: str
    blocks: str | int
    family: str
    options: Mapping[str, Any]


VARIANTS = {
    "amsgrad": Variant("amsgrad", "AMSGrad, uncompressed", "tensor", "adam", {}),
    "ef21": Variant(
        "ef21-two-way", "EF21 two-way, top-k", "tensor", "sgd",
        {"compressor": f"top-k:{TOP_K}", "init": "compressed"},
    ),
    "onebit-adam": Variant(
        "onebit-adam", "1-bit Adam", "global", "adam", {"warmup": WARMUP, "eps": 1e-4}
    ),
    "cd-adam": Variant("cd-adam", "CD-Adam", "global", "adam", {}),
    "cd-adam-blocks": Variant("cd-adam", "CD-Adam, tensors as blocks", "tensor", "adam", {}),
}  # fmt: skip
"""One scale for the whole vector is the paper's compressor: 32 + d bits."""

TABLE_2 = ("amsgrad", "ef21", "onebit-adam", "cd-adam")
"""The variants that have a row there, which are the paper's own."""

PAPER_SECONDS = {"amsgrad": 1.015, "ef21": 1.402, "onebit-adam": 1.041, "cd-adam": 1.134}
"""Table 2: average seconds of an iteration."""

PAPER_BITS = {
    "amsgrad": "32d x 2T",
    "ef21": "≈ (32k x 2) x 2T",
    "onebit-adam": "32d x 2T₁ + (32+d) x 2(T-T₁)",
    "cd-adam": "(32+d) x 2T",
}
"""Table 2: total bits."""


def formula_bits(name: str, dimension: int, rounds: int, warmup: int) -> float | None:
    """Table 2's total bits of a method, both ways together; None where it has none.

    Args:
        dimension: d. rounds: T. warmup: T_1, in rounds.
    """
    d, T = dimension, rounds
    return {
        "amsgrad": 32 * d * 2 * T,
        "ef21": 32 * round(TOP_K * d) * 2 * 2 * T,
        "onebit-adam": 32 * d * 2 * warmup + (32 + d) * 2 * (T - warmup),
        "cd-adam": (32 + d) * 2 * T,
    }.get(name)


@dataclass(frozen=True)
class Images:
    """The comparison on CIFAR-10.

    Attributes:
        task, workers, batch, rounds, evaluations: of the runs. tested: test images.
        tune_rounds: of the short runs that choose the step sizes.
        variants: names of ``VARIANTS``.
        ladders: the step sizes that may be tried, by family.
        norm_every: rounds between gradient norms. epoch: rounds over which pi is collected.
        timed_rounds, timed_workers: of the runs over sockets that time an iteration.
        whole: the variants whose run of the first seed also goes over sockets, whole.
        ablation: pairs of workers and batch of Figure 11, with CD-Adam.
    """

    task: str
    tested: int
    workers: int
    batch: int
    rounds: int
    evaluations: int
    tune_rounds: int
    variants: tuple[str, ...]
    ladders: Mapping[str, Ladder]
    norm_every: int
    epoch: int
    timed_rounds: int
    timed_workers: int
    whole: tuple[str, ...] = ("cd-adam",)
    ablation: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Digits:
    """What is claimed of psrv's 1-bit Adam and EF21 on the mnist CNN.

    Attributes:
        task, workers, batch: of all runs.
        rounds, lr: of the Adam family; 468 rounds are one epoch.
        small_eps_rounds: of 1-bit Adam with eps 1e-8, which is only to stay finite.
        ef21_rounds, ef21_lr: of EF21, for which the claim is about two.
    """

    task: str = "mnist"
    workers: int = 4
    batch: int = 32
    rounds: int = 468
    small_eps_rounds: int = 234
    lr: float = 1e-3
    ef21_rounds: int = 936
    ef21_lr: float = 0.1

    def rounds_of(self, name: str) -> int:
        """T of one of ``runs.DIGIT_RUNS``."""
        others = {"ef21": self.ef21_rounds, "onebit-1e-8": self.small_eps_rounds}
        return others.get(name, self.rounds)


@dataclass(frozen=True)
class Setting:
    """Both parts."""

    images: Images
    digits: Digits


_TESTED = 1000

QUICK = Setting(
    Images(
        task=f"cifar10:model=resnet8,train=8192,test={_TESTED},sample=500,augment=no",
        tested=_TESTED,
        workers=8,
        batch=16,
        rounds=42,
        evaluations=6,
        tune_rounds=16,
        variants=TABLE_2,
        ladders={
            "adam": Ladder((1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2), 3e-3),
            "sgd": Ladder((0.03, 0.1, 0.3, 1.0, 3.0), 0.3),
        },
        norm_every=1,
        epoch=14,
        timed_rounds=8,
        timed_workers=2,
    ),
    Digits(),
)
FULL = Setting(
    Images(
        task="cifar10:model=resnet18",
        tested=10_000,
        workers=8,
        batch=128,
        rounds=480,
        evaluations=20,
        tune_rounds=96,
        variants=tuple(VARIANTS),
        ladders={
            "adam": Ladder((3e-5, 1e-4, 3e-4, 1e-3, 3e-3), 3e-4),
            "sgd": Ladder((0.01, 0.03, 0.1, 0.3, 1.0), 0.1),
        },
        norm_every=4,
        epoch=48,
        timed_rounds=20,
        timed_workers=8,
        ablation=((2, 128), (4, 128), (8, 32), (8, 64)),
    ),
    Digits(rounds=936, small_eps_rounds=936),
)
