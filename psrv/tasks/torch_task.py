"""Image classifiers in PyTorch: what ``digits`` and ``mnist`` share.

A subclass loads the images and builds the network; everything else is here. The
network's parameters *are* the flat vector: they point into it, so a step copies no
parameters. Gradients are copied once, into ``out``.

Equal bits everywhere: one thread, no global random state, and every array that the
math libraries see starts on a 64-byte boundary, since their kernels may sum in another
order from another boundary. An ``x`` that does not is copied first.
``torch.use_deterministic_algorithms`` would add nothing for these layers on a CPU, and
would slow a user's other code in the process; so it is left alone.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats, aligned
from psrv.layout import Layout, Tensor
from psrv.tasks.base import Setup, Task, require, share
from psrv.tasks.shards import Shards

_EVALUATED_AT_ONCE = 500


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        pixels: uint8, shape (N, height, width).
        labels: int64, shape (N,), from 0.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


class TorchTask(Task):
    """Minibatch gradients of the mean cross-entropy; evaluation on the test images.

    Attributes:
        mean, deviation: a pixel p enters the network as (p - mean) / deviation.
    """

    needs_torch = True
    default_batch = 32
    mean: float
    deviation: float

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        torch = self._torch = require("torch", "PyTorch", "torch", setup.spec)
        torch.set_num_threads(1)
        train, test = self.load(setup)
        self.batch_size = self.default_batch if setup.batch is None else setup.batch
        self.shards = Shards(
            train.labels.size, self.workers, self.batch_size, setup.seed, setup.spec
        )
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
        self._bound = -1

    @abstractmethod
    def load(self, setup: Setup) -> tuple[Images, Images]:
        """The training and the test images."""

    @abstractmethod
    def build(self, torch: Any) -> Any:
        """The network, a ``torch.nn.Module`` from (B, 1, height, width) to (B, classes)."""

    def bind(self, layout: Layout) -> None:
        super().bind(layout)
        self._flat = aligned(layout.dimension)
        self._bound = -1

    def initial(self) -> Floats:
        x = aligned(self.layout.dimension)
        for name, view in self.layout.views(x).items():
            view[...] = self._start[name]
        return x

    def batch(self, rank: int, round: int) -> object:
        pixels, labels = self._train
        rows = self._torch.from_numpy(self.shards.batch(rank, round))
        return self._prepared(pixels.index_select(0, rows)), labels.index_select(0, rows)

    def gradient(self, rank: int, x: Floats, round: int, batch: object, out: Floats) -> None:
        torch = self._torch
        images, labels = cast(tuple[Any, Any], batch)
        self._point_at(x)
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(self.model(images), labels)
            gradients = torch.autograd.grad(loss, self._parameters)
        views = self.layout.views(out)
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            np.copyto(views[tensor.name], gradient.numpy())

    def evaluate(self, rank: int, x: Floats) -> dict[str, float]:
        torch = self._torch
        self._point_at(x)
        pixels, labels = self._test
        part = share(self.samples["test"], self.workers, rank)
        loss, correct = 0.0, 0
        with torch.no_grad():
            for start in range(part.start, part.stop, _EVALUATED_AT_ONCE):
                rows = slice(start, min(start + _EVALUATED_AT_ONCE, part.stop))
                scores = self.model(self._prepared(pixels[rows]))
                entropy = torch.nn.functional.cross_entropy(scores, labels[rows], reduction="none")
                loss += float(entropy.sum(dtype=torch.float64))
                correct += int((scores.argmax(1) == labels[rows]).sum())
        count = float(part.stop - part.start)
        return {"loss_sum": loss, "count": count, "correct": float(correct), "total": count}

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"batch": self.batch_size, "samples": self.samples}

    def _tensors(self, images: Images) -> tuple[Any, Any]:
        torch = self._torch
        pixels = torch.from_numpy(np.array(images.pixels)).unsqueeze(1)
        return pixels, torch.from_numpy(np.array(images.labels, np.int64))

    def _prepared(self, pixels: Any) -> Any:
        """uint8 (B, 1, height, width) as float32 network input."""
        return pixels.to(self._torch.float32).sub_(self.mean).div_(self.deviation)

    def _point_at(self, x: Floats) -> None:
        """Make the network's parameters views of ``x``, or of an aligned copy of it."""
        address = x.ctypes.data
        if address % 64 or not x.flags.writeable:
            np.copyto(self._flat, x)
            x, address = self._flat, self._flat.ctypes.data
        if address == self._bound:
            return
        # The views keep x alive, so no other array can get its address meanwhile.
        views = self.layout.views(x)
        for tensor, parameter in zip(self.tensors, self._parameters, strict=True):
            parameter.data = self._torch.from_numpy(views[tensor.name])
        self._bound = address
