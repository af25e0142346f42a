"""dist-EF paper, section 4.2: accuracy against wall-clock time, and where a round's time goes.

Workers and server are processes that talk through sockets. The link is the machine's own
loopback for now: ``Link`` is where a shaped one goes, and everything below takes one. What a
slower link would add is computed from the measured bytes, and said to be computed.

The communication part of a round is encode, uplink, server, downlink and decode, as the
paper counts it (its footnote 4: with the work of compression and error feedback). Waiting
for the slowest worker is shown apart: with more workers than cores it is waiting for
a turn to compute.

A seed is one run of each method, right after one another; which goes first changes from seed
to seed, since a machine may be slower at one time than at another. What differs between seeds
is thus the machine's timing and the order of the samples, together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from psrv.measure.meter import PARTS
from psrv.repro.experiment import Experiment
from psrv.repro.ladder import Ladder, Search, tuned
from psrv.repro.learning import in_percent
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import Value, Verdict, center, decide, measured, ratios

METHODS = {"sgdm": "SGDM", "dist-ef-sgdm": "dist-EF-blockSGDM", "signum": "signum"}
COMMUNICATION = ("encode", "uplink", "server", "downlink", "decode")
COMPUTATION = ("data", "compute", "update")
WEIGHT_DECAY = 1e-4
"""The paper's (Appendix A.2)."""

TUNING_SEED = 1000
GBIT = 1e9
_TIMES = "{:.2f} times".format


@dataclass(frozen=True)
class Link:
    """What the processes talk through.

    Attributes:
        name: in names of runs. words: for people.
    """

    name: str
    words: str


LOOPBACK = Link("loopback", "the loopback of one machine, no rate limit")


@dataclass(frozen=True)
class Case:
    """One task with one number of workers.

    Attributes:
        name, task, workers, batch, rounds, evaluations: of the runs.
        methods: in the order in which they are shown; the first two are compared.
        steps: method -> step size, not tuned; those missing are the tuned ones.
        most_seeds: of the study's, or all where that is None.
    """

    name: str
    task: str
    workers: int
    batch: int
    rounds: int
    evaluations: int
    methods: tuple[str, ...]
    steps: Mapping[str, float]
    most_seeds: int | None = None

    def order(self, seed: int) -> tuple[str, ...]:
        """In which the methods run: another one is first with every seed."""
        first = seed % len(self.methods)
        return self.methods[first:] + self.methods[:first]


@dataclass(frozen=True)
class Setting:
    """Cases, and the short runs in simulation that choose the step sizes, for the first case."""

    cases: tuple[Case, ...]
    tune_rounds: int
    ladders: Mapping[str, Ladder]


_RESNET_STEPS = {"sgdm": 0.05, "dist-ef-sgdm": 0.05, "signum": 5e-4}
"""The paper's for ResNet-20 at batch 16 (Table 2), where dist-EF takes SGDM's; not tuned."""

_PAIR = ("sgdm", "dist-ef-sgdm")
_STEPS = Ladder((0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5), 0.05)
_SIGN_STEPS = Ladder((1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2), 2e-3)
QUICK = Setting(
    cases=(
        Case("mnist-7", "mnist", 7, 32, 50, 5, _PAIR, {}),
        Case("mnist-15", "mnist", 15, 32, 20, 2, _PAIR, {}, most_seeds=1),
        Case(
            "resnet8-7",
            "cifar10:model=resnet8,train=4096,test=500",
            7, 16, 40, 2, _PAIR, _RESNET_STEPS, most_seeds=1,
        ),
    ),
    tune_rounds=40,
    ladders=dict.fromkeys(_PAIR, _STEPS),
)  # fmt: skip
FULL = Setting(
    cases=tuple(
        case
        for workers in (7, 15)
        for case in (
            Case(f"mnist-{workers}", "mnist", workers, 32, 1200, 20, tuple(METHODS), {}),
            Case(
                f"resnet20-{workers}", "cifar10:model=resnet20", workers, 128, 1000, 20,
                tuple(METHODS), _RESNET_STEPS,
            ),
        )
    ),
    tune_rounds=300,
    ladders={**dict.fromkeys(_PAIR, _STEPS), "signum": _SIGN_STEPS},
)  # fmt: skip

Runs = dict[str, list[RunFiles]]
"""Method -> its runs, by seed."""


def run(study: Study) -> None:
    """The whole experiment."""
    study_setting(study, FULL if study.full else QUICK)


def study_setting(study: Study, setting: Setting, link: Link = LOOPBACK) -> None:
    """The experiment in a given setting, over a given link."""
    study.stage("step sizes, in simulation")
    steps = _tune(study, setting)
    for case in setting.cases:
        study.stage(f"{case.name}: processes over sockets, {link.words}")
        runs = _launch(study, case, steps, link)
        show(study, case, runs, link)
        claims(study, case, runs)
    _differs(study, setting, link)


