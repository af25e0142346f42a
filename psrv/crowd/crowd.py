"""Thousands of workers at once: the senders' vectors in two matrices, one server, one replica.

    Cluster (psrv/simulation.py)    n Senders, an Aggregator, a Replica: any method
    Crowd                           Lines over Rows in place of the Senders, the Relay as it is
                                    (fed by lines instead of payloads), the Replica as it is

Both take the same steps, bit for bit, on the same gradients. What an objective may offer beside
``gradients(x, round) -> float32[n, d]``, each optional:

gradients(x, round, out=...)
    Writes into ``out``, float32[n, d], which spares a copy.
partial_gradients(x, round, offsets, columns) -> float32[columns.size]
    Of worker i the coordinates ``columns[offsets[i]:offsets[i + 1]]`` (int64[n + 1], int32)
    of its gradient, one after the other. Then rounds of rand-k and perm-k, other than under
    error feedback, ask for nothing else: O(n K) instead of O(n d), and no matrix. MARINA's
    asks at x_t and at x_{t-1}, so it has to be a function of x alone. The steps are the same
    bit for bit where these numbers are those of ``gradients``. A gradient that is not finite
    is seen only where it is sent.
classes: int64[n], class_gradients(x, round, out) -> float32[m, d]
    Workers of one class, of m, have the same function. Then what they send and remember is
    kept once, unless they draw different coordinates; the mean is still taken rank by rank.
mean_gradient(x, round) -> float[d]
    For the history, in place of the mean of all gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psrv.codec.base import Bucket, Bytes, Floats, address, aligned, all_finite
from psrv.codec.channel import EMPTY, Channel, Feedback, Relay
from psrv.codec.coder import Coder
from psrv.codec.dense import Dense
from psrv.codec.permk import PermK
from psrv.codec.randk import RandK
from psrv.codec.rng import SERVER
from psrv.crowd import kernels
from psrv.crowd.lines import DrawnLine, Line, covered, line_of, partial_line
from psrv.crowd.rows import Rows
from psrv.crowd.team import Team
from psrv.errors import ConfigError, NonFiniteError
from psrv.job import Job
from psrv.worker.replica import Replica
from psrv.worker.warm import warmup


def covers(job: Job) -> bool:
    """Whether a crowd can run this job: what is sent is the gradient, by a covered uplink."""
    method, up = job.method, job.method.up
    if up.feedback is Feedback.MARINA and up.codec().lossless:
        return False  # differences of whole vectors; nobody needs them for thousands of workers
    return method.outgoing == "gradient" and job.layout.groups == 1 and covered(up.codec())


class Crowd:
    """n workers, one server and one replica, stepped round by round.

    Args:
        job: completed, and one that ``covers`` says yes to.
        objective: with ``gradients``; the module's text says what else it may have.
        threads: see ``Team``.

    Attributes:
        replica: parameters and rule. round: the round to come.
        rows: the matrices. relays: the server's half, by bucket.
        last_eta: the last step size that was not zero; 0 before there is one.
    """

    def __init__(self, job: Job, workers: int, objective: Any, threads: int | None = None) -> None:
        warmup([job.method])
        self.job, self.workers, self.layout = job, workers, job.layout
        self.objective, self._up = objective, job.method.up
        self.replica = Replica(job.method, self.layout, job.seed)
        d = self.layout.dimension
        codec = self._up.codec()
        self.partial = partial_line(codec, self._up) and hasattr(objective, "partial_gradients")
        # Ranks that draw for themselves remember different things, but for MARINA's gradients.
        shared = not isinstance(codec, (RandK, PermK)) or (
            self.partial and self._up.feedback is not Feedback.MARKOV
        )
        self._classes = getattr(objective, "classes", None) if shared else None
        self.rows = Rows(workers, d, threads, self._classes)
        self._lines = [self._line(codec, b) for b in self.layout.buckets]
        self._dense = (
            [self._line(Dense(), b) for b in self.layout.buckets]
            if self._up.sometimes_dense
            else self._lines
        )
        down = job.method.down
        direct = down.feedback is Feedback.PLAIN and isinstance(down.codec(), Dense)
        self.relays: list[CrowdRelay | Through] = [
            Through(job, sparse, dense, self.dense)
            if direct
            else CrowdRelay(job, bucket, workers, (sparse, dense))
            for bucket, sparse, dense in zip(
                self.layout.buckets, self._lines, self._dense, strict=True
            )
        ]
        self._into = "out" in inspect.signature(objective.gradients).parameters
        self.previous: Floats | None = None
        """float32[d], x_{t-1}, where MARINA asks for gradients in part."""
        if self.partial and self._up.feedback is Feedback.MARINA:
            self.previous = np.zeros(d, np.float32)
        self.round = 0
        self.last_eta = 0.0
        self._loaded = False
        self._coin = -1, False

    def dense(self) -> bool:
        """Whether the vectors themselves are sent in the coming round."""
        if self._coin[0] != self.round:
            self._coin = self.round, self._up.dense(self.round, self.job.seed)
        return self._coin[1]

    def _line(self, codec: Any, bucket: Bucket) -> Line:
        return line_of(codec, self._up, bucket, self.rows, self.job.seed)

    # What the history asks for

    def gradient_norm(self) -> float:
        """||grad f|| of the mean gradient at the present point, in this round."""
        ask = getattr(self.objective, "mean_gradient", None)
        if ask is not None:
            return float(np.linalg.norm(ask(self.replica.parameters, self.round)))
        self._load()
        rows, mean = self.rows, np.zeros(self.layout.dimension)
        start = address(rows.values)
        columns = Team(rows.dimension, rows.workers, len(rows.team.ranges))
        columns.each(
            lambda a, b: kernels.sum_doubles(start, rows.stride, rows.members, a, b - a, mean)
        )
        return float(np.linalg.norm(mean / self.workers))

    def _needs_all(self) -> bool:
        return not self.partial or self.dense()

    def _load(self) -> None:
        """All gradients of this round to ``rows.values``, once."""
        if self._loaded:
            return
        out, at = self.rows.values, self.replica.parameters.copy()
        if self._classes is not None:
            found = self.objective.class_gradients(at, self.round, out)
        elif self._into:
            found = self.objective.gradients(at, self.round, out=out)
        else:
            found = np.asarray(self.objective.gradients(at, self.round))
        if found is not out:
            if found.shape != out.shape:
                raise ConfigError(f"gradients() has shape {found.shape}; expected {out.shape}")
            if found.dtype != np.float32:
                raise ConfigError(f"gradients() gave {found.dtype}; expected float32")
            out[:] = found
        self._loaded = True

    # A round

    def step(self, etas: Sequence[float]) -> tuple[float, int]:
        """One round.

        Args:
            etas: the step size, as a sequence of one.

        Returns:
            Payload bytes per worker, up (the mean over workers, exactly) and down.

        Raises:
            NonFiniteError: the state is as it was, and this round can be stepped again.
        """
        (eta,), up = etas, self._up
        dense, silent = self.dense(), up.silent(eta)
        lines = self._dense if dense else self._lines
        sent = 0
        try:
            if silent:
                self._load()
            elif self._needs_all():
                self._load()
                rho = up.rho(eta, self.last_eta) if up.feedback is Feedback.EF else -1.0
                alone = dense and up.feedback is Feedback.MARINA
                for line in lines:
                    sent += self._named(line, line.encode, self.round, rho, alone)
            else:
                for line in self._lines:
                    assert isinstance(line, DrawnLine)
                    sent += self._named(line, self._encode_partial, line)
            down = 0
            for bucket, relay in zip(self.layout.buckets, self.relays, strict=True):
                try:
                    result = relay.run((), self.round, eta)
                except NonFiniteError as error:
                    raise NonFiniteError(
                        f"the sum over workers is not finite in round {self.round}, bucket "
                        f"{bucket.index}: {error}"
                    ) from error
                down += result.nbytes
                self.replica.receive(bucket, result, self.round, eta)
        except BaseException:
            self._loaded = False  # what was formed there is no gradient any more
            raise
        self._commit(eta, lines, silent)
        return sent / self.workers, down

    def _encode_partial(self, line: DrawnLine) -> int:
        """What every rank sends, from the coordinates that it sends."""
        owned, x = line.draw(self.round), self.replica.parameters
        ask, first = self.objective.partial_gradients, line.bucket.start
        columns = owned.columns + np.int32(first) if first else owned.columns
        line.values = ask(x, self.round, owned.offsets, columns)
        if self.previous is not None:
            line.values = line.values - ask(self.previous, self.round, owned.offsets, columns)
        elif self._up.feedback is Feedback.MARKOV:
            rows = self.rows
            kernels.subtract_points(
                0, self.workers, rows.memory_at(line.bucket), rows.stride, *owned, line.values
            )
        return line.size

    def _commit(self, eta: float, lines: Sequence[Line], silent: bool) -> None:
        if self.previous is not None:
            self.previous[:] = self.replica.parameters
        elif not silent:
            for line in lines:
                line.commit()
            if self._up.feedback in (Feedback.EF, Feedback.MARINA):
                self.rows.swap()
        for relay in self.relays:
            relay.commit()
        self.replica.commit([eta], self.job.decays)
        self.last_eta = eta or self.last_eta
        self.round += 1
        self._loaded = False

    def _named(self, line: Line, function: Any, *arguments: Any) -> Any:
        """Call, and say which worker's gradient it is that is not finite."""
        try:
            return function(*arguments)
        except NonFiniteError as error:
            if error.coordinate is None:
                raise
            rank, at = divmod(error.coordinate, line.count)
            at += line.bucket.start
            tensor = self.layout.tensor_at(at)
            index = np.unravel_index(at - self.layout.offsets[tensor.name], tensor.shape)
            place = ", ".join(str(int(i)) for i in index)
            raise NonFiniteError(
                f"worker {rank}: the gradient of '{tensor.name}' is not finite in round "
                f"{self.round}, at element [{place}] ({error}); no parameter or memory was "
                "changed",
                at,
            ) from error

    # What a checkpoint holds

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that the next rounds depend on, by name; views."""
        held: dict[str, NDArray[Any]] = {
            "round": np.array(self.round),
            "last_eta": np.array(self.last_eta),
        }
        held |= {f"replica.{k}": v for k, v in self.replica.state().items()}
        if self.rows.remembered is not None and self.previous is None:
            held["rows.memory"] = self.rows.remembered
        if self.previous is not None:
            held["previous"] = self.previous
        for i, relay in enumerate(self.relays):
            held |= {f"relay.{i}.{k}": v for k, v in relay.state().items()}
        return held

    def restore(self, held: dict[str, NDArray[Any]]) -> None:
        """Go on from a ``state`` of a crowd of the same job."""
        self.round, self.last_eta = int(held["round"]), float(held["last_eta"])
        self.replica.round = self.round
        for name, vector in self.replica.state().items():
            vector[:] = held[f"replica.{name}"]
        if "rows.memory" in held:
            self.rows.memory[:] = held["rows.memory"]
        if self.previous is not None:
            self.previous[:] = held["previous"]
        for i, relay in enumerate(self.relays):
            lead = f"relay.{i}."
            relay.restore({k.removeprefix(lead): v for k, v in held.items() if k.startswith(lead)})
        self._loaded = False


class CrowdRelay(Relay):
    """The server's half of a bucket, whose decoders are the lines of all uplinks."""

    def __init__(self, job: Job, bucket: Bucket, workers: int, lines: tuple[Line, Line]) -> None:
        super().__init__(job.method.up, job.method.down, bucket, job.seed, workers)
        self._decoders: Any = _Decoders(job.method.up, job.seed, lines)

    def state(self) -> dict[str, NDArray[Any]]:
        """What the next round depends on, after a commit; views."""
        held: dict[str, NDArray[Any]] = {"last": np.array(self._last)}
        if self.residual is not None:
            held["residual"] = self.residual
        if self.mean is not None:
            held["mean"] = self.mean
        return held

    def restore(self, held: dict[str, NDArray[Any]]) -> None:
        """Go on from a ``state``."""
        self._last = float(held["last"])
        for name in ("residual", "mean"):
            vector = getattr(self, name)
            if vector is not None:
                vector[:] = held[name]


