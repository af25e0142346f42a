"""The processes of a local run: started, listened to, and none left behind.

Each child leads a session of its own, so that a signal from the terminal reaches only the
launcher, and a signal to the child reaches what it started too. On Linux the kernel kills
a child whose launcher is gone. Everything a child prints ends up in its log.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any

from psrv.errors import LostError, PsrvError, RefusedError, printable
from psrv.links import Links
from psrv.tied import tied_to_parent

TICK = 0.05
"""Seconds between two looks at the children."""

LONGEST_LINE = 1 << 16
TAIL_BYTES = 1 << 16
LONGEST_ERROR = 600

# The errors by which a process says that another one failed.
_CONSEQUENCES = (RefusedError, LostError)
_ERROR_LINE = re.compile(r"psrv: error: |[\w.]*(?:Error|Exception|Interrupt|Exit)(?::|$)")


@dataclass(eq=False)
class Child:
    """One process.

    Attributes:
        role: ``server`` or ``worker``.
        index: its shard or rank.
        log: file with everything it printed.
        code: exit code, or minus the signal's number; None while it runs.
        order: how many ended before it; children seen to end at the same look, which may
            be in any order, share it.
    """

    role: str
    index: int
    log: Path
    process: subprocess.Popen[bytes]
    code: int | None = None
    order: int = 0

    @property
    def name(self) -> str:
        """As people say it; there is one server."""
        return self.role if self.role == "server" else f"{self.role} {self.index}"

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self.code is None:
            return "is still running"
        if self.code >= 0:
            return f"failed with exit code {self.code}"
        try:
            return f"was killed by {signal.Signals(-self.code).name}"
        except ValueError:
            return f"was killed by signal {-self.code}"

    @property
    def exit_code(self) -> int:
        """What the launcher ends with for it: its code, or 128 + signal as shells do."""
        return 128 - self.code if self.code is not None and self.code < 0 else self.code or 0

    def last_error(self) -> str:
        """The last line of its log that looks like an error; without one, its last line if it
        ended by itself, else nothing."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, os.path.getsize(self.log) - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if _ERROR_LINE.match(line)]
        if not errors and self.code is not None and self.code < 0:
            return ""
        text = (errors or lines or [""])[-1].removeprefix("psrv: error: ")
        text = printable(text.removeprefix(f"{self.name}: "))
        return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}..."

    def blames(self, others: Sequence[Child]) -> bool:
        """Whether its last words name another of these, a worker: ``worker 2: ...``."""
        match = re.search(r"\bworker (\d+)\b", self.last_error())
        named = f"worker {match[1]}" if match else self.name
        return named != self.name and any(other.name == named for other in others)

    def is_consequence(self) -> bool:
        """Whether it ended because another process did, and said so."""
        if self.code in {kind.exit_code for kind in _CONSEQUENCES}:
            return True
        kinds = "|".join(kind.__name__ for kind in _CONSEQUENCES)
        return re.match(rf"(psrv\.errors\.)?({kinds})\b", self.last_error()) is not None


@dataclass(eq=False)
class _Stream:
    """One pipe of a child, cut into lines for the log and for the launcher's own output."""

    pipe: IO[bytes]
    log: IO[bytes]
    output: IO[str] | None
    prefix: str
    rest: bytes = b""

    def read(self) -> bool:
        """Pass on what has come; False at the end. ``BrokenPipeError`` is raised once, then
        only the log is written."""
        chunk = os.read(self.pipe.fileno(), 1 << 16)
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        if self.rest and (not chunk or len(self.rest) > LONGEST_LINE):
            lines.append(self.rest)
            self.rest = b""
        # Whole lines, since both streams of a child share its log.
        self.log.write(b"".join(line + b"\n" for line in lines))
        output, self.output = self.output, None
        if output is not None and lines:
            for line in lines:
                # A progress bar redraws its line after \r: show what a terminal would.
                text = line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]
                output.write(f"{self.prefix}{text}\n")
            output.flush()
        self.output = output
        return bool(chunk)


