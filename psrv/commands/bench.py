"""``bench``: how fast the compressors are, beside what this machine allows."""

from __future__ import annotations

import os
import time
from pathlib import Path

from psrv.errors import ConfigError, PsrvError


def codec(
    sizes: str | None, check: bool, output: Path | None, only: str | None, seconds: float
) -> None:
    """Measure the compressors, print the tables, write the JSON, compare with the targets.

    Args:
        sizes: whole numbers apart by commas; None for the default ones.
        check: fail if a target is missed.
        output: where to write every row as JSON, with the machine and the versions.
        only: specs or names apart by commas; None for all.
        seconds: for each operation.

    Raises:
        ConfigError: bad sizes, names or seconds, or a file that cannot be written.
        PsrvError: ``check``, and a target was missed.
    """
    from rich.console import Console

    from psrv.bench.codec import SIZES, measure, subjects
    from psrv.bench.rows import HUGE, LARGE, TARGETS, misses
    from psrv.bench.table import tables
    from psrv.commands.rundir import machine, versions
    from psrv.commands.show import console
    from psrv.measure.records import to_json
    from psrv.measure.summary import write_whole

    chosen = SIZES if sizes is None else _numbers(sizes)
    names = [] if only is None else [name.strip() for name in only.split(",")]
    labels = {subject.label for subject in subjects(names)}
    if not 0 < seconds <= 60:
        raise ConfigError(f"--seconds is {seconds}; expected a number above 0 and at most 60")
    if check and not any(LARGE <= size < HUGE for size in chosen):
        raise ConfigError(
            f"--check needs a size from {LARGE:,} to below {HUGE:,}: the targets are for the "
            "11,173,962 coordinates of ResNet-18"
        )
    if check and labels.isdisjoint(target.compressor for target in TARGETS):
        raise ConfigError(f"--check has nothing to check: no target is set for {only}")
    start, load = time.monotonic(), os.getloadavg()[0]
    rows = []
    with Console(stderr=True).status("compiling the kernels") as status:
        for row in measure(chosen, seconds, names):
            rows.append(row)
            status.update(f"{row.dimension:,} coordinates: {row.compressor}")
    took = time.monotonic() - start
    console().print(tables(rows), highlight=False)
    print(f"measured in {took:.0f} s; load average before: {load:.2f}")
    if output is not None:
        content = {
            "machine": machine(),
            "versions": versions(),
            "seconds": took,
            "load_before": load,
            "rows": [row.as_json() for row in rows],
        }
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            write_whole(output, to_json(content, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(
                f"cannot write {output}: {error.strerror}; choose another --json"
            ) from None
        print(f"rows: {output}")
    if check and (missed := misses(rows)):
        raise PsrvError(f"{len(missed)} targets were missed: {'; '.join(missed)}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(word.replace("_", "")) for word in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ConfigError(
            f"--sizes is '{text}'; expected whole numbers above 0, such as 65536,1048576"
        )
    return sizes
