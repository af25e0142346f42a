"""dist-EF paper, section 4.2: accuracy against wall-clock time, and where a round's time goes.

Workers and server are processes that talk through sockets. The link is the machine's own
loopback for now: ``Link`` is where a shaped one goes, and everything below takes one. What a
slower link would add is computed from the measured bytes, and said to be computed.

The communication part of a round is encode, uplink, server, downlink and decode, as the
paper counts it (its footnote 4: with the work of compression and error feedback). Waiting
for the slowest worker is shown apart: with more workers than cores it is waiting for
a turn to compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psrv.measure.meter import PARTS
from psrv.measure.records import read_records, worker_file
from psrv.repro.experiment import Experiment
from psrv.repro.learning import tuned
from psrv.repro.runs import RunFiles
from psrv.repro.study import Study
from psrv.repro.verdict import Value, Verdict, center, decide, measured, ratios

METHODS = {"sgdm": "SGDM", "dist-ef-sgdm": "dist-EF-blockSGDM", "signum": "signum"}
COMMUNICATION = ("encode", "uplink", "server", "downlink", "decode")
COMPUTATION = ("data", "compute", "update")
WEIGHT_DECAY = 1e-4
"""The paper's (Appendix A.2)."""

SLICES = 4
"""A run is cut into as many parts; each gives one value of a round's communication."""

