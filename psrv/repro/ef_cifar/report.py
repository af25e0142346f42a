"""Figures and tables: Figure 2 with Table 1, and Figure 1."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from psrv.repro.ef_cifar.setting import METHODS, Setting
from psrv.repro.learning import Result, in_percent, mean_curve, percent
from psrv.repro.study import Study
from psrv.repro.verdict import measured


def show_accuracy(
    study: Study, setting: Setting, runs: Mapping[tuple[str, int], list[Result]]
) -> None:
    """Figure 2 and Table 1."""
    for batch in sorted(setting.rounds):
        for momentum, methods in (
            ("no momentum", list(METHODS)[:3]),
            ("momentum", list(METHODS)[3:]),
        ):
            panel = study.panel(
                f"batch {batch} a worker, {momentum}", "round", "test accuracy, %",
                group="Figure 2: test accuracy",
            )  # fmt: skip
            for method in methods:
                results = runs.get((method, batch), [])
                if results:
                    mean, low, high = mean_curve(results, "accuracy", 100.0)
                    panel.curve(
                        METHODS[method], results[0]["round"][: len(mean)], mean, low=low, high=high
                    )
    rows = []
    for (method, batch), results in runs.items():
        up, down = results[0]["bytes"]
        rows.append(
            [
                METHODS[method],
                batch,
                measured([percent(r) for r in results], in_percent),
                8 * (up + down) / results[0]["dimension"],
            ]
        )
    study.table(
        "Accuracy and bits",
        ["method", "batch a worker", "test accuracy", "bits per parameter and round, both ways"],
        rows,
        note="Table 1 of the paper for one worker: 64, 2, and 2 + 64 B/d",
    )


def show_contraction(
    study: Study, setting: Setting, contraction: Mapping[str, list[Result]], lr: float
) -> None:
    """Figure 1, of the first seed, and a table over all seeds."""
    first = contraction["tensor"][0]["contraction"]
    names = {"tensor": "blocks: tensors", "32768": "blocks: 32,768", "global": "whole vector"}
    group = f"Figure 1: blocks and whole vectors (seed {study.seeds[0]})"
    epochs = [setting.delta_epoch * (i + 1) for i in range(len(first["phi"]["tensor"]))]
    x = f"round; points stand for the {setting.delta_epoch} before"
    variation = study.panel(
        "coefficient of variation of |g| in a block", x, "mean over blocks", group=group
    ).hline(1.0, "1")
    phi = study.panel("least delta on p_t", x, "delta", logy=True, group=group)
    keeps = study.panel("least of what was kept of p_t", x, "1 - ||C(p)-p||²/||p||²", group=group)
    for rule, name in names.items():
        variation.curve(name, epochs, first["variation"][rule])
        phi.curve(name, epochs, first["phi"][rule])
        keeps.curve(name, epochs, first["kept"][rule])
    own = contraction["global"][0]["contraction"]["phi"]["global"]
    both = min(len(own), len(epochs))  # fewer for a run that diverged
    label = "whole vector, in a run that compresses so"
    phi.curve(label, epochs[:both], own[:both], dashed=True)
    of_step = "SGDM's tuned one" if setting.delta_lr is None else "the paper's, not tuned here"
    rows = []
    for run_blocks, results in contraction.items():
        for rule, name in names.items():
            parts = [r["contraction"] for r in results]
            rows.append(
                [
                    "blocks" if run_blocks == "tensor" else "whole vector",
                    name,
                    measured([min(p["phi"][rule]) for p in parts]),
                    measured([min(p["kept"][rule]) for p in parts]),
                    measured([fmean(p["variation"][rule]) for p in parts]),
                ]
            )
    study.table(
        "Contraction along a run of dist-EF-blockSGDM",
        [
            "the run compresses",
            "measured for",
            "least delta (phi)",
            "least kept",
            "variation of |g|",
        ],
        rows,
        note=f"{setting.delta_task}, batch {setting.delta_batch}, {setting.delta_rounds} rounds, "
        f"first step {lr:g} ({of_step}); every p_t of {setting.delta_workers} of "
        f"{setting.workers} workers",
    )
