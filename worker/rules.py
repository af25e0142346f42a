"""Update rules: how the received vector changes the model.

Every worker holds the model and applies the same rule to the same vector, so all
replicas stay equal bit for bit. A rule's state belongs to the replica: a peer can hand
it to a worker that is behind.

    sgd           x <- x - eta (u + lambda x)
    nesterov      d = u + lambda x; b <- mu b + d; x <- x - eta (d + mu b)
    ef-nesterov   b <- mu b + lambda x; x <- x - eta (u + mu b + lambda x)
    amsgrad       m, v, v^ with nu inside the root; see ``AmsGrad``
    onebit-adam   Adam, and after the warm-up m <- u over a frozen v; see ``OnebitAdam``
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from psrv.codec.base import Bucket, Floats, aligned
from psrv.errors import ConfigError
from psrv.methods import Method
from psrv.worker import update_kernels as kernels


def _f(value: float) -> np.float32:
    return np.float32(value)


class Rule(ABC):
    """One rule over a flat vector of d coordinates.

    Attributes:
        state: the rule's vectors by name, float32[d] each, zero at the start.
    """

    names: tuple[str, ...] = ()

    def __init__(self, method: Method, dimension: int) -> None:
        self.method = method
        self.state: dict[str, Floats] = {name: aligned(dimension) for name in self.names}

    @abstractmethod
    def apply(
        self, x: Floats, u: Floats, bucket: Bucket, eta: float, decay: float, round: int
    ) -> None:
        """Update one bucket of x in place.

        Args:
            x, u: float32[d]: the parameters, and the vector received for this round.
            eta: the step size of the bucket's parameter group.
            decay: its weight decay, lambda.
            round: t, from 0.
        """


class Sgd(Rule):
    """Source: dist-EF, Algorithm 2, line 7; the weight decay is torch's."""

    def apply(
        self, x: Floats, u: Floats, bucket: Bucket, eta: float, decay: float, round: int
    ) -> None:
        s = bucket.slice
        kernels.sgd(x[s], u[s], _f(eta), _f(decay))


class Nesterov(Rule):
    """``torch.optim.SGD(nesterov=True)`` with dampening 0, to within 1 ulp a step.

    Differs: torch fuses multiply and add where the processor can; nothing is fused here.
    """

    names = ("momentum",)

    def apply(
        self, x: Floats, u: Floats, bucket: Bucket, eta: float, decay: float, round: int
    ) -> None:
        s = bucket.slice
        mu = _f(self.method.momentum)
        kernels.nesterov(x[s], u[s], self.state["momentum"][s], _f(eta), _f(decay), mu)


class EfNesterov(Rule):
    """dist-EF-blockSGDM: the momentum is in what was sent; only the decay has its own here.

    Source: Algorithm 4, line 8, with weight decay as in the authors' experiments.
    """

    names = ("decay_momentum",)

    def apply(
        self, x: Floats, u: Floats, bucket: Bucket, eta: float, decay: float, round: int
    ) -> None:
        s = bucket.slice
        mu = _f(self.method.momentum)
        kernels.ef_nesterov(x[s], u[s], self.state["decay_momentum"][s], _f(eta), _f(decay), mu)


class AmsGrad(Rule):
    """m <- b1 m + (1-b1) u; v <- b2 v + (1-b2) u^2; v^ <- max(v^, v); x -= a m / sqrt(v^ + nu).

    Source: CD-Adam, Algorithm 1, lines 13 to 16. lambda x is added to u, or with
    ``decoupled`` x is first multiplied by 1 - a lambda, as in AdamW.
    """

    names = ("m", "v", "v_max")

    def apply(
        self, x: Floats, u: Floats, bucket: Bucket, eta: float, decay: float, round: int
    ) -> None:
        s, method = bucket.slice, self.method
        shrink = 1.0 - eta * decay if method.decoupled else 1.0
        kernels.amsgrad(
            x[s], u[s], self.state["m"][s], self.state["v"][s], self.state["v_max"][s],
            _f(eta), _f(0.0 if method.decoupled else decay), _f(shrink),
            _f(method.beta1), _f(1.0 - method.beta1),
            _f(method.beta2), _f(1.0 - method.beta2), _f(method.nu),
        )  # fmt: skip


class OnebitAdam(Rule):
    """Adam without bias correction for T_1 rounds; then m <- u over the v that is reached.

    What workers send after the warm-up is b1 m + (1 - b1) g, compressed, so u takes m's
    place. lambda x is added to u in the warm-up; then (1 - b1) lambda x, which is the same
    where nothing is compressed; with ``decoupled`` x is first multiplied by 1 - a lambda.

    Source: Tang et al. 2021 (1-bit Adam), Algorithm 1. Differs: a coordinate whose v is
    still 0 keeps m = 0: there a scaled sign would be divided by eps alone.
    """

    names = ("m", "v")

    def apply(
        self, x: Floats, u: Floats, bucket: Bucket, eta: float, decay: float, round: int
    ) -> None:
        s, method = bucket.slice, self.method
        shrink = _f(1.0 - eta * decay if method.decoupled else 1.0)
        added = 0.0 if method.decoupled else decay
        m, v = self.state["m"][s], self.state["v"][s]
        rest1 = 1.0 - method.beta1
        if round < (method.warmup or 0):
            kernels.adam(
                x[s], u[s], m, v, _f(eta), _f(added), shrink, _f(method.beta1), _f(rest1),
                _f(method.beta2), _f(1.0 - method.beta2), _f(method.eps),
            )  # fmt: skip
        else:
            kernels.frozen_adam(
                x[s], u[s], m, v, _f(eta), _f(rest1 * added), shrink, _f(method.eps)
            )


_RULES: dict[str, type[Rule]] = {
    "sgd": Sgd,
    "nesterov": Nesterov,
    "ef-nesterov": EfNesterov,
    "amsgrad": AmsGrad,
    "onebit-adam": OnebitAdam,
}


def make_rule(method: Method, dimension: int) -> Rule:
    """The rule that a method names, with its state at zero."""
    kind = _RULES.get(method.rule)
    if kind is None:
        raise ConfigError(f"rule '{method.rule}' is unknown; expected one of {', '.join(_RULES)}")
    return kind(method, dimension)