class Through:
    """The same where the downlink is plain and dense: what is received is the mean itself."""

    def __init__(self, job: Job, sparse: Line, dense: Line, heads: Callable[[], bool]) -> None:
        self._up, self._down, self._sparse, self._dense = (
            job.method.up,
            job.method.down,
            sparse,
            dense,
        )
        self._heads = heads
        sums = self._up.feedback in (Feedback.MARKOV, Feedback.MARINA)
        self.mean: Floats | None = aligned(sparse.count) if sums else None
        self._work: Floats = aligned(sparse.count)
        self._kept = True

    def run(self, payloads: Sequence[Bytes], round: int, eta: float) -> Bytes:
        """As ``Relay.run``; the result is valid until the next ``commit``."""
        self._kept = True
        if self._down.silent(eta):
            return EMPTY
        dense = self._heads()
        anew = dense and self._up.feedback is Feedback.MARINA
        line = self._dense if dense else self._sparse
        line.reduce(self._work, None if anew else self.mean, 1.0)
        all_finite(self._work)
        self._kept = False
        return self._work.view(np.uint8)

    def commit(self) -> None:
        """As ``Relay.commit``."""
        if self.mean is not None and not self._kept:
            self.mean, self._work = self._work, self.mean
        self._kept = True

    def state(self) -> dict[str, NDArray[Any]]:
        """As ``CrowdRelay.state``."""
        return {} if self.mean is None else {"mean": self.mean}

    def restore(self, held: dict[str, NDArray[Any]]) -> None:
        """Go on from a ``state``."""
        if self.mean is not None:
            self.mean[:] = held["mean"]


class _Decoders:
    """What a ``Relay`` asks its decoders for, answered from the lines of a bucket."""

    def __init__(self, up: Channel, seed: int, lines: tuple[Line, Line]) -> None:
        self._up, self._seed = up, seed
        self._sparse, self._dense = (_Decoder(line) for line in lines)

    def dense(self, round: int) -> bool:
        return self._up.dense(round, self._seed)

    def of(self, bucket: int, round: int) -> _Decoder:
        return self._dense if self.dense(round) else self._sparse


class _Decoder:
    """A ``Coder`` of n payloads that were never written."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def reduce(
        self,
        payloads: Sequence[Bytes],
        out: Floats,
        round: int,
        residual: Floats | None = None,
        rho: float = 1.0,
    ) -> None:
        self._line.reduce(out, residual, rho)

    def relay(
        self,
        payloads: Sequence[Bytes],
        out: Floats,
        encoder: Coder,
        round: int,
        residual: Floats | None,
        rho: float,
    ) -> Bytes:
        self._line.reduce(out, residual, rho)
        if encoder.compressor.partial:
            all_finite(out)
        return encoder.encode(out, round, SERVER)
