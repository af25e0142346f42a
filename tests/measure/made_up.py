"""Runs on disk that look like real ones, made by the code that makes real ones."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from psrv.measure.meter import PARTS, StepMeter, StepRecord
from psrv.measure.records import Recorder, worker_file
from psrv.measure.summary import WorkerTotals, build_summary, write_summary


class Clock:
    """A clock that moves only when told to."""

    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def pass_(self, nanoseconds: int) -> None:
        self.now += nanoseconds


# Milliseconds of data, compute, encode, server, link (each way), decode, update.
_SPEEDS = {
    "amsgrad": ("dense", (0.4, 11.2, 1.3, 3.1, 38.0, 1.1, 2.9)),
    "cd-adam": ("sign", (0.4, 11.3, 2.1, 1.9, 1.4, 0.9, 3.0)),
    "dist-ef-sgdm": ("sign", (0.4, 11.1, 1.8, 1.8, 1.4, 0.9, 1.2)),
    "signum": ("sign-unscaled", (0.4, 11.2, 1.2, 1.1, 1.3, 0.6, 0.9)),
}


def make_step(
    meter: StepMeter, clock: Clock, round_: int, parts_ms: dict[str, float], last: int
) -> StepRecord:
    """Drive ``meter`` through one step with these parts."""

    def pass_ms(part: str) -> int:
        clock.pass_(round(parts_ms.get(part, 0.0) * 1e6))
        return clock.now

    meter.begin_step(round_)
    for part in ("data", "compute", "encode"):
        pass_ms(part)
        meter.lap(part, bucket=0 if part == "encode" else None)
    arrived, slowest, done = pass_ms("uplink"), pass_ms("straggler"), pass_ms("server")
    pass_ms("downlink")
    meter.wait(arrived, slowest, done, last, bucket=0)
    for part in ("decode", "update"):
        pass_ms(part)
        meter.lap(part)
    pass_ms("other")
    return meter.end_step()


def make_run(
    directory: Path,
    method: str = "cd-adam",
    *,
    task: str = "mnist",
    workers: int = 4,
    rounds: int = 200,
    dimension: int = 1_199_882,
    seed: int = 0,
    accuracy: bool = True,
    tcp: bool = True,
    straggler: int | None = None,
    trace: bool = False,
) -> dict[str, Any]:
    """Write job.json, summary.json and the workers' lines of a made-up run."""
    directory.mkdir(parents=True)
    compressor, speeds = _SPEEDS.get(method, ("sign", _SPEEDS["cd-adam"][1]))
    data, compute, encode, server, link, decode, update = speeds
    payload = 4 * dimension if compressor == "dense" else math.ceil(dimension / 8) + 148
    draw = random.Random(f"{method} {seed}")
    job = {
        "method": method,
        "compressor": compressor,
        "task": task,
        "workers": workers,
        "servers": 1,
        "rounds": rounds,
        "dimension": dimension,
        "seed": seed,
        "version": "0.1.0",
        "config": {"lr": 0.001, "batch": 32, "blocks": 32768, "overlap": True, "data": None},
        "machine": {
            "host": "node-17",
            "system": "Linux 6.18.44",
            "cpu": "Example CPU E5 @ 2.60GHz",
            "cores": 2,
            "python": "3.11.7",
            "packages": {"numpy": "2.4.6", "numba": "0.68.1", "torch": "2.13.0"},
        },
    }
    (directory / "job.json").write_text(json.dumps(job))
    counts = {
        "payload_up": payload,
        "payload_down": payload,
        "message_up": payload + 310,
        "message_down": payload + 352,
        "tcp_up": payload + 420 if tcp else None,
        "tcp_down": payload + 460 if tcp else None,
    }
    details = []
    for rank in range(workers):
        clock = Clock(10_000_000_000 * rank)
        totals = WorkerTotals(rank)
        with Recorder(directory / worker_file(rank), trace=trace, clock=clock) as recorder:
            recorder.start("worker", rank)
            recorder.offset(-10_000_000_000 * rank, 40_000)
            meter = StepMeter(clock, rank, recorder.span)
            for round_ in range(rounds):
                last = straggler if straggler is not None else draw.randrange(workers)
                wait = 50.0 if straggler is not None else abs(draw.gauss(0, 2.5))
                parts = dict(
                    zip(
                        PARTS,
                        (
                            data,
                            compute * draw.uniform(0.95, 1.1),
                            encode,
                            link * draw.uniform(0.9, 1.2),
                            0.0 if last == rank else wait,
                            server,
                            link * draw.uniform(0.8, 1.1),
                            decode,
                            update,
                            0.2,
                        ),
                        strict=True,
                    )
                )
                step = make_step(meter, clock, round_, parts, last)
                totals.add(step, counts)
                recorder.round(step, counts)
                if rank == 0 and (round_ % max(rounds // 20, 1) == 0 or round_ == rounds - 1):
                    done = round_ + 1
                    level = 2.3 * math.exp(-done / rounds * (3 + draw.random() / 4)) + 0.06
                    record = {
                        "round": done,
                        "loss": level,
                        "accuracy": 1 - level / 2.6 if accuracy else None,
                        "grad_norm": None if accuracy else 1e-6 + level**6,
                        "seconds": meter.elapsed_seconds,
                        "payload_up": payload * done,
                        "payload_down": payload * done,
                    }
                    totals.add_evaluation(record)
                    recorder.evaluation(record)
            recorder.end(rank)
        details.append(
            totals.detail(
                digest="ab" * 32,
                wall_seconds=meter.elapsed_seconds + 1.5,
                offset_ns=0,
                rtt_ns=40_000,
            )
        )
    summary = build_summary(job, details)
    write_summary(directory, summary)
    return summary