def _tune(study: Study, setting: Setting) -> dict[str, float]:
    case = setting.cases[0]
    common = {
        method: {
            "task": case.task,
            "method": method,
            "workers": case.workers,
            "rounds": setting.tune_rounds,
            "batch": case.batch,
            "seed": TUNING_SEED,
            "data": None if study.data is None else str(study.data),
            "evaluations": 0,
            "options": {"weight_decay": WEIGHT_DECAY},
        }
        for method in setting.ladders
    }
    searches = tuned(study, setting.ladders, common)
    _show_steps(study, setting, searches)
    return {method: search.best for method, search in searches.items()}


def _show_steps(study: Study, setting: Setting, searches: Mapping[str, Search]) -> None:
    tuned_for = setting.cases[0]
    rows = []
    for case in setting.cases:
        for method in case.methods:
            if method in case.steps:
                row = ["not tuned: the paper's for ResNet-20, batch 16", f"{case.steps[method]:g}"]
            elif case is tuned_for:
                row = [searches[method].tried(), searches[method].taken()]
            else:
                row = [f"as for {tuned_for.name}", f"{searches[method].best:g}"]
            rows.append([case.name, METHODS[method], *row])
    study.table(
        "Step sizes, constant over a run",
        ["task and workers", "method", "tried: accuracy of a short run in simulation", "taken"],
        rows,
        note=f"{setting.tune_rounds} rounds, seed {TUNING_SEED}; further steps while the best is "
        "the outermost that was tried",
    )