@dataclass
class Crew:
    """All children of a launcher.

    Args:
        prefixed: show which worker a line comes from, when children's output is relayed.
        links: an emulated host for each child, servers first; None: all on this machine.
    """

    prefixed: bool = True
    links: Links | None = None
    children: list[Child] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def start(
        self,
        role: str,
        index: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        relay: bool = False,
    ) -> Child:
        """Start a process.

        Args:
            role, index: who it is, for messages.
            command: program and arguments.
            environment: all of its environment.
            log: file that takes its output.
            relay: pass its output on to this process's own, line by line, too.
        """
        if self.links is not None:
            # Servers are started first, so that the order is the number of the host.
            command = self.links.inside(len(self.children), command)
        with open(log, "ab", buffering=0) as file:
            process = subprocess.Popen(
                tied_to_parent(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if relay else file,
                stderr=subprocess.PIPE if relay else subprocess.STDOUT,
                start_new_session=True,
            )
        child = Child(role, index, log, process)
        self.children.append(child)
        if relay:
            self._relay(process.stdout, log, sys.stdout, index)
            self._relay(process.stderr, log, sys.stderr, index)
        return child

    def _relay(self, pipe: IO[bytes] | None, log: Path, output: IO[str], index: int) -> None:
        assert pipe is not None
        prefix = f"[{index}] " if self.prefixed else ""
        if prefix and output.isatty():
            prefix = f"\x1b[2m{prefix}\x1b[0m"
        stream = _Stream(pipe, open(log, "ab", buffering=0), output, prefix)  # noqa: SIM115
        self._selector.register(pipe, selectors.EVENT_READ, stream)

    def look(self, seconds: float = TICK) -> None:
        """Wait up to ``seconds``, passing output on meanwhile, and see which children ended."""
        if self._selector.get_map():
            for key, _ in self._selector.select(seconds):
                if not key.data.read():
                    self._close(key.data)
        else:
            time.sleep(seconds)
        order = sum(child.code is not None for child in self.children)
        for child in self.children:
            if child.code is None and (code := _ending(child.process)) is not None:
                child.code, child.order = code, order

    def drain(self, seconds: float = 1.0) -> None:
        """Pass on what ended children left in their pipes. What they started themselves may
        hold a pipe open, hence the limit."""
        limit = time.monotonic() + seconds
        while self._selector.get_map() and time.monotonic() < limit:
            self.look(TICK)

    def failures(self) -> list[Child]:
        """Children that ended badly, the likely cause of the others' end first."""
        failed = [child for child in self.children if child.code not in (None, 0)]
        return sorted(failed, key=lambda c: (c.is_consequence(), c.blames(failed), c.order))

    def running(self, role: str | None = None) -> list[Child]:
        """Children that have not ended."""
        return [c for c in self.children if c.code is None and role in (None, c.role)]

    def end(self, patience: float = 5.0, hurry: Callable[[], bool] = lambda: False) -> None:
        """End whatever runs: a signal to terminate, and after ``patience`` seconds, or once
        ``hurry()``, one that cannot be refused. Also ends what children left running."""
        limit = time.monotonic() + patience
        self._signal(self.running(), signal.SIGTERM)
        while self.running() and time.monotonic() < limit and not hurry():
            self.look()
        self._signal(self.children, signal.SIGKILL)
        for child in self.children:
            code = child.process.wait()
            child.code = code if child.code is None else child.code
        self.drain()

    def close(self) -> None:
        """Close the pipes."""
        for key in list(self._selector.get_map().values()):
            self._close(key.data)
        self._selector.close()

    def _close(self, stream: _Stream) -> None:
        self._selector.unregister(stream.pipe)
        stream.pipe.close()
        stream.log.close()

    @staticmethod
    def _signal(children: Sequence[Child], number: signal.Signals) -> None:
        for child in children:
            # Once a child is reaped, its group may be gone and the number another's.
            if child.process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.process.pid, number)


def _ending(process: subprocess.Popen[bytes]) -> int | None:
    """A process's code as ``Popen`` counts it, None while it runs. It is not reaped, so that
    its number, and its group's, stays its own until ``Crew.end``."""
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return process.poll()  # SIGCHLD is ignored here, and the kernel has reaped it
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


class Stopped(PsrvError):
    """A signal asked this process to end."""

    def __init__(self, number: int, what: str = "run stopped") -> None:
        super().__init__(f"{what} by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@dataclass
class Signals:
    """The signals that came since ``caught_signals`` began: the first, and how many."""

    first: int | None = None
    count: int = 0

    def check(self) -> None:
        """Raises ``Stopped`` if there was one."""
        if self.first is not None:
            raise Stopped(self.first)


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """Note SIGINT, SIGTERM and SIGHUP instead of dying of them, so that children are ended."""
    seen = Signals()

    def note(number: int, frame: FrameType | None) -> None:
        seen.first = seen.first or number
        seen.count += 1

    before: dict[int, Any] = {}
    try:
        for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Ignored by whoever started this process (nohup): stays ignored.
            if signal.getsignal(wanted) is not signal.SIG_IGN:
                before[wanted] = signal.signal(wanted, note)
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
