"""Evaluate a training script's closure at two points on one batch, for MARINA.

The second evaluation, at the parameters before the last round, sees the same batch, the
same random numbers (dropout, augmentation on torch's generators) and the same buffers as
the first, and leaves nothing behind but its gradient: buffers, gradients and random
generators are afterwards as the first evaluation left them.

Source: Szlendak, Tyurin and Richtarik 2022, Algorithm 1, line 8, whose two gradients are of
one function; on minibatches, Gorbunov et al. 2021 (VR-MARINA).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class TwoPoints:
    """The closure's two evaluations of one step.

    Args:
        model: whose buffers are kept. parameters: those that have gradients.
    """

    def __init__(self, model: torch.nn.Module, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._model, self._parameters = model, parameters
        self._devices = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
        self._random: Any = None

    def first(self, closure: Callable[[], Any]) -> Any:
        """Evaluate at the present parameters, whose gradients stay in ``.grad``.

        What was in ``.grad`` is dropped: it was of one point alone.
        """
        for p in self._parameters:
            p.grad = None
        self._random = _random_state(self._devices)
        with torch.enable_grad():
            return closure()

    @contextmanager
    def second(self, closure: Callable[[], Any]) -> Iterator[None]:
        """Evaluate once more; inside the ``with``, ``.grad`` is of this evaluation.

        The caller has put the other parameters in place, and puts the present ones back.
        """
        buffers = [b.detach().clone() for b in self._model.buffers()]
        gradients = [p.grad for p in self._parameters]
        after = _random_state(self._devices)
        for p in self._parameters:
            p.grad = None
        try:
            _set_random_state(self._random)
            with torch.enable_grad():
                closure()
            yield
        finally:
            _set_random_state(after)
            for p, gradient in zip(self._parameters, gradients, strict=True):
                p.grad = gradient
            with torch.no_grad():
                for buffer, kept in zip(self._model.buffers(), buffers, strict=True):
                    buffer.copy_(kept)


def _random_state(devices: Sequence[int]) -> tuple[Any, dict[int, Any]]:
    return torch.get_rng_state(), {i: torch.cuda.get_rng_state(i) for i in devices}


def _set_random_state(state: tuple[Any, dict[int, Any]]) -> None:
    cpu, by_device = state
    torch.set_rng_state(cpu)
    for device, value in by_device.items():
        torch.cuda.set_rng_state(value, device)
