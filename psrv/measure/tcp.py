"""What the kernel says crossed a TCP connection, read from its descriptor.

``TCP_INFO`` counts bytes of the TCP stream: message framing, handshakes and
retransmissions are in, IP and TCP headers are not (about 52 to 66 bytes for
each of ``segs_out``, Ethernet included).

Source: ``struct tcp_info`` of linux/tcp.h. Fields are only ever appended to it;
the ones used here are complete since Linux 4.19.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from dataclasses import dataclass, fields

# 8 one-byte fields, 24 u32 up to total_retrans, 4 u64 up to bytes_received, 6 u32 up to
# data_segs_out, 4 u64 up to sndbuf_limited, 2 u32, then bytes_sent and bytes_retrans.
# There are no holes: every u64 falls on a multiple of 8.
_TCP_INFO = struct.Struct("=8x24I4Q6I4Q2I2Q")
_RTT = 15
_BYTES_ACKED = 26
_BYTES_RECEIVED = 27
_SEGS_OUT = 28
_SEGS_IN = 29
_BYTES_SENT = 40
_BYTES_RETRANS = 41


@dataclass(frozen=True, slots=True)
class TcpCounters:
    """Counters of one connection since it opened, or sums over connections.

    Attributes:
        bytes_sent: payload bytes handed to the network, retransmissions included.
        bytes_retrans: the part of ``bytes_sent`` that was sent again.
        bytes_acked: bytes the peer confirmed; the SYN counts as one.
        bytes_received: bytes received in order.
        segs_out, segs_in: segments, those without payload included.
        rtt_us: the kernel's smoothed round trip, microseconds; in a sum, the largest.
    """

    bytes_sent: int = 0
    bytes_retrans: int = 0
    bytes_acked: int = 0
    bytes_received: int = 0
    segs_out: int = 0
    segs_in: int = 0
    rtt_us: int = 0

    def __add__(self, other: TcpCounters) -> TcpCounters:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return TcpCounters(**{**sums, "rtt_us": max(self.rtt_us, other.rtt_us)})


def read_tcp_info(descriptor: int) -> TcpCounters | None:
    """Counters of the TCP connection behind ``descriptor``.

    The descriptor stays open and stays the caller's. If its owner closes it at
    the same moment, the answer is None or that of whatever took the number, so
    read only descriptors that their owner has not announced as closed.

    Returns:
        The counters, or None off Linux, on a kernel before 4.19, and when the
        descriptor is closed or is no TCP socket.
    """
    if not sys.platform.startswith("linux") or descriptor < 0:
        return None
    try:
        # Family and type are not asked of the kernel: getsockopt does not depend on them.
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return None
    try:
        raw = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    finally:
        borrowed.detach()
    return parse_tcp_info(raw)


def parse_tcp_info(raw: bytes) -> TcpCounters | None:
    """Counters from the bytes of a ``struct tcp_info``; None if it is too short."""
    if len(raw) < _TCP_INFO.size:
        return None
    values = _TCP_INFO.unpack_from(raw)
    return TcpCounters(
        bytes_sent=values[_BYTES_SENT],
        bytes_retrans=values[_BYTES_RETRANS],
        bytes_acked=values[_BYTES_ACKED],
        bytes_received=values[_BYTES_RECEIVED],
        segs_out=values[_SEGS_OUT],
        segs_in=values[_SEGS_IN],
        rtt_us=values[_RTT],
    )


class TcpMeter:
    """Counters summed over the connections a process had, closed ones included.

    A socket that reconnects gets a new descriptor whose counters start at zero;
    feed ``attach`` and ``detach`` from the socket monitor's events. What a
    connection counted between the last ``read`` and its end is lost with it.
    Safe to call from several threads.
    """

    def __init__(self) -> None:
        self._open: dict[int, TcpCounters] = {}
        self._closed = TcpCounters()
        self._known = False
        self._lock = threading.RLock()

    def attach(self, descriptor: int) -> None:
        """A connection opened. A number that is already attached was closed unseen."""
        with self._lock:
            self.detach(descriptor)
            self._open[descriptor] = TcpCounters()

    def detach(self, descriptor: int) -> None:
        """A connection closed; it is not read any more. Unknown numbers are ignored."""
        with self._lock:
            self._closed = self._closed + self._open.pop(descriptor, TcpCounters())

    def read(self) -> TcpCounters | None:
        """Sums so far, or None while no connection could ever be read."""
        with self._lock:
            for descriptor, before in self._open.items():
                counters = read_tcp_info(descriptor)
                if counters is None:
                    continue
                self._known = True
                if counters.bytes_sent < before.bytes_sent:
                    # Counters never fall: another connection took the number unannounced.
                    self._closed = self._closed + before
                self._open[descriptor] = counters
            if not self._known:
                return None
            return sum(self._open.values(), start=self._closed)
