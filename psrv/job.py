"""The job: what every worker must agree on before the first round.

Each worker describes its job when it joins; the first description fixes the run, and a
worker whose job differs is turned away with the first difference named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from psrv.errors import ConfigError, printable
from psrv.layout import BLOCK, BlockRule, Layout, Tensor
from psrv.messages import show
from psrv.methods import Method, from_description

MAX_TENSORS = 1 << 17
MAX_DIMENSION = 1 << 32
MAX_AXES = 16
_ABSENT = object()


@dataclass(frozen=True)
class Job:
    """Model, method and seed of a run.

    Attributes:
        task: a built-in task's name, or ``script``.
        method: resolved.
        tensors: in forward order.
        blocks: see ``Layout.build``.
        seed: of every random choice, in [0, 2^63).
        decays: weight decay of each parameter group; groups are numbered from 0.
        check_every: replicas are compared every so many rounds; 0 never.
        options: further plain values that must agree, such as the batch size.
    """

    task: str
    method: Method
    tensors: tuple[Tensor, ...]
    blocks: BlockRule = BLOCK
    seed: int = 0
    decays: tuple[float, ...] = (0.0,)
    check_every: int = 100
    options: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def layout(self) -> Layout:
        """Where the parameters lie; derived, so that every process derives the same."""
        channels = (self.method.up, self.method.down)
        whole = any(channel.codec().whole for channel in channels)
        return Layout.build(self.tensors, self.blocks, whole=whole)

    def completed(self, workers: int, rounds: int | None = None) -> Job:
        """The job with the method's defaults for that many workers; see ``Method.completed``."""
        return replace(self, method=self.method.completed(self.layout, workers, rounds))

    def describe(self) -> dict[str, Any]:
        """Plain values for the Join message."""
        return {
            "task": self.task,
            "method": self.method.describe(),
            "seed": self.seed,
            "blocks": self.blocks,
            "decays": list(self.decays),
            "check_every": self.check_every,
            "options": dict(self.options),
            "tensors": [[t.name, list(t.shape), t.group] for t in self.tensors],
            "layout": self.layout.digest().hex(),
        }

    def about(self, workers: int, servers: int) -> dict[str, Any]:
        """The fields of summary.json that say what was run."""
        return {
            "method": self.method.name,
            "compressor": self.method.compressor,
            "task": self.task,
            "workers": workers,
            "servers": servers,
            "dimension": self.layout.dimension,
            "seed": self.seed,
            "settings": {"blocks": self.blocks, **self.method.describe(), **dict(self.options)},
        }


def job_from_description(described: Mapping[str, Any]) -> Job:
    """The job that a peer described.

    Raises:
        ConfigError: not a job, a job too large to hold, or one whose layout this version
            of psrv would cut in another way.
    """
    try:
        rows = described["tensors"]
        if not 0 < len(rows) <= MAX_TENSORS:
            raise ConfigError(f"a job of {len(rows)} tensors; expected 1 to {MAX_TENSORS}")
        blocks = described["blocks"]
        if blocks not in ("tensor", "global"):
            blocks = _count(blocks)
        job = Job(
            _text(described["task"]),
            from_description(described["method"]),
            _tensors(rows),
            blocks,
            _count(described["seed"]),
            tuple(float(d) for d in described["decays"]),
            _count(described["check_every"]),
            tuple(sorted(described["options"].items())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"not a description of a job: {str(error)[:200]!r}") from error
    if job.layout.groups != len(job.decays):
        raise ConfigError(
            f"{len(job.decays)} weight decays for {job.layout.groups} parameter groups"
        )
    if described.get("layout") != job.layout.digest().hex():
        raise ConfigError("the layout digest does not match its tensors: another version of psrv")
    return job


def _tensors(rows: Sequence[Any]) -> tuple[Tensor, ...]:
    """Tensors from a peer's list; sizes are bounded before they are multiplied."""
    tensors: list[Tensor] = []
    left = MAX_DIMENSION
    for name, shape, group in rows:
        if len(shape) > MAX_AXES:
            raise ConfigError(f"a tensor of {len(shape)} axes; expected at most {MAX_AXES}")
        size = 1
        for axis in shape:
            size *= min(_count(axis), MAX_DIMENSION + 1)
        left -= size
        if left < 0:
            raise ConfigError(f"a model of more than {MAX_DIMENSION} parameters cannot be served")
        tensors.append(Tensor(_text(name), tuple(shape), min(_count(group), len(rows))))
    return tuple(tensors)


def difference(mine: Mapping[str, Any], others: Mapping[str, Any]) -> str | None:
    """The first thing in which a job differs from the run's, as a sentence; None if equal."""
    for key in ("task", "method", "seed", "blocks", "decays", "check_every", "tensors", "options"):
        a, b = mine.get(key), others.get(key)
        if a == b:
            continue
        if key == "tensors":
            return _other_model(mine[key], others[key])
        if isinstance(a, dict) and isinstance(b, dict):
            names = [k for k in sorted({*a, *b}) if a.get(k, _ABSENT) != b.get(k, _ABSENT)]
            name = "name" if "name" in names else names[0]
            mine_is, others_have = (_said(row.get(name, _ABSENT)) for row in (a, b))
            return f"{key} {printable(name)} is {mine_is}, the run has {others_have}"
        return f"{key} is {_said(a)}, the run has {_said(b)}"
    return None if mine == others else "the jobs differ"


def _other_model(rows: Sequence[Any], expected: Sequence[Any]) -> str:
    for i, (a, b) in enumerate(zip(rows, expected, strict=False)):
        if list(a) != list(b):
            return f"parameter {i} is {_row(a)}, the run has {_row(b)}"
    return f"the model has {len(rows)} parameters, the run has {len(expected)}"


def _row(row: Any) -> str:
    name, shape, group = row
    return f"{show(name)} {tuple(shape)}" + (f" in group {group}" if group else "")


def _said(value: Any) -> str:
    """A plain value from a peer in a few printable characters."""
    return "not given" if value is _ABSENT else ascii(value)[:200]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a count")
    return value
