"""Sessions over loopback sockets, server and workers as threads: joining, ending, failing."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import numpy as np
import pytest

import psrv
from local_run import LIMIT, LocalServer, Started, begin, lines_of, serving, step, wait_until
from psrv.errors import (
    ConfigError,
    DivergedError,
    LostError,
    NonFiniteError,
    ProtocolError,
    RefusedError,
)
from psrv.measure.summary import read_summary
from psrv.methods import METHODS
from psrv.options import ConnectConfig, ServerConfig
from psrv.server.process import ServerProcess
from psrv.worker.session import Session
from virtual_run import made_up_gradient, make_job

JOB = make_job()
D = JOB.layout.dimension


def work(server, rank, rounds, job=JOB, before=None, eta=0.1, claim=True, **options):
    """One worker's script: ``rounds`` steps on made-up gradients; returns digest and trainer."""
    with server.connect(rank if claim else None, **options) as session:
        trainer = begin(session, job)
        for t in range(rounds):
            if before is not None:
                before(session, trainer, t)
            step(trainer, made_up_gradient(session.rank, D, t), (eta, eta))
        return trainer.replica.digest(), trainer


def pair(server, *second_args, rounds=4, **second):
    """Rank 0 with its usual script, rank 1 with another; their errors."""
    first = Started(work, server, 0, rounds)
    other = Started(work, server, 1, *(second_args or (rounds,)), **second)
    return first.wait(), other.wait()


def test_ranks_are_given_out_and_replicas_agree(tmp_path):
    with serving(3, out=tmp_path) as server:
        workers = [Started(work, server, r, 5, claim=False, out=tmp_path) for r in range(3)]
        digests = {worker.result()[0] for worker in workers}
        server.thread.result()
    assert len(digests) == 1
    summary = read_summary(tmp_path)
    assert summary["replica_digest"] in digests
    assert (summary["workers"], summary["rounds"]) == (3, 5)
    assert summary["tcp_source"] == "kernel (TCP_INFO)"
    for rank in range(3):
        kinds = [line["type"] for line in lines_of(tmp_path / f"worker-{rank}.jsonl")]
        assert kinds[0] == "start"
        assert kinds[-1] == "end"
        assert kinds.count("round") == 5


def test_parameters_and_buffers_of_rank_0_are_everyones():
    big = make_job(tensors=(replace(JOB.tensors[0], shape=(700_001,)),))  # several chunks
    values = [np.random.default_rng(r).standard_normal(700_001).astype(np.float32) for r in (0, 1)]
    found = {}

    def script(server, rank):
        buffers = np.full(1_500_000, rank, np.uint8)
        with server.connect(rank) as session:
            trainer = session.begin(big, values[rank], buffers)
            found[rank] = trainer.replica.parameters.copy(), buffers

    with serving(2) as server:
        for worker in [Started(script, server, rank) for rank in (0, 1)]:
            worker.result()
    for parameters, buffers in found.values():
        assert (parameters == values[0]).all()
        assert (buffers == 0).all()


def test_mean_is_over_the_workers():
    found = {}

    def script(server, rank):
        with server.connect(rank) as session:
            trainer = begin(session, JOB)
            found[rank] = [trainer.mean(np.array([rank, 1], np.float32)) for _ in range(3)]

    with serving(2) as server:
        for worker in [Started(script, server, rank) for rank in (0, 1)]:
            worker.result()
    for means in found.values():
        assert np.array_equal(means, [[0.5, 1.0]] * 3)


def test_bytes_of_averages_are_not_those_of_rounds():
    def average(session, trainer, t):
        trainer.mean(np.zeros(1 << 16, np.float32))

    with serving(1) as server:
        _, trainer = work(server, 0, 4, before=average)
    sent = trainer.totals.detail(digest="", wall_seconds=0.0)["bytes_per_round"]
    assert sent["message_up"] < sent["tcp_up"] < sent["message_up"] + 1000
    assert sent["message_down"] < sent["tcp_down"] < sent["message_down"] + 1000


def test_no_server_named_and_unknown_options():
    with pytest.raises(ConfigError, match="no server to connect to: run the script under 'psrv"):
        psrv.connect()
    with pytest.raises(ConfigError, match="'conect_timeout' was given"):
        psrv.connect("tcp://127.0.0.1:9", conect_timeout=1)


def test_connect_finds_its_place_in_the_environment(monkeypatch):
    with serving(1) as server:
        monkeypatch.setenv("PSRV_SERVER", server.address)
        monkeypatch.setenv("PSRV_RANK", "0")
        with psrv.connect() as session:
            assert (session.rank, session.workers) == (0, 1)


