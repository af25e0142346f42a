"""A worker's place in a run: its rank, its connection, and its files.

    session = psrv.connect()
    optimizer = psrv.DistributedOptimizer(model, session, method="cd-adam", lr=1e-3)

A session ends by itself when the script ends: with a Bye if all went well, and with the
error's text if it did not, so that the other workers stop at once and say why.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from typing import Any

from psrv.codec.base import Bytes, Floats
from psrv.config import connect_config_from_environment
from psrv.errors import (
    ConfigError,
    NonFiniteError,
    ProtocolError,
    PsrvError,
    WireError,
    printable,
)
from psrv.job import Job
from psrv.measure.records import Recorder, worker_file
from psrv.messages import Bye, Error
from psrv.options import ConnectConfig
from psrv.worker.connection import Connection
from psrv.worker.trainer import Trainer


def connect(server: str | None = None, rank: int | None = None, **options: Any) -> Session:
    """Join the run that a launcher prepared, or the server at an address.

    Args:
        server: ``tcp://HOST:PORT``; by default PSRV_SERVER, which ``psrv launch`` and
            ``psrv worker`` set.
        rank: by default PSRV_RANK, torchrun's or Slurm's rank, or what the server gives.
        options: ``connect_timeout`` (seconds), ``out`` (folder for this worker's lines),
            ``trace``.

    Raises:
        ConfigError: no server was named, or the options do not fit.
        LostError: no server answered in time.
        RefusedError: the server turned this worker away, with its reason.
    """
    return Session(connect_config_from_environment(server=server, rank=rank, **options))


class Session:
    """One worker's connection to its server, and its place among the workers.

    Attributes:
        rank: 0 to workers - 1. workers: n.
        trainer: the job that was begun; None before.
    """

    def __init__(self, config: ConnectConfig) -> None:
        self.config = config
        self.trainer: Trainer | None = None
        self._ended = False
        self._reported = False
        self.connection = Connection(config.server, config.connect_timeout, config.rank)
        try:
            welcome = self.connection.expect_welcome()
            self.rank, self.workers = welcome.rank, welcome.workers
            self.max_payload = welcome.max_payload
            if config.workers not in (None, self.workers):
                raise ConfigError(
                    f"this worker was started for a run of {config.workers} workers, the server "
                    f"has {self.workers}; give both the same number"
                )
            self.recorder = self._recorder()
        except BaseException:
            self.connection.close()
            raise
        atexit.register(self._at_exit)

    def begin(self, job: Job, parameters: Floats, buffers: Bytes) -> Trainer:
        """Join with a job; see ``Trainer``. Once a session."""
        if self.trainer is not None:
            raise ProtocolError("this session has begun its job; one session trains one model")
        self.trainer = Trainer(self, job, parameters, buffers)
        self.recorder.offset(self.connection.clock.offset_ns, self.connection.clock.rtt_ns)
        return self.trainer

    def record(self, loss: float | None = None, accuracy: float | None = None) -> None:
        """Note an evaluation of the script's own, for the report's curves; rank 0's are kept.

        Args:
            loss: at the present parameters. accuracy: a fraction in [0, 1].
        """
        trainer = self.trainer
        if trainer is None:
            raise ProtocolError("record() before an optimizer was made: there is no round yet")
        up, down = trainer.totals.payload()
        note = {
            "round": trainer.round,
            "loss": loss if loss is None else float(loss),
            "accuracy": accuracy if accuracy is None else float(accuracy),
            "grad_norm": None,
            "seconds": trainer.meter.elapsed_seconds,
            "payload_up": up,
            "payload_down": down,
        }
        trainer.totals.add_evaluation(note)
        self.recorder.evaluation(note)

    def close(self) -> None:
        """End this worker's part cleanly: report, wait for the others, disconnect.

        Called at the script's end by itself; may be called twice.

        Raises:
            PsrvError: the run failed while this worker waited for the others.
        """
        if self._ended:
            return
        self._ended = True
        try:
            unheard = None if self._reported else self.connection.unheard_failure()
            if unheard is not None:
                raise unheard
            failed = self._reported or self.connection.failure() is not None
            if self.trainer is not None and not failed:
                self._leave(self.trainer)
        finally:
            self._release()

    def abort(self, error: BaseException) -> None:
        """End because of an error; the server tells the other workers its text."""
        if self._ended:
            return
        self._ended = True
        self.report(error)
        self._release()

    def report(self, error: BaseException) -> None:
        """Tell the server, and so the others, why this worker stops. Once, and only if the
        news is not the server's own."""
        if self._reported or self.connection.failure() is not None:
            return
        self._reported = True
        if isinstance(error, PsrvError):
            code, text = "nonfinite" if isinstance(error, NonFiniteError) else "failed", str(error)
        else:
            code, text = "failed", f"{type(error).__name__}: {error}"
        if f"worker {self.rank}" not in text:
            text = f"worker {self.rank} stopped: {text}"
        self.connection.send(Error.clipped(code, text, self.rank))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.close()
        else:
            self.abort(error)

    def _leave(self, trainer: Trainer) -> None:
        clock = self.connection.clock
        detail = trainer.totals.detail(
            digest=trainer.replica.digest(),
            wall_seconds=time.monotonic() - trainer.started,
            offset_ns=clock.offset_ns,
            rtt_ns=clock.rtt_ns,
        )
        counters = self.connection.tcp()
        if counters is not None:
            names = ("bytes_retrans", "segs_out", "segs_in", "rtt_us")
            detail["tcp"] = {name: getattr(counters, name) for name in names}
        self.recorder.offset(clock.offset_ns, clock.rtt_ns)
        self.recorder.end(self.rank, digest=detail["digest"], rounds=trainer.round)
        self.connection.send(Bye(self.rank, detail))
        farewell = self.connection.receive()[0]
        if not isinstance(farewell, Bye):
            raise WireError(f"expected a farewell, the server sent {type(farewell).__name__}")

    def _release(self) -> None:
        atexit.unregister(self._at_exit)
        self.connection.close()
        self.recorder.close()

    def _at_exit(self) -> None:
        """The script has ended: leave cleanly, or with the error that ended it."""
        error = None if hasattr(sys, "ps1") else getattr(sys, "last_value", None)
        if error is not None:
            self.abort(error)
            return
        try:
            self.close()
        except PsrvError as failure:
            print(f"psrv: error: {printable(str(failure))}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            # The interpreter ends with 0 whatever an exit handler raises, and the run failed.
            os._exit(failure.exit_code)

    def _recorder(self) -> Recorder:
        out = self.config.out
        if out is not None:
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"cannot make the folder {out}: {error.strerror}; choose another --out"
                ) from error
        path = None if out is None else out / worker_file(self.rank)
        recorder = Recorder(path, trace=self.config.trace)
        recorder.start("worker", self.rank)
        return recorder
