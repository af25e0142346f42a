"""Image classifiers in PyTorch: what ``digits``, ``mnist`` and ``cifar10`` share.

A subclass loads the images and builds the network; everything else is here, but for how
parameters and gradients reach the network and come back (``torch_device.py``).

On a CPU, equal bits everywhere: one thread, no global random state, and every array that
the math libraries see starts on a 64-byte boundary, since their kernels may sum in another
order from another boundary. An ``x`` that does not is copied first.
``torch.use_deterministic_algorithms`` would add nothing for these layers on a CPU, and
would slow a user's other code in the process; so it is left alone.

On a CUDA device (option ``device``), the network and the images live there; encoding and
the update of the parameters stay on the CPU, so all replicas still follow the same bits.
Gradients are the same bits whenever GPU model, driver, CUDA, cuDNN and PyTorch are the
same, as for all processes on one machine and for a simulation on it: the layers used sum
in a fixed order under ``repeatable`` (pooling windows that overlapped would not). Another
GPU, another version or a CPU rounds differently: a run is then as good, but not equal.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats, aligned
from psrv.layout import Layout, Tensor
from psrv.tasks.base import Option, Setup, Task, require, share
from psrv.tasks.shards import Shards
from psrv.tasks.spec import one_of
from psrv.tasks.torch_device import (
    DEVICES,
    OnDevice,
    OnHost,
    Parameters,
    choose_device,
    repeatable,
)

_EVALUATED_AT_ONCE = 500


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8, shape (N, height, width) or (N, channels, height, width).
        labels: int64, shape (N,), from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class TorchTask(Task):
    """Minibatch gradients of the mean cross-entropy; evaluation on the test images.

    Attributes:
        mean, deviation: a pixel p enters the network as (p - mean) / deviation.
        device: the ``torch.device`` of the network and the images.
    """

    options: ClassVar = {
        "device": Option(one_of(*DEVICES), "auto", "auto (CUDA where there is one), cpu or cuda"),
    }
    needs_torch = True
    default_batch = 32
    mean: float
    deviation: float

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        torch = self._torch = require("torch", "PyTorch", "torch", setup.spec)
        torch.set_num_threads(1)
        self.device = choose_device(torch, self.settings["device"], setup.spec)
        train, test = self.load(setup)
        self.batch_size = self.default_batch if setup.batch is None else setup.batch
        self.shards = Shards(
            train.labels.size, self.workers, self.batch_size, setup.seed, setup.spec
        )
        self.largest_batch = self.shards.smallest
        self._train = self._tensors(train)
        self._test = self._tensors(test)
        self.samples = {"train": train.labels.size, "test": test.labels.size}
        # Only the CPU's generator is seeded, and put back: a user's own stays as it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(setup.seed)
            self.model = self.build(torch)
        named = dict(self.model.named_parameters())
        self._parameters = tuple(named.values())
        self.tensors = tuple(Tensor(name, tuple(p.shape)) for name, p in named.items())
        self._start = {name: p.detach().numpy().copy() for name, p in named.items()}

    @abstractmethod
    def load(self, setup: Setup) -> tuple[Images, Images]:
        """The training and the test images."""

    @abstractmethod
    def build(self, torch: Any) -> Any:
        """The network, a ``torch.nn.Module`` from (B, channels, height, width) to (B, classes)."""

    def augmented(self, pixels: Any, rank: int, round: int) -> Any:
        """A training batch, uint8 (B, channels, height, width), as it enters the network:
        changed at random by rank, round and seed alone; here it stays as it is."""
        return pixels

    @contextmanager
    def evaluating(self, x: Floats) -> Iterator[None]:
        """While it is open, the network, which is at ``x``, computes as in evaluation."""
        yield

    def bind(self, layout: Layout) -> None:
        super().bind(layout)
        about = self._torch, layout, [t.name for t in self.tensors], self._parameters
        self._places: Parameters = (
            OnHost(*about) if self.device.type == "cpu" else OnDevice(*about, self.device)
        )

    def initial(self) -> Floats:
        x = aligned(self.layout.dimension)
        for name, view in self.layout.views(x).items():
            view[...] = self._start[name]
        return x

    def batch(self, rank: int, round: int, size: int | None = None) -> object:
        pixels, labels = self._train
        rows = self._torch.from_numpy(self.shards.batch(rank, round, size)).to(self.device)
        chosen = self.augmented(pixels.index_select(0, rows), rank, round)
        return self._prepared(chosen), labels.index_select(0, rows)

    def gradient(self, rank: int, x: Floats, round: int, batch: object, out: Floats) -> None:
        torch = self._torch
        images, labels = cast(tuple[Any, Any], batch)
        self._places.point_at(x)
        with torch.enable_grad(), repeatable(torch, self.device):
            loss = torch.nn.functional.cross_entropy(self.model(images), labels)
            gradients = torch.autograd.grad(loss, self._parameters)
        self._places.collect(gradients, out)

    def evaluate(self, rank: int, x: Floats) -> dict[str, float]:
        torch = self._torch
        self._places.point_at(x)
        pixels, labels = self._test
        part = share(self.samples["test"], self.workers, rank)
        loss, correct = 0.0, 0
        with torch.no_grad(), repeatable(torch, self.device), self.evaluating(x):
            for start in range(part.start, part.stop, _EVALUATED_AT_ONCE):
                rows = slice(start, min(start + _EVALUATED_AT_ONCE, part.stop))
                scores = self.model(self._prepared(pixels[rows]))
                entropy = torch.nn.functional.cross_entropy(scores, labels[rows], reduction="none")
                loss += float(entropy.sum(dtype=torch.float64))
                correct += int((scores.argmax(1) == labels[rows]).sum())
        count = float(part.stop - part.start)
        return {"loss_sum": loss, "count": count, "correct": float(correct), "total": count}

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "batch": self.batch_size,
            "samples": self.samples,
            "device": self.device.type,
        }

    def _tensors(self, images: Images) -> tuple[Any, Any]:
        torch = self._torch
        # Tensors cannot be read-only; what may be written (also a private mapping of a file,
        # whose pages processes share) is not copied.
        writable = np.require(images.pixels, requirements="W")
        pixels = torch.from_numpy(writable).to(self.device)
        labels = torch.from_numpy(np.array(images.labels, np.int64)).to(self.device)
        return (pixels.unsqueeze(1) if pixels.ndim == 3 else pixels), labels

    def _prepared(self, pixels: Any) -> Any:
        """uint8 (B, channels, height, width) as float32 network input."""
        return pixels.to(self._torch.float32).sub_(self.mean).div_(self.deviation)
