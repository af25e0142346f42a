"""The claims of section 7.2 and of psrv's own methods, from the cells' results alone."""

from __future__ import annotations

import math

from psrv.repro.cdadam_cifar.report import late_norm
from psrv.repro.cdadam_cifar.runs import Results
from psrv.repro.cdadam_cifar.setting import PAPER_PI, Digits
from psrv.repro.learning import Result, differences, last_loss, percent
from psrv.repro.study import Study
from psrv.repro.verdict import Value, Verdict, all_of, decide, measured, ratios

_POINTS = "{:+.2f} points".format


def claim_bits(study: Study, results: Results) -> None:
    """Figure 1: around 32 times fewer bits than AMSGrad, around 5 times fewer than 1-bit Adam."""
    for other, words, bound in (
        ("amsgrad", "CD-Adam sends around 32 times fewer bits than AMSGrad", 31.0),
        ("onebit-adam", "CD-Adam sends around 5 times fewer bits than 1-bit Adam", 4.5),
    ):
        less = ratios(*([sum(r["bytes"]) for r in results[name]] for name in (other, "cd-adam")))
        study.claim(
            words,
            f"at least {bound:g} times fewer in as many rounds",
            measured(less, "{:.2f} times".format, ratio=True),
            decide(less, bound, least=True, deterministic=True, ratio=True),
            place="7.2, Figure 1, Table 2",
            expected=Verdict.HELD,
        )


def claim_images(study: Study, results: Results) -> None:
    """Accuracy, gradient norm and pi in the runs of Figures 3, 5 and 6."""
    at = {name: [percent(r) for r in found] for name, found in results.items()}
    for ours, name in (("cd-adam", "CD-Adam"), ("cd-adam-blocks", "CD-Adam, tensors as blocks,")):
        for other, words, needs, bound in (
            ("amsgrad", f"{name} keeps the accuracy of AMSGrad", "at most 1 point below", -1.0),
            ("onebit-adam", f"{name} is ahead of 1-bit Adam in accuracy", "above it", 0.0),
            ("ef21", f"{name} is ahead of EF21 in accuracy", "above it", 0.0),
        ):
            values = differences(at[ours], at[other])
            study.claim(
                words, needs, measured(values, _POINTS), decide(values, bound, least=True),
                place="7.2, Figures 3 and 6",
            )  # fmt: skip
    norms = {name: [late_norm(r) for r in found] for name, found in results.items()}
    for other, label in (("onebit-adam", "1-bit Adam"), ("ef21", "EF21")):
        share = ratios(norms["cd-adam"], norms[other])
        study.claim(
            f"CD-Adam gets to a smaller gradient norm than {label} in as many rounds",
            "ratio of the minibatch norms, last quarter, below 1",
            measured(share, "{:.2f} times".format, ratio=True),
            decide(share, 1.0, least=False, ratio=True),
            place="7.2, Figure 3",
        )
    _claim_pi(study, results["cd-adam"])


def _claim_pi(study: Study, results: list[Result]) -> None:
    """pi of what the workers compress, as appendix D measures it on ResNet-18."""
    low, high = PAPER_PI
    kept = [r["contraction"] for r in results]
    largest: list[Value] = [1 - min(k["kept"]["global"]) for k in kept]
    least = min(1 - max(k["most"]["global"]) for k in kept)
    study.claim(
        "the scaled sign's pi is of a constant order along the run",
        f"largest pi at most {high} (the paper: {low} to {high})",
        f"largest {measured(largest)}; least of all {least:.3f}",
        decide(largest, high, least=False),
        place="appendix D",
    )
    study.figure("pi", {"largest": largest, "least": least})


def claim_digits(study: Study, digits: Digits, results: Results) -> None:
    """1-bit Adam beside AMSGrad, and EF21 two-way, on the mnist CNN."""
    at = {name: [percent(r) for r in found] for name, found in results.items()}
    place = "7.2 (on MNIST)"

    behind = differences(at["onebit-1e-4"], at["amsgrad"])
    study.claim(
        "1-bit Adam with eps 1e-4 keeps the accuracy of AMSGrad",
        "at most 0.5 points below",
        measured(behind, _POINTS),
        decide(behind, -0.5, least=True),
        place=place,
        expected=Verdict.HELD,
    )
    # Natural logarithms: above 0 is a loss below that of a uniform guess, infinite a divergence.
    guess = math.log(10)
    falls: list[Value] = [guess - last_loss(r) for r in results["onebit-1e-8"]]
    study.claim(
        "1-bit Adam with eps 1e-8 does not diverge where v is frozen at 0",
        "test loss at the end below that of a uniform guess, in every run",
        measured(falls, "{:.3f} below it".format),
        all_of(decide([fall], 0.0, least=True, deterministic=True) for fall in falls),
        place=place,
        expected=Verdict.HELD,
    )
    study.claim(
        f"EF21 two-way with K = 0.016d and a compressed start learns, step {digits.ef21_lr:g}",
        "at least 92 % after two epochs, in every run",
        measured(at["ef21"], "{:.2f} %".format),
        all_of(decide([v or 0.0], 92.0, least=True, deterministic=True) for v in at["ef21"]),
        place=place,
        expected=Verdict.HELD,
    )
