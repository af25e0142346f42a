"""The worker's connection: a thread that owns the DEALER socket, around ``Link``.

The training thread never touches a socket: it hands messages over and takes them from a
queue. So heartbeats go out while a long backward pass runs, and a result is taken off
the wire the moment it comes.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

import psrv
from psrv import codec
from psrv.errors import LostError, PsrvError, WireError
from psrv.measure.clock import OffsetEstimator
from psrv.measure.tcp import TcpCounters, TcpMeter
from psrv.messages import VERSION, Direction, Hello, Message, Push, Result, Welcome
from psrv.wire import decode, encode
from psrv.worker.protocol import (
    Clock,
    Closed,
    Deliver,
    Event,
    Fail,
    Garbled,
    Link,
    Received,
    Say,
    Send,
    Tick,
)

_POLL_MS = 100
_LINGER_MS = 2000


class Connection:
    """One worker's connection to the lead server.

    Attributes:
        clock: offset of the server's clock against this process's.
        max_payload: bytes of the largest payload that the job allows; set when it is known.
        message_up, message_down: bytes of Push and Result messages so far, headers included.
    """

    def __init__(self, address: str, connect_timeout: float, rank: int | None) -> None:
        self.address = address
        self.clock = OffsetEstimator()
        self.message_up = self.message_down = 0
        self.max_payload = 0
        self._link = Link(address, connect_timeout)
        self._outbox: deque[Event] = deque()
        self._inbox: queue.SimpleQueue[tuple[Message, int] | PsrvError] = queue.SimpleQueue()
        self._tcp = TcpMeter()
        self._failure: PsrvError | None = None
        self._ended: PsrvError | None = None
        self._closing = False
        self._context = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.setsockopt(zmq.LINGER, _LINGER_MS)
        self._dealer.setsockopt(zmq.RCVHWM, 0)
        self._dealer.setsockopt(zmq.SNDHWM, 0)
        self._dealer.setsockopt(zmq.TCP_KEEPALIVE, 1)
        self._dealer.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        self._dealer.setsockopt(zmq.IPV6, 1 if "[" in address else 0)
        self._monitor = self._dealer.get_monitor_socket(
            zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED
        )
        self._wake, self._woken = (self._context.socket(zmq.PAIR) for _ in range(2))
        self._woken.bind("inproc://wake")
        self._wake.connect("inproc://wake")
        self._wake_lock = threading.Lock()
        try:
            self._dealer.connect(address)
        except zmq.ZMQError as error:
            self._release()
            raise LostError(f"cannot connect to {address}: {error}; check the address") from error
        self.send(
            Hello(
                VERSION,
                codec.digest(),
                -1 if rank is None else rank,
                socket.gethostname()[:255],
                os.getpid(),
                psrv.__version__,
            )
        )
        self._thread = threading.Thread(target=self._run, name="psrv-io", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Hand a message over; its payload must stay unchanged until its answer has come."""
        self._outbox.append(Say(message))
        self._wake_up()

    def receive(self) -> tuple[Message, int]:
        """The next message, and when it came (nanoseconds, this process's clock).

        Raises:
            PsrvError: why there will be none: the server's word, or its silence.
        """
        if self._failure is not None:
            raise self._failure
        item = self._inbox.get()
        if isinstance(item, PsrvError):
            self._failure = item
            raise item
        return item

    def failure(self) -> PsrvError | None:
        """What ended the connection, if something has, without waiting."""
        return self._failure or self._ended

    def unheard_failure(self) -> PsrvError | None:
        """What ended the connection, unless ``receive`` has raised it already."""
        return None if self._failure is not None else self._ended

    def expect_welcome(self) -> Welcome:
        """Wait for the server's terms; bounded by the connect timeout."""
        message, _ = self.receive()
        assert isinstance(message, Welcome)
        return message

    def tcp(self) -> TcpCounters | None:
        """What the kernel counted on this connection so far; None off Linux."""
        return self._tcp.read()

    def close(self) -> None:
        """Send what is left, for 2 s at most, and end the thread. May be called twice."""
        self._closing = True
        self._wake_up()
        self._thread.join()

    def _wake_up(self) -> None:
        """End the thread's poll. The lock keeps it from closing the socket meanwhile."""
        with self._wake_lock, suppress(zmq.Again):  # full: the thread has yet to look
            if not self._wake.closed:
                self._wake.send(b"", zmq.NOBLOCK)

    def _run(self) -> None:
        poller = zmq.Poller()
        for s in (self._dealer, self._monitor, self._woken):
            poller.register(s, zmq.POLLIN)
        try:
            while not (self._closing and not self._outbox):
                ready = dict(poller.poll(_POLL_MS))
                if self._woken in ready:
                    self._drain_wake()
                self._drain_outbox()
                if self._dealer in ready:
                    self._drain_dealer()
                if self._monitor in ready:
                    self._drain_monitor()
                self._step(Tick())
        except Exception as error:
            self._inbox.put(LostError(f"the connection to {self.address} failed: {error!r}"))
            raise
        finally:
            self._release()

    def _release(self) -> None:
        self._dealer.disable_monitor()
        self._monitor.close(0)
        with self._wake_lock:
            self._wake.close()
        self._woken.close()
        self._dealer.close()
        self._context.term()

    def _drain_wake(self) -> None:
        try:
            while True:
                self._woken.recv(zmq.NOBLOCK)
        except zmq.Again:
            pass

    def _drain_outbox(self) -> None:
        while self._outbox:
            self._step(self._outbox.popleft())

    def _drain_dealer(self) -> None:
        while True:
            try:
                frames = self._dealer.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                message = decode(
                    [f.buffer for f in frames],
                    max_payload=self.max_payload,
                    direction=Direction.TO_WORKER,
                )
            except WireError as error:
                self._step(Garbled(str(error)))
                return
            if isinstance(message, Result):
                self.message_down += sum(len(f.buffer) for f in frames)
            self._step(Received(message))

    def _drain_monitor(self) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_CONNECTED:
                self._tcp.attach(descriptor)
            else:
                self._tcp.detach(descriptor)
                self._drain_dealer()  # the server's last words, such as why it closed
                self._step(Closed())

    def _step(self, event: Event) -> None:
        self._perform(self._link.handle(event, time.monotonic_ns()))

    def _perform(self, actions: list[Any]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    frames = encode(message)
                    if isinstance(message, Push):
                        self.message_up += sum(memoryview(f).nbytes for f in frames)
                    self._dealer.send_multipart(frames, copy=False)
                case Deliver(message, now):
                    self._inbox.put((message, now))
                case Clock(sent, server, received):
                    self.clock.add(sent, server, received)
                case Fail(error):
                    self._ended = self._ended or error
                    self._inbox.put(error)
