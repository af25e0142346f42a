"""Processes that do not outlive the one that started them, on Linux."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Runs before the command, in its process: asks the kernel to kill it when the launcher
# dies (PR_SET_PDEATHSIG is 1), and checks that it has not died already. Done here and not
# between fork and exec, where Python code can deadlock.
_BOUND_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the launcher is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"psrv: error: cannot run {sys.argv[2]}: {error.strerror}")
"""


def tied_to_parent(command: Sequence[str]) -> list[str]:
    """The command, to be started by this process; elsewhere than on Linux as it is."""
    if sys.platform != "linux":
        return list(command)
    launcher = str(os.getpid())
    return [sys.executable, "-I", "-S", "-c", _BOUND_TO_PARENT, launcher, *command]
