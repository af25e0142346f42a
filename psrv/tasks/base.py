"""What a task is: a model or function to minimise, its data, and who holds which part.

One object serves one process. A worker asks it for its own rank; the simulation asks
the same object for every rank, and both must get the same bits. So nothing here may
depend on the process, on global random state, or on what was asked before.

A *flat* vector is float32, shape (d,), in layout order (``psrv/layout.py``).

bind(layout)
    Called once, before anything below.
initial() -> flat
    x_0, a fresh array; the same in every process with the same seed.
batch(rank, round, size=None) -> object
    Selects and prepares what ``gradient`` needs; None where all data is used each
    round. Timed apart, as "data". Any round may be asked for, in any order. ``size``
    samples in place of the task's own number (MARINA's dense rounds, ``anchor_batch``);
    a task without minibatches refuses it. Asked again, the same rank, round and size
    give the same samples, with the same augmentation: two gradients at different points
    can be taken on one batch.
gradient(rank, x, round, batch, out)
    Writes the gradient at ``x`` of this rank's share into ``out``; never writes ``x``,
    and keeps no reference to ``out``. The mean over ranks is what training follows.
evaluate(rank, x) -> sums
    This rank's share of the evaluation: ``loss_sum`` and ``count``, and ``correct`` and
    ``total`` where there is an accuracy. Sums over ranks give the means.
full_gradient(rank, x, out) -> bool
    The gradient over all of the rank's data, whose mean over ranks is grad f; False,
    with ``out`` untouched, where the task does not offer it.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from psrv.codec.base import Floats
from psrv.errors import ConfigError
from psrv.layout import Layout, Tensor
from psrv.methods import Method, resolve

if TYPE_CHECKING:
    from psrv.theory import Smoothness

FAMILIES = ("sgd", "momentum", "sign", "adam")
"""Methods whose useful step sizes are of one size, by the shape of their update."""


@dataclass(frozen=True)
class Option:
    """One ``key=value`` of a task's spec.

    Attributes:
        read: turns the text after ``=`` into a value, or raises ``ValueError`` with what
            was expected.
        default: the value when the key is absent.
        help: one line for people; says the unit.
    """

    read: Callable[[str], Any]
    default: Any
    help: str


@dataclass(frozen=True)
class Setup:
    """What a task is made from; ``make_task`` has checked it.

    Attributes:
        spec: as the user wrote it, for example ``"libsvm:a9a"``.
        argument: the text after the colon, or None for a task that takes none.
        options: a value for every option that the task declares.
        workers: n, at least 1.
        seed: at least 0.
        data: folder with data files, or None.
        batch: samples a worker takes each round, or None for the task's own default.
    """

    spec: str
    argument: str | None
    options: Mapping[str, Any]
    workers: int
    seed: int
    data: Path | None
    batch: int | None


class Task(ABC):
    """Base class; the module's text says what each method promises.

    Attributes:
        summary: one line for ``--help``.
        argument: what follows the colon in a spec, for messages; None if nothing does.
        options: keys that the spec may set.
        needs_torch: PyTorch must be installed to make this task.
        default_rounds: rounds of a run that says nothing else.
        default_batch: samples per worker and round; None where all data is used.
        step_sizes: a step size for each of ``FAMILIES``.
        name: the spec that made this task.
        workers: n; the data is sharded over ranks 0 to n - 1.
        batch_size: samples of a batch; None where all data is used each round.
        largest_batch: the most samples that every rank can give in one batch.
        tensors: the parameters, in forward order.
    """

    summary: ClassVar[str]
    argument: ClassVar[str | None] = None
    options: ClassVar[Mapping[str, Option]] = {}
    needs_torch: ClassVar[bool] = False
    default_rounds: ClassVar[int]
    default_batch: ClassVar[int | None] = None
    step_sizes: ClassVar[Mapping[str, float]]

    tensors: tuple[Tensor, ...]
    batch_size: int | None = None
    largest_batch: int = 1

    def __init__(self, setup: Setup) -> None:
        if setup.batch is not None and self.default_batch is None:
            raise ConfigError(
                f"task {setup.spec} takes no batch size (got {setup.batch}): "
                "it has no minibatches; leave batch out"
            )
        self.name = setup.spec
        self.workers = setup.workers
        self.seed = setup.seed
        self.settings = dict(setup.options)

    @property
    def dimension(self) -> int:
        """d, the number of parameters."""
        return sum(t.size for t in self.tensors)

    def bind(self, layout: Layout) -> None:
        """Take the layout of the flat vectors; ``ConfigError`` if it is another model's."""
        if layout.tensors != tuple(reversed(self.tensors)):
            raise ConfigError(f"the layout was built for another model than task {self.name}")
        self.layout = layout

    @abstractmethod
    def initial(self) -> Floats:
        """x_0, a fresh float32 array of shape (d,)."""

    def batch(self, rank: int, round: int, size: int | None = None) -> object:
        """This rank's data for the round; None where ``gradient`` needs nothing.

        Args:
            size: samples, at most those of the smallest shard; None for the task's own.

        Raises:
            ConfigError: a size that no shard can fill, or any size where all data is used.
        """
        if size is not None:
            raise ConfigError(
                f"a batch of {size} samples was asked of task {self.name}, which has no "
                "minibatches: every gradient is over all data; leave the size out"
            )
        return None

    @abstractmethod
    def gradient(self, rank: int, x: Floats, round: int, batch: object, out: Floats) -> None:
        """Write this rank's gradient at ``x`` into ``out``."""

    @abstractmethod
    def evaluate(self, rank: int, x: Floats) -> dict[str, float]:
        """This rank's share of the evaluation at ``x``, as sums."""

    def full_gradient(self, rank: int, x: Floats, out: Floats) -> bool:
        """Write the gradient over all of the rank's data into ``out``; False if not offered."""
        return False

    def loss(self, x: Floats) -> float:
        """The evaluation's mean loss over all ranks; for one process that plays them all."""
        parts = [self.evaluate(rank, x) for rank in range(self.workers)]
        return sum(p["loss_sum"] for p in parts) / sum(p["count"] for p in parts)

    def smoothness(self) -> Smoothness:
        """The constants that ``lr="theory"`` needs; ``ConfigError`` where none are known."""
        raise ConfigError(
            f"lr is 'theory', but the smoothness of task {self.name} is not known; give a number"
        )

    def default_lr(self, method: Method | str) -> float:
        """A step size that trains this task with ``method``; ``ConfigError`` if unknown."""
        return self.step_sizes[family(resolve(method) if isinstance(method, str) else method)]

    def describe(self) -> dict[str, Any]:
        """Plain values for ``job.json``."""
        return {
            "name": self.name,
            "workers": self.workers,
            "seed": self.seed,
            "dimension": self.dimension,
            "options": dict(self.settings),
        }


