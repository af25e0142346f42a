"""Start processes that try cases, give them work, and report what they found or died of."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fuzz.record import Case, last

TESTS = Path(__file__).parent.parent
LIMIT = 300.0
"""Seconds for one job: far beyond what one takes, compiling included."""


def search_path() -> str:
    """PYTHONPATH for a process that imports the tests' helpers."""
    return os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))


@dataclass(frozen=True)
class Report:
    """What one job came to.

    Attributes:
        counts: cases by their outcome.
        finding: what is wrong, or "".
        case: what was tried when it was found.
        detail: where in the code, for a person.
    """

    counts: dict[str, int]
    finding: str = ""
    case: Case | None = None
    detail: str = ""

    def __str__(self) -> str:
        if self.case is None:
            return self.finding
        shown = self.case.data[:64].hex() + ("..." if len(self.case.data) > 64 else "")
        return (
            f"{self.finding}\n{self.case.where}\n"
            f"payload of {len(self.case.data)} bytes: {shown}\n{self.detail}"
        )


class Child:
    """A process that tries cases, started anew whenever it has died."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        """
        Args:
            folder: for the record and what the process prints to standard error.
            environment: variables beside those of this process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._record, self._errors = folder / "record", folder / "errors"
        self._environment = {**os.environ, "PYTHONPATH": search_path(), **(environment or {})}
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: dict[str, Any], limit: float = LIMIT) -> Report:
        """Have a job done; see ``fuzz/child.py`` for what is in one."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            ready = True  # it has ended before it could be asked
        else:
            ready = bool(select.select([process.stdout], [], [], limit)[0])
            line = process.stdout.readline() if ready else ""
        if line:
            answer = json.loads(line)
            if "finding" not in answer:
                return Report(answer["counts"])
            return Report({}, answer["finding"], last(self._record), answer["trace"])
        if not ready:
            process.kill()
        self.close()
        why = f"ended with {process.returncode}"
        if not ready:
            why = f"had not finished after {limit:.0f} seconds"
        elif process.returncode < 0:
            why = f"was killed by {signal.Signals(-process.returncode).name}"
        errors = self._errors.read_text("utf-8", "replace")[-3000:]
        return Report({}, f"the process {why}", last(self._record), errors)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[str]:
        self._record.write_bytes(bytes(8))
        with open(self._errors, "w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fuzz.child", str(self._record)],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        return self._process