TUNING_SEED = 1000
GBIT = 1e9


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
        steps: method -> step size; those missing are taken from the tuned ones.
    """

    name: str
    task: str
    workers: int
    batch: int
    rounds: int
    evaluations: int
    methods: tuple[str, ...]
    steps: Mapping[str, float]


@dataclass(frozen=True)
class Setting:
    """Cases, and the short runs in simulation that choose the step sizes of the first."""

    cases: tuple[Case, ...]
    tune_rounds: int
    grids: Mapping[str, tuple[float, ...]]


_RESNET_STEPS = {"sgdm": 0.05, "dist-ef-sgdm": 0.05, "signum": 5e-4}
QUICK = Setting(
    cases=(
        Case("mnist-7", "mnist", 7, 32, 120, 8, tuple(METHODS), {}),
        Case("mnist-15", "mnist", 15, 32, 60, 5, ("sgdm", "dist-ef-sgdm"), {}),
        Case(
            "resnet8-7",
            "cifar10:model=resnet8,train=4096,test=1000",
            7, 16, 60, 4, ("sgdm", "dist-ef-sgdm"), _RESNET_STEPS,
        ),
    ),
    tune_rounds=40,
    grids={"sgdm": (0.02, 0.05), "dist-ef-sgdm": (0.02, 0.05), "signum": (5e-4, 1e-3)},
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
    grids={
        "sgdm": (0.01, 0.02, 0.05, 0.1),
        "dist-ef-sgdm": (0.01, 0.02, 0.05, 0.1),
        "signum": (1e-4, 2e-4, 5e-4, 1e-3),
    },
)  # fmt: skip

Runs = dict[str, list[RunFiles]]
"""Method -> its runs over the seeds."""


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
    _differs(study, link)


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
        for method in setting.grids
    }
    steps, results = tuned(study, setting.grids, common)
    study.table(
        f"Step sizes ({case.task}, {case.workers} workers)",
        ["method", "tried: accuracy of a short run in simulation", "taken"],
        [
            [
                METHODS[method],
                ", ".join(
                    f"{lr:g}: {100 * (r['accuracy'] or [0])[-1]:.1f} %"
                    for lr, r in results[method].items()
                ),
                f"{steps[method]:g}",
            ]
            for method in setting.grids
        ],
        note=f"{setting.tune_rounds} rounds, seed {TUNING_SEED}; also used with more workers",
    )
    return steps


def _launch(study: Study, case: Case, steps: Mapping[str, float], link: Link) -> Runs:
    runs: Runs = {}
    for seed in study.seeds:
        for method in case.methods:
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
    return runs


def communication(found: RunFiles, rounds: int, slices: int = SLICES) -> list[float]:
    """Seconds of communication in a round, mean over workers, in each part of the run.

    Args:
        found: its workers' files are read.
        rounds: of the run.

    Returns:
        ``slices`` values, in the order of the run.
    """
    sums, counts = [0.0] * slices, [0] * slices
    for rank in range(int(found.summary["workers"])):
        for record in read_records(found.folder / worker_file(rank)):
            if record.get("type") == "round":
                part = min(int(record["round"]) * slices // rounds, slices - 1)
                sums[part] += sum(record["parts"][name] for name in COMMUNICATION)
                counts[part] += 1
    return [s / c for s, c in zip(sums, counts, strict=True) if c]


def seconds_to(evaluations: Sequence[Mapping[str, Any]], accuracy: float) -> Value:
    """Training time at the first evaluation with at least that accuracy; None if there is none."""
    return next((e["seconds"] for e in evaluations if e["accuracy"] >= accuracy), None)


def common_accuracy(runs: Sequence[RunFiles]) -> float:
    """The highest accuracy that all of these runs reached at some evaluation."""
    return float(min(max(e["accuracy"] for e in found.evaluations) for found in runs))


def show(study: Study, case: Case, runs: Runs, link: Link) -> None:
    """Figure 3 for one case: accuracy against rounds and time, the bars, and a table."""
    title = f"{case.task.partition(',')[0]}, {case.workers} workers"
    group = f"Figure 3: {title}"
    by_round = study.panel(f"{title}: by round", "round", "test accuracy, %", group=group)
    by_time = study.panel(f"{title}: by time", "training time, s", "test accuracy, %", group=group)
    bars = study.panel(f"{title}: a round's time", "", "seconds", group=group)
    rows = []
    for method, found in runs.items():
        first = found[0].evaluations
        accuracy = [100 * e["accuracy"] for e in first]
        by_round.curve(METHODS[method], [e["round"] for e in first], accuracy)
        by_time.curve(METHODS[method], [e["seconds"] for e in first], accuracy)
        parts = found[0].summary["breakdown_seconds"]
        study.figure(f"{case.name}, {method}: breakdown_seconds", parts)
        groups = {
            "compute": sum(parts[p] for p in COMPUTATION),
            "communication": sum(parts[p] for p in COMMUNICATION),
            "waiting": parts["straggler"],
            "other": parts["other"],
        }
        bars.bars(list(groups), list(groups.values()), label=METHODS[method])
        sent = found[0].summary["bytes_per_worker_round"]
        at_server = case.workers * 8 * (sent["payload_up"] + sent["payload_down"])
        rows.append(
            [
                METHODS[method],
                found[0].summary["step_seconds"]["mean"],
                *groups.values(),
                sent["payload_up"],
                sent["payload_down"],
                at_server / GBIT,
                f"{accuracy[-1]:.2f} %",
            ]
        )
    study.table(
        f"A round of {title}",
        ["method", "round, s", "compute, s", "communication, s", "waiting for workers, s",
         "other, s", "bytes up", "bytes down", "at 1 Gbit/s the server's link needs, s (computed)",
         "accuracy at the end"],
        rows,
        note=f"over {link.words}; means over workers and rounds; communication is "
        + ", ".join(COMMUNICATION),
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
        measured(less, "{:.2f} times".format, ratio=True),
        decide(less, 31.0, least=True, deterministic=True, ratio=True),
        place="3.2, Table 1",
        expected=Verdict.HELD,
    )
    of_dense, of_compressed = (
        [seconds for r in found for seconds in communication(r, case.rounds)]
        for found in (dense, compressed)
    )
    share = ratios(of_compressed, of_dense)
    mean_dense, mean_compressed = (1e3 * (center(v) or 0.0) for v in (of_dense, of_compressed))
    study.claim(
        f"communication takes less of a round than with SGDM ({where})",
        "ratio below 1 over the quarters of the run",
        f"{center(share, ratio=True) or 0:.2f} times: {mean_compressed:.1f} against "
        f"{mean_dense:.1f} ms",
        decide(share, 1.0, least=False, ratio=True),
        place="4.2, Figure 3(c) and (f)",
    )
    times = []
    for a, b in zip(dense, compressed, strict=True):
        target = common_accuracy([a, b])
        times += ratios([seconds_to(b.evaluations, target)], [seconds_to(a.evaluations, target)])
    study.claim(
        f"dist-EF-blockSGDM gets to the same accuracy sooner ({where})",
        "time to the highest accuracy that both reach, over SGDM's: below 1 (the paper: 0.54 "
        "with 7 workers)",
        measured(times, "{:.2f} times".format, ratio=True),
        decide(times, 1.0, least=False, ratio=True),
        place="4.2, Figure 3(b) and (e)",
    )


def _differs(study: Study, link: Link) -> None:
    study.note(f"All processes are on one machine and talk through {link.words}.")
    study.note(
        "With more workers than cores, workers take turns to compute: compute is then the time of "
        "several, and messages wait for a core. What a link of 1 Gbit/s would add is computed."
    )
    study.note("A constant step size: runs over sockets take no schedule yet.")
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
    quick="7 and 15 workers on the mnist CNN, 7 on ResNet-8: processes over sockets, loopback",
    full="7 and 15 workers on the mnist CNN and on ResNet-20 with CIFAR-10 (the paper: ResNet-50 "
    "on ImageNet, one GPU a worker): processes over sockets, loopback",
    needs=("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
           "t10k-labels-idx1-ubyte", "cifar10-jpeg|cifar-10-binary|cifar-10-batches-bin"),
    run=run,
    quick_seeds=1,
    full_seeds=3,
)  # fmt: skip
