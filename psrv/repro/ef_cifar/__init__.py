"""dist-EF paper, section 4.1: accuracy of the methods, and delta of blocks and of whole vectors.

    setting.py   methods, settings, the paper's numbers
    runs.py      tune: step sizes, short runs on another seed
                 compare: all six methods at the batch sizes; dist-EF with SGD's (SGDM's) step
                 contraction: dist-EF-SGDM with blocks and without, for Figure 1
                 launch: the chosen runs again, as processes over sockets
    report.py    figures and tables    claims.py    verdicts

All but the last run in the simulation; those show that its parameters are the processes'.
"""

from __future__ import annotations

from psrv.repro.ef_cifar.claims import claim_accuracy, claim_contraction, claim_sockets
from psrv.repro.ef_cifar.report import show_accuracy, show_contraction
from psrv.repro.ef_cifar.runs import (
    compare,
    contraction_runs,
    contraction_step,
    launch,
    tune,
)
from psrv.repro.ef_cifar.setting import FULL, METHODS, QUICK, Setting
from psrv.repro.experiment import Experiment
from psrv.repro.study import Study


def run(study: Study) -> None:
    """The whole experiment."""
    study_setting(study, FULL if study.full else QUICK)


def study_setting(study: Study, setting: Setting) -> None:
    """The experiment in a given setting."""
    study.stage("step sizes of SGD, SGDM, signSGD and signum")
    steps = tune(study, setting)
    study.stage("six methods, and other batch sizes")
    runs = compare(study, setting, steps)
    study.stage("delta of blocks and of the whole vector")
    contraction = contraction_runs(study, setting, steps)
    study.stage("chosen runs as processes over sockets")
    launched = launch(study, setting, steps, runs)
    show_accuracy(study, setting, runs)
    show_contraction(study, setting, contraction, contraction_step(setting, steps))
    claim_accuracy(study, setting, runs)
    claim_sockets(study, setting, launched)
    claim_contraction(study, contraction)
    _differs(study, setting)


def _differs(study: Study, setting: Setting) -> None:
    study.note(
        "CIFAR-10 (its JPEG form) in the place of CIFAR-100"
        if study.full
        else "MNIST and a CNN of 1.2 million parameters in the place of CIFAR-100 and ResNet-20; "
        "delta on ResNet-8 and a part of CIFAR-10"
    )
    study.note(
        "Step sizes are tuned by the test accuracy of short runs on another seed, at one batch "
        "size; the paper holds 5,000 training images out, and tunes at each batch size."
    )
    rounds = ", ".join(f"{t} at batch {b}" for b, t in sorted(setting.rounds.items()))
    study.note(f"Rounds: {rounds}; the paper trains 200 epochs. The step falls at the same shares.")
    again = " and ".join(METHODS[method] for method in setting.over_sockets)
    study.note(
        f"The accuracies are of simulated runs; {again} (batch {setting.main}, seed "
        f"{study.seeds[0]}) ran again as processes over sockets."
    )
    study.note(
        "signSGD and signum send a fair random sign for exact zeros and tied votes (8 workers can "
        "tie); with + for them they lose points that are not the method's."
    )


EXPERIMENT = Experiment(
    name="ef-cifar",
    paper="Zheng, Huang and Kwok 2019 (dist-EF-blockSGDM)",
    place="4.1, Figures 1 and 2, Tables 1 and 2",
    question="Is dist-EF-blockSGD(M) as accurate as SGD(M), and do blocks keep more of a vector?",
    quick="the mnist CNN, 8 workers, 180 rounds, batch 32 (3 seeds of SGDM and its dist-EF; 2 of "
    "the others) and 8; one run again over sockets; delta on ResNet-8 and 4,096 images of CIFAR-10",
    full="ResNet-20 on CIFAR-10 (the paper: CIFAR-100), 8 workers, batch 8, 16 and 32, 10 epochs "
    "(the paper: 200), 3 seeds (the paper: 5); days on 2 cores, cell by cell",
    needs=("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
           "t10k-labels-idx1-ubyte", "cifar10-jpeg|cifar-10-binary|cifar-10-batches-bin"),
    run=run,
    quick_seeds=3,
    full_seeds=3,
)  # fmt: skip
