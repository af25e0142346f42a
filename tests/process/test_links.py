"""Runs on emulated hosts: the same bits as over the loopback, and nothing left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psrv.errors import ConfigError
from psrv.links import Links, rate_of

pytestmark = pytest.mark.process


def lacking() -> str | None:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "links need Linux and root"
    if missing := [p for p in ("ip", "tc", "unshare", "nsenter") if shutil.which(p) is None]:
        return f"links need {missing[0]}"
    try:
        with Links(1, "1gbit"):
            return None
    except ConfigError as error:
        return str(error)


@pytest.fixture(scope="module")
def links():
    if reason := lacking():
        pytest.skip(reason)


def holders() -> set[str]:
    """Network namespaces of all processes."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                found.add(os.readlink(process / "ns" / "net"))
            except OSError:
                continue
    return found


def gone(before: set[str]) -> bool:
    limit = time.monotonic() + 20
    while holders() - before and time.monotonic() < limit:
        time.sleep(0.05)
    return not holders() - before


@pytest.mark.parametrize(
    ("text", "rate"), [("100mbit", 1e8), ("1gbit", 1e9), ("2.5gbit", 2.5e9), ("none", None)]
)
def test_rates(text, rate):
    assert rate_of(text) == rate


@pytest.mark.parametrize("text", ["", "100", "100 mbit", "1gbps", "-1gbit", "0mbit", "1kbit"])
def test_what_is_no_rate(text):
    with pytest.raises(ValueError, match="not a rate"):
        rate_of(text)


def test_hosts_reach_one_another_and_are_taken_down(links):
    before = holders()
    listen = (
        "import socket; s = socket.create_server(('{}', 5000)); print('up', flush=True); "
        "c, a = s.accept(); print(a[0], c.recv(9))"
    )
    say = "import socket; s = socket.create_connection(('{}', 5000), 10); s.sendall(b'hello')"
    with Links(3, "100mbit") as net:
        command = [sys.executable, "-c", listen.format(net.address(0))]
        server = subprocess.Popen(net.inside(0, command), stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "up\n"
        say = [sys.executable, "-c", say.format(net.address(0))]
        subprocess.run(net.inside(2, say), check=True, timeout=30)
        assert server.communicate(timeout=30)[0] == f"{net.address(2)} b'hello'\n"
        shown = subprocess.run(
            net.inside(1, ["tc", "qdisc", "show", "dev", "eth0"]), capture_output=True, text=True
        ).stdout
        assert "tbf" in shown
        assert "rate 100Mbit" in shown
        assert holders() - before
    assert gone(before)


def test_a_launcher_that_is_killed_leaves_no_host_behind(links, tmp_path):
    before = holders()
    code = (
        "import sys, time\nfrom psrv.links import Links\n"
        "with Links(2, 'none'):\n    print('up', flush=True)\n    time.sleep(60)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout.readline() == "up\n"
    assert holders() - before
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    launcher.stdout.close()
    assert gone(before)


@pytest.mark.parametrize("link", ["none", "1gbit"])
def test_a_run_over_links_takes_the_same_steps(links, runs, link):
    options = {"workers": 3, "rounds": 4, "seed": 2}
    found = runs.launched("cd-adam", "synthetic:4096", **options, link=link)
    expected = runs.simulated("cd-adam", "synthetic:4096", **options)
    assert found["replica_digest"] == expected["replica_digest"]
    assert found["bytes_per_worker_round"]["tcp_up"] > 0
    assert found["link"] == link
