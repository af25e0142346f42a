"""Figures 1, 3, 5, 6 and 11, Table 2, and the table of the runs on MNIST."""

from __future__ import annotations

from collections.abc import Mapping

from psrv.repro.cdadam_cifar.runs import DIGIT_RUNS, Results, warmup
from psrv.repro.cdadam_cifar.setting import (
    PAPER_BITS,
    PAPER_SECONDS,
    VARIANTS,
    Digits,
    Images,
    formula_bits,
)
from psrv.repro.learning import Result, last_loss, mean_curve, percent
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import measured


def show_images(study: Study, images: Images, results: Results) -> None:
    """Accuracy, loss and gradient norm against rounds and bits; a table over the seeds."""
    panels = {
        (of, x): study.panel(
            f"{words} by {'bits' if x == 'bits' else 'round'}",
            "bits sent and received by a worker" if x == "bits" else "round",
            words,
            logx=x == "bits",
            logy=of == "norm",
            group="Figures 1, 3, 5 and 6",
        )
        for of, words in (
            ("accuracy", "test accuracy, %"),
            ("loss", "test loss"),
            ("norm", "norm of the mean minibatch gradient"),
        )
        for x in ("round", "bits")
    }
    rows = []
    for name, found in results.items():
        label, first = VARIANTS[name].label, found[0]
        for of, scale in (("accuracy", 100.0), ("loss", 1.0)):
            mean, low, high = mean_curve(found, of, scale)
            for x in ("round", "bits"):
                panels[of, x].curve(label, first[x][: len(mean)], mean, low=low, high=high)
        at = [round for round, _ in first["norm"]]
        norms = [norm for _, norm in first["norm"]]
        panels["norm", "round"].curve(label, at, norms)
        panels["norm", "bits"].curve(label, [bits_at(first, round) for round in at], norms)
        rows.append(
            [
                label,
                measured([percent(r) for r in found], "{:.2f} %".format),
                measured([last_loss(r) for r in found]),
                measured([late_norm(r) for r in found]),
                first["bits"][-1] if first["bits"] else None,
            ]
        )
    study.table(
        f"{images.task}, {images.workers} workers, batch {images.batch}, {images.rounds} rounds",
        ["method", "test accuracy", "test loss", "gradient norm, last quarter", "bits a worker"],
        rows,
        note="the norm is that of the mean over workers of one round's minibatch gradients",
    )


def bits_at(result: Result, round: int) -> float | None:
    """Bits sent and received before a round, between the evaluations where they were counted."""
    before, bits = 0, 0.0
    for at, total in zip(result["round"], result["bits"], strict=True):
        if round <= at:
            return bits + (total - bits) * (round - before) / (at - before)
        before, bits = at, total
    return None


def late_norm(result: Result) -> float | None:
    """Mean of the gradient norms in the last quarter of a run; None if it diverged."""
    last = [norm for _, norm in result["norm"]][-max(1, len(result["norm"]) // 4) :]
    return sum(last) / len(last) if last and result["diverged"] is None else None


def show_table_2(
    study: Study, images: Images, results: Results, timed: Mapping[str, RunFiles]
) -> None:
    """Time of an iteration and total bits: the paper's beside ours."""
    rows = []
    for name, found in timed.items():
        first = results[name][0]
        d, T = first["dimension"], images.rounds
        by_formula = formula_bits(name, d, T, warmup(VARIANTS[name], T))
        step = found.summary["step_seconds"]["median"]
        parts = found.summary["breakdown_seconds"]
        sent = first["bits"][-1] if first["bits"] else None
        rows.append(
            [
                VARIANTS[name].label,
                PAPER_SECONDS[name],
                step,
                1e3 * (parts["encode"] + parts["server"] + parts["decode"] + parts["update"]),
                1e3 * first["step_seconds"],
                PAPER_BITS[name],
                by_formula,
                sent,
            ]
        )
    study.table(
        "Table 2: time and bits",
        ["method", "the paper, s/iteration", "ours, s/iteration",
         "encode, server, decode, update, ms", "all of that in a simulated round, ms",
         "the paper's total bits", "that with our d and T", "ours, total bits"],
        rows,
        note=f"time: {images.timed_workers} workers as processes over sockets here, median of "
        f"{images.timed_rounds} compressed rounds; the paper: one GPU a worker, ResNet-18. Bits of "
        "a worker, both ways; our top-k codes its indices in fewer bits than 32",
    )  # fmt: skip


def show_ablation(
    study: Study, images: Images, results: Results, ablation: Mapping[tuple[int, int], Result]
) -> None:
    """Figure 11; nothing in the quick setting."""
    if not ablation:
        return
    every = {(images.workers, images.batch): results["cd-adam"][0], **ablation}
    for title, number, fixed in (("n", 0, images.batch), ("batch size", 1, images.workers)):
        panel = study.panel(f"CD-Adam, {title}", "round", "test loss", group="Figure 11")
        for pair, found in sorted(every.items()):
            if pair[1 - number] == fixed:
                panel.curve(f"{title} {pair[number]}", found["round"], found["loss"])


def show_digits(study: Study, digits: Digits, results: Results) -> None:
    """The runs on MNIST."""
    rows = []
    for name, found in results.items():
        method, label, more = DIGIT_RUNS[name]
        rows.append(
            [
                label,
                digits.ef21_lr if method == "ef21-two-way" else digits.lr,
                measured([percent(r) for r in found], "{:.2f} %".format),
                measured([last_loss(r) for r in found]),
                8 * sum(found[0]["bytes"]) / found[0]["dimension"],
                ", ".join(f"{k}={v}" for k, v in more.items()),
            ]
        )
    study.table(
        f"{digits.task}: {digits.workers} workers, batch {digits.batch}, {digits.rounds} rounds",
        ["method", "step", "test accuracy", "test loss", "bits per parameter and round, both ways",
         "options"],
        rows,
        note="two epochs, constant step size, tensors as blocks",
    )  # fmt: skip
