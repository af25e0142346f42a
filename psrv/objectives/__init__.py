"""The papers' problems as objectives for ``psrv.simulate``: thousands of workers, one process.

quadratics.py    Algorithm 2 of the permutation paper (sections 5.1, A.2)
autoencoder.py   the linear autoencoder on MNIST of the same paper (5.2, A.5)
of_task.py       any built-in task with one tensor, such as CD-Adam's regression (7.1)
"""

from psrv.objectives.autoencoder import Autoencoder
from psrv.objectives.of_task import TaskObjective
from psrv.objectives.quadratics import Quadratics

__all__ = ["Autoencoder", "Quadratics", "TaskObjective"]
