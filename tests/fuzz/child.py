"""The process in which cases are tried: ``python -m fuzz.child RECORD``.

Reads jobs from standard input, one JSON object a line, and answers each with a line: counts,
or what was found. A job is one of

    {"kind": "codec", "form": [spec, contracted], "seed": 1, "beds": [0, 5], "cases": 60}
    {"kind": "wire", "seed": 1, "beds": [0, 5], "cases": 60}
    {"kind": "join", "seed": 1, "beds": [0, 5], "cases": 60}
    {"kind": "vast", "form": [spec, contracted], "seed": 1, "cases": 5}

and the first three may have ``"only": 17``, the number of one case. What is recorded is the job
that would repeat the case. A fault of the processor ends the process; the parent then reads
the record.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzz import descriptions, frames
from fuzz.beds import Arenas, Bed
from fuzz.inputs import Finding, Form
from fuzz.record import Record
from fuzz.vast import try_vast
from guard_pages import GuardedScratch

LONG = 1000
"""Coordinates from which on a case takes more time than its payload is worth."""


def try_beds(job: dict[str, Any], record: Record, room: Arenas) -> Counter[str]:
    """``cases`` payloads in each of the ``beds`` of a form, or ``only`` one of them.

    Long vectors get a fifth as many. The first two cases are valid payloads, at either end of
    their memory.
    """
    counts: Counter[str] = Counter()
    form, seed, only = Form(*job["form"]), job["seed"], job.get("only")
    for number in job["beds"]:
        here = {**job, "beds": [number]}
        record.note(json.dumps(here))
        bed, random = Bed.named(form, seed, number, room)
        for case in range(job["cases"] if bed.count < LONG else -(-job["cases"] // 5)):
            payload, rank = bed.spoilt(random)
            if case < 2:
                payload = bed.payloads[rank]
            if only not in (None, case):
                continue
            record.note(json.dumps({**here, "only": case}), payload)
            thorough = case % 10 == 3 and bed.count < 5000  # transcriptions are slow
            outcome = bed.receive(payload, rank, case % 2 == 0, case // 2, thorough)
            if case < 2 and outcome.refusal is not None:
                raise Finding(f"a payload that encode wrote is refused: {outcome.refusal}")
            counts["accepted" if outcome.refusal is None else "refused"] += 1
            counts[f"= {outcome.kind()}"] += 1
    return counts


def try_frames(job: dict[str, Any], record: Record) -> Counter[str]:
    """The same for messages of the wire protocol."""
    counts: Counter[str] = Counter()
    for number in job["beds"]:
        random = Random(f"{job['seed']}/wire/{number}")
        for case in range(job["cases"]):
            spoilt = frames.spoilt(random)
            if job.get("only") not in (None, case):
                continue
            record.note(json.dumps({**job, "beds": [number], "only": case}), frames.joined(spoilt))
            kind = frames.receive(spoilt)
            counts["accepted" if kind == "message" else "refused"] += 1
            counts[f"= {kind}"] += 1
    return counts


def try_joins(job: dict[str, Any], record: Record) -> Counter[str]:
    """The same for descriptions of a job."""
    counts: Counter[str] = Counter()
    for number in job["beds"]:
        random = Random(f"{job['seed']}/join/{number}")
        for case in range(job["cases"]):
            described, workers = descriptions.spoilt(random), random.choice((1, 2, 9))
            if job.get("only") not in (None, case):
                continue
            here = {**job, "beds": [number], "only": case}
            record.note(json.dumps(here), json.dumps(described).encode())
            kind = descriptions.receive(described, workers)
            counts["refused" if kind.startswith("turned away") else "accepted"] += 1
            counts[f"= {kind}"] += 1
    return counts


def main(path: Path) -> None:
    """Answer jobs until there are no more."""
    faulthandler.enable()
    GuardedScratch().install()
    record, room = Record(path), Arenas()
    kinds: dict[str, Callable[[dict[str, Any]], Counter[str]]] = {
        "codec": lambda job: try_beds(job, record, room),
        "wire": lambda job: try_frames(job, record),
        "join": lambda job: try_joins(job, record),
        "vast": lambda job: try_vast(job, record),
    }
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer: dict[str, Any] = {"counts": kinds[job["kind"]](job)}
        except Finding as finding:
            answer = {"finding": str(finding), "trace": traceback.format_exc()}
        except Exception as error:
            answer = {"finding": repr(error), "trace": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