def nobody() -> socket.socket:
    """A port that takes connections and says nothing: no psrv server."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@pytest.mark.parametrize("listening", [False, True])
def test_no_server_there(listening):
    with nobody() as listener:
        port = listener.getsockname()[1]
        if not listening:
            listener.close()
        start = time.monotonic()
        text = f"no server answered at tcp://127.0.0.1:{port} within 0.3 s"
        with pytest.raises(LostError, match=text):
            psrv.connect(f"127.0.0.1:{port}", connect_timeout=0.3)
        assert time.monotonic() - start < 20


def test_worker_may_come_before_its_server(tmp_path):
    with nobody() as listener:
        port = listener.getsockname()[1]
    waiting = Started(Session, ConnectConfig(server=f"127.0.0.1:{port}", connect_timeout=LIMIT))
    process = ServerProcess(ServerConfig(bind=f"127.0.0.1:{port}", workers=1))
    server = LocalServer.__new__(LocalServer)
    server.process, server.address = process, process.address
    server.thread = Started(server._serve)
    try:
        session = waiting.result()
        assert session.workers == 1
        session.close()
    finally:
        server.stop()


def test_taken_port():
    text = r"cannot listen on tcp://127\.0\.0\.1:\d+: the port is taken"
    with serving(1) as server, pytest.raises(ConfigError, match=text):
        ServerProcess(ServerConfig(bind=server.address, workers=1))


def test_number_of_workers_must_agree():
    with serving(2) as server:
        with pytest.raises(ConfigError, match="started for a run of 3 workers, the server has 2"):
            server.connect(0, workers=3)
        wait_until(lambda: not server.core.membership.members, "the rank to be free again")


def test_refused_worker_is_told_why_and_the_run_goes_on():
    with serving(2) as server:
        first = Started(work, server, 0, 3)
        wait_until(lambda: server.core.membership.job, "the first to join")
        for job, text in (
            (make_job("sgd"), "worker 1: method name is 'sgd', the run has 'cd-adam'"),
            (make_job(seed=99), "worker 1: seed is 99, the run has 3"),
        ):
            error = Started(work, server, 1, 3, job=job).wait()
            assert isinstance(error, RefusedError)
            assert str(error) == f"server: {text}"
        with pytest.raises(RefusedError, match="rank 0 was claimed, but is taken by worker 0"):
            server.connect(0)
        second = Started(work, server, 1, 3)
        assert first.result()[0] == second.result()[0]
        server.thread.result()


def test_uneven_number_of_steps():
    with serving(2) as server:
        errors = pair(server, 2, rounds=4)
        text = "worker 1 finished after 2 rounds, others went on; every worker needs the same"
        for error in errors:
            assert isinstance(error, RefusedError)
            assert text in str(error)
        assert text in str(server.thread.wait())


def test_step_sizes_that_differ():
    with serving(2) as server:
        for error in pair(server, 4, eta=0.25):
            assert isinstance(error, RefusedError)
            assert "0.25" in str(error)
            assert "all workers need the same learning-rate schedule" in str(error)


def test_vectors_of_different_sizes_are_not_averaged():
    def average(session, trainer, t):
        trainer.mean(np.zeros(1 + session.rank, np.float32))

    with serving(2) as server:
        workers = [Started(work, server, r, 2, before=average) for r in (0, 1)]
        for worker in workers:
            assert "the workers are not doing the same" in str(worker.wait())


def test_average_on_one_worker_only():
    def average(session, trainer, t):
        if t == 2:
            trainer.mean(np.zeros(1, np.float32))

    with serving(2) as server:
        for error in pair(server, 4, before=average):
            assert "worker 1 waits for an average while the others wait for it" in str(error)


def test_replica_that_was_changed_outside_the_step():
    def meddle(session, trainer, t):
        if t == 3:
            trainer.replica.parameters[5] += 1

    with serving(2) as server:
        for error in pair(server, 6, before=meddle, rounds=6):
            assert isinstance(error, DivergedError)
            assert "replicas differ before round 4" in str(error)


def test_error_in_one_script_stops_the_other_with_its_text():
    def fail(session, trainer, t):
        if t == 2:
            raise ValueError("no more data in shard 7")

    with serving(2) as server:
        mine, other = pair(server, 4, before=fail)
        assert isinstance(other, ValueError)
        assert isinstance(mine, RefusedError)
        assert str(mine) == "server: worker 1 stopped: ValueError: no more data in shard 7"
        assert "no more data in shard 7" in str(server.thread.wait())


def test_worker_that_has_finished_hears_of_another_that_failed():
    finished = {}

    def first(server):
        session = server.connect(0)
        trainer = begin(session, JOB)
        for t in range(3):
            step(trainer, made_up_gradient(0, D, t))
        session.close()

    def second(server):
        with server.connect(1) as session:
            trainer = begin(session, JOB)
            for t in range(3):
                step(trainer, made_up_gradient(1, D, t))
            finished[0] = wait_until(
                lambda: server.core.membership.members[0].summary, "the other's report"
            )
            raise OSError("the disk is full")

    with serving(2) as server:
        waiting, failing = Started(first, server), Started(second, server)
        assert isinstance(failing.wait(), OSError)
        error = waiting.wait()
        assert isinstance(error, RefusedError)
        assert str(error) == "server: worker 1 stopped: OSError: the disk is full"
        assert finished[0]["rounds"] == 3


def test_round_that_waits_too_long():
    stay = {}

    def stuck(session, trainer, t):
        if t == 2:
            stay["until"] = wait_until(session.connection._inbox.qsize, "the server's word")

    with serving(2, round_timeout=0.5) as server:
        for error in pair(server, 4, before=stuck):
            assert "round 2 has waited" in str(error)
            assert "for worker 1, the round timeout is 0.5 s" in str(error)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_number_that_is_not_finite_stops_all_and_changes_nothing(method):
    """In the last bucket of worker 1, when all others have been pushed."""
    job = make_job(method)
    at = job.layout.offsets["conv"] + 4
    kept = {}

    def states(trainer):
        sender = trainer.sender
        own = {"memory": sender.uplink.memory, "momentum": sender.momentum}
        return {
            name: vector.tobytes()
            for name, vector in (trainer.replica.state() | own).items()
            if vector is not None
        }

    def script(server, rank):
        with server.connect(rank) as session:
            trainer = begin(session, job)
            for t in range(5):
                gradient = made_up_gradient(rank, D, t)
                if t == 3 and rank == 1:
                    gradient[at] = np.nan
                before = states(trainer)
                try:
                    step(trainer, gradient, (0.01, 0.02))
                except NonFiniteError:
                    kept[rank] = trainer.round, before == states(trainer)
                    raise

    with serving(2) as server:
        workers = [Started(script, server, rank) for rank in (0, 1)]
        errors = [worker.wait() for worker in workers]
        ended = server.thread.wait()
    text = "worker 1: the gradient of 'conv' is not finite in round 3, at element [1, 1]"
    for error in (*errors, ended):
        assert isinstance(error, NonFiniteError)
        assert text in str(error)
    assert kept == {0: (3, True), 1: (3, True)}


def test_script_that_goes_on_after_an_error_does_not_hang():
    def script(server):
        session = server.connect(0)
        trainer = begin(session, JOB)
        with pytest.raises(NonFiniteError):
            step(trainer, np.inf)
        with pytest.raises(LostError, match="the run has ended"):
            step(trainer, 1.0)
        with pytest.raises(LostError, match="the run has ended"):
            trainer.mean(np.zeros(1, np.float32))
        session.close()

    with serving(1) as server:
        Started(script, server).result()
        assert isinstance(server.thread.wait(), NonFiniteError)


def test_script_that_ends_after_an_error_it_caught_does_not_hang():
    def script(server):
        with server.connect(0) as session, pytest.raises(NonFiniteError):
            step(begin(session, JOB), np.nan)

    with serving(1) as server:
        Started(script, server).result()
        assert isinstance(server.thread.wait(), NonFiniteError)


def test_server_that_ends_is_noticed():
    with serving(2) as server:
        first = Started(work, server, 0, 3)
        wait_until(lambda: server.core.membership.job, "the first to join")
        server.stop()
        error = first.wait()
        assert isinstance(error, LostError)
        assert "closed the connection while this worker waited for the other workers to join" in (
            str(error)
        )


def test_one_job_a_session_and_no_notes_before_it():
    with serving(1) as server, server.connect() as session:
        with pytest.raises(ProtocolError, match="before an optimizer was made"):
            session.record(loss=1.0)
        begin(session, JOB)
        with pytest.raises(ProtocolError, match="one session trains one model"):
            begin(session, JOB)


def test_sessions_may_be_closed_twice_and_without_a_job():
    with serving(2) as server:
        session = server.connect()
        session.close()
        session.close()
        session.abort(ValueError("late"))
        wait_until(lambda: not server.core.membership.members, "the rank to be free again")


def test_notes_of_a_script_become_the_runs_curve(tmp_path):
    def note(session, trainer, t):
        session.record(loss=10 - t, accuracy=t / 10)

    with serving(1, out=tmp_path) as server:
        work(server, 0, 3, before=note)
        server.thread.result()
    summary = read_summary(tmp_path)
    assert [(h["round"], h["loss"], h["accuracy"]) for h in summary["history"]] == [
        (0, 10.0, 0.0),
        (1, 9.0, 0.1),
        (2, 8.0, 0.2),
    ]
    assert summary["final"]["loss"] == 8.0
    payload = [h["payload_up"] for h in summary["history"]]
    assert payload[0] == 0
    assert payload[2] == 2 * payload[1]
    assert payload[1] == sum(JOB.method.up.payload_bytes(b, 0.1) for b in JOB.layout.buckets)


def test_folder_for_the_lines_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with serving(1) as server:
        with pytest.raises(ConfigError, match="cannot make the folder"):
            server.connect(0, out=tmp_path / "file" / "x")
        wait_until(lambda: not server.core.membership.members, "the rank to be free again")
