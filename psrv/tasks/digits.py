"""Handwritten digits, 8x8 pixels, that come with scikit-learn; a CNN of 38 thousand parameters.

1,797 real images of 10 classes (UCI's test set of optical digits). One in five is for
testing: 360 images, each class in proportion; the split is the same for every seed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from psrv.tasks.base import Setup, require
from psrv.tasks.shards import permutation
from psrv.tasks.torch_task import Images, TorchTask

_SPLIT = 6
_EVERY = 5


class Digits(TorchTask):
    """scikit-learn's digits; 1,437 images to train on and 360 to test on."""

    summary = "scikit-learn's 8x8 handwritten digits; a small CNN"
    default_rounds = 300
    step_sizes: ClassVar = {"sgd": 0.1, "momentum": 0.02, "sign": 1e-3, "adam": 2e-3}
    mean = 5.0
    deviation = 6.0

    def load(self, setup: Setup) -> tuple[Images, Images]:
        datasets = require("sklearn.datasets", "scikit-learn", "learn", setup.spec)
        digits = datasets.load_digits()
        pixels = digits.images.astype(np.uint8)
        labels = digits.target.astype(np.int64)
        # Shuffled, then sorted by class: every fifth then takes a fifth of each class.
        order = permutation(labels.size, _SPLIT)
        order = order[np.argsort(labels[order], kind="stable")]
        chosen = np.zeros(labels.size, bool)
        chosen[order[::_EVERY]] = True
        return Images(pixels[~chosen], labels[~chosen]), Images(pixels[chosen], labels[chosen])

    def build(self, torch: Any) -> Any:
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
