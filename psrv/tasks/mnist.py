"""MNIST, and data sets of the same form: four IDX files under the data folder.

    train-images-idx3-ubyte   train-labels-idx1-ubyte
    t10k-images-idx3-ubyte    t10k-labels-idx1-ubyte      each plain or with .gz

An IDX file is a big-endian header - two zero bytes, the type (8 for uint8), the number
of axes, then each axis as uint32 - and then the values, nothing after them. Any number
of 28x28 images is taken, so Fashion-MNIST or a small extract work as well.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from psrv.errors import DataError
from psrv.tasks.base import Setup
from psrv.tasks.files import find_file, read_all
from psrv.tasks.torch_task import Images, TorchTask

SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"

_SIDE = 28
_CLASSES = 10


class Mnist(TorchTask):
    """MNIST with a CNN of 1,195,934 parameters, without dropout."""

    summary = "MNIST from IDX files in the data folder; a CNN of 1.2 million parameters"
    default_rounds = 936
    step_sizes: ClassVar = {"sgd": 0.1, "momentum": 0.02, "sign": 1e-4, "adam": 1e-3}
    # The training set's own, for pixels of 0 to 255.
    mean = 33.33
    deviation = 78.57

    def load(self, setup: Setup) -> tuple[Images, Images]:
        train = _read_pair(setup, "train-images-idx3-ubyte", "train-labels-idx1-ubyte")
        return train, _read_pair(setup, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

    def build(self, torch: Any) -> Any:
        # Few channels and a wide hidden layer: 1.2 million parameters at a third of the
        # time of the usual 32 and 64 channels with 128 units, and no worse after 2 epochs.
        # GELU, since ReLU leaves many gradients at or near zero: one scale for a tensor
        # fits those badly, and compressed methods then learn more slowly.
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2),
            nn.MaxPool2d(2),
            nn.GELU(),
            nn.Conv2d(8, 16, 5, padding=2),
            nn.MaxPool2d(2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(16 * 7 * 7, 1500),
            nn.GELU(),
            nn.Linear(1500, _CLASSES),
        )


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes with the given number of axes.

    Raises:
        DataError: unreadable, another type or number of axes, or a length that
            differs from what the header says.
    """
    content = read_all(path)
    header = 4 + 4 * axes
    expected = bytes((0, 0, 8, axes))
    if len(content) < header or content[:4] != expected:
        raise DataError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'} and has {len(content)} bytes; "
            f"expected {expected.hex(' ')}, an IDX file of unsigned bytes with {axes} axes"
        )
    shape = struct.unpack(f">{axes}I", content[4:header])
    size = int(np.prod(shape, dtype=object))
    if len(content) - header != size:
        raise DataError(
            f"{path} holds {len(content) - header} values; its header promises {size} "
            f"for shape {shape}; the file is damaged, fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_pair(setup: Setup, images: str, labels: str) -> Images:
    paths = [
        find_file(setup.data, name, task=setup.spec, what="an IDX file of MNIST", source=SOURCE)
        for name in (images, labels)
    ]
    pixels, classes = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if pixels.shape[1:] != (_SIDE, _SIDE) or not len(pixels):
        raise DataError(
            f"{paths[0]} holds images of shape {pixels.shape}; expected (count, {_SIDE}, {_SIDE})"
        )
    if len(pixels) != len(classes):
        raise DataError(
            f"{paths[0]} holds {len(pixels)} images, but {paths[1]} holds {len(classes)} labels"
        )
    if classes.max() >= _CLASSES:
        raise DataError(f"{paths[1]} holds label {classes.max()}; expected 0 to {_CLASSES - 1}")
    return Images(pixels, classes.astype(np.int64))
