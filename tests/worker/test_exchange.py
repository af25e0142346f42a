"""A worker's part of a round: in order, a bounded number under way, all time accounted for."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest

from psrv.errors import WireError
from psrv.layout import BUCKET_BYTES, Tensor
from psrv.measure.meter import Busy, Waited
from psrv.messages import Collected, Push, Result
from psrv.worker.exchange import WINDOW, Exchange
from psrv.worker.replica import Replica
from psrv.worker.sender import Sender
from virtual_run import make_job

SIZE = 7  # buckets, of one tensor each
ETAS = (0.1,)


class Server:
    """Answers each push of the only worker with its own payload, in an order of its own."""

    class clock:
        @staticmethod
        def to_local(ns):
            return ns

    def __init__(self, pick=0):
        self.pick = pick
        self.pushed, self.most = [], 0
        self.waiting = deque()

    def send(self, message):
        assert isinstance(message, Push)
        self.pushed.append(message.bucket)
        self.waiting.append(message)
        self.most = max(self.most, len(self.waiting))

    def receive(self):
        push = self.waiting[self.pick]
        del self.waiting[self.pick]
        payload = memoryview(np.asarray(push.payload)).tobytes()
        return Result(0, push.round, push.bucket, payload, 1, 2, 0, 3, 4), 5


def made(server):
    tensors = tuple(Tensor(f"t{i}", (BUCKET_BYTES // 4 if i else 40,)) for i in range(SIZE))
    job = make_job("sgd", tensors=tensors, blocks="tensor")
    replica = Replica(job.method, job.layout, job.seed)
    sender = Sender(job.method, job.layout, job.seed, 0, 1)
    sender.gradient[:] = np.arange(job.layout.dimension, dtype=np.float32) % 1000
    return job, replica, sender, Exchange(server, sender, replica, 0, 0)


@pytest.mark.parametrize("pick", [0, -1])
def test_buckets_go_out_in_order_and_few_at_a_time(pick):
    server = Server(pick)
    job, replica, sender, exchange = made(server)
    expected = sender.gradient.copy()
    exchange.run(0, ETAS, b"")
    assert len(job.layout.buckets) > WINDOW
    assert server.pushed == [b.index for b in job.layout.buckets]
    assert server.most == WINDOW
    assert (replica.downlink.commit() == expected).all()
    assert exchange.payload_up == exchange.payload_down == 4 * job.layout.dimension
    assert sorted(bucket for bucket, _, _ in exchange.flights) == server.pushed


def test_the_log_is_in_order_without_overlaps():
    _, _, _, exchange = made(Server())
    exchange.run(0, ETAS, b"")
    log = exchange.log
    assert {e.part for e in log if isinstance(e, Busy)} == {"encode", "uplink", "decode"}
    assert any(isinstance(e, Waited) for e in log)
    for one, following in pairwise(log):
        assert one.start_ns <= one.end_ns <= following.start_ns


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Collected(0, 1, b""), "expected a result of round 0, the server sent Collected"),
        (Result(0, 3, 0, b"", 1, 2, 0, 3, 4), "expected round 0, the server sent 3"),
        (Result(0, 0, 99, b"", 1, 2, 0, 3, 4), "expected a result of round 0"),
    ],
)
def test_what_is_no_result_of_the_round(message, text):
    server = Server()
    _, replica, _, exchange = made(server)
    server.receive = lambda: (message, 5)
    with pytest.raises(WireError, match=text):
        exchange.run(0, ETAS, b"")
    assert replica.round == 0


def test_a_repeated_result_is_passed_over():
    server = Server()
    job, _, _, exchange = made(server)
    fresh, last = server.receive, []

    def receive():
        if len(last) % 2:
            last.append(last[-1])
        else:
            last.append(fresh())
        return last[-1]

    server.receive = receive
    exchange.run(0, ETAS, b"")
    assert exchange.payload_down == 4 * job.layout.dimension
