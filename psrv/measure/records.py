"""The JSON-lines file that each process of a run writes, and its reader.

One file per process, ``worker-<rank>.jsonl`` or ``server-<shard>.jsonl``; every
line is an object with a "type":

    start   role, rank, pid, host, clock_ns
    round   round, seconds, parts, six byte counts, straggler_rank, start_ns, end_ns, hidden
    eval    round, loss, accuracy, grad_norm, seconds, payload_up, payload_down
    span    name, bucket, round, start_ns, end_ns, lane          (only with --trace)
    offset  offset_ns, rtt_ns: server clock minus this process's
    end     rank, and what the process wants to add

Times named ``*_ns`` are on the writing process's monotonic clock. A number that
is not finite is written as null: JSON has no NaN.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from psrv.errors import ConfigError, DataError
from psrv.measure.meter import StepRecord

BYTE_KEYS = ("payload_up", "payload_down", "message_up", "message_down", "tcp_up", "tcp_down")
FLUSH_NS = 200_000_000


def worker_file(rank: int) -> str:
    """File name of a worker's lines."""
    return f"worker-{rank}.jsonl"


def server_file(shard: int) -> str:
    """File name of a server's lines."""
    return f"server-{shard}.jsonl"


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON text of ``value``; numbers that are not finite become null."""
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(value, allow_nan=False, indent=indent, separators=separators)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, indent=indent, separators=separators)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Recorder:
    """Writes a process's lines; safe to call from several threads.

    Lines wait in memory and reach the file at most every 0.2 s, on the thread
    that happens to write then, and at ``close``: a process that is killed loses
    what it wrote last, and may leave half a line.

    Args:
        path: the file, replaced if it exists; None drops everything.
        trace: keep spans; without it ``span`` does nothing.
        clock: nanoseconds, for the flush interval and the start line.

    Raises:
        ConfigError: the file cannot be written, here or at a later flush.
    """

    def __init__(
        self,
        path: Path | str | None,
        *,
        trace: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._flushed = clock()
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 (closed in close)
            except OSError as error:
                raise ConfigError(
                    f"cannot write {path}: {error.strerror}; choose another --out"
                ) from error
        self.trace = trace and self._file is not None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line; ``record`` has a "type" and JSON values."""
        if self._file is None:
            return
        line = to_json(record)
        with self._lock:
            self._lines.append(line)
            if self._clock() - self._flushed >= FLUSH_NS:
                self._flush()

    def start(self, role: str, rank: int) -> None:
        """First line: who writes. ``rank`` is a worker's rank or a server's shard."""
        self.write(
            {
                "type": "start",
                "role": role,
                "rank": rank,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "clock_ns": self._clock(),
            }
        )

    def round(self, step: StepRecord, byte_counts: Mapping[str, float | None]) -> None:
        """One step. ``byte_counts`` holds the round's ``BYTE_KEYS``; absent ones are null."""
        if self._file is None:
            return
        self.write(
            {
                "type": "round",
                "round": step.round,
                "seconds": step.seconds,
                "parts": step.parts,
                **{key: byte_counts.get(key) for key in BYTE_KEYS},
                "straggler_rank": step.straggler_rank,
                "start_ns": step.start_ns,
                "end_ns": step.end_ns,
                "hidden": step.hidden_ns * 1e-9,
            }
        )

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """One evaluation: round, loss, accuracy, grad_norm, seconds, payload_up, payload_down."""
        self.write({"type": "eval", **record})

    def span(
        self,
        name: str,
        start_ns: int,
        end_ns: int,
        *,
        round: int,
        bucket: int | None = None,
        lane: str = "train",
    ) -> None:
        """A stretch of work for ``--trace``; lanes in use: train, io, reduce."""
        if self.trace:
            self.write(
                {
                    "type": "span",
                    "name": name,
                    "bucket": bucket,
                    "round": round,
                    "start_ns": start_ns,
                    "end_ns": end_ns,
                    "lane": lane,
                }
            )

    def offset(self, offset_ns: int | None, rtt_ns: int | None) -> None:
        """The current clock estimate; nothing is written before there is one."""
        if offset_ns is not None and rtt_ns is not None:
            self.write({"type": "offset", "offset_ns": offset_ns, "rtt_ns": rtt_ns})

    def end(self, rank: int, **fields: Any) -> None:
        """Last line of a process that ended on purpose."""
        self.write({"type": "end", "rank": rank, **fields})

    def flush(self) -> None:
        with self._lock:
            self._flush()

    def close(self) -> None:
        """Write what is left and close the file. May be called twice."""
        with self._lock:
            file = self._file
            if file is None:
                return
            try:
                self._flush()
            finally:
                self._file = None
                self.trace = False
                with suppress(OSError):  # a full disk was reported by the flush
                    file.close()

    def _flush(self) -> None:
        self._flushed = self._clock()
        if self._lines and self._file is not None:
            try:
                self._file.write("\n".join(self._lines) + "\n")
                self._file.flush()
            except OSError as error:
                raise ConfigError(f"cannot write {self._file.name}: {error.strerror}") from error
            self._lines.clear()


def read_records(path: Path | str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file, in order.

    A last line without its newline that does not parse is what a killed process
    leaves, and is passed over.

    Raises:
        DataError: the file is missing, or a line is no JSON object with a "type".
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    record = json.loads(line)
                except ValueError as error:
                    if not line.endswith(b"\n"):
                        return
                    raise DataError(
                        f"{path}, line {number}: no JSON; expected one object a line"
                    ) from error
                if not isinstance(record, dict) or not isinstance(record.get("type"), str):
                    raise DataError(
                        f"{path}, line {number}: got {line[:60]!r}; "
                        'expected an object with a "type"'
                    )
                yield record
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
