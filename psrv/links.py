"""A small emulated cluster on this machine: hosts with links of a given rate.

Every host is a network namespace with one interface, ``eth0``; a bridge in a namespace of
its own joins them. A token bucket on both ends of each link limits what the host sends and
what it receives, so what crosses is real TCP at a real rate. No delay is emulated.

    host 0 --eth0====p0--+
    host 1 --eth0====p1--+-- bridge
    host 2 --eth0====p2--+

The namespaces have no names: each lives as long as the process that holds it, and the kernel
kills that process when this one dies, however it dies. Nothing else on the machine is
touched: the bridge, the links and their addresses exist inside these namespaces only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType

from psrv.errors import ConfigError
from psrv.tied import tied_to_parent

UNLIMITED = "none"
MOST_HOSTS = 240
"""As many addresses as one /24 network has, with room for the fixed part."""

_NETWORK = "10.213.77"
_FIRST = 10
_UNITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_RATE = re.compile(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)")
_SLOWEST = 64_000
# In a namespace the machine's own choice may be one that it may not set; a route may. All
# links alike, so that measurements on machines with another default can be compared.
_CONGESTION = "cubic"


def rate_of(text: str) -> float | None:
    """Bits a second of ``100mbit`` or ``1gbit``; None of ``none``, which is no limit.

    Raises:
        ValueError: neither, or slower than 64 kbit.
    """
    if text == UNLIMITED:
        return None
    match = _RATE.fullmatch(text)
    if match is None or float(match[1]) * _UNITS[match[2]] < _SLOWEST:
        raise ValueError("not a rate")
    return float(match[1]) * _UNITS[match[2]]


class Links:
    """Hosts 0 to ``hosts`` - 1, while the ``with`` block lasts.

    Args:
        hosts: how many.
        rate: of every link in each direction: ``100mbit``, ``1gbit``, ..., or ``none``.

    Raises:
        ConfigError: this machine cannot do it; says what it lacks.
    """

    def __init__(self, hosts: int, rate: str) -> None:
        self._hosts, self._rate = hosts, rate_of(rate)
        self._holders: list[subprocess.Popen[bytes]] = []
        if not 1 <= hosts <= MOST_HOSTS:
            raise ConfigError(f"{hosts} hosts were asked for; links join 1 to {MOST_HOSTS}")
        _check_machine()

    def __enter__(self) -> Links:
        try:
            self._up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def address(self, host: int) -> str:
        """The IPv4 address of a host."""
        return f"{_NETWORK}.{_FIRST + host}"

    def inside(self, host: int, command: Sequence[str]) -> list[str]:
        """The command, to be run in that host's namespace."""
        return self._enter(1 + host) + list(command)

    def close(self) -> None:
        """Take it all down. May be called twice."""
        for holder in self._holders:
            holder.kill()
        for holder in self._holders:
            holder.communicate()
        self._holders.clear()

    def _up(self) -> None:
        for _ in range(1 + self._hosts):  # the bridge's namespace comes first
            self._holders.append(
                subprocess.Popen(
                    tied_to_parent(["unshare", "--net", "cat"]),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
        for holder in self._holders:
            # What comes back through ``cat`` comes from inside the new namespace.
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write(b"?")
            holder.stdin.flush()
            if holder.stdout.read(1) != b"?":
                raise ConfigError(
                    "links need a network namespace of their own, and this machine gives none "
                    "(unshare --net failed); run without --link"
                )
        bridge = ["link set lo up", "link add br0 type bridge stp_state 0", "link set br0 up"]
        for host in range(self._hosts):
            namespace = self._holders[1 + host].pid
            bridge.append(f"link add p{host} type veth peer name eth0 netns {namespace}")
            bridge.append(f"link set p{host} master br0 up")
        self._ip(0, bridge)
        for host in range(self._hosts):
            own = self.address(host)
            self._ip(
                1 + host,
                [
                    "link set lo up",
                    f"addr add {own}/24 dev eth0",
                    "link set eth0 up",
                    f"route replace {_NETWORK}.0/24 dev eth0 src {own} congctl {_CONGESTION}",
                ],
            )
            self._limit(1 + host, "eth0")
            self._limit(0, f"p{host}")

    def _limit(self, namespace: int, device: str) -> None:
        """A token bucket: bursts of up to 20 ms at the rate, a queue of up to 100 ms."""
        if self._rate is None:
            return
        burst = int(min(max(self._rate / 8 / 50, 128 << 10), 512 << 10))
        queue = int(max(self._rate / 8 / 10, 512 << 10))
        rate = f"{self._rate:.0f}bit"
        self._run(
            self._enter(namespace)
            + f"tc qdisc add dev {device} root tbf rate {rate} burst {burst} limit {queue}".split()
        )

    def _enter(self, namespace: int) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holders[namespace].pid}/ns/net", "--"]

    def _ip(self, namespace: int, commands: Sequence[str]) -> None:
        self._run([*self._enter(namespace), "ip", "-batch", "-"], "\n".join(commands) + "\n")

    @staticmethod
    def _run(command: list[str], text: str | None = None) -> None:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it gave no reason"])[0]
            raise ConfigError(
                f"cannot set up the links: '{' '.join(command[3:])}' failed: {said}; "
                "run without --link, or as root of a machine with bridges, veth and tbf"
            )


def _check_machine() -> None:
    if sys.platform != "linux":
        raise ConfigError("links of a given rate need Linux; run without --link")
    if missing := [p for p in ("ip", "tc", "unshare", "nsenter") if shutil.which(p) is None]:
        raise ConfigError(
            f"links need the program '{missing[0]}'; install iproute2 and util-linux, "
            "or run without --link"
        )
    if os.geteuid() != 0:
        raise ConfigError(
            "links of a given rate need root (network namespaces, tc); run this command as root, "
            "or without --link"
        )
