"""Estimate how far the server's clock is ahead of this process's.

Monotonic clocks of two machines start anywhere and drift slowly. A heartbeat
carries the time it left (``sent``), the server adds its own (``server``), and
``received`` is when the answer came back. If both ways took equally long, the
server read its clock half-way, so

    offset = server - (sent + received) / 2,   off by at most rtt / 2.

The exchange with the smallest round trip bounds the error best, so it speaks
for a sliding window; old ones leave the window because clocks drift.

Source: Mills 1991, "Internet time synchronization" (NTP), minimum-delay filter.
Differs: one server timestamp, since the server answers at once.
"""

from __future__ import annotations

from collections import deque


class OffsetEstimator:
    """Offset of the server's clock against this one, in ns.

    Args:
        window: how many exchanges are remembered, at least 1.
    """

    def __init__(self, window: int = 32) -> None:
        if window < 1:
            raise ValueError(f"window is {window}; expected at least 1 exchange")
        self._samples: deque[tuple[int, int]] = deque(maxlen=window)
        self._best: tuple[int, int] | None = None

    def add(self, sent_ns: int, server_ns: int, received_ns: int) -> bool:
        """Take one exchange; False if it was impossible (received before sent)."""
        rtt = received_ns - sent_ns
        if rtt < 0:
            return False
        self._samples.append((rtt, server_ns - (sent_ns + received_ns) // 2))
        # Ties go to the newest exchange: with equal error bounds it has drifted least.
        self._best = min(reversed(self._samples), key=lambda sample: sample[0])
        return True

    @property
    def offset_ns(self) -> int | None:
        """Server clock minus this clock; None before the first exchange."""
        return None if self._best is None else self._best[1]

    @property
    def rtt_ns(self) -> int | None:
        """Round trip of the exchange behind ``offset_ns``; its error is at most half."""
        return None if self._best is None else self._best[0]

    def to_local(self, server_ns: int) -> int:
        """A server timestamp on this process's clock; unchanged before any exchange
        (right on one machine, where processes share the clock)."""
        return server_ns if self._best is None else server_ns - self._best[1]
