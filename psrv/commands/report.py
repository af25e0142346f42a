"""``report``, and what every run ends with: its trace, its page and a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psrv.commands.show import console
from psrv.errors import ConfigError, printable


def report(paths: Sequence[Path], output: Path | None) -> None:
    """Print the runs side by side and write the page."""
    from psrv.report import comparison_table, default_output, load_runs, write_report

    runs = load_runs(paths)
    console().print(comparison_table(runs))
    target = output or default_output(paths)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_report(runs, target)
    except OSError as error:
        raise ConfigError(
            f"cannot write {target}: {error.strerror}; choose another --out"
        ) from None
    print(f"report: {target}")


def finish(folder: Path, *, trace: bool) -> None:
    """Merge the trace if there is one, write the run's page, and say what came out."""
    from psrv.measure.trace import write_trace
    from psrv.report import load_runs, write_report
    from psrv.report.runs import REPORT_FILE
    from psrv.report.units import ABSENT, human_bytes, human_seconds, metric, milliseconds, percent

    (run,) = load_runs([folder])
    made = [write_report([run], folder / REPORT_FILE)]
    if trace:
        made.append(write_trace(folder))

    def number(*keys: str) -> float | None:
        return run.number(*keys)

    final = ", ".join(
        f"{words} {shown(value)}"
        for key, words, shown in (
            ("loss", "loss", metric),
            ("accuracy", "accuracy", percent),
            ("grad_norm", "gradient norm", metric),
        )
        if (value := number("final", key)) is not None
    )
    up, down = (
        human_bytes(number("bytes_per_worker_round", f"payload_{way}")) for way in ("up", "down")
    )
    step = number("step_seconds", "mean")
    # A task's name is its workers' word.
    title = printable(f"{run.text('method')} on {run.text('task')}: {run.text('workers')} workers")
    lines = [f"{title}, {run.text('rounds')} rounds in {human_seconds(number('wall_seconds'))}"]
    if final:
        lines.append(f"final  {final}")
    if step is not None:
        sent = "" if ABSENT in (up, down) else f", payload {up} up and {down} down a worker"
        lines.append(f"step   {milliseconds(step)} ms{sent}")
    lines.append(f"files  {', '.join(map(str, [folder, *made]))}")
    print("\n  ".join(lines), flush=True)
