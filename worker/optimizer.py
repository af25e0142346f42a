"""``DistributedOptimizer``: a ``torch.optim.Optimizer`` whose step is a round of psrv.

Parameters of dtype float32 on the CPU live in the replica's flat vector themselves; for
others (CUDA, half precision) the replica holds the float32 master copy, and the step
writes it back. What else writes to a parameter in place, such as loading a model's weights,
counts in both cases; all workers must do the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from psrv.codec.base import Floats
from psrv.codec.channel import Feedback
from psrv.errors import ConfigError, note
from psrv.job import Job
from psrv.layout import BLOCK, BlockRule, Layout, Tensor
from psrv.methods import resolve
from psrv.worker.closure import TwoPoints
from psrv.worker.model_state import ForwardHook, from_bytes, to_bytes
from psrv.worker.session import Session

Groups = Iterable[dict[str, Any]]

# Of torch's optimizers and of ours; a group that sets one expects it to count.
_NOT_BY_GROUP = frozenset(
    {"momentum", "betas", "beta1", "beta2", "eps", "nu", "nesterov", "dampening", "amsgrad"}
    | {"decoupled", "maximize", "method"}
)


class DistributedOptimizer(torch.optim.Optimizer):
    """Trains ``model`` together with the other workers of the session.

    Learning-rate schedulers, parameter groups, ``zero_grad`` and ``state_dict`` behave as
    people know them; every worker must take the same number of steps with the same step
    sizes. When it is made, all workers get rank 0's parameters and buffers.

    Args:
        model: the model to train; its parameters that require a gradient.
        session: from ``psrv.connect()``.
        method: a row of ``psrv methods``.
        lr: step size of groups that name none.
        groups: parameter groups as torch takes them (``params``, ``lr``, ``weight_decay``);
            by default one with all parameters. No bucket spans two groups.
        blocks: coordinates that share a scale, or ``tensor`` or ``global``.
        seed: of the compressors' random choices; equal on all workers.
        check_every: rounds between checks that all replicas are equal; 0 never.
        options: of the method, such as ``momentum`` or ``weight_decay``.

    Raises:
        ConfigError: something that cannot work.
        PsrvError: the server refused this worker, or a limit was passed.

    A parameter without a gradient in a round counts as one whose gradient is zero.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        session: Session,
        method: str = "cd-adam",
        lr: float = 1e-3,
        *,
        groups: Groups | None = None,
        blocks: BlockRule = BLOCK,
        seed: int = 0,
        check_every: int = 100,
        **options: Any,
    ) -> None:
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(
                f"DistributedOptimizer got a {type(model).__name__} as its model; pass the "
                "torch.nn.Module itself (parameter groups go into groups=)"
            )
        resolved = resolve(method, **options)
        resolved.check_minibatches()
        if session.rank == 0:
            note(resolved.remarks(session.workers))
        named = {p: name for name, p in model.named_parameters() if p.requires_grad}
        chosen = list(groups) if groups is not None else [{"params": list(named)}]
        self._began = False
        super().__init__(chosen, {"lr": lr, "weight_decay": resolved.weight_decay})
        self._model, self._session = model, session
        for index, group in enumerate(self.param_groups):
            if odd := sorted(_NOT_BY_GROUP & group.keys()):
                raise ConfigError(
                    f"parameter group {index} sets {odd[0]}; a group may set lr and weight_decay"
                )
        self._by_group("lr")
        tensors = self._tensors(named)
        state = list(model.buffers()) + [p for p in model.parameters() if p not in named]
        buffers = to_bytes(state)
        job = Job(
            "script",
            resolved,
            tensors,
            blocks,
            seed,
            tuple(self._by_group("weight_decay")),
            check_every,
            (("buffer_bytes", buffers.nbytes),),
        ).completed(session.workers)
        self._layout: Layout = job.layout
        self._ordered = {name: p for p, name in named.items()}
        self._trainer = session.begin(job, self._flatten(), buffers)
        from_bytes(buffers, state)
        self._adopt()
        self._twice: TwoPoints | None = None
        if job.method.up.feedback is Feedback.MARINA:
            self._twice = TwoPoints(model, list(named))
            self._trainer.replica.keep_previous()
        self._views: dict[int, dict[str, torch.Tensor]] = {}
        self._publish_state()
        self._began = True
        self._evaluated = False
        model.register_forward_pre_hook(ForwardHook(self))
        self._trainer.meter.begin_step(0)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Exchange this worker's gradients and apply the round.

        Args:
            closure: computes the loss of one batch, calls ``backward`` on it, and returns it.
                MARINA needs it, and calls it twice: at the present parameters, and at those
                before the last step with the same random numbers, without a trace in the
                model's buffers; so the batch is drawn before, and every ``backward`` of the step
                is inside. In a dense round (``dense_round``) it is called once, and may
                use a larger batch.

        Raises:
            ConfigError: a step size that is not a number of 0 or more, a sparse gradient,
                parameters that were moved away, or no closure where it is needed.
            NonFiniteError: NaN or infinity in a gradient of any worker.
            PsrvError: the run ended. The parameters are those before the step.
        """
        trainer = self._trainer
        if closure is None and self._twice is not None:
            raise ConfigError(
                f"method '{trainer.job.method.name}' compares gradients of one batch at two "
                "points: call step(closure), with a closure that computes the loss of a batch, "
                "calls backward on it and returns it"
            )
        if trainer.round == 0:
            self._check_variance()
        loss = None
        if self._twice is not None and closure is not None:
            loss = self._twice.first(closure)
        elif closure is not None:
            with torch.enable_grad():
                loss = closure()
        etas, decays = self._by_group("lr"), self._by_group("weight_decay")
        self._take_changes()
        if not trainer.meter.in_step:
            trainer.meter.begin_step(trainer.round)
        self._take_gradients(trainer.gradient)
        if self._twice is not None and closure is not None and not self.dense_round:
            self._take_previous(self._twice, closure)
        trainer.meter.lap("compute")
        trainer.step(etas, decays)
        trainer.meter.begin_step(trainer.round, trainer.meter.mark_ns)
        self._forwarded = False
        self._write_back()
        self._publish_state()
        trainer.meter.lap("other")
        return loss

    @property
    def dense_round(self) -> bool:
        """Whether the coming step sends the gradient itself, whatever the compressor.

        In MARINA, noise of such a step's batch stays until the next one: use a larger batch.
        """
        return self._trainer.sender.dense(self._trainer.round)

    def _check_variance(self) -> None:
        """Without a warm-up, 1-bit Adam needs the variance of a run that had one."""
        trainer = self._trainer
        if trainer.job.method.warmup == 0 and not trainer.replica.rule.state["v"].any():
            raise ConfigError(
                "warmup is 0 and no state was loaded, so that nothing would move; give the number "
                "of dense rounds at the start, or load the state of a run that had them"
            )

    def _take_gradients(self, out: Floats) -> None:
        """Copy every parameter's gradient to its place in ``out``, float32[d]."""
        for name, view in self._views_of(out).items():
            gradient = self._ordered[name].grad
            if gradient is None:
                view.zero_()
            elif gradient.is_sparse:
                raise ConfigError(f"the gradient of '{name}' is sparse; psrv needs dense gradients")
            else:
                view.copy_(gradient)

    def _take_previous(self, twice: TwoPoints, closure: Callable[[], Any]) -> None:
        """MARINA's second gradient: on the same batch, at the parameters of the last round."""
        replica, out = self._trainer.replica, self._trainer.sender.previous
        assert replica.previous is not None
        assert out is not None
        present = replica.parameters.copy()
        replica.parameters[:] = replica.previous
        self._write_back()
        try:
            with twice.second(closure):
                self._take_gradients(out)
        finally:
            replica.parameters[:] = present
            self._write_back()

    def average_buffers(self) -> None:
        """Average the model's floating-point buffers (BatchNorm statistics) over all workers.

        Every worker must call it: before an evaluation, and before saving the model.
        """
        buffers = [b for b in self._model.buffers() if b.is_floating_point()]
        if not buffers:
            return
        with self._trainer.meter.exclude(), torch.no_grad():
            flat = torch.cat([b.detach().float().cpu().reshape(-1) for b in buffers]).numpy()
            mean = torch.from_numpy(self._trainer.mean(flat))
            for buffer, part in zip(buffers, mean.split([b.numel() for b in buffers]), strict=True):
                buffer.copy_(part.view(buffer.shape))

    def replica_digest(self) -> str:
        """sha256 of the float32 parameters in layout order, hex: equal on all workers."""
        return self._trainer.replica.digest()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while the optimizer is being made: all workers have agreed on the layout."""
        if self._began:
            raise ConfigError(
                "parameter groups are fixed once the run has begun; pass groups= when making "
                "the optimizer"
            )
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """torch's state dict, with the rule's vectors and this worker's memories by parameter.

        The server's residual is not in it, and Markov memories begin at zero again on
        both sides after loading; docs/operations.md says what that means.
        """
        about = {
            "method": self._trainer.job.method.describe(),
            "round": self._trainer.round,
            "rank": self._trainer.rank,
            "workers": self._trainer.workers,
            "last_lr": self._last_lr(),
        }
        return super().state_dict() | {"psrv": about}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave, on every worker, before the first step.

        Raises:
            ConfigError: rounds were already taken, or the state is of another method, or
                holds another rank's local memory.
        """
        if self._trainer.round:
            raise ConfigError(
                f"state was loaded after {self._trainer.round} steps; load it before the first"
            )
        about = state_dict.get("psrv", {})
        if _comparable(about.get("method")) != _comparable(self._trainer.job.method.describe()):
            raise ConfigError(
                "the optimizer state is of another method or of other options than this run's; "
                "make the optimizer as it was when the state was saved"
            )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "psrv"})
        same = (about["rank"], about["workers"]) == (self._trainer.rank, self._trainer.workers)
        # As they were saved: torch has rounded its copies to the parameters' own dtype.
        numbers = (i for g in state_dict["param_groups"] for i in g["params"])
        ours = (p for g in self.param_groups for p in g["params"])
        saved = {p: state_dict["state"].get(i, {}) for i, p in zip(numbers, ours, strict=True)}
        for key, vector in self._vectors().items():
            for name, view in self._layout.views(vector).items():
                value = saved[self._ordered[name]].get(key)
                if value is not None and (same or not key.startswith("local.")):
                    view[...] = value.detach().float().cpu().numpy()
        for parameter, master in self._copied:
            if (value := saved[parameter].get("master")) is not None:
                master.copy_(value)
        if same:
            uplink = self._trainer.sender.uplink
            uplink.last_etas = [about["last_lr"][b.group] for b in self._layout.buckets]
        self._write_back()
        self._publish_state()

    def _by_group(self, option: str) -> list[float]:
        values: list[float] = []
        for index, group in enumerate(self.param_groups):
            try:
                values.append(float(group[option]))
            except (TypeError, ValueError):
                raise ConfigError(
                    f"{option} is {group[option]!r} in parameter group {index}; expected a finite "
                    "number of 0 or more ('theory' is for tasks and objectives)"
                ) from None
        for index, value in enumerate(values):
            if not 0 <= value < math.inf:
                raise ConfigError(
                    f"{option} is {value} in parameter group {index}; expected a finite number "
                    "of 0 or more"
                )
        return values

    def _last_lr(self) -> list[float]:
        """The last step size of each group that was not zero; 0 before there is one."""
        etas = self._trainer.sender.uplink.last_etas
        by_group = {b.group: etas[b.index] for b in self._layout.buckets}
        return [by_group[k] for k in range(self._layout.groups)]

    def _tensors(self, named: dict[torch.nn.Parameter, str]) -> tuple[Tensor, ...]:
        group_of: dict[torch.nn.Parameter, int] = {}
        for index, group in enumerate(self.param_groups):
            for p in group["params"]:
                if p not in named:
                    raise ConfigError(
                        f"parameter group {index} holds a tensor of shape {tuple(p.shape)} that is "
                        "not a trainable parameter of the model"
                    )
                if not p.dtype.is_floating_point:
                    raise ConfigError(f"'{named[p]}' is {p.dtype}; expected a real floating type")
                group_of[p] = index
        missing = [name for p, name in named.items() if p not in group_of]
        if missing:
            raise ConfigError(
                f"'{missing[0]}' is in no parameter group ({len(missing)} such); put every "
                "trainable parameter into one, or set requires_grad to False"
            )
        return tuple(Tensor(name, tuple(p.shape), group_of[p]) for p, name in named.items())

    def _flatten(self) -> Floats:
        flat = np.empty(self._layout.dimension, np.float32)
        for name, view in self._layout.views(flat).items():
            view[...] = self._ordered[name].detach().float().cpu().numpy()
        return flat

    def _adopt(self) -> None:
        """Let every float32 parameter on the CPU live in the replica's vector."""
        self._copied: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._addresses: dict[str, int] = {}
        for name, array in self._layout.views(self._trainer.replica.parameters).items():
            parameter, master = self._ordered[name], torch.from_numpy(array)
            if parameter.dtype is torch.float32 and parameter.device.type == "cpu":
                parameter.data = master
                self._addresses[name] = parameter.data_ptr()
            else:
                self._copied.append((parameter, master))
        self._versions: dict[torch.nn.Parameter, int] = {}
        self._write_back()

    def _write_back(self) -> None:
        for parameter, master in self._copied:
            parameter.data.copy_(master)
            self._versions[parameter] = parameter._version

    def _take_changes(self) -> None:
        """See what was written to the parameters between two steps.

        Raises:
            ConfigError: a parameter that lived in the replica's vector is elsewhere now.
        """
        for name, address in self._addresses.items():
            if self._ordered[name].data_ptr() != address:
                raise ConfigError(
                    f"the parameter '{name}' was replaced or converted, so that steps no longer "
                    "reach it; make the optimizer after moving or converting the model"
                )
        for parameter, master in self._copied:
            if parameter._version != self._versions[parameter]:
                now = parameter.detach().float().cpu()
                # Elsewhere the master holds more digits than the parameter does.
                written = now != master.to(parameter.dtype).float()
                master[written] = now[written]

    def _views_of(self, flat: Floats) -> dict[str, torch.Tensor]:
        views = self._views.get(id(flat))
        if views is None:
            views = {n: torch.from_numpy(a) for n, a in self._layout.views(flat).items()}
            self._views[id(flat)] = views
        return views

    def _vectors(self) -> dict[str, Floats]:
        """What belongs in a state dict: the rule's state, and what is this worker's own."""
        vectors = dict(self._trainer.replica.rule.state)
        sender = self._trainer.sender
        if sender.momentum is not None:
            vectors["local.momentum"] = sender.momentum
        if sender.uplink.channel.feedback == "ef" and sender.uplink.memory is not None:
            vectors["local.error"] = sender.uplink.memory
        return vectors

    def _publish_state(self) -> None:
        """``self.state`` shows the present vectors, as views."""
        for key, vector in self._vectors().items():
            for name, array in self._layout.views(vector).items():
                self.state[self._ordered[name]][key] = torch.from_numpy(array)
        for parameter, master in self._copied:
            self.state[parameter]["master"] = master

    def _before_forward(self) -> None:
        """Tell data loading from computing, and leave evaluations out of the step."""
        meter = self._trainer.meter
        if not meter.in_step:
            return
        if not self._model.training:
            self._evaluated = True
        elif self._evaluated:
            self._evaluated = False
            meter.skip()
        elif not self._forwarded:
            meter.lap("data")
        self._forwarded = self._forwarded or self._model.training


def _comparable(described: dict[str, Any] | None) -> dict[str, Any]:
    """What must be equal for a state to be loaded.

    A warm-up may have been gone through, and MARINA's p follows the number of workers.
    """
    return {k: v for k, v in (described or {}).items() if k not in ("warmup", "probability")}
