"""The server process: a ROUTER socket around ``ServerCore``.

Receives, calls, performs. Everything that is decided is decided in core.py; what is here
knows sockets, the clock and files. ZeroMQ drops what it cannot deliver in silence, so the
ROUTER is mandatory: a send to a peer that is gone is an event like its disconnection.
"""

from __future__ import annotations

import secrets
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

import psrv
from psrv import codec
from psrv.codec.base import Bytes
from psrv.errors import (
    CodecError,
    ConfigError,
    DivergedError,
    LostError,
    NonFiniteError,
    PsrvError,
    RefusedError,
    WireError,
    printable,
)
from psrv.job import Job
from psrv.measure.records import Recorder, server_file
from psrv.measure.summary import build_summary, write_summary
from psrv.messages import Direction, Message
from psrv.options import ServerConfig
from psrv.server.aggregator import Reduce
from psrv.server.core import Begin, Gone, Heard, Invalid, Note, Send, ServerCore, Stop, Terms, Tick
from psrv.server.membership import Stage
from psrv.server.pool import Pool, Reduced
from psrv.wire import decode, encode

_ERRORS: dict[str, type[PsrvError]] = {
    "lost": LostError,
    "timeout": LostError,
    "diverged": DivergedError,
    "nonfinite": NonFiniteError,
    "payload": CodecError,
}
_POLL_MS = 100
_LINGER_MS = 2000
_AT_ONCE = 256
"""Messages between two looks at the clock, whoever sends how many."""
_AT_HAND = 1 << 16
"""Coordinates of a bucket times workers that are reduced at once, in the loop itself: handing
them to a thread takes longer."""
_WAITING = 1000
"""Messages of one peer that wait here; more wait on its side."""


def run_server(config: ServerConfig, on_begin: Callable[[Job], object] | None = None) -> None:
    """Serve one run, from the first Hello to the last Bye.

    Args:
        config: where to listen, for how many workers, and the limits.
        on_begin: called with the job once all workers have joined.

    Raises:
        ConfigError: the address cannot be bound.
        PsrvError: the run ended otherwise than cleanly; the workers were told why.
    """
    server = ServerProcess(config, on_begin)
    try:
        server.serve()
    finally:
        server.close()


