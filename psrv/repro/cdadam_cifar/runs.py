"""The simulated runs: step sizes, the comparison, the ablation, MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psrv.repro.cdadam_cifar.setting import (
    LR_DROPS,
    TUNING_SEED,
    VARIANTS,
    WEIGHT_DECAY,
    Digits,
    Images,
    Variant,
)
from psrv.repro.ladder import tuned
from psrv.repro.learning import Result, train
from psrv.repro.study import Study

Results = dict[str, list[Result]]
"""Name of a variant -> results over the seeds."""


def warmup(variant: Variant, rounds: int) -> int:
    """T_1 in rounds; 0 for methods without."""
    share = variant.options.get("warmup")
    return 0 if share is None else max(1, round(share * rounds))


def options(variant: Variant, rounds: int, **more: Any) -> dict[str, Any]:
    """Options of the method in a run of so many rounds."""
    found = {**variant.options, **more}
    if "warmup" in found:
        found["warmup"] = warmup(variant, rounds)
    return found


def common(study: Study, images: Images, variant: Variant, rounds: int) -> dict[str, Any]:
    """Arguments of ``train`` without the step size and the seed."""
    return {
        "task": images.task,
        "method": variant.method,
        "workers": images.workers,
        "rounds": rounds,
        "lr_drops": LR_DROPS,
        "batch": images.batch,
        "blocks": variant.blocks,
        "data": None if study.data is None else str(study.data),
        "evaluations": images.evaluations,
        "options": options(variant, rounds, weight_decay=WEIGHT_DECAY),
    }


def tune(study: Study, images: Images) -> dict[str, float]:
    """Step size of every variant; shown in a table."""
    short = images.tune_rounds
    searches = tuned(
        study,
        {name: images.ladders[VARIANTS[name].family] for name in images.variants},
        {
            name: common(study, images, VARIANTS[name], short)
            | {"seed": TUNING_SEED, "evaluations": 0}
            for name in images.variants
        },
    )
    study.table(
        "Step sizes",
        ["method", "tried: test accuracy of a short run", "taken", "the paper's"],
        [
            [
                VARIANTS[name].label,
                search.tried(),
                search.taken(),
                "0.1" if VARIANTS[name].family == "sgd" else "0.0001",
            ]
            for name, search in searches.items()
        ],
        note=f"{short} rounds, seed {TUNING_SEED}",
    )
    steps = {name: search.best for name, search in searches.items()}
    study.figure("steps", steps)
    return steps


def chosen(study: Study, images: Images, name: str, lr: float, seed: int) -> dict[str, Any]:
    """Arguments of ``train`` of one run of the comparison."""
    variant = VARIANTS[name]
    return {
        **common(study, images, variant, images.rounds),
        "lr": lr,
        "seed": seed,
        "norm_every": images.norm_every,
        "watched": ["global", "tensor"] if variant.method == "cd-adam" else [],
        "watched_epoch": images.epoch,
    }


def compare(study: Study, images: Images, steps: Mapping[str, float]) -> Results:
    """Figures 1, 3, 5 and 6: every variant, with its step size, over the seeds."""
    cells = {
        f"images-{name}-seed{seed}": chosen(study, images, name, steps[name], seed)
        for seed in study.seeds
        for name in images.variants
    }
    found = study.cells(train, cells)
    return {
        name: [found[f"images-{name}-seed{seed}"] for seed in study.seeds]
        for name in images.variants
    }


def ablate(
    study: Study, images: Images, steps: Mapping[str, float]
) -> dict[tuple[int, int], Result]:
    """Figure 11: CD-Adam with fewer workers, and with smaller batches; one seed."""
    variant = VARIANTS["cd-adam"]
    cells = {
        f"ablation-n{workers}-batch{batch}": {
            **common(study, images, variant, images.rounds),
            "workers": workers,
            "batch": batch,
            "lr": steps["cd-adam"],
            "seed": study.seeds[0],
        }
        for workers, batch in images.ablation
    }
    found = study.cells(train, cells)
    return {
        (workers, batch): found[f"ablation-n{workers}-batch{batch}"]
        for workers, batch in images.ablation
    }


DIGIT_RUNS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "amsgrad": ("amsgrad", "AMSGrad", {}),
    "onebit-1e-4": ("onebit-adam", "1-bit Adam, eps 1e-4", {"eps": 1e-4}),
    "onebit-1e-8": ("onebit-adam", "1-bit Adam, eps 1e-8", {"eps": 1e-8}),
    "ef21": ("ef21-two-way", "EF21 two-way, top-k", dict(VARIANTS["ef21"].options)),
}
"""Name -> method, label, options, of the runs on MNIST."""


def digit_runs(study: Study, digits: Digits) -> Results:
    """MNIST with each of ``DIGIT_RUNS``, over the seeds, constant step size."""
    onebit = VARIANTS["onebit-adam"]
    cells = {
        f"mnist-{name}-seed{seed}": {
            "task": digits.task,
            "method": method,
            "workers": digits.workers,
            "rounds": digits.rounds_of(name),
            "batch": digits.batch,
            "blocks": "tensor",
            "lr": digits.ef21_lr if method == "ef21-two-way" else digits.lr,
            "seed": seed,
            "data": None if study.data is None else str(study.data),
            "evaluations": 0,
            "options": more
            | (
                {"warmup": warmup(onebit, digits.rounds_of(name))}
                if method == "onebit-adam"
                else {}
            ),
        }
        for name, (method, _, more) in DIGIT_RUNS.items()
        for seed in study.seeds
    }
    found = study.cells(train, cells)
    return {
        name: [found[f"mnist-{name}-seed{seed}"] for seed in study.seeds] for name in DIGIT_RUNS
    }
