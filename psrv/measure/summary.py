"""summary.json: one run in numbers, made of what the workers hand over.

``WorkerTotals`` adds up a worker's steps and ends as a plain dict that goes into
its goodbye. ``build_summary`` joins the dicts of all workers with the job's
description. Means are over workers and rounds; ``breakdown_seconds`` sums to
``step_seconds.mean`` within float rounding. Median and 90th percentile are each
worker's own, averaged: the steps themselves stay with the workers.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from psrv.errors import ConfigError, DataError, DivergedError, WireError
from psrv.measure.meter import PARTS, StepRecord
from psrv.measure.records import BYTE_KEYS, to_json

SUMMARY_FILE = "summary.json"
TCP_FROM_KERNEL = "kernel (TCP_INFO)"
TCP_UNKNOWN = "not measured; messages are counted"

_STEP_KEYS = ("mean", "median", "p90")
_FINAL_KEYS = ("loss", "accuracy", "grad_norm")
_JOB_KEYS = ("method", "compressor", "task", "workers", "servers", "dimension", "seed")
_SUMMARY_KEYS = (
    *_JOB_KEYS,
    "rounds",
    "wall_seconds",
    "step_seconds",
    "breakdown_seconds",
    "bytes_per_worker_round",
    "final",
    "replica_digest",
)


def quantile(values: Sequence[float], q: float) -> float:
    """The ``q`` quantile of sorted ``values``, linear between neighbours; 0 if there are none."""
    if not values:
        return 0.0
    position = q * (len(values) - 1)
    low = math.floor(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)


MAX_HISTORY = 1000
"""Evaluations that a worker's totals hold; thinned evenly beyond that."""


