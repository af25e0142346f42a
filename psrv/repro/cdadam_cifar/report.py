"""Figures 1, 3, 5, 6 and 11, Table 2, and the tables of the runs over sockets and on MNIST."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from psrv.repro.cdadam_cifar.runs import DIGIT_RUNS, Results, warmup
from psrv.repro.cdadam_cifar.setting import (
    PAPER_BITS,
    PAPER_SECONDS,
    VARIANTS,
    Digits,
    Images,
    formula_bits,
)
from psrv.repro.cdadam_cifar.sockets import Sent
from psrv.repro.learning import Result, last_loss, mean_curve, percent
from psrv.repro.study import Study
from psrv.repro.verdict import measured


def show_images(study: Study, images: Images, results: Results) -> None:
    """Accuracy, loss and gradient norm against rounds and bits; a table over the seeds."""
    panels = {
        (of, x): study.panel(
            f"{words} by {'bits' if x == 'bits' else 'round'}"
            + (", first seed" if of == "norm" else ""),
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
        norms = [norm for _, norm, _ in first["norm"]]
        panels["norm", "round"].curve(label, [round for round, _, _ in first["norm"]], norms)
        panels["norm", "bits"].curve(label, [bits or None for _, _, bits in first["norm"]], norms)
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


def late_norm(result: Result) -> float:
    """Mean of the gradient norms in the last quarter of a run; infinite if it diverged."""
    norms = [norm for _, norm, _ in result["norm"]]
    return _mean(norms[-max(1, len(norms) // 4) :]) if result["diverged"] is None else math.inf


def norm_within(result: Result, budget: float) -> float:
    """The gradient norm that a number of bits buys; infinite for a run that diverged.

    Args:
        budget: bits sent and received by one worker. The mean is of the norms seen while the
            last quarter of them was spent; where rounds cost more than that, of the last norm
            seen before they were.
    """
    if result["diverged"] is not None:
        return math.inf
    seen = [(norm, bits) for _, norm, bits in result["norm"] if bits <= budget]
    return _mean([norm for norm, bits in seen if bits > 0.75 * budget] or [seen[-1][0]])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def show_table_2(study: Study, images: Images, results: Results, timed: Mapping[str, Sent]) -> None:
    """Time of an iteration and total bits: the paper's beside ours."""
    rows = []
    for name, sent in timed.items():
        first = results[name][0]
        d, T = first["dimension"], images.rounds
        by_formula = formula_bits(name, d, T, warmup(VARIANTS[name], T))
        if sent.agreement is None:
            continue
        summary = sent.agreement.files.summary
        step, parts = summary["step_seconds"]["median"], summary["breakdown_seconds"]
        rows.append(
            [
                VARIANTS[name].label,
                PAPER_SECONDS[name],
                step,
                1e3 * (parts["encode"] + parts["server"] + parts["decode"] + parts["update"]),
                1e3 * first["step_seconds"],
                PAPER_BITS[name],
                by_formula,
                first["bits"][-1] if first["bits"] else None,
            ]
        )
    study.table(
        "Table 2: time and bits",
        ["method", "the paper, s/iteration", "ours, s/iteration",
         "encode, server, decode, update of a worker, ms",
         f"the same in simulation, {images.workers} workers' together, ms",
         "the paper's total bits", "that with our d and T", "ours, total bits"],
        rows,
        note=f"time: {images.timed_workers} workers as processes over sockets here, median of "
        f"{images.timed_rounds} compressed rounds; the paper: one GPU a worker, ResNet-18. Bits of "
        "a worker, both ways; our top-k codes its indices in fewer bits than 32. A simulated round "
        "encodes for all its workers one after the other, and updates once",
    )  # fmt: skip


def show_sockets(study: Study, runs: Iterable[Sent]) -> None:
    """Each run over sockets beside the same run in simulation."""
    rows = []
    for sent in runs:
        if (agreement := sent.agreement) is None:
            continue
        moved = agreement.files.summary["bytes_per_worker_round"]
        rows.append(
            [
                VARIANTS[sent.name].label,
                sent.workers,
                sent.rounds,
                1e3 * agreement.files.summary["step_seconds"]["median"],
                moved["payload_up"],
                moved["payload_down"],
                moved["tcp_up"],
                moved["tcp_down"],
                agreement.words(),
            ]
        )
    study.table(
        "Runs of processes over sockets",
        ["method", "workers", "rounds", "ms a round", "payload bytes up", "payload bytes down",
         "TCP bytes up", "TCP bytes down", "beside the simulation"],
        rows,
        note="bytes of one worker and round; the step size falls at half and three quarters of the "
        "rounds; first seed. All processes share this machine's cores",
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
                digits.rounds_of(name),
                8 * sum(found[0]["bytes"]) / found[0]["dimension"],
                ", ".join(f"{k}={v}" for k, v in more.items()),
            ]
        )
    study.table(
        f"{digits.task}: {digits.workers} workers, batch {digits.batch}",
        ["method", "step", "test accuracy", "test loss", "rounds",
         "bits per parameter and round, both ways", "options"],
        rows,
        note="468 rounds are an epoch; constant step size, tensors as blocks",
    )  # fmt: skip
