"""``demo``: four methods on real data, side by side."""

from __future__ import annotations

import time
from pathlib import Path

METHODS = ("amsgrad", "cd-adam", "dist-ef-sgdm", "signum")
WORKERS = 4
QUICK_ROUNDS = 40


def demo(out: Path, quick: bool) -> None:
    """One server and four workers, processes over sockets, for each method in turn.

    Args:
        out: folder that takes ``<method>/`` for each, and ``report.html``. An earlier demo's
            files in it are replaced.
        quick: only a few rounds, to see that everything works.
    """
    from psrv.commands.report import finish, report
    from psrv.config import ConnectConfig, JobConfig, ServerConfig
    from psrv.launch import Launch

    print(f"Training digits with {len(METHODS)} methods: 1 server, {WORKERS} workers each.")
    for number, method in enumerate(METHODS, start=1):
        print(f"[{number}/{len(METHODS)}] {method}", flush=True)
        start = time.monotonic()
        job = JobConfig(
            method=method,
            task="digits",
            workers=WORKERS,
            rounds=QUICK_ROUNDS if quick else None,
            out=out / method,
        )
        server = ServerConfig(bind="tcp://127.0.0.1:*", workers=WORKERS)
        folder = Launch(job, server, ConnectConfig(), force=True).run()
        finish(folder, trace=False)
        print(f"  took   {time.monotonic() - start:.0f} s with starting the processes", flush=True)
    print()
    report([out / method for method in METHODS], out / "report.html")