class WorkerTotals:
    """What one worker did, added up. Eight bytes of memory a round, and the history."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.rounds = 0
        self.history: list[dict[str, Any]] = []
        self._last: dict[str, Any] | None = None
        self._evaluations = 0
        self._every = 1
        self._steps = array("d")
        self._total_ns = 0
        self._part_ns = dict.fromkeys(PARTS, 0)
        self._hidden_ns = 0
        self._bytes: dict[str, float | None] = dict.fromkeys(BYTE_KEYS, 0)
        self._straggler_counts: dict[int, int] = {}
        self._straggler_ns: dict[int, int] = {}

    def add(self, step: StepRecord, byte_counts: Mapping[str, float | None]) -> None:
        """One step and its bytes. A count that is None or absent once is unknown for good."""
        self.rounds += 1
        self._steps.append(step.seconds)
        self._total_ns += step.total_ns
        self._hidden_ns += step.hidden_ns
        for part, nanoseconds in step.part_ns.items():
            self._part_ns[part] += nanoseconds
        for key, total in self._bytes.items():
            count = byte_counts.get(key)
            self._bytes[key] = None if total is None or count is None else total + count
        for rank, nanoseconds in step.straggler_ns.items():
            if rank != self.rank:
                self._straggler_ns[rank] = self._straggler_ns.get(rank, 0) + nanoseconds
        if step.straggler_rank is not None:
            count = self._straggler_counts.get(step.straggler_rank, 0)
            self._straggler_counts[step.straggler_rank] = count + 1

    def add_evaluation(self, record: Mapping[str, Any]) -> None:
        """One evaluation record (fields of an "eval" line).

        The history travels in the Bye message, so it is thinned to every second, fourth, ...
        record beyond ``MAX_HISTORY``; the JSON lines keep them all.
        """
        self._last = dict(record)
        self._evaluations += 1
        if (self._evaluations - 1) % self._every == 0:
            self.history.append(self._last)
        if len(self.history) > MAX_HISTORY:
            self.history = self.history[::2]
            self._every *= 2

    def payload(self) -> tuple[float, float]:
        """Payload bytes (up, down) so far."""
        return self._bytes["payload_up"] or 0, self._bytes["payload_down"] or 0

    def detail(
        self,
        *,
        digest: str,
        wall_seconds: float,
        final: Mapping[str, float | None] | None = None,
        offset_ns: int | None = None,
        rtt_ns: int | None = None,
    ) -> dict[str, Any]:
        """The dict that ``build_summary`` takes: plain values, string keys.

        Args:
            digest: hex sha256 of this replica's parameters.
            wall_seconds: the worker's run, evaluation included.
            final: loss, accuracy, grad_norm; without it, those of the last evaluation.
        """
        rounds = max(self.rounds, 1)
        steps = sorted(self._steps)
        if final is None:
            final = self._last
        history = self.history if self.rank == 0 else []
        if self._last is not None and history and self._last is not history[-1]:
            history = [*history, self._last]
        return {
            "rank": self.rank,
            "rounds": self.rounds,
            "wall_seconds": wall_seconds,
            "step_seconds": {
                "mean": self._total_ns / rounds * 1e-9,
                "median": quantile(steps, 0.5),
                "p90": quantile(steps, 0.9),
            },
            "breakdown_seconds": {
                part: nanoseconds / rounds * 1e-9 for part, nanoseconds in self._part_ns.items()
            },
            "hidden_seconds": self._hidden_ns / rounds * 1e-9,
            "bytes_per_round": {
                key: None if total is None else total / rounds for key, total in self._bytes.items()
            },
            "straggler_counts": {str(r): n for r, n in sorted(self._straggler_counts.items())},
            "straggler_seconds": {str(r): n * 1e-9 for r, n in sorted(self._straggler_ns.items())},
            "digest": digest,
            "history": history,
            "final": {key: final.get(key) for key in _FINAL_KEYS} if final is not None else None,
            "offset_ns": offset_ns,
            "rtt_ns": rtt_ns,
        }


def check_detail(detail: object) -> dict[str, Any]:
    """``detail`` if it is what ``WorkerTotals.detail`` makes; it comes from a peer.

    Raises:
        WireError: naming the field that is missing or of another kind.
    """
    if not isinstance(detail, dict) or not _count(detail.get("rank")):
        raise WireError("a worker's totals without its rank; expected a map with rank >= 0")
    who = f"totals of worker {detail['rank']}"
    if not _count(detail.get("rounds")):
        raise WireError(f"{who}: 'rounds' is {detail.get('rounds')!r}; expected a count")
    if not isinstance(detail.get("digest"), str):
        raise WireError(f"{who}: 'digest' is {detail.get('digest')!r}; expected a hex string")
    if not _number(detail.get("wall_seconds")):
        raise WireError(
            f"{who}: 'wall_seconds' is {detail.get('wall_seconds')!r}; expected seconds"
        )
    for name, keys, nullable in (
        ("step_seconds", _STEP_KEYS, False),
        ("breakdown_seconds", PARTS, False),
        ("bytes_per_round", BYTE_KEYS, True),
    ):
        section = detail.get(name)
        for key in keys:
            value = section.get(key, False) if isinstance(section, dict) else False
            if not (_number(value) or (nullable and value is None)):
                raise WireError(f"{who}: '{name}' has no number '{key}'")
    for name in ("straggler_counts", "straggler_seconds"):
        section = detail.get(name, {})
        if not isinstance(section, dict) or not all(
            isinstance(rank, str) and rank.isdecimal() and _number(value)
            for rank, value in section.items()
        ):
            raise WireError(f"{who}: '{name}' is not a map from ranks to numbers")
    history = detail.get("history") or []
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise WireError(f"{who}: 'history' is not a list of evaluation records")
    if not isinstance(detail.get("final") or {}, dict):
        raise WireError(f"{who}: 'final' is not a map")
    return detail


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def check_digests(details: Sequence[Mapping[str, Any]]) -> str:
    """The digest all replicas share.

    Raises:
        DivergedError: they do not; the message names the ranks by digest.
    """
    holders: dict[str, list[int]] = {}
    for detail in details:
        holders.setdefault(detail["digest"], []).append(detail["rank"])
    if len(holders) == 1:
        return next(iter(holders))
    groups = "; ".join(
        f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(map(str, sorted(ranks)))} "
        f"{'holds' if len(ranks) == 1 else 'hold'} {digest[:12]}"
        for digest, ranks in sorted(holders.items(), key=lambda item: (-len(item[1]), min(item[1])))
    )
    raise DivergedError(
        f"replicas differ after the last round: {groups}; all must be equal. "
        "Look for arithmetic that differs between the machines"
    )


def build_summary(job: Mapping[str, Any], details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The contents of summary.json.

    Args:
        job: at least method, compressor, task, workers, servers, dimension and
            seed; ``version`` and ``tcp_source`` are taken over when given.
        details: what the workers handed over, in any order.

    Raises:
        DataError: no details, a rank twice, or ``job`` lacks a field.
        WireError: a detail that is not what a worker makes.
        DivergedError: final parameters that differ.
    """
    missing = [key for key in _JOB_KEYS if key not in job]
    if missing:
        raise DataError(f"the job's description lacks {', '.join(missing)}")
    workers = sorted((check_detail(detail) for detail in details), key=lambda d: int(d["rank"]))
    if not workers:
        raise DataError("no worker handed over its totals; there is nothing to summarise")
    ranks = [detail["rank"] for detail in workers]
    if len(set(ranks)) < len(ranks):
        raise DataError(f"totals of ranks {ranks}; expected each rank once")
    digest = check_digests(workers)
    steps = sum(detail["rounds"] for detail in workers)
    weights = [detail["rounds"] if steps else 1 for detail in workers]

    def average(values: Sequence[float]) -> float:
        # Divided once, so that the mean of equal numbers is that number.
        total = math.fsum(w * value for w, value in zip(weights, values, strict=True))
        return total / sum(weights)

    def mean(section: str, key: str) -> float | None:
        values = [detail[section][key] for detail in workers]
        return None if any(value is None for value in values) else average(values)

    byte_means = {key: mean("bytes_per_round", key) for key in BYTE_KEYS}
    kernel = byte_means["tcp_up"] is not None and byte_means["tcp_down"] is not None
    first = workers[0]
    final = first.get("final") or {}
    return {
        **{key: job[key] for key in _JOB_KEYS[:5]},
        "rounds": min(detail["rounds"] for detail in workers),
        "dimension": job["dimension"],
        "seed": job["seed"],
        "wall_seconds": max(detail["wall_seconds"] for detail in workers),
        "step_seconds": {key: mean("step_seconds", key) for key in _STEP_KEYS},
        "breakdown_seconds": {key: mean("breakdown_seconds", key) for key in PARTS},
        "hidden_seconds": average([detail.get("hidden_seconds") or 0.0 for detail in workers]),
        "bytes_per_worker_round": byte_means,
        "final": {key: final.get(key) for key in _FINAL_KEYS},
        "replica_digest": digest,
        "stragglers": _stragglers(workers, steps),
        "tcp_source": job.get("tcp_source") or (TCP_FROM_KERNEL if kernel else TCP_UNKNOWN),
        "version": job.get("version") or _version(),
        "link": job.get("link"),
        "history": list(first.get("history") or []),
        "workers_detail": [
            {key: value for key, value in detail.items() if key != "history"} for detail in workers
        ],
    }


