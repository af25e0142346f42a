"""Search for bytes that hurt a receiver: ``make fuzz``, or ``python -m fuzz`` in ``tests/``.

    spoilt   payloads of every compressor between forbidden pages, messages of the wire, and
             descriptions of jobs, all spoilt at random: up to a million
    bounds   the same with Numba's check of every index
    guided   inputs that Atheris finds by their coverage, of the codec and of the wire

Each part runs on two processes, for ``--seconds`` at most. Exit code 1: something was found;
what was tried then lies in ``build/fuzz``, with how to repeat it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from fuzz.beds import SWEEP
from fuzz.driver import LIMIT, TESTS, Child, Report, search_path
from fuzz.inputs import forms

FOLDER = TESTS.parent / "build" / "fuzz"
PROCESSES = 2
BEDS, CASES = 5, 120
"""One job: beds of a form, and payloads in each."""
COMPILING = 900.0


def jobs(seed: int) -> Iterator[dict[str, Any]]:
    """All forms in turn, the wire and Joins; then again with other beds. Without end.

    Each turn takes some of the fixed sizes, short ones and long ones, until all have been.
    """
    turns = -(-SWEEP // BEDS)
    for turn in count():
        first = SWEEP + (turn - turns) * BEDS
        beds = range(turn, SWEEP, turns) if turn < turns else range(first, first + BEDS)
        shared = {"seed": seed, "beds": list(beds), "cases": CASES}
        for form in forms():
            yield {"kind": "codec", "form": [form.spec, form.contracted], **shared}
        yield {"kind": "wire", **shared, "cases": 5 * CASES}
        yield {"kind": "join", **shared, "cases": CASES // 4}


def name(job: dict[str, Any]) -> str:
    """What a job tries."""
    return str(job.get("form", job["kind"]))


class Search:
    """Parts that try cases by the thousand, and what they came to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.findings: list[Path] = []
        self._lock = Lock()

    def spoilt(
        self, part: str, seed: int, cases: int, seconds: float, environment: dict[str, str]
    ) -> None:
        """Have jobs done until that many cases were tried, or the time is over."""
        total: Counter[str] = Counter()
        source = jobs(seed)
        children = [Child(self.folder / f"{part}-{k}", environment) for k in range(PROCESSES)]
        closed = self._compile(children[0], part)  # what is broken is not tried again
        start = time.monotonic()

        def work(child: Child) -> None:
            while time.monotonic() - start < seconds:
                with self._lock:
                    if total["accepted"] + total["refused"] >= cases:
                        return
                    job = next(source)
                if name(job) in closed:
                    if len(closed) > len(forms()) + 1:
                        return
                    continue
                report = child.run(job)
                with self._lock:
                    total.update(report.counts)
                    if report.finding:
                        closed.add(name(job))
                        self._save(part, report)

        try:
            with ThreadPoolExecutor(PROCESSES) as pool:
                list(pool.map(work, children))
        finally:
            for child in children:
                child.close()
        kinds = sum(key.startswith("=") for key in total)
        print(
            f"{part}: {total['accepted'] + total['refused']} cases in "
            f"{time.monotonic() - start:.0f} s, seed {seed}: {total['accepted']} values, "
            f"{total['refused']} refusals, {kinds} different outcomes, {len(closed)} findings",
            flush=True,
        )

    def _compile(self, child: Child, part: str) -> set[str]:
        """Run each form once, which no limit of time is meant for; those that fail already."""
        broken = set()
        for form in forms():
            made = [form.spec, form.contracted]
            job = {"kind": "codec", "form": made, "seed": 0, "beds": [30], "cases": 2}
            report = child.run(job, COMPILING)
            if report.finding:
                broken.add(name(job))
                self._save(part, report)
        return broken

    def _save(self, part: str, report: Report) -> None:
        assert report.case is not None
        path = self.folder / f"{part}-finding-{len(self.findings)}"
        path.with_suffix(".bin").write_bytes(report.case.data)
        text = f"{report}\nrepeat: PYTHONPATH=tests python -m fuzz --repeat '{report.case.where}'\n"
        path.with_suffix(".txt").write_text(text, "utf-8")
        self.findings.append(path)
        print(f"{part}: FOUND {text}", flush=True)

    def guided(self, seed: int, seconds: float) -> None:
        """Both of Atheris' searches at once."""
        if importlib.util.find_spec("atheris") is None:
            print("guided: not run, since Atheris is not installed (it has wheels for Linux only)")
            return
        with ThreadPoolExecutor(PROCESSES) as pool:
            list(pool.map(lambda kind: self._guided(kind, seed, seconds), ("codec", "wire")))

    def _guided(self, kind: str, seed: int, seconds: float) -> None:
        corpus = self.folder / f"corpus-{kind}"
        shutil.rmtree(corpus, ignore_errors=True)  # of other forms, and not to be repeated
        corpus.mkdir(parents=True)
        command = [sys.executable, "-m", "fuzz.guided", kind]
        environment = {**os.environ, "PYTHONPATH": search_path()}
        subprocess.run([*command, "seeds", str(corpus)], env=environment, check=True)
        prefix = self.folder / f"guided-{kind}-"
        log = self.folder / f"guided-{kind}.log"
        options = {
            "max_total_time": round(seconds),
            "seed": seed,
            "max_len": 1 << 15,
            "timeout": 60,
            "rss_limit_mb": 4096,
            "artifact_prefix": prefix,
            "print_final_stats": 1,
        }
        arguments = [f"-{name}={value}" for name, value in options.items()]
        with open(log, "w", encoding="utf-8") as file:
            code = subprocess.run(
                [*command, str(corpus), *arguments],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=seconds + COMPILING + LIMIT,
            ).returncode
        lines = log.read_text("utf-8", "replace").splitlines()
        numbers = dict(
            line.removeprefix("stat::").split(":", 1) for line in lines if line.startswith("stat::")
        )
        done = numbers.get("number_of_executed_units", "?").strip()
        kept = numbers.get("new_units_added", "?").strip()
        print(
            f"guided {kind}: {done} inputs in {seconds:.0f} s, seed {seed}, {kept} kept for what "
            f"they reached; exit code {code}",
            flush=True,
        )
        if code:
            self.findings.append(log)
            print(f"guided {kind}: FOUND, see {log}", *lines[-30:], sep="\n", flush=True)


def repeat(job: dict[str, Any]) -> int:
    """One job again, as a finding names it."""
    with Child(FOLDER / "repeat") as child:
        report = child.run(job)
    print(report if report.finding else report.counts)
    return 1 if report.finding else 0


def main(arguments: Sequence[str]) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of each part (default: 60)")
    parser.add_argument("--cases", type=int, default=1_000_000, help="most of the first part")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument("--part", choices=("spoilt", "bounds", "guided"), action="append")
    parser.add_argument("--repeat", metavar="JOB", type=json.loads, help="as a finding names it")
    given = parser.parse_args(arguments)
    if given.repeat is not None:
        return repeat(given.repeat)
    parts = given.part or ["spoilt", "bounds", "guided"]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*-finding-*"):
        old.unlink()
    search = Search(FOLDER)
    if "spoilt" in parts:
        search.spoilt("spoilt", given.seed, given.cases, given.seconds, {})
    if "bounds" in parts:
        checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(FOLDER / "numba")}
        search.spoilt("bounds", given.seed + 1, given.cases // 10, given.seconds, checked)
    if "guided" in parts:
        search.guided(given.seed, given.seconds)
    return 1 if search.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