def _launch(study: Study, case: Case, steps: Mapping[str, float], link: Link) -> Runs:
    runs: Runs = {}
    for seed in study.seeds[: case.most_seeds]:
        for method in case.order(seed):
            found = study.launch(
                f"{link.name}-{case.name}-{method}-seed{seed}",
                task=case.task,
                method=method,
                workers=case.workers,
                rounds=case.rounds,
                batch=case.batch,
                lr=case.steps.get(method, steps.get(method)),
                blocks="tensor",
                weight_decay=WEIGHT_DECAY,
                seed=seed,
                eval_every=max(1, case.rounds // case.evaluations),
            )
            runs.setdefault(method, []).append(found)
    return {method: runs[method] for method in case.methods}


def communication(found: RunFiles) -> float:
    """Seconds of communication in a round, mean over workers and rounds."""
    return float(sum(found.summary["breakdown_seconds"][part] for part in COMMUNICATION))


def seconds_to(evaluations: Sequence[Mapping[str, Any]], accuracy: float) -> Value:
    """Training time at the first evaluation with at least that accuracy; None if there is none."""
    return next((e["seconds"] for e in evaluations if e["accuracy"] >= accuracy), None)


def common_accuracy(runs: Sequence[RunFiles]) -> float:
    """The highest accuracy that all of these runs reached at some evaluation."""
    return float(min(max(e["accuracy"] for e in found.evaluations) for found in runs))


def grouped(found: RunFiles) -> dict[str, float]:
    """The parts of a round as Figure 3 groups them, in seconds."""
    parts = found.summary["breakdown_seconds"]
    return {
        "compute": sum(parts[part] for part in COMPUTATION),
        "communication": communication(found),
        "waiting": parts["straggler"],
        "other": parts["other"],
    }


def show(study: Study, case: Case, runs: Runs, link: Link) -> None:
    """Figure 3 for one case: accuracy against rounds and time, the bars, and a table."""
    title = f"{case.task.partition(',')[0]}, {case.workers} workers"
    group = f"Figure 3: {title}"
    first_seed = f"seed {study.seeds[0]}"
    by_round = study.panel(
        f"{title}: by round ({first_seed})", "round", "test accuracy, %", group=group
    )
    by_time = study.panel(
        f"{title}: by time ({first_seed})", "training time, s", "test accuracy, %", group=group
    )
    count = len(next(iter(runs.values())))
    over = f"{count} seeds" if count > 1 else first_seed
    bars = study.panel(f"{title}: a round's time ({over})", "", "seconds", group=group)
    rows = []
    for method, found in runs.items():
        first = found[0].evaluations
        accuracy = [100 * e["accuracy"] for e in first]
        by_round.curve(METHODS[method], [e["round"] for e in first], accuracy)
        by_time.curve(METHODS[method], [e["seconds"] for e in first], accuracy)
        parts = [run.summary["breakdown_seconds"] for run in found]
        study.figure(f"{case.name}, {method}: breakdown_seconds by seed", parts)
        times = [grouped(run) for run in found]
        names = list(times[0])
        means, low, high = (
            [of(run[name] for run in times) for name in names] for of in (fmean, min, max)
        )
        bars.bars(names, means, label=METHODS[method], low=low, high=high)
        sent = found[0].summary["bytes_per_worker_round"]
        at_server = case.workers * 8 * (sent["payload_up"] + sent["payload_down"])
        rows.append(
            [
                METHODS[method],
                fmean(run.summary["step_seconds"]["mean"] for run in found),
                *means,
                sent["payload_up"],
                sent["payload_down"],
                at_server / GBIT,
                measured([100 * run.evaluations[-1]["accuracy"] for run in found], in_percent),
            ]
        )
    study.table(
        f"A round of {title}",
        ["method", "round, s", "compute, s", "communication, s", "waiting for workers, s",
         "other, s", "bytes up", "bytes down", "at 1 Gbit/s the server's link needs, s (computed)",
         "accuracy at the end"],
        rows,
        note=f"over {link.words}; means over workers and {case.rounds} rounds, of {count} "
        f"run{'s' * (count > 1)} a method (whiskers: their range); "
        f"communication is {', '.join(COMMUNICATION)}",
    )  # fmt: skip


def claims(study: Study, case: Case, runs: Runs) -> None:
    """Of Figure 3 and Table 1, for one case."""
    dense, compressed = (runs[method] for method in case.methods[:2])
    where = f"{case.name.partition('-')[0]}, {case.workers} workers"
    sent = [
        [sum(r.summary["bytes_per_worker_round"][f"payload_{way}"] for way in ("up", "down"))
         for r in found]
        for found in (dense, compressed)
    ]  # fmt: skip
    less = ratios(*sent)
    study.claim(
        f"dist-EF-blockSGDM sends nearly 32 times less ({where})",
        "at least 31 times fewer payload bytes a round",
        measured(less, _TIMES, ratio=True),
        decide(less, 31.0, least=True, deterministic=True, ratio=True),
        place="3.2, Table 1",
        expected=Verdict.HELD,
    )
    of_dense, of_compressed = ([communication(r) for r in found] for found in (dense, compressed))
    share = ratios(of_compressed, of_dense)
    mean_dense, mean_compressed = (1e3 * (center(v) or 0.0) for v in (of_dense, of_compressed))
    study.claim(
        f"a round's communication takes less time than SGDM's ({where})",
        "milliseconds over SGDM's in the run beside it: below 1",
        f"{measured(share, _TIMES, ratio=True)}; {mean_compressed:.1f} against {mean_dense:.1f} ms",
        decide(share, 1.0, least=False, ratio=True),
        place="4.2, Figure 3(c) and (f)",
    )
    times = []
    for a, b in zip(dense, compressed, strict=True):
        target = common_accuracy([a, b])
        times += ratios([seconds_to(b.evaluations, target)], [seconds_to(a.evaluations, target)])
    study.claim(
        f"dist-EF-blockSGDM gets to the same accuracy sooner ({where})",
        "time to the highest accuracy that both reach, over that of SGDM in the run beside it: "
        "below 1 (the paper: 0.54 with 7 workers)",
        measured(times, _TIMES, ratio=True),
        decide(times, 1.0, least=False, ratio=True),
        place="4.2, Figure 3(b) and (e)",
    )


def _differs(study: Study, setting: Setting, link: Link) -> None:
    study.note(
        "A seed is one run of each method, one right after the other, another method first with "
        "every seed. Seeds differ in the machine's timing and in the order of the samples."
    )
    single = [case.name for case in setting.cases if case.most_seeds == 1]
    if single:
        study.note(f"One seed only of {' and '.join(single)}: times are then undecided.")
    if all("signum" not in case.methods for case in setting.cases):
        study.note("signum, which the paper's figure shows too, is part of the full setting only.")
    study.note(f"All processes are on one machine and talk through {link.words}.")
    study.note(
        "With more workers than cores, workers take turns to compute: compute is then the time of "
        "several, and messages wait for a core. What a link of 1 Gbit/s would add is computed."
    )
    study.note(
        "A constant step size: these runs are a few epochs at most, too short for the paper's "
        "schedule (--lr-drops has one). Times are compared at the accuracies of constant steps."
    )
    study.note(
        "The paper's SGDM uses an allreduce, its signum and dist-EF a parameter server; here all "
        "three use the parameter server. Small networks in the place of ResNet-50 on ImageNet."
    )
    study.note(f"Parts of a round: {', '.join(PARTS)}; docs/operations.md says what each is.")


EXPERIMENT = Experiment(
    name="ef-wallclock",
    paper="Zheng, Huang and Kwok 2019 (dist-EF-blockSGDM)",
    place="4.2, Figure 3",
    question="Does dist-EF-blockSGDM get to SGDM's accuracy in less time, and where does it go?",
    quick="7 workers on the mnist CNN (3 runs a method), 15 on it and 7 on ResNet-8 (1 run each), "
    "SGDM and dist-EF: processes over sockets, loopback",
    full="7 and 15 workers on the mnist CNN and on ResNet-20 with CIFAR-10 (the paper: ResNet-50 "
    "on ImageNet, one GPU a worker): processes over sockets, loopback",
    needs=("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
           "t10k-labels-idx1-ubyte", "cifar10-jpeg|cifar-10-binary|cifar-10-batches-bin"),
    run=run,
    quick_seeds=3,
    full_seeds=3,
)  # fmt: skip
