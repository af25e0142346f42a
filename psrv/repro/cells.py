"""Cells in parallel: processes that each compute one cell at a time, one thread each.

Processes are started anew, not forked, and live for many cells, so that imports and compiled
kernels are paid for once. Requests and results are JSON (``cell_process.py``). However
this ends - done, a cell's exception, Ctrl-C - every process is ended, by its own id.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psrv.errors import ConfigError, PsrvError
from psrv.repro.store import plain

TICK = 0.2
PATIENCE = 2.0
"""Seconds that a process gets to end by itself."""

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)

Done = Callable[[str, Any, float], None]
Watch = Callable[[float], None]


class CellError(PsrvError):
    """A cell ended in an exception, or its process died."""

    def __init__(self, message: str, code: int = 1, trace: str = "") -> None:
        super().__init__(message)
        self.exit_code = code
        self.trace = trace


def compute(
    function: Callable[..., Any],
    settings: Mapping[str, Mapping[str, Any]],
    processes: int,
    done: Done,
    watch: Watch = lambda fraction: None,
    threads: int = 1,
) -> None:
    """``done(key, function(**settings[key]), seconds)`` for each key, in the order they finish.

    Args:
        function: of a module's top level.
        settings: JSON can hold them.
        processes: how many at once; 0 computes in this process.
        done: called here, in this process. watch: called often with the share that is done.
        threads: of linear algebra and numba in each process.

    Raises:
        CellError: names the cell, with the exception's words. What was done stays done.
        KeyboardInterrupt: after all processes have ended.
    """
    if "<" in function.__qualname__:
        raise ConfigError(
            f"{function.__qualname__} cannot be sent to another process; expected a function "
            "of a module's top level"
        )
    if processes == 0:
        _here(function, settings, done, watch)
        return
    module = sys.modules[function.__module__]
    base = {
        "path": [str(Path(entry).absolute()) for entry in sys.path],
        "module": function.__module__,
        "file": getattr(module, "__file__", None),
        "function": function.__qualname__,
    }
    waiting = iter(settings.items())
    finished, total = 0, len(settings)
    with _crew(min(processes, total), threads) as crew, selectors.DefaultSelector() as selector:
        busy = 0
        for worker in crew:
            selector.register(worker.answers, selectors.EVENT_READ, worker)
            busy += worker.give(waiting, base)
        while busy:
            for key, _ in selector.select(TICK):
                worker = key.data
                cell = worker.cell
                for answer in worker.read():
                    if "progress" in answer:
                        worker.progress = answer["progress"]
                        continue
                    if "error" in answer:
                        raise CellError(
                            f"cell '{cell}' failed: {answer['kind']}: {answer['error']}",
                            answer["code"],
                            answer["trace"],
                        )
                    done(cell, answer["result"], time.monotonic() - worker.started)
                    finished += 1
                    busy -= 1
                    busy += worker.give(waiting, base)
            watch((finished + sum(worker.progress for worker in crew)) / total)


def _here(
    function: Callable[..., Any],
    settings: Mapping[str, Mapping[str, Any]],
    done: Done,
    watch: Watch,
) -> None:
    for number, (key, given) in enumerate(settings.items(), start=1):
        started = time.monotonic()
        try:
            result = plain(function(**given))
        except Exception as error:
            raise CellError(
                f"cell '{key}' failed: {type(error).__name__}: {error}",
                error.exit_code if isinstance(error, PsrvError) else 1,
            ) from error
        done(key, result, time.monotonic() - started)
        watch(number / len(settings))


@dataclass(eq=False)
class _Worker:
    """One process, the cell it is at, and the line of an answer that is not whole yet."""

    process: subprocess.Popen[bytes]
    answers: int
    cell: str = ""
    started: float = 0.0
    progress: float = 0.0
    rest: bytearray = field(default_factory=bytearray)

    def give(self, waiting: Iterator[tuple[str, Mapping[str, Any]]], base: dict[str, Any]) -> int:
        """The next cell, if there is one; 1 if there was."""
        self.progress = 0.0
        for key, settings in waiting:
            self.cell, self.started = key, time.monotonic()
            line = json.dumps({**base, "settings": plain(settings)}) + "\n"
            assert self.process.stdin is not None
            try:
                self.process.stdin.write(line.encode())
                self.process.stdin.flush()
            except BrokenPipeError:
                raise self._gone() from None
            return 1
        self.cell = ""
        return 0

    def read(self) -> list[dict[str, Any]]:
        """The whole answers that have come."""
        chunk = os.read(self.answers, 1 << 20)
        if not chunk:
            raise self._gone()
        self.rest += chunk
        if b"\n" not in chunk:
            return []
        *lines, rest = bytes(self.rest).split(b"\n")
        self.rest = bytearray(rest)
        return [json.loads(line) for line in lines]

    def _gone(self) -> CellError:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        code = self.process.returncode
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            hint = "; out of memory? try fewer --processes" if code == -signal.SIGKILL else ""
        else:
            how, hint = f"ended with exit code {code}", ""
        return CellError(f"cell '{self.cell}': its process {how}{hint}")


@contextmanager
def _crew(count: int, threads: int) -> Iterator[list[_Worker]]:
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
    workers: list[_Worker] = []
    try:
        for _ in range(count):
            read, write = os.pipe()
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "psrv.repro.cell_process", str(write)],
                    stdin=subprocess.PIPE,
                    stdout=sys.stderr.fileno() if _has_number(sys.stderr) else None,
                    env=environment,
                    pass_fds=(write,),
                    start_new_session=True,  # Ctrl-C is for this process, which ends them
                )
            except BaseException:
                os.close(read)
                raise
            finally:
                os.close(write)
            workers.append(_Worker(process, read))
        yield workers
    finally:
        _end(workers)


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        with suppress(OSError):
            worker.process.terminate()
    limit = time.monotonic() + PATIENCE
    for worker in workers:
        try:
            worker.process.wait(max(0.0, limit - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            worker.process.kill()
            worker.process.wait()
        if worker.process.stdin is not None:
            with suppress(OSError):
                worker.process.stdin.close()
        os.close(worker.answers)


def _has_number(stream: Any) -> bool:
    try:
        return isinstance(stream.fileno(), int)
    except (OSError, ValueError, AttributeError):
        return False
