"""Step sizes, the comparison, the runs of Figure 1, and the chosen ones over sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psrv.repro.agreement import Agreement, over_sockets
from psrv.repro.ef_cifar.setting import (
    LR_DROPS,
    METHODS,
    PAPER_STEPS,
    REQUIRED,
    RULES,
    STEP_OF,
    TUNING_SEED,
    WEIGHT_DECAY,
    Setting,
)
from psrv.repro.ladder import tuned
from psrv.repro.learning import Result, train
from psrv.repro.study import Study


def _common(study: Study, setting: Setting, method: str, batch: int, seed: int) -> dict[str, Any]:
    return {
        "task": setting.task,
        "method": method,
        "workers": setting.workers,
        "rounds": setting.rounds[batch],
        "lr_drops": LR_DROPS,
        "batch": batch,
        "blocks": "tensor",
        "seed": seed,
        "data": None if study.data is None else str(study.data),
        "evaluations": setting.evaluations,
        "options": {"weight_decay": WEIGHT_DECAY},
    }


def tune(study: Study, setting: Setting) -> dict[str, float]:
    """Step sizes, by method; shown in a table."""
    common = {
        method: _common(study, setting, method, setting.main, TUNING_SEED)
        | {"rounds": setting.tune_rounds, "evaluations": 0}
        for method in setting.ladders
    }
    searches = tuned(study, setting.ladders, common)
    steps = {method: search.best for method, search in searches.items()}
    rows = [
        [
            METHODS[method],
            search.tried(),
            search.taken(),
            ", ".join(f"{batch}: {found[method]:g}" for batch, found in PAPER_STEPS.items()),
        ]
        for method, search in searches.items()
    ]
    study.table(
        "Step sizes",
        ["method", "tried: accuracy of a short run", "taken", "the paper's, by batch (Table 2)"],
        rows,
        note=f"{setting.tune_rounds} rounds at batch {setting.main}, seed {TUNING_SEED}; "
        "further steps while the best is the outermost that was tried; dist-EF takes SGD's and "
        "SGDM's, as in Appendix A.1",
    )
    study.figure("steps", steps)
    return steps


def chosen(
    study: Study, setting: Setting, steps: Mapping[str, float], method: str, batch: int, seed: int
) -> dict[str, Any]:
    """Arguments of ``train`` for one run of the comparison."""
    lr = steps[STEP_OF.get(method, method)]
    return _common(study, setting, method, batch, seed) | {"lr": lr}


def compare(
    study: Study, setting: Setting, steps: Mapping[str, float]
) -> dict[tuple[str, int], list[Result]]:
    """(method, batch) -> results over the seeds."""
    others = [batch for batch in setting.rounds if batch != setting.main]
    # What decides the main claim first: a study that is stopped goes on from there.
    order = [(method, setting.main) for method in sorted(METHODS, key=lambda m: m not in REQUIRED)]
    order += [(method, batch) for batch in others for method in setting.side_methods]
    cells = {
        f"{method}-batch{batch}-seed{seed}": chosen(study, setting, steps, method, batch, seed)
        for method, batch in order
        for seed in setting.seeds(method, batch, study.seeds)
    }
    found = study.cells(train, cells)
    runs: dict[tuple[str, int], list[Result]] = {}
    for key, given in cells.items():
        runs.setdefault((given["method"], given["batch"]), []).append(found[key])
    return runs


def contraction_step(setting: Setting, steps: Mapping[str, float]) -> float:
    """The step size of the runs of Figure 1."""
    return steps["sgdm"] if setting.delta_lr is None else setting.delta_lr


def contraction_runs(
    study: Study, setting: Setting, steps: Mapping[str, float]
) -> dict[str, list[Result]]:
    """Rule of the run's blocks -> results: with tensors over the seeds, without blocks one."""
    seeds = {"tensor": study.seeds, "global": study.seeds[:1]}
    cells = {
        f"delta-{blocks}-seed{seed}": {
            **_common(study, setting, "dist-ef-sgdm", setting.main, seed),
            "task": setting.delta_task,
            "batch": setting.delta_batch,
            "rounds": setting.delta_rounds,
            "blocks": blocks,
            "lr": contraction_step(setting, steps),
            "evaluations": 0,
            "watched": list(RULES),
            "watched_workers": setting.delta_workers,
            "watched_epoch": setting.delta_epoch,
        }
        for blocks, of in seeds.items()
        for seed in of
    }
    found = study.cells(train, cells)
    return {
        blocks: [found[f"delta-{blocks}-seed{seed}"] for seed in of] for blocks, of in seeds.items()
    }


def launch(
    study: Study,
    setting: Setting,
    steps: Mapping[str, float],
    runs: Mapping[tuple[str, int], list[Result]],
) -> dict[str, Agreement | None]:
    """The chosen runs of the first seed over sockets, by method; None where one diverged."""
    batch, seed = setting.main, study.seeds[0]
    return {
        method: over_sockets(
            study,
            f"{method}-batch{batch}-seed{seed}",
            chosen(study, setting, steps, method, batch, seed),
            runs[method, batch][0],
        )
        for method in setting.over_sockets
    }