def _stragglers(workers: Sequence[Mapping[str, Any]], steps: int) -> dict[str, dict[str, float]]:
    """By rank: ``seconds`` a mean step waited for it (these sum to the breakdown's
    ``straggler``, but for a worker's own share), and ``share``: the fraction of the
    other workers' steps in which it was the one waited for longest."""
    found: dict[str, dict[str, float]] = {}
    names = {rank for detail in workers for rank in detail.get("straggler_seconds", {})}
    for name in sorted(names, key=int):
        seconds = math.fsum(d.get("straggler_seconds", {}).get(name, 0.0) for d in workers)
        counted = sum(d.get("straggler_counts", {}).get(name, 0) for d in workers)
        others = sum(d["rounds"] for d in workers if str(d["rank"]) != name)
        found[name] = {
            "seconds": seconds / steps if steps else 0.0,
            "share": counted / others if others else 0.0,
        }
    return found


def _version() -> str:
    try:
        return version("psrv")
    except PackageNotFoundError:
        return "unknown"


def write_summary(directory: Path | str, summary: Mapping[str, Any]) -> Path:
    """Write summary.json into ``directory``, whole or not at all; returns its path.

    Raises:
        ConfigError: it cannot be written.
    """
    return write_whole(Path(directory) / SUMMARY_FILE, to_json(summary, indent=2) + "\n")


def write_whole(path: Path, text: str) -> Path:
    """Replace ``path`` by ``text`` so that a reader sees the old or the new, never a part.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return path


def read_summary(path: Path | str) -> dict[str, Any]:
    """A summary from its file, or from the run's directory.

    Raises:
        DataError: the file is missing, is no JSON, or lacks a field of the schema.
    """
    file = Path(path)
    if file.is_dir():
        file = file / SUMMARY_FILE
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{file} does not exist; expected a run that ended normally") from error
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is damaged: {error}; expected the JSON of a summary") from error
    if not isinstance(summary, dict):
        raise DataError(f"{file} is damaged: expected a JSON object")
    missing = [key for key in _SUMMARY_KEYS if key not in summary]
    if missing:
        raise DataError(f"{file} is damaged: it lacks {', '.join(missing)}")
    for section, keys in (
        ("step_seconds", _STEP_KEYS),
        ("breakdown_seconds", PARTS),
        ("bytes_per_worker_round", BYTE_KEYS),
        ("final", _FINAL_KEYS),
    ):
        value = summary[section]
        lacking = [key for key in keys if not isinstance(value, dict) or key not in value]
        if lacking:
            raise DataError(f"{file} is damaged: '{section}' lacks {', '.join(lacking)}")
    return summary
