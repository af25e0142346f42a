"""``bench``: how fast the compressors are, beside what this machine allows."""

from __future__ import annotations

from pathlib import Path

from psrv.errors import ConfigError, PsrvError


def codec(sizes: str | None, check: bool, output: Path | None) -> None:
    """Measure every compressor, print the table, write the JSON, compare with the targets.

    Args:
        sizes: whole numbers apart by commas; None for the default ones.
        check: fail if a target is missed.
        output: where to write every row as JSON, with the machine and the versions.

    Raises:
        ConfigError: bad sizes, or a file that cannot be written.
        PsrvError: ``check``, and a target was missed.
    """
    from rich.console import Console

    from psrv.bench.codec import LARGE, SIZES, measure, misses, table
    from psrv.commands.rundir import machine, versions
    from psrv.commands.show import console
    from psrv.measure.records import to_json
    from psrv.measure.summary import write_whole

    chosen = SIZES if sizes is None else _numbers(sizes)
    if check and max(chosen) < LARGE:
        raise ConfigError(
            f"--check needs a size of {LARGE:,} or more: the targets are for vectors "
            "that no cache holds"
        )
    rows = []
    with Console(stderr=True).status("compiling the kernels") as status:
        for row in measure(chosen):
            rows.append(row)
            status.update(f"{row.dimension:,} coordinates: {row.compressor}")
    console().print(table(rows))
    if output is not None:
        content = {
            "machine": machine(),
            "versions": versions(),
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
