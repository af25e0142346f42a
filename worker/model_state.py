"""What of a model is no parameter: its buffers as bytes, and when it runs forward."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from psrv.worker.optimizer import DistributedOptimizer


class ForwardHook:
    """Tells the optimizer that its own model runs forward; in a copy of the model, nothing."""

    def __init__(
        self,
        optimizer: DistributedOptimizer | None = None,
        model: torch.nn.Module | None = None,
    ) -> None:
        self._optimizer = None if optimizer is None else weakref.ref(optimizer)
        self._model = None if model is None else weakref.ref(model)

    def __call__(self, model: torch.nn.Module, inputs: Any) -> None:
        if self._optimizer is None or self._model is None or self._model() is not model:
            return
        optimizer = self._optimizer()
        if optimizer is not None:
            optimizer._before_forward()

    def __deepcopy__(self, memo: Any) -> ForwardHook:
        return ForwardHook()

    def __reduce__(self) -> tuple[type[ForwardHook], tuple[()]]:
        return ForwardHook, ()


def to_bytes(tensors: list[torch.Tensor]) -> np.ndarray:
    """Tensors of any dtype, one after the other, as uint8[b]."""
    flat = [t.detach().cpu().contiguous().view(-1).view(torch.uint8) for t in tensors if t.numel()]
    return torch.cat(flat).numpy() if flat else np.zeros(0, np.uint8)


def from_bytes(data: np.ndarray, tensors: list[torch.Tensor]) -> None:
    """Write what ``to_bytes`` gave, uint8[b], into the tensors."""
    at = 0
    with torch.no_grad():
        for t in (t for t in tensors if t.numel()):
            size = t.numel() * t.element_size()
            part = torch.from_numpy(data[at : at + size].copy()).view(t.dtype).view(t.shape)
            t.copy_(part)
            at += size
