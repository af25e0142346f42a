"""CIFAR-10 with the residual networks of the papers' experiments.

The files are described in ``cifar_file.py``. They become one array of bytes, kept in the
user's cache folder and shared by all processes of a machine (``cache.py``): 154 MB of
training images and 31 MB of test images once, not per worker.

Augmentation (``augment=yes``), as in He et al. 2016, section 4.2: each training image is
padded by 4 black pixels on each side, a 32x32 part of that is taken, and half of the images
are mirrored. One word of Philox per image of the batch, keyed by (seed, round, rank) alone:
a batch asked for again, to take its gradient at another point, is the same to the bit, and
a larger batch of the same rank and round continues the same stream.

Evaluation of networks with normalisation: ``resnet.py`` says why there are no running
averages. The statistics are those of the first ``sample`` training images (all, if there
are fewer), not augmented, in batches of 100 (one, if fewer than 200), at the evaluated x.
Every process computes the same ones. They cost the forward pass of ``sample`` images per
evaluation and process; one process that plays several ranks computes them once for each x.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xxhash

from psrv.codec.base import Floats
from psrv.errors import ConfigError
from psrv.tasks.base import Option, Setup
from psrv.tasks.cache import cache_folder, cached
from psrv.tasks.cifar_file import CLASSES, SIDE, Source, find_source
from psrv.tasks.spec import one_of, read_count, read_switch
from psrv.tasks.torch_task import Images, TorchTask

MODELS = ("cnn", "resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet18")

_AUGMENT = 7
_PADDING = 4
_SAMPLE_BATCH = 100


class Cifar10(TorchTask):
    """CIFAR-10; ``model`` chooses the network, ResNet-20 if nothing is said."""

    summary = "CIFAR-10 from the data folder; ResNet-20 (270 thousand parameters) or another"
    options: ClassVar = TorchTask.options | {
        "model": Option(one_of(*MODELS), "resnet20", ", ".join(MODELS)),
        "train": Option(read_count, None, "training images to use, the first ones; all"),
        "test": Option(read_count, None, "test images to evaluate on, the first ones; all"),
        "sample": Option(read_count, 1000, "training images for normalisation in evaluation"),
        "augment": Option(read_switch, True, "yes or no: shift by up to 4 pixels and mirror"),
        "cache": Option(str, "auto", "decoded images: auto (user's cache folder), no, or a folder"),
    }
    default_rounds = 390
    step_sizes: ClassVar = {"sgd": 0.1, "momentum": 0.05, "sign": 1e-3, "adam": 1e-3}

    def load(self, setup: Setup) -> tuple[Images, Images]:
        source = find_source(setup.data, setup.spec)
        self._kept: dict[str, str] = {}
        return self._images(source, "train"), self._images(source, "test")

    def build(self, torch: Any) -> Any:
        # The training set's own, per channel, for pixels of 0 to 255.
        self._mean = torch.tensor([125.3, 123.0, 113.9], device=self.device).view(3, 1, 1)
        self._deviation = torch.tensor([63.0, 62.1, 66.7], device=self.device).view(3, 1, 1)
        self._found: tuple[bytes, Any] | None = None
        name = self.settings["model"]
        if name == "cnn":
            return _cnn(torch.nn)
        from psrv.tasks import resnet  # imports torch

        if name == "resnet18":
            return resnet.resnet18()
        return resnet.resnet(int(name.removeprefix("resnet")))

    def augmented(self, pixels: Any, rank: int, round: int) -> Any:
        if not self.settings["augment"]:
            return pixels
        torch = self._torch
        key = np.random.SeedSequence((_AUGMENT, self.seed, round, rank))
        words = np.random.Philox(key).random_raw(len(pixels))
        shifts = 2 * _PADDING + 1
        along = np.arange(SIDE, dtype=np.int64)
        down = (words >> np.uint64(32)) % np.uint64(shifts)
        right = (words >> np.uint64(1)) % np.uint64(1 << 31) % np.uint64(shifts)
        mirrored = (words & np.uint64(1)).astype(bool)[:, None]
        rows = down.astype(np.int64)[:, None] + along
        columns = right.astype(np.int64)[:, None] + np.where(mirrored, along[::-1], along)
        padded = torch.nn.functional.pad(pixels, (_PADDING,) * 4)
        images, rows, columns = (
            torch.from_numpy(index).to(self.device)
            for index in (np.arange(len(pixels)), rows, columns)
        )
        # The pixel's indices come first in the result, the channel last.
        taken = padded[images[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return taken.permute(0, 3, 1, 2)

    @contextmanager
    def evaluating(self, x: Floats) -> Iterator[None]:
        if self.settings["model"] == "cnn":
            yield
            return
        from psrv.tasks import resnet

        digest = xxhash.xxh3_128_digest(np.ascontiguousarray(x))
        if self._found is None or self._found[0] != digest:
            sample = self._train[0][: self.settings["sample"]]
            size = _SAMPLE_BATCH if len(sample) >= 2 * _SAMPLE_BATCH else len(sample)
            # Equal batches; what is left over is left out.
            batches = (
                self._prepared(sample[start : start + size])
                for start in range(0, len(sample) - size + 1, size)
            )
            self._found = digest, resnet.population_statistics(self.model, batches)
        with resnet.normalised_by(self.model, self._found[1]):
            yield

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"images": self._kept}

    def _prepared(self, pixels: Any) -> Any:
        # Channels last in memory: a fifth faster on a CPU.
        wide = pixels.to(self._torch.float32, memory_format=self._torch.channels_last)
        return wide.sub_(self._mean).div_(self._deviation)

    def _images(self, source: Source, split: str) -> Images:
        wanted, cache = self.settings[split], self.settings["cache"]
        if cache == "no":
            records, place = source.records(split, wanted), "memory"
        else:
            folder = cache_folder() if cache == "auto" else Path(cache)
            name = f"cifar10-{split}-{source.key(split)}"
            records, place = cached(folder, name, lambda: source.records(split))
        if wanted is not None:
            if wanted > len(records):
                raise ConfigError(
                    f"task {self.name}: {split} is {wanted}, but {source.path} holds "
                    f"{len(records)} {split} images"
                )
            records = records[:wanted]
        self._kept[split] = f"{source.path} in {place}"
        pixels = records[:, 1:].reshape(-1, 3, SIDE, SIDE)
        return Images(pixels, records[:, 0].astype(np.int64))


def _cnn(nn: Any) -> Any:
    """A small network without normalisation: 73,274 parameters, for quick looks."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.MaxPool2d(2),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.GELU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 48),
        nn.GELU(),
        nn.Linear(48, CLASSES),
    )
