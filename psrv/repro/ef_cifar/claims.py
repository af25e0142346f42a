"""The claims of section 4.1, as pure functions of the cells' results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psrv.repro.agreement import Agreement
from psrv.repro.ef_cifar.setting import METHODS, Setting
from psrv.repro.learning import Result, differences, percent
from psrv.repro.study import Study
from psrv.repro.verdict import Value, Verdict, decide, measured, ratios


def claim_accuracy(
    study: Study, setting: Setting, runs: Mapping[tuple[str, int], list[Result]]
) -> None:
    """Figure 2 and Table 1."""
    at = {
        m: [percent(r) for r in runs[m, setting.main]] for m in METHODS if (m, setting.main) in runs
    }
    points = "{:+.2f} points".format  # infinite where one of the two diverged

    def ahead(a: str, b: str) -> list[Value]:
        return differences(at[a], at[b])

    def claim(sentence: str, needs: str, values: list[Value], bound: float, **more: Any) -> None:
        study.claim(
            sentence, needs, measured(values, points), decide(values, bound, least=True),
            place="4.1, Figure 2", **more,
        )  # fmt: skip

    batch = setting.main
    claim(
        f"dist-EF-blockSGDM is as accurate as SGDM (batch {batch})",
        "at most 0.5 points below, mean of the seeds",
        ahead("dist-ef-sgdm", "sgdm"), -0.5, expected=Verdict.HELD,
    )  # fmt: skip
    claim(
        f"dist-EF-blockSGD is as accurate as SGD (batch {batch})",
        "at most 0.5 points below", ahead("dist-ef-sgd", "sgd"), -0.5,
    )  # fmt: skip
    claim(
        f"dist-EF-blockSGD is slightly better than SGD (batch {batch})",
        "above SGD", ahead("dist-ef-sgd", "sgd"), 0.0,
    )  # fmt: skip
    claim(
        f"signSGD performs poorly (batch {batch})",
        "SGD ahead by at least 2 points", ahead("sgd", "signsgd"), 2.0,
    )  # fmt: skip
    claim(
        f"signum is far below SGDM (batch {batch})",
        "SGDM ahead by at least 2 points", ahead("sgdm", "signum"), 2.0,
    )  # fmt: skip
    claim(
        f"momentum improves signSGD (batch {batch})",
        "signum above signSGD", ahead("signum", "signsgd"), 0.0,
    )  # fmt: skip
    _claim_batches(study, setting, runs)
    less = ratios(
        [sum(r["bytes"]) for r in runs["sgdm", batch]],
        [sum(r["bytes"]) for r in runs["dist-ef-sgdm", batch]],
    )
    study.claim(
        "dist-EF-blockSGDM sends nearly 32 times less than SGDM",
        "at least 31 times",
        measured(less, "{:.2f} times".format, ratio=True),
        decide(less, 31.0, least=True, deterministic=True, ratio=True),
        place="3.2, Table 1",
        expected=Verdict.HELD,
    )


def claim_sockets(study: Study, setting: Setting, found: Mapping[str, Agreement | None]) -> None:
    """The chosen runs as processes give what the simulation gives."""
    for method, agreement in found.items():
        study.claim(
            f"{METHODS[method]} over sockets, drops of the step included, is the simulated run "
            f"(batch {setting.main}, seed {study.seeds[0]})",
            "the same parameters to the bit, test loss and payload bytes",
            "the simulated run diverged" if agreement is None else agreement.words(),
            Verdict.UNDECIDED if agreement is None else agreement.verdict,
            place="psrv's own",
            expected=Verdict.HELD,
        )


def _claim_batches(
    study: Study, setting: Setting, runs: Mapping[tuple[str, int], list[Result]]
) -> None:
    """signSGD's gap to SGDM grows with smaller batches, dist-EF's does not."""
    small, large = min(setting.rounds), max(setting.rounds)

    def gap(method: str, batch: int) -> list[Value]:
        return differences(*([percent(r) for r in runs[m, batch]] for m in ("sgdm", method)))

    if small == large:
        return
    for method, words, bound, least in (
        ("signsgd", "signSGD degrades with smaller batches", 0.0, True),
        ("dist-ef-sgdm", "dist-EF-blockSGDM is robust to the batch size", 0.5, False),
    ):
        grown = differences(gap(method, small), gap(method, large))
        study.claim(
            words,
            f"its gap to SGDM at batch {small} less that at {large} "
            + ("above 0" if least else f"at most {bound:g} points"),
            measured(grown, "{:+.2f} points".format),
            decide(grown, bound, least=least),
            place="4.1, Figure 2",
        )


def claim_contraction(study: Study, contraction: Mapping[str, list[Result]]) -> None:
    """Figure 1."""
    blocked = [r["contraction"] for r in contraction["tensor"]]
    whole_runs = [r["contraction"] for r in contraction["global"]]

    def worst(of: str, rule: str, parts: list[Any], whole: list[Any]) -> list[Value]:
        """The least ratio over epochs, by seed; as many as ``whole`` has."""
        return [
            min(a / b for a, b in zip(p[of][rule], w[of]["global"], strict=True))
            for p, w in zip(parts, whole, strict=False)
        ]

    for rule, name, expected in (
        ("tensor", "tensors as blocks", Verdict.HELD),
        ("32768", "blocks of 32,768 (psrv's default)", None),
    ):
        same = worst("phi", rule, blocked, blocked)
        own = worst("phi", rule, blocked, whole_runs)
        study.claim(
            f"delta of {name} is above that of the whole vector",
            "least phi over least delta of the same p_t above 1 in every part of the run",
            measured(same, "{:.3g} times".format, ratio=True),
            decide(same, 1.0, least=True, ratio=True),
            place="3.2, Figure 1(b)",
            expected=expected,
        )
        study.figure(f"delta ratio on each version's own run, {rule}", own)
    kept_more = worst("kept", "tensor", blocked, blocked)
    study.claim(
        "blocks keep more of p_t than one scale does",
        "1 - ||C(p)-p||²/||p||² with tensors as blocks over without, above 1 in every part",
        measured(kept_more, "{:.3g} times".format, ratio=True),
        decide(kept_more, 1.0, least=True, ratio=True),
        place="3.2",
        expected=Verdict.HELD,
    )
    variation = [max(p["variation"]["tensor"]) for p in blocked]
    study.claim(
        "absolute gradients in a block concentrate around their mean",
        "mean coefficient of variation below 1 in every part of the run",
        measured(variation),
        decide(variation, 1.0, least=False),
        place="3.2, Figure 1(a)",
    )
