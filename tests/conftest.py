"""What every test starts from: none of the machine's settings, and nothing left running."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time, so that a failure in CI is a failure here;
# `--hypothesis-profile search` looks for new ones.
settings.register_profile("psrv", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("psrv")

# Set by job schedulers, launchers and users, and read by psrv: no test may find them by chance.
FOREIGN = ("PSRV_", "SLURM_", "TORCHELASTIC_")
FOREIGN_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")

TAG = "TEST_PROCESS_TAG"
EXIT_LIMIT = 5.0  # seconds that a process gets to end once its test has


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(FOREIGN) or name in FOREIGN_NAMES:
                patch.delenv(name)
        patch.setenv("MPLBACKEND", "Agg")
        yield


@pytest.fixture(autouse=True)
def nothing_left_running(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fail a test marked ``process`` that leaves a process, also one whose parent is gone."""
    if request.node.get_closest_marker("process") is None or not Path("/proc/self").exists():
        yield
        return
    tag = uuid.uuid4().hex
    monkeypatch.setenv(TAG, tag)
    yield
    limit = time.monotonic() + EXIT_LIMIT
    while (left := _tagged(tag)) and time.monotonic() < limit:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"still running after the test: {'; '.join(left.values())}"


def _tagged(tag: str) -> dict[int, str]:
    """Command lines of the other processes that inherited ``tag``, by pid; zombies have ended."""
    found = {}
    needle = f"{TAG}={tag}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if needle not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile, or another user's
            continue
        if command:
            found[int(entry.name)] = command.strip()
    return found
