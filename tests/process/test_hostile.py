"""Whatever strangers send to the server's port, the run goes on and gives the same bits."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import ExitStack, suppress

import pytest
import zmq

from local_run import LIMIT, Started, begin, crew, step
from psrv.errors import WireError
from psrv.messages import VERSION, Bye, Direction, Error, Hello, Push
from psrv.options import ConnectConfig
from psrv.simulation import Cluster
from psrv.wire import decode, encode
from psrv.worker import connection
from psrv.worker.session import Session
from virtual_run import made_up_gradient, make_job

pytestmark = pytest.mark.process

JOB = make_job(check_every=1)
ROUNDS, ATTACKED = 8, 4
MAX_MESSAGE = 1 << 20

# ZeroMQ's transport (ZMTP 3.0) by hand: a greeting without security, and a DEALER's READY.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
READY = bytes([4, len(_READY)]) + _READY


def raw_attacks(draw: random.Random) -> list[bytes]:
    """Bytes for a plain TCP connection."""
    long_frame = b"\x02" + struct.pack(">Q", 1 << 62)
    return [
        draw.randbytes(1 << 16),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(64),  # TLS
        GREETING,
        GREETING + draw.randbytes(4096),
        GREETING + READY + long_frame,
        GREETING + READY + long_frame + bytes(1 << 16),
        GREETING + READY + b"\x02" + struct.pack(">Q", 2 * MAX_MESSAGE) + bytes(1 << 16),
        GREETING + READY + b"\x00\xff" + bytes(10),  # a frame of 255 bytes that ends early
        GREETING + READY + b"\x01\x00" * 5000,  # one message of 5000 empty frames, unfinished
    ]


def frame_attacks(draw: random.Random, captured: list[list[bytes]]) -> list[list[bytes]]:
    """Messages over a ZeroMQ connection of the attacker's own."""
    pushes = [f for f in captured if isinstance(read(f), Push)]
    kinds = {type(read(f)): f for f in captured}
    attacks = [
        *captured,  # replayed as they were
        *(f for f in pushes for _ in range(3)),
        [draw.randbytes(50)],
        [draw.randbytes(70_000)],
        [b""],
        [b"", b""],
        [b"a"] * 40,
        [pushes[0][0], bytes(MAX_MESSAGE + 1)],
        [pushes[0][0], bytes(2 * MAX_MESSAGE)],  # beyond what the socket takes: disconnected
        encode(Hello(VERSION, bytes(32), 0, "there", 1, "0.0")),
        encode(Bye(0, {})),
        encode(Error("lost", "worker 0 is gone", 0)),
    ]
    for frames in kinds.values():
        for _ in range(20):
            cut = list(frames)
            k = draw.randrange(len(cut))
            at = draw.randrange(max(1, len(cut[k])))
            flipped = bytearray(cut[k])
            if flipped:
                flipped[at] ^= 1 << draw.randrange(8)
            attacks.append([*cut[:k], cut[k][:at], *cut[k + 1 :]])
            attacks.append([*cut[:k], bytes(flipped), *cut[k + 1 :]])
    draw.shuffle(attacks)
    return attacks


def read(frames):
    return decode(frames, max_payload=1 << 30, direction=Direction.TO_SERVER)


def attack(address: str, captured: list[list[bytes]]) -> int:
    """All of it, while some connections stay half open; returns messages sent."""
    draw = random.Random(17)
    host, port = address.removeprefix("tcp://").split(":")
    messages = frame_attacks(draw, captured)
    with ExitStack() as half_open, zmq.Context() as context:
        for data in raw_attacks(draw):
            for close in (True, False):
                stranger = socket.create_connection((host, int(port)), timeout=LIMIT)
                with suppress(OSError):  # the server may have had enough of it
                    stranger.sendall(data)
                stranger.close() if close else half_open.enter_context(stranger)
        for start in range(0, len(messages), 40):
            with context.socket(zmq.DEALER) as stranger:
                if start % 80:
                    stranger.setsockopt(zmq.ROUTING_ID, b"worker-0")
                stranger.linger = 1000
                stranger.connect(address)
                for frames in messages[start : start + 40]:
                    stranger.send_multipart(frames)
                stranger.poll(1000)  # a reply; none if it was disconnected meanwhile
        with context.socket(zmq.DEALER) as stranger:
            stranger.linger = 0
            stranger.connect(address)
            stranger.send(b"are you there?")
            assert stranger.poll(1000 * LIMIT), "the server answers nobody any more"
            reply = decode(stranger.recv_multipart(), max_payload=9, direction=Direction.TO_WORKER)
            assert isinstance(reply, Error)
    return len(messages)


def test_run_among_strangers_gives_the_same_bits(tmp_path, monkeypatch):
    captured: list[list[bytes]] = []

    def capture(message):
        frames = encode(message)
        captured.append([bytes(memoryview(f).cast("B")) for f in frames])
        return frames

    monkeypatch.setattr(connection, "encode", capture)
    open_round, over = threading.Event(), threading.Event()

    def work(address, rank):
        with Session(ConnectConfig(server=address, rank=rank)) as session:
            trainer = begin(session, JOB)
            for t in range(ROUNDS):
                if rank == 1 and t == ATTACKED:
                    # The other's pushes are there, or on their way: the round is open.
                    open_round.set()
                    assert over.wait(LIMIT)
                step(trainer, made_up_gradient(rank, JOB.layout.dimension, t), (0.1, 0.2))
            return trainer.replica.digest()

    with crew(tmp_path) as processes:
        server, address = processes.server(2, max_message=MAX_MESSAGE, out=tmp_path / "run")
        workers = [Started(work, address, rank) for rank in (0, 1)]
        try:
            assert open_round.wait(LIMIT), [w.error for w in workers]
            assert attack(address, list(captured)) > 200
            assert server.popen.poll() is None, server.output()
        finally:
            over.set()
        digests = [worker.result() for worker in workers]
        assert server.code() == 0, server.output()
        assert "rejected a message of a stranger" in server.output()
    cluster = Cluster(JOB, 2)
    cluster.replica.parameters[:] = 1.0
    for t in range(ROUNDS):
        for sender in cluster.senders:
            sender.gradient[:] = made_up_gradient(sender.rank, JOB.layout.dimension, t)
        cluster.step([0.1, 0.2])
    assert digests == [cluster.replica.digest()] * 2
    assert (tmp_path / "run/summary.json").exists()


def test_member_that_sends_nonsense_harms_only_its_own_run(tmp_path):
    """It is told, and the others hear of its end; a worker's own library never does this."""
    with crew(tmp_path) as processes, zmq.Context() as context:
        server, address = processes.server(1)
        with context.socket(zmq.DEALER) as member:
            member.linger = 0
            member.connect(address)
            from psrv import __version__, codec

            hello = Hello(VERSION, codec.digest(), 0, "here", 1, __version__)
            member.send_multipart(encode(hello))
            assert member.poll(1000 * LIMIT)
            member.recv_multipart()
            member.send_multipart([b"nonsense"])
            assert member.poll(1000 * LIMIT)
            reply = decode(member.recv_multipart(), max_payload=9, direction=Direction.TO_WORKER)
            assert isinstance(reply, Error)
            assert reply.code == "wire"
        with pytest.raises(WireError):
            read([b"nonsense"])
        # Its place is free again, and a real worker trains there.
        deadline = time.monotonic() + LIMIT
        while "left before the run began" not in server.output():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with Session(ConnectConfig(server=address)) as session:
            trainer = begin(session, JOB)
            step(trainer, 1.0, (0.1, 0.2))
        assert server.code() == 0, server.output()
