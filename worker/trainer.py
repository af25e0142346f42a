"""One worker's rounds: encode and push every bucket, take the results, commit.

The same ``Sender`` and ``Replica`` as in the simulation; here their payloads travel
through the session's connection, and every nanosecond of a step is accounted for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from psrv.codec.base import Bytes, Floats
from psrv.errors import PsrvError, WireError
from psrv.job import Job
from psrv.measure.meter import StepMeter, StepRecord
from psrv.measure.summary import WorkerTotals
from psrv.messages import Collect, Collected, Epoch, Join, State
from psrv.worker.exchange import Exchange
from psrv.worker.replica import Replica
from psrv.worker.sender import Sender
from psrv.worker.warm import warmup

if TYPE_CHECKING:
    from psrv.worker.session import Session

CHUNK = 1 << 20
"""Most bytes of state in one message."""


class Trainer:
    """The job of one session, from joining to the last round.

    Attributes:
        replica: parameters and rule state. sender: gradient, memory, local momentum.
        round: rounds applied so far, and the number of the round to come.
        meter: opened by the caller with ``begin_step`` before each ``step``.
        totals: what the steps added up to.
    """

    def __init__(self, session: Session, job: Job, parameters: Floats, buffers: Bytes) -> None:
        """Join the run; returns when every worker has, with rank 0's parameters everywhere.

        Args:
            parameters: float32[d], this worker's initial parameters in layout order.
            buffers: the model's buffers as bytes, uint8[b]; replaced by rank 0's, in place.

        Raises:
            PsrvError: the server refused this job, or a limit was passed.
        """
        warmup([job.method])
        self.session, self.job, self.layout = session, job, job.layout
        self.connection = session.connection
        self.rank, self.workers = session.rank, session.workers
        self.replica = Replica(job.method, job.layout, job.seed)
        self.sender = Sender(
            job.method, job.layout, job.seed, self.rank, self.workers, self.replica.rule.state
        )
        self.round = 0
        self.meter = StepMeter(rank=self.rank, span=session.recorder.span)
        self.totals = WorkerTotals(self.rank)
        self.started = time.monotonic()
        self._serial = 0
        self.replica.parameters[:] = parameters
        self.connection.max_payload = max(4 * job.layout.dimension, 4 * buffers.nbytes, CHUNK)
        self.connection.send(Join(self.rank, job.describe()))
        epoch = self.connection.receive()[0]
        assert isinstance(epoch, Epoch)
        self.epoch = epoch.epoch
        self.exchange = Exchange(self.connection, self.sender, self.replica, self.epoch, self.rank)
        self._share_state(0, self.replica.parameters)
        self._share_state(1, buffers)
        self.mean(np.zeros(1, np.float32))  # all have the state; the bytes of rounds begin here
        self.started = time.monotonic()

    @property
    def gradient(self) -> Floats:
        """float32[d] to write this round's gradient into; fetch it anew each round."""
        return self.sender.gradient

    def step(self, etas: Sequence[float], decays: Sequence[float] | None = None) -> StepRecord:
        """Exchange the gradient and apply the round.

        Args:
            etas: the step size of each parameter group.
            decays: its weight decay; by default the job's.

        Raises:
            NonFiniteError: NaN or infinity in the gradient of any worker.
            PsrvError: the run ended. Parameters and memories are those before the step.
        """
        sent_before, received_before = self.connection.message_up, self.connection.message_down
        before = self.connection.tcp()  # here, so that averages between rounds are not counted
        exchange = self.exchange
        try:
            exchange.run(self.round, etas, self._due_digest())
        except PsrvError as error:
            self.meter.abandon_step()
            self.session.report(error)
            raise
        self._account(exchange)
        self.sender.commit()
        self.replica.commit(etas, self.job.decays if decays is None else decays)
        self.round += 1
        self.meter.lap("update")
        record = self.meter.end_step()
        tcp = self.connection.tcp()
        counts = {
            "payload_up": exchange.payload_up,
            "payload_down": exchange.payload_down,
            "message_up": self.connection.message_up - sent_before,
            "message_down": self.connection.message_down - received_before,
            "tcp_up": tcp.bytes_sent - before.bytes_sent if tcp and before else None,
            "tcp_down": tcp.bytes_received - before.bytes_received if tcp and before else None,
        }
        self.totals.add(record, counts)
        self.session.recorder.round(record, counts)
        return record

    def mean(self, vector: Floats) -> Floats:
        """The mean of a small float32 vector over all workers; every worker must call it.

        Raises:
            PsrvError: the run ended, or the workers gave vectors of different sizes.
        """
        self._serial += 1
        self.connection.send(
            Collect(self.epoch, self._serial, self.rank, np.ascontiguousarray(vector, "<f4"))
        )
        message = self.connection.receive()[0]
        if not isinstance(message, Collected) or message.serial != self._serial:
            raise WireError(f"expected an average, the server sent {type(message).__name__}")
        return np.frombuffer(message.payload, "<f4").copy()

    def _due_digest(self) -> bytes:
        """The replica's digest in the rounds in which all are compared; else nothing."""
        every = self.job.check_every
        due = every and self.round % every == 0
        return bytes.fromhex(self.replica.digest()) if due else b""

    def _account(self, exchange: Exchange) -> None:
        """Give the time of an exchange to its parts, and say what was under way meanwhile."""
        self.meter.replay(exchange.log)
        for bucket, sent, arrived in exchange.flights:
            self.meter.flight(sent, arrived)
            self.session.recorder.span(
                "flight", sent, arrived, round=self.round, bucket=bucket, lane="io"
            )

    def _share_state(self, part: int, vector: Floats | Bytes) -> None:
        """Rank 0 sends, the others receive, in chunks through the server."""
        data = memoryview(vector).cast("B")
        if self.workers == 1 or not data.nbytes:
            return
        if self.rank == 0:
            step = min(CHUNK, self.session.max_payload)
            for at in range(0, data.nbytes, step):
                chunk = bytes(data[at : at + step])
                self.connection.send(State(self.epoch, 0, part, at, data.nbytes, chunk))
            return
        at = 0
        while at < data.nbytes:
            message = self.connection.receive()[0]
            if not isinstance(message, State) or (message.part, message.offset, message.total) != (
                part,
                at,
                data.nbytes,
            ):
                raise WireError(
                    f"expected part {part} of the state from byte {at}, of {data.nbytes}"
                )
            received = memoryview(message.payload)
            data[at : at + received.nbytes] = received
            at += received.nbytes
