"""``hessian-variance``: how small L+- is beside L+, on a regression and along MARINA on MNIST.

regression.py     ``mg`` split in two (A.8.1)
autoencoder.py    the adaptive ratio on MNIST (A.8.2, Table 5)

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), A.8 and Table 5.
"""

from __future__ import annotations

from psrv.repro.experiment import Experiment
from psrv.repro.hessian_variance.autoencoder import autoencoder as along_marina
from psrv.repro.hessian_variance.regression import regression as on_mg
from psrv.repro.study import Study


def run(study: Study) -> None:
    """Both parts."""
    on_mg(study)
    along_marina(study)


EXPERIMENT = Experiment(
    name="hessian-variance",
    paper="Szlendak, Tyurin and Richtarik 2022 (permutation compressors)",
    place="A.8, Table 5",
    question="How small is the Hessian variance L+- beside L+, on which perm-k's gain rests?",
    quick="mg split in two in 2,000 random ways; the autoencoder on MNIST with n = 1,000 workers, "
    "300 rounds, best of at least 3 step sizes, more where the best is an end of the grid.",
    full="mg split in 20,000 random ways; the autoencoder on MNIST with n = 1,000 workers, 900 "
    "rounds as in Table 5, best of at least 5 step sizes. The paper's step sizes, start and "
    "split are not known.",
    needs=("mg", "train-images-idx3-ubyte"),
    run=run,
    quick_seeds=3,
    full_seeds=5,
)
