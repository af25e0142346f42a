"""How well the scaled sign keeps a vector: delta of the dist-EF paper, measured along a run.

    delta(v)  = ||v||_1^2 / (d ||v||_2^2)                      one scale for the whole vector
    phi(v)    = min over blocks b of delta(v_b)                Proposition 1
    kept(v)   = 1 - ||C(v) - v||^2 / ||v||^2                   what Definition 1 is about
              = sum_b ||v_b||_1^2 / d_b / ||v||^2

For one block the three are equal. phi is the number of Figure 1(b): a bound that holds for
every vector whose blocks look like these, and the worst block's alone. kept is what
happened to this vector; by Cauchy and Schwarz it can only grow when blocks are cut finer,
phi need not. An all-zero block is kept as it is: its delta is 1.

The coefficient of variation of Figure 1(a) says the same in another way: of the absolute
values in a block it is sqrt(1 / delta - 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Floats
from psrv.codec.channel import Feedback
from psrv.errors import ConfigError
from psrv.layout import BlockRule, Layout, Tensor
from psrv.worker.sender import Sender

Numbers = NDArray[np.float64]


def block_edges(tensors: Sequence[Tensor], blocks: BlockRule) -> NDArray[np.int64]:
    """Where blocks begin and end in the flat vector: int64[B + 1], from 0 to d.

    Args:
        tensors: of the model, in forward order. blocks: as for ``Layout.build``.
    """
    layout = Layout.build(tensors, blocks)
    starts = [bucket.start + bucket.blocks.edges[:-1] for bucket in layout.buckets]
    return np.concatenate([*starts, [layout.dimension]])


def block_sums(v: Floats, edges: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """||v_b||_1 and ||v_b||_2^2 of every block: float64[B] each.

    Args:
        v: float32[d]. edges: int64[B + 1], ascending from 0 to d.
    """
    sizes = np.abs(v.astype(np.float64))
    starts = edges[:-1]
    return np.add.reduceat(sizes, starts), np.add.reduceat(np.square(sizes), starts)


def deltas(v: Floats, edges: NDArray[np.int64]) -> Numbers:
    """delta(v_b) of every block, float64[B], in (0, 1]; 1 where the block is zero."""
    ones, squares = block_sums(v, edges)
    with np.errstate(invalid="ignore"):
        found = ones**2 / (np.diff(edges) * squares)
    return np.where(squares > 0, found, 1.0)


def kept(v: Floats, edges: NDArray[np.int64]) -> float:
    """1 - ||C(v) - v||^2 / ||v||^2; 1 for v = 0."""
    ones, squares = block_sums(v, edges)
    total = float(squares.sum())
    return float((ones**2 / np.diff(edges)).sum()) / total if total else 1.0


def to_compress(sender: Sender, eta: float) -> Floats:
    """What a worker will compress this round, float32[d]; no state changes.

    With error feedback p_{t,i} of Algorithm 4, lines 5 and 6 (with the g that line 6 leaves
    out), or without local momentum of Algorithm 3, line 5; with Markov memory g - h, as in
    CD-Adam's Algorithm 1, line 5.

    Args:
        sender: with this round's gradient written.
        eta: the step size of the round.

    Raises:
        ConfigError: a method of another kind.
    """
    uplink, method = sender.uplink, sender.method
    kind, memory = uplink.channel.feedback, uplink.memory
    if kind not in (Feedback.EF, Feedback.MARKOV) or method.outgoing not in (
        "gradient",
        "nesterov",
    ):
        raise ConfigError(
            f"method {method.name} cannot be watched; expected error feedback or Markov memory up, "
            "and gradients or Nesterov momentum sent"
        )
    assert memory is not None
    v = sender.gradient
    if method.outgoing == "nesterov":
        assert sender.momentum is not None
        mu = np.float32(method.momentum)
        v = mu * (mu * sender.momentum + v) + v
    if kind is Feedback.MARKOV:
        return v - memory
    # All parameters of the built-in tasks have one step size.
    return v + np.float32(uplink.channel.rho(eta, uplink.last_etas[0])) * memory


@dataclass
class Watch:
    """phi, kept and the coefficient of variation by epoch, for several rules of blocks.

    Of what goes through the uplink's compressor; the variation is of the gradients.

    Attributes:
        edges: of each rule, by its name.
        per_epoch: rounds in an epoch.
        every: rounds from one measurement to the next.
    """

    edges: Mapping[str, NDArray[np.int64]]
    per_epoch: int
    every: int = 1
    phi: dict[str, list[float]] = field(default_factory=dict)
    kept: dict[str, list[float]] = field(default_factory=dict)
    most: dict[str, list[float]] = field(default_factory=dict)
    variation: dict[str, list[list[float]]] = field(default_factory=dict)

    def look(self, senders: Sequence[Sender], round: int, eta: float) -> None:
        """Measure the p_t and the gradients of these workers before they are encoded."""
        if round % self.every:
            return
        epoch = round // self.per_epoch
        for sender in senders:
            p = to_compress(sender, eta)
            for rule, edges in self.edges.items():
                share = kept(p, edges)
                _take(self.phi.setdefault(rule, []), epoch, float(deltas(p, edges).min()), min)
                _take(self.kept.setdefault(rule, []), epoch, share, min)
                _take(self.most.setdefault(rule, []), epoch, share, max)
                of_gradient = deltas(sender.gradient, edges)
                spread = np.sqrt(np.maximum(1 / of_gradient - 1, 0))
                rows = self.variation.setdefault(rule, [])
                rows.extend([] for _ in range(epoch + 1 - len(rows)))
                rows[epoch].append(float(spread.mean()))

    def result(self) -> dict[str, Any]:
        """By rule, a number an epoch: least phi, least and most kept, mean variation."""
        variation = {
            rule: [float(np.mean(row)) for row in rows] for rule, rows in self.variation.items()
        }
        return {"phi": self.phi, "kept": self.kept, "most": self.most, "variation": variation}


def _take(
    rows: list[float], epoch: int, value: float, which: Callable[[float, float], float]
) -> None:
    """The least (or largest) value of each epoch so far, in place."""
    if epoch < len(rows):
        rows[epoch] = which(rows[epoch], value)
    else:
        rows.append(value)
