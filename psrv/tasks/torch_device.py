"""Where a network's parameters live, and how gradients come back to the flat vector.

``OnHost``: the parameters *are* the flat vector; they point into it, so that a step copies
no parameters, and gradients are copied once, into ``out``.

``OnDevice``: an accelerator has a flat vector of its own, which the parameters point into.
Each call copies ``x`` there and one flat gradient back, through one buffer on the host:
8 bytes a parameter and call over the bus, in two transfers whatever the number of tensors.

A *flat* vector is float32, shape (d,), in layout order.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from psrv.codec.base import Floats, aligned
from psrv.errors import ConfigError
from psrv.layout import Layout

DEVICES = ("auto", "cpu", "cuda")


class Parameters(Protocol):
    """What a torch task needs of either place."""

    def point_at(self, x: Floats) -> None:
        """Make the network's parameters have the values of a flat ``x``, which is unchanged."""

    def collect(self, gradients: Sequence[Any], out: Floats) -> None:
        """Write the gradients, in the parameters' order, into a flat ``out``."""


class OnHost:
    """The parameters are views of ``x``, or of a copy of it on a 64-byte boundary."""

    def __init__(
        self, torch: Any, layout: Layout, names: Sequence[str], parameters: Sequence[Any]
    ) -> None:
        self._torch, self._layout = torch, layout
        self._named = tuple(zip(names, parameters, strict=True))
        self._flat = aligned(layout.dimension)
        self._bound = -1

    def point_at(self, x: Floats) -> None:
        address = x.ctypes.data
        if address % 64 or not x.flags.writeable:
            np.copyto(self._flat, x)
            x, address = self._flat, self._flat.ctypes.data
        if address == self._bound:
            return
        # The views keep x alive, so no other array can get its address meanwhile.
        views = self._layout.views(x)
        for name, parameter in self._named:
            parameter.data = self._torch.from_numpy(views[name])
        self._bound = address

    def collect(self, gradients: Sequence[Any], out: Floats) -> None:
        views = self._layout.views(out)
        for (name, _), gradient in zip(self._named, gradients, strict=True):
            np.copyto(views[name], gradient.numpy())


class OnDevice:
    """The parameters are views of one flat tensor on a device."""

    def __init__(
        self,
        torch: Any,
        layout: Layout,
        names: Sequence[str],
        parameters: Sequence[Any],
        device: Any,
    ) -> None:
        def flat(**where: Any) -> Any:
            return torch.empty(layout.dimension, dtype=torch.float32, **where)

        self._there, self._gradient = flat(device=device), flat(device=device)
        # Page-locked where there is a bus to cross: the copy then needs no second buffer.
        self._here = flat(pin_memory=device.type == "cuda")
        self._host = self._here.numpy()
        self._slots = []
        for name, parameter in zip(names, parameters, strict=True):
            start = layout.offsets[name]
            part = slice(start, start + parameter.numel())
            parameter.data = self._there[part].view(parameter.shape)
            self._slots.append(self._gradient[part].view(parameter.shape))

    def point_at(self, x: Floats) -> None:
        np.copyto(self._host, x)
        self._there.copy_(self._here)

    def collect(self, gradients: Sequence[Any], out: Floats) -> None:
        for slot, gradient in zip(self._slots, gradients, strict=True):
            slot.copy_(gradient)
        self._here.copy_(self._gradient)
        np.copyto(out, self._host)


def choose_device(torch: Any, wanted: str, task: str) -> Any:
    """The ``torch.device`` of ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: ``cuda`` where PyTorch finds no such device.
    """
    found = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise ConfigError(
            f"task {task}: device is cuda, but this PyTorch ({torch.__version__}) finds no CUDA "
            "device; use device=auto, or install a PyTorch built for the machine's CUDA"
        )
    return torch.device("cuda" if found else "cpu")


def repeatable(torch: Any, device: Any) -> AbstractContextManager[Any]:
    """While it is open, the same input gives the same bits on a CUDA device.

    cuDNN then takes algorithms that sum in a fixed order, chosen by rule and not by timing,
    and computes in float32, not TF32. A CPU needs nothing.
    """
    if device.type == "cpu":
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
