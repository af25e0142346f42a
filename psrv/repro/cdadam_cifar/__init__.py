"""CD-Adam paper, section 7.2: CD-Adam, EF21, 1-bit Adam and AMSGrad on images.

setting.py   methods, settings, the paper's numbers
steps.py     the choice of step sizes    runs.py     the simulated runs, MNIST's too
sockets.py   processes over sockets: CD-Adam's run, and short ones that time an iteration
report.py    figures and tables          claims.py   verdicts
"""

from __future__ import annotations

from psrv.repro.cdadam_cifar.claims import claim_bits, claim_digits, claim_images, claim_sockets
from psrv.repro.cdadam_cifar.report import (
    show_ablation,
    show_digits,
    show_images,
    show_sockets,
    show_table_2,
)
from psrv.repro.cdadam_cifar.runs import ablate, compare, digit_runs, tune
from psrv.repro.cdadam_cifar.setting import FULL, QUICK, VARIANTS, Setting
from psrv.repro.cdadam_cifar.sockets import timed, whole
from psrv.repro.experiment import Experiment
from psrv.repro.study import Study


def run(study: Study) -> None:
    """The whole experiment."""
    study_setting(study, FULL if study.full else QUICK)


def study_setting(study: Study, setting: Setting) -> None:
    """The experiment in a given setting."""
    images, digits = setting.images, setting.digits
    study.stage("MNIST: 1-bit Adam and EF21 two-way")
    on_digits = digit_runs(study, digits)
    study.stage("CIFAR-10: step sizes")
    steps = tune(study, images)
    study.stage("CIFAR-10: the comparison")
    results = compare(study, images, steps)
    ablation = ablate(study, images, steps) if images.ablation else {}
    study.stage("CIFAR-10: processes over sockets")
    short = timed(study, images, steps)
    over_sockets = [*whole(study, images, steps, results), *short.values()]
    show_images(study, images, results)
    show_table_2(study, images, results, short)
    show_sockets(study, over_sockets)
    show_ablation(study, images, results, ablation)
    show_digits(study, digits, on_digits)
    claim_bits(study, results)
    claim_images(study, results, images.tested)
    claim_digits(study, digits, on_digits)
    claim_sockets(study, over_sockets)
    _differs(study, setting)


def _differs(study: Study, setting: Setting) -> None:
    images = setting.images
    study.note(
        f"{images.task}, {images.rounds} rounds; the paper trains ResNet-18, VGG-16 and "
        "WideResNet-16-4 for 100 epochs (4,800 rounds of 8 x 128 images). VGG-16 and WideResNet "
        "are not run. CIFAR-10 is its JPEG form."
    )
    study.note(
        f"Step sizes have the best accuracy after {images.tune_rounds} rounds on another seed, "
        f"not after {images.rounds}; the paper takes 1e-4 (Adam) and 0.1 (EF21) for its far longer "
        "runs. In all runs they fall to a tenth at half, and again at three quarters."
    )
    study.note(
        "Test loss in the place of training loss; the gradient norm is that of the minibatches' "
        "mean, of the first seed in the figures, at the bits that were sent before the round. pi "
        "is that of worker 0's vectors."
    )
    study.note(
        f"Accuracies are of the same {images.tested:,} test images in all runs. Their chance, two "
        "standard errors of a difference, has to be passed too for a claim to be held or not held."
    )
    study.note("Weight decay is added to the received vector; the paper's is 'normalized'.")
    eps = VARIANTS["onebit-adam"].options["eps"]
    study.note(f"1-bit Adam: eps {eps:g}, dense for 13 % of the rounds. The paper gives no eps.")
    whole = ", ".join(VARIANTS[name].label for name in images.whole)
    study.note(
        f"Over sockets go the run of {whole} with seed {study.seeds[0]}, whole, and "
        f"{images.timed_rounds} rounds of each method with {images.timed_workers} workers; the "
        "other curves are simulated."
    )
    study.note(
        "On loopback, with more workers than cores, time is mostly computing: Table 2's "
        "differences are in the columns of encode, server, decode and update."
    )


EXPERIMENT = Experiment(
    name="cdadam-cifar",
    paper="Wang, Lin and Chen 2022 (CD-Adam)",
    place="7.2, Figures 1, 3, 5 and 6, Table 2, appendix D; Figure 11 with --full",
    question="Does CD-Adam train networks as well as AMSGrad, 1-bit Adam and EF21 in fewer bits?",
    quick="ResNet-8 on 8,192 images of CIFAR-10 (1,000 to test), 8 workers, batch 16, 42 rounds; "
    "the mnist CNN with 4 workers for one epoch (EF21 two, 1-bit Adam with eps 1e-8 half)",
    full="ResNet-18 on CIFAR-10, 8 workers, batch 128, 10 epochs (the paper: 100), without VGG-16 "
    "and WideResNet, and CD-Adam with tensors as blocks beside; hours with a GPU, days on 2 cores, "
    "cell by cell",
    needs=("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
           "t10k-labels-idx1-ubyte", "cifar10-jpeg|cifar-10-binary|cifar-10-batches-bin"),
    run=run,
    quick_seeds=2,
    full_seeds=3,
)  # fmt: skip