def family(method: Method) -> str:
    """Which of ``FAMILIES`` a method belongs to.

    Where a plain downlink carries unscaled signs, every coordinate moves by the step size
    itself, so the step must be far smaller than elsewhere.
    """
    if method.rule in ("amsgrad", "onebit-adam"):
        return "adam"
    if method.down.compressor == "sign-unscaled":
        return "sign"
    return "sgd" if method.rule == "sgd" else "momentum"


def require(module: str, package: str, extra: str, task: str) -> ModuleType:
    """Import an optional dependency, or say in one line what to install.

    Args:
        module: the dotted name to import.
        package: its name on the package index, for the message.
        extra: psrv's extra that brings it.
        task: the spec of the task that needs it.

    Raises:
        ConfigError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"task {task} needs {package} ({error}); install it with: pip install 'psrv[{extra}]'"
        ) from error


def share(count: int, workers: int, rank: int) -> slice:
    """Part ``rank`` of ``count`` rows in order: contiguous, the first ``count % workers``
    parts one row longer than the others."""
    whole, rest = divmod(count, workers)
    start = rank * whole + min(rank, rest)
    return slice(start, start + whole + (rank < rest))


def zeros(dimension: int) -> Floats:
    """A float32 zero vector of shape (dimension,)."""
    return np.zeros(dimension, np.float32)
