"""trace.json: the spans of all processes on one time axis, for Perfetto.

Every process wrote spans on its own clock and its estimate of the server's
clock minus its own; times move to the lead server's clock, and the first one
becomes zero. One Perfetto process per worker and server, one lane ("thread")
per kind of work, and a lane for the steps themselves.

Format: Chrome's trace event format, complete events ("X"), microseconds. Its
slices must nest within a lane; spans that overlap otherwise (buckets under way
at the same time) go to further lanes "io 2", "io 3", ...
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psrv.errors import DataError
from psrv.measure.records import read_records, to_json
from psrv.measure.summary import write_whole

TRACE_FILE = "trace.json"
_LANES = ("steps", "train", "io", "reduce")


@dataclass(frozen=True, slots=True)
class _Span:
    name: str
    start_ns: int
    end_ns: int
    args: dict[str, Any]


@dataclass(slots=True)
class _Process:
    role: str
    rank: int
    host: str
    pid: int
    offset_ns: int = 0
    rtt_ns: int | None = None
    lanes: dict[str, list[_Span]] = field(default_factory=dict)


def write_trace(run: Path | str, output: Path | str | None = None) -> Path:
    """Merge ``worker-*.jsonl`` and ``server-*.jsonl`` of a run directory.

    Args:
        run: the directory.
        output: the file to write; ``trace.json`` in ``run`` if None.

    Raises:
        DataError: no such files, a damaged one, or no spans in any of them.
    """
    directory = Path(run)
    files = [*sorted(directory.glob("server-*.jsonl")), *sorted(directory.glob("worker-*.jsonl"))]
    if not files:
        raise DataError(f"{directory} holds no server-*.jsonl or worker-*.jsonl; is it a run?")
    processes = [_read(file) for file in files]
    if not any(lane != "steps" for process in processes for lane in process.lanes):
        raise DataError(f"the run in {directory} recorded no spans; run it with --trace")
    target = directory / TRACE_FILE if output is None else Path(output)
    return write_whole(target, to_json(build_trace(processes)) + "\n")


def _read(file: Path) -> _Process:
    role, _, number = file.stem.rpartition("-")
    if not number.isdecimal():
        raise DataError(f"{file}: expected a name like worker-0.jsonl or server-0.jsonl")
    process = _Process(role, int(number), "", 0)
    for record in read_records(file):
        try:
            _take(process, record)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{file}: a {record['type']!r} line lacks or spoils {error}: "
                f"{json.dumps(record)[:120]}"
            ) from error
    return process


def _take(process: _Process, record: dict[str, Any]) -> None:
    match record["type"]:
        case "start":
            process.role, process.rank = str(record["role"]), int(record["rank"])
            process.host, process.pid = str(record.get("host", "")), int(record.get("pid", 0))
        case "offset":
            rtt = int(record["rtt_ns"])
            if process.rtt_ns is None or rtt <= process.rtt_ns:
                process.offset_ns, process.rtt_ns = int(record["offset_ns"]), rtt
        case "span":
            args = {"round": record["round"], "bucket": record.get("bucket")}
            process.lanes.setdefault(str(record["lane"]), []).append(
                _Span(
                    str(record["name"]),
                    int(record["start_ns"]),
                    int(record["end_ns"]),
                    {key: value for key, value in args.items() if value is not None},
                )
            )
        case "round" if "start_ns" in record:
            args = {"round": record["round"], "straggler": record.get("straggler_rank")}
            process.lanes.setdefault("steps", []).append(
                _Span(
                    f"step {record['round']}",
                    int(record["start_ns"]),
                    int(record["end_ns"]),
                    {key: value for key, value in args.items() if value is not None},
                )
            )
        case _:
            pass


def build_trace(processes: Sequence[_Process]) -> dict[str, Any]:
    """The trace's JSON object: names first, then events by time."""
    spans = [
        span.start_ns + process.offset_ns
        for process in processes
        for lane in process.lanes.values()
        for span in lane
    ]
    zero = min(spans, default=0)
    ordered = sorted(processes, key=lambda process: (process.role != "server", process.rank))
    names: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for pid, process in enumerate(ordered, start=1):
        title = f"{process.role} {process.rank}"
        labels = f"{process.host} pid {process.pid}".strip()
        names.append(_name("process_name", pid, 0, name=title))
        names.append(_name("process_labels", pid, 0, labels=labels))
        names.append(_name("process_sort_index", pid, 0, sort_index=pid))
        tid = 0
        known = [lane for lane in _LANES if lane in process.lanes]
        for lane in [*known, *sorted(set(process.lanes) - set(_LANES))]:
            for extra, track in enumerate(_tracks(process.lanes[lane]), start=1):
                tid += 1
                label = lane if extra == 1 else f"{lane} {extra}"
                names.append(_name("thread_name", pid, tid, name=label))
                names.append(_name("thread_sort_index", pid, tid, sort_index=tid))
                events.extend(
                    {
                        "name": span.name,
                        "cat": lane,
                        "ph": "X",
                        "ts": (span.start_ns + process.offset_ns - zero) / 1000,
                        "dur": (span.end_ns - span.start_ns) / 1000,
                        "pid": pid,
                        "tid": tid,
                        "args": span.args,
                    }
                    for span in track
                )
    events.sort(key=lambda event: (event["ts"], event["pid"], event["tid"], -event["dur"]))
    return {"displayTimeUnit": "ms", "traceEvents": [*names, *events]}


def _name(kind: str, pid: int, tid: int, **args: object) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": pid, "tid": tid, "args": args}


def _tracks(spans: Iterable[_Span]) -> list[list[_Span]]:
    """Deal spans to as few tracks as a first-fit finds, so that within a track any
    two are apart or one holds the other."""
    tracks: list[_Track] = []
    for span in sorted(spans, key=lambda item: (item.start_ns, -item.end_ns)):
        if not any(track.take(span) for track in tracks):
            tracks.append(_Track([span], [span.end_ns]))
    return [track.spans for track in tracks]


@dataclass(slots=True)
class _Track:
    spans: list[_Span]
    open_ends: list[int]  # of the spans that are not over yet, outermost first

    def take(self, span: _Span) -> bool:
        """Add ``span``, the latest so far to start, unless it would straddle another's end."""
        while self.open_ends and self.open_ends[-1] <= span.start_ns:
            self.open_ends.pop()
        if self.open_ends and span.end_ns > self.open_ends[-1]:
            return False
        self.spans.append(span)
        self.open_ends.append(span.end_ns)
        return True
