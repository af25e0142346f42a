"""Reductions on threads of their own, so that the loop that receives never waits for one.

The kernels hold no GIL, so reductions of several buckets run at once, beside the loop. What
is done is told through a descriptor that the loop polls along with its sockets.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from psrv.codec.base import Bytes
from psrv.cores import cores
from psrv.server.aggregator import Reduce

MOST_THREADS = 8


@dataclass(frozen=True)
class Reduced:
    """One reduction's end.

    Attributes:
        outcome: the payload, or what went wrong.
        started, done: nanoseconds on the monotonic clock.
    """

    action: Reduce
    outcome: Bytes | BaseException
    started: int
    done: int


class Pool:
    """Runs reductions; the loop polls ``descriptor`` and then calls ``finished``."""

    def __init__(self, reduce: Callable[[Reduce], Bytes], threads: int | None = None) -> None:
        count = threads or min(MOST_THREADS, cores())
        self._reduce = reduce
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="psrv-reduce")
        self._finished: deque[Reduced] = deque()
        self._told, self._tell = socket.socketpair()
        self._told.setblocking(False)
        self._tell.setblocking(False)
        self._lock = threading.Lock()
        self._closed = False

    @property
    def descriptor(self) -> int:
        """Readable when a reduction has ended."""
        return self._told.fileno()

    def submit(self, action: Reduce) -> None:
        """Begin a reduction."""
        self._threads.submit(self._run, action)

    def run(self, action: Reduce) -> Reduced:
        """A reduction in this thread."""
        started = time.monotonic_ns()
        outcome: Bytes | BaseException
        try:
            outcome = self._reduce(action)
        except Exception as error:
            outcome = error
        return Reduced(action, outcome, started, time.monotonic_ns())

    def finished(self) -> list[Reduced]:
        """What has ended since the last call, in that order."""
        try:
            while self._told.recv(4096):
                pass
        except BlockingIOError:
            pass
        ended = []
        while self._finished:
            ended.append(self._finished.popleft())
        return ended

    def close(self) -> None:
        """Wait for what is running, forget the rest."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._closed = True
            self._told.close()
            self._tell.close()

    def _run(self, action: Reduce) -> None:
        self._finished.append(self.run(action))
        with self._lock:
            if not self._closed:
                with suppress(BlockingIOError):  # full: the loop has yet to look
                    self._tell.send(b"!")
