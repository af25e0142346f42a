"""Residual networks for 32x32 images, and population statistics for their normalisation.

``resnet(depth)``, depth 6k + 2: a 3x3 convolution, then three stages of k blocks with 16,
32 and 64 channels, the second and third at half the resolution, then a global mean and one
linear layer. Shortcuts have no parameters: where the shape changes they take every second
pixel and add channels of zeros (option A).
Source: He et al. 2016 (Deep residual learning), section 4.2; parameters as in table 6.

``resnet18()``: the ImageNet form with the stem that suits small images, a 3x3 convolution of
stride 1 and no pooling; four stages of two blocks, 64 to 512 channels; 1x1 convolutions in
shortcuts that change shape (option B). 11,173,962 parameters.

Normalisation. A task is stateless: a gradient depends on x and the batch, never on what was
computed before. So ``BatchNorm`` keeps no running averages. It normalises with the batch's
own statistics, always in training; in evaluation with statistics of a fixed sample, computed
at the very x that is evaluated (``population_statistics``). The network has no buffers, and
nothing about normalisation is ever sent.
Source: Ioffe and Szegedy 2015, algorithm 2 (inference with population statistics, not moving
averages); Wu and Johnson 2021 (Rethinking "Batch" in BatchNorm), section 3, PreciseBN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

_EPS = 1e-5

Statistics = list[tuple[Any, Any]]
"""Per ``BatchNorm``, in the network's order: mean and variance, float32 (channels,)."""


class BatchNorm(nn.Module):
    """Per-channel normalisation of (B, channels, height, width), without memory.

    Attributes:
        weight, bias: float32 (channels,), trained.
        fixed: mean and variance to use in place of the batch's, or None.
        seen: where to add the batch's mean and variance, or None.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.fixed: tuple[Any, Any] | None = None
        self.seen: Statistics | None = None

    def forward(self, x: Any) -> Any:
        """float32, the shape of ``x``."""
        if self.fixed is not None:
            mean, variance = self.fixed
            return functional.batch_norm(x, mean, variance, self.weight, self.bias, eps=_EPS)
        if self.seen is None:
            return functional.batch_norm(
                x, None, None, self.weight, self.bias, training=True, eps=_EPS
            )
        # With momentum 1 the "running" values are the batch's own, the variance unbiased.
        mean, variance = torch.zeros_like(self.bias), torch.zeros_like(self.bias)
        y = functional.batch_norm(
            x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=_EPS
        )
        self.seen.append((mean, variance))
        return y


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut around them.

    Args:
        project: a 1x1 convolution in a shortcut that changes shape (option B); otherwise
            every second pixel and zeros (option A).
    """

    def __init__(self, inside: int, out: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = _conv(inside, out, 3, stride)
        self.norm1 = BatchNorm(out)
        self.conv2 = _conv(out, out, 3, 1)
        self.norm2 = BatchNorm(out)
        self.stride = stride
        self.added = out - inside
        self.shortcut: nn.Module | None = None
        if project and (self.added or stride != 1):
            self.shortcut = nn.Sequential(_conv(inside, out, 1, stride), BatchNorm(out))

    def forward(self, x: Any) -> Any:
        """(B, inside, h, w) to (B, out, h / stride, w / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.added or self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
            # Zeros on both sides, half each.
            x = functional.pad(x, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return functional.relu(y + x)


class Pooled(nn.Module):
    """The mean over height and width: (B, channels, h, w) to (B, channels)."""

    def forward(self, x: Any) -> Any:
        """As the class says."""
        return x.mean((2, 3))


def resnet(depth: int, classes: int = 10) -> nn.Module:
    """The CIFAR form with ``depth`` layers, 6k + 2: 8, 20, 32, 44, 56, 110.

    Weights are drawn from PyTorch's global CPU generator (He et al. 2015).
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(f"depth is {depth}; expected 6k + 2, such as 20")
    return _network([16, 32, 64], [blocks] * 3, project=False, classes=classes)


def resnet18(classes: int = 10) -> nn.Module:
    """The 18-layer network for small images; as the module's text says."""
    return _network([64, 128, 256, 512], [2] * 4, project=True, classes=classes)


def population_statistics(model: nn.Module, batches: Iterable[Any]) -> Statistics:
    """What each ``BatchNorm`` of a network sees over some inputs of equal size.

    Inside, each batch is normalised by itself, as in training. The variance is that of all
    values: the mean of the batches' variances plus the variance of their means.

    Args:
        batches: at least one float32 (B, channels, height, width), all with the same B >= 2.
    """
    layers = [m for m in model.modules() if isinstance(m, BatchNorm)]
    seen: list[Statistics] = [[] for _ in layers]
    for layer, into in zip(layers, seen, strict=True):
        layer.seen = into
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for layer in layers:
            layer.seen = None
    found: Statistics = []
    for pairs in seen:
        means = torch.stack([mean for mean, _ in pairs]).double()
        within = torch.stack([variance for _, variance in pairs]).double()
        variance = within.mean(0) + means.var(0, unbiased=False)
        found.append((means.mean(0).float(), variance.float()))
    return found


@contextmanager
def normalised_by(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """While it is open, the network normalises with these statistics, whatever the batch."""
    layers = [m for m in model.modules() if isinstance(m, BatchNorm)]
    for layer, pair in zip(layers, statistics, strict=True):
        layer.fixed = pair
    try:
        yield
    finally:
        for layer in layers:
            layer.fixed = None


def _network(widths: list[int], blocks: list[int], *, project: bool, classes: int) -> nn.Module:
    layers: list[nn.Module] = [_conv(3, widths[0], 3, 1), BatchNorm(widths[0]), nn.ReLU()]
    inside = widths[0]
    for stage, (out, count) in enumerate(zip(widths, blocks, strict=True)):
        for position in range(count):
            stride = 2 if stage and not position else 1
            layers.append(Block(inside, out, stride, project))
            inside = out
    return nn.Sequential(*layers, Pooled(), nn.Linear(inside, classes))


def _conv(inside: int, out: int, side: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(inside, out, side, stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
