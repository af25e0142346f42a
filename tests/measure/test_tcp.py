from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from psrv.measure.tcp import TcpCounters, TcpMeter, parse_tcp_info, read_tcp_info

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO is Linux's")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection on the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), timeout=10)
        far, _ = listener.accept()
    with near, far:
        far.settimeout(10)
        yield near, far


def carry(near: socket.socket, far: socket.socket, size: int) -> None:
    """Send ``size`` bytes and read them all, without more in flight than buffers hold."""
    left = size
    while left:
        near.sendall(bytes(min(left, 32_768)))
        want = min(left, 32_768)
        while want:
            want -= len(far.recv(want))
        left -= min(left, 32_768)


@linux
def test_counters_follow_what_a_connection_carries(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    before, before_far = read_tcp_info(near.fileno()), read_tcp_info(far.fileno())
    carry(near, far, 300_000)
    after, after_far = read_tcp_info(near.fileno()), read_tcp_info(far.fileno())
    assert after.bytes_sent - after.bytes_retrans - before.bytes_sent == 300_000
    assert after_far.bytes_received - before_far.bytes_received == 300_000
    assert after_far.bytes_sent == before_far.bytes_sent == 0
    assert after.bytes_acked <= 300_001
    assert after.segs_out > before.segs_out
    assert after_far.segs_in > before_far.segs_in
    assert after.rtt_us > 0


@linux
def test_reading_leaves_the_descriptor_open_and_its_settings_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    blocking = os.get_blocking(near.fileno())
    for _ in range(3):
        assert read_tcp_info(near.fileno()) is not None
    assert os.get_blocking(near.fileno()) == blocking
    carry(near, far, 10)


@linux
def test_what_is_no_tcp_connection_has_no_counters(tmp_path: object) -> None:
    reading, writing = os.pipe()
    left, right = socket.socketpair()
    try:
        assert read_tcp_info(reading) is None
        assert read_tcp_info(left.fileno()) is None
    finally:
        os.close(reading)
        os.close(writing)
        left.close()
        right.close()
    assert read_tcp_info(reading) is None
    assert read_tcp_info(-1) is None


def test_off_linux_there_are_no_counters(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[socket.socket, socket.socket]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert read_tcp_info(pair[0].fileno()) is None


def test_fields_are_where_the_kernels_header_puts_them() -> None:
    raw = bytearray(280)
    for offset, width, value in (
        (68, 4, 1_234),  # tcpi_rtt
        (120, 8, 5_000_000_001),  # tcpi_bytes_acked
        (128, 8, 6_000_000_002),  # tcpi_bytes_received
        (136, 4, 77),  # tcpi_segs_out
        (140, 4, 88),  # tcpi_segs_in
        (200, 8, 7_000_000_003),  # tcpi_bytes_sent
        (208, 8, 9_999),  # tcpi_bytes_retrans
    ):
        raw[offset : offset + width] = value.to_bytes(width, sys.byteorder)
    assert parse_tcp_info(bytes(raw)) == TcpCounters(
        bytes_sent=7_000_000_003,
        bytes_retrans=9_999,
        bytes_acked=5_000_000_001,
        bytes_received=6_000_000_002,
        segs_out=77,
        segs_in=88,
        rtt_us=1_234,
    )
    assert parse_tcp_info(bytes(raw[:192])) is None


def test_a_meter_without_a_readable_connection_knows_nothing() -> None:
    meter = TcpMeter()
    assert meter.read() is None
    meter.attach(-1)
    assert meter.read() is None


@linux
def test_a_meter_keeps_the_bytes_of_closed_connections() -> None:
    meter = TcpMeter()
    for size in (10_000, 30_000):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname(), timeout=10)
            far, _ = listener.accept()
        with near, far:
            meter.attach(near.fileno())
            carry(near, far, size)
            last = meter.read()
            meter.detach(near.fileno())
    total = meter.read()
    assert total == last
    assert total.bytes_sent - total.bytes_retrans == 40_000


def test_a_number_taken_over_by_another_connection_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = [
        TcpCounters(bytes_sent=100, rtt_us=9),
        TcpCounters(bytes_sent=30, rtt_us=4),
        None,
    ]
    monkeypatch.setattr("psrv.measure.tcp.read_tcp_info", lambda _: readings.pop(0))
    meter = TcpMeter()
    meter.attach(5)
    assert [meter.read().bytes_sent for _ in range(3)] == [100, 130, 130]


def test_connections_may_come_and_go_while_another_thread_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = TcpMeter()
    threads: list[threading.Thread] = []

    def read(descriptor: int) -> TcpCounters:
        if not threads:
            threads.append(threading.Thread(target=meter.attach, args=(6,)))
            threads[0].start()
            threads[0].join(0.2)
        return TcpCounters(bytes_sent=descriptor)

    monkeypatch.setattr("psrv.measure.tcp.read_tcp_info", read)
    meter.attach(5)
    assert meter.read().bytes_sent == 5
    threads[0].join()
    assert meter.read().bytes_sent == 11