class ServerProcess:
    """One server: socket, clock, files, and the loop over them.

    Attributes:
        address: where workers connect, ``tcp://HOST:PORT``.
    """

    def __init__(
        self, config: ServerConfig, on_begin: Callable[[Job], object] | None = None
    ) -> None:
        self.config = config
        self._on_begin = on_begin
        self.core = ServerCore(
            Terms(
                config.workers,
                codec.digest(),
                psrv.__version__,
                secrets.token_bytes(16),
                config.max_message,
                config.lease,
                config.heartbeat,
                config.join_timeout,
                config.round_timeout,
            )
        )
        self._stop: Stop | None = None
        self._peers: dict[int, bytes] = {}
        self._leaving: list[bytes] = []
        self._next_tick = 0
        self._pool = Pool(self._compute)
        self._recorder = Recorder(_lines(config.out), trace=config.trace)
        self._recorder.start("server", 0)
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.LINGER, _LINGER_MS)
        self._router.setsockopt(zmq.RCVHWM, _WAITING)
        self._router.setsockopt(zmq.SNDHWM, 0)
        self._router.setsockopt(zmq.MAXMSGSIZE, config.max_message + (64 << 10))
        self._router.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._router.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        self._router.setsockopt(zmq.IPV6, 1 if "[" in config.bind else 0)
        self._monitor = self._router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            self.address = self._bind(config.bind)
        except PsrvError:
            self.close()
            raise

    def _bind(self, address: str) -> str:
        try:
            self._router.bind(address)
        except zmq.ZMQError as error:
            reason = error.strerror or str(error)
            if error.errno == zmq.EADDRINUSE:
                raise ConfigError(
                    f"cannot listen on {address}: the port is taken; stop what uses it or choose "
                    "another with --bind (port * takes any free one)"
                ) from error
            raise ConfigError(f"cannot listen on {address}: {reason}; check --bind") from error
        endpoint: str = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        if self.config.address_file is not None:
            partial = self.config.address_file.with_suffix(".partial")
            partial.write_text(endpoint)
            partial.replace(self.config.address_file)
        else:
            print(f"psrv server: listening on {endpoint}", file=sys.stderr, flush=True)
        return endpoint

    def serve(self) -> None:
        """Run until the last member has left, or the run has failed.

        Raises:
            PsrvError: what ended the run.
        """
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        poller.register(self._pool.descriptor, zmq.POLLIN)
        try:
            while self._stop is None:
                self._turn(dict(poller.poll(_POLL_MS)))
        except BaseException as error:
            what = str(error) or type(error).__name__
            self._perform(self.core.failed("failed", f"the server stopped: {what}"))
            raise
        self._finish(self._stop)

    def _turn(self, ready: dict[Any, int]) -> None:
        """One turn of the loop: reductions, then messages, departures, and the clock."""
        if self._pool.descriptor in ready:
            for reduced in self._pool.finished():
                self._take_reduced(reduced)
        if self._monitor in ready:
            self._note_departures()
        drained = self._take_messages() if self._router in ready or self._leaving else True
        now = time.monotonic_ns()
        while drained and self._leaving and self._stop is None:
            self._perform(self.core.handle(Gone(self._leaving.pop(0)), now))
        if now >= self._next_tick:
            self._next_tick = now + _POLL_MS * 1_000_000
            self._perform(self.core.handle(Tick(), now))

    def close(self) -> None:
        """Close sockets and files; what was sent still goes out, for 2 s at most."""
        self._pool.close()
        self._router.disable_monitor()
        self._monitor.close(0)
        self._router.close()
        self._context.term()
        self._recorder.close()

    def _note_departures(self) -> None:
        """Who has disconnected; handled after what they sent before, such as their reason."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            peer = self._peers.pop(int(event["value"]), None)
            if peer is not None:
                self._leaving.append(peer)

    def _know(self, peer: bytes, frames: list[zmq.Frame]) -> None:
        """Note which connection a peer is behind, so that its end can be told."""
        try:
            descriptor = frames[1].get(zmq.SRCFD) if len(frames) > 1 else -1
        except zmq.ZMQError as error:
            # To libzmq, bytes that are no ZMTP greeting are a peer of ZMTP 1.0, which has none.
            raise WireError("it does not come from a ZeroMQ connection") from error
        if peer not in self._leaving:
            self._peers[descriptor] = peer

    def _take_messages(self) -> bool:
        """Handle what has come; False if there may be more."""
        for _ in range(_AT_ONCE):
            if self._stop is not None:
                break
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return True
            now = time.monotonic_ns()
            # Departures first: a connection's descriptor may be used again by the next one.
            self._note_departures()
            peer = bytes(frames[0].buffer)
            try:
                self._know(peer, frames)
                message = decode(
                    [f.buffer for f in frames[1:]],
                    max_payload=self.config.max_message,
                    direction=Direction.TO_SERVER,
                )
            except WireError as error:
                self._perform(self.core.handle(Invalid(peer, str(error)), now))
                continue
            self._hear(peer, message, now)
        return False

    def _hear(self, peer: bytes, message: Message, now: int) -> None:
        """Handle a message. A fault that it uncovers here costs its sender, not the others,
        as long as the run has not begun."""
        try:
            actions = self.core.handle(Heard(peer, message), now)
        except Exception as error:
            if self.core.membership.stage is not Stage.GATHERING:
                raise
            traceback.print_exc()
            why = f"this server failed on it ({type(error).__name__}); its log says more"
            actions = self.core.handle(Invalid(peer, why), now)
            actions += self.core.handle(Gone(peer, "message could not be handled"), now)
        self._perform(actions)

    def _perform(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case Send(peer, message):
                    self._send(peer, message)
                case Reduce():
                    self._reduce(action)
                case Stop():
                    self._stop = self._stop or action
                case Begin(job):
                    codec.warmup((*job.method.up.specs, *job.method.down.specs))
                    if self._on_begin is not None:
                        self._on_begin(job)
                case Note(text):
                    print(f"psrv server: {printable(text)}", file=sys.stderr, flush=True)

    def _send(self, peer: Any, message: Message) -> None:
        frames = [peer, *encode(message)]
        try:
            self._router.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._leaving.append(peer)

    def _reduce(self, action: Reduce) -> None:
        """Begin a reduction; a small one is done at once."""
        assert self.core.aggregator is not None
        bucket = self.core.aggregator.job.layout.buckets[action.bucket]
        if (bucket.stop - bucket.start) * self.config.workers <= _AT_HAND:
            self._take_reduced(self._pool.run(action))
        else:
            self._pool.submit(action)

    def _compute(self, action: Reduce) -> Bytes:
        """On a thread of the pool."""
        assert self.core.aggregator is not None
        payload = self.core.aggregator.reduce(action)
        if self.config.slow_ms:
            time.sleep(self.config.slow_ms / 1000)
        return payload

    def _take_reduced(self, reduced: Reduced) -> None:
        action, outcome = reduced.action, reduced.outcome
        if self._stop is not None:
            return
        if isinstance(outcome, CodecError):
            code = "nonfinite" if isinstance(outcome, NonFiniteError) else "payload"
            self._perform(self.core.failed(code, str(outcome)))
            return
        if isinstance(outcome, BaseException):
            raise outcome
        self._recorder.span(
            "reduce", reduced.started, reduced.done,
            round=action.round, bucket=action.bucket, lane="reduce",
        )  # fmt: skip
        self._perform(self.core.reduced(action, outcome, reduced.started, reduced.done))

    def _finish(self, stop: Stop) -> None:
        self._recorder.end(
            0, code=stop.code, rejected=self.core.invalid + self.core.membership.turned_away
        )
        if stop.code:
            raise _ERRORS.get(stop.code, RefusedError)(stop.text)
        job = self.core.membership.job
        if self.config.out is not None and job is not None:
            about = job.about(self.config.workers, servers=1) | {"version": psrv.__version__}
            if self.config.link is not None:
                about["link"] = self.config.link
            summary = build_summary(about, self.core.membership.summaries())
            write_summary(self.config.out, summary)


def _lines(out: Path | None) -> Path | None:
    if out is None:
        return None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {out}: {error.strerror}; choose another --out"
        ) from error
    return out / server_file(0)
