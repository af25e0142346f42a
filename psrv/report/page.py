"""report.html: runs side by side in one file that loads nothing and runs no script."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from psrv.measure.meter import PARTS
from psrv.measure.summary import write_whole
from psrv.report.figures import PART_COLOURS, Series, breakdown_figure, curve_figure, line_style
from psrv.report.runs import Evaluation, Run, clean
from psrv.report.style import CSS
from psrv.report.table import comparison_columns, comparison_note
from psrv.report.units import ABSENT, human_count, milliseconds, percent, significant

# The browser itself is told to fetch nothing, should a name in a run try to make it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

# A worker is named as the straggler when it took this many times its fair share of the waiting.
_STANDS_OUT = 1.5

HOW_TO_READ = (
    "Each bar is the mean step of one worker, cut by what its training thread was doing, so the "
    "ten parts add up to the step: blue and green parts are its own work (data, compute, encode, "
    "decode, update), and yellow to red ones are time it stood still waiting for a result. While "
    "it waits, uplink lasts until the server has its push, straggler until the slowest worker’s "
    "push is there too, server until the result is ready, and downlink until that has arrived; "
    "communication that compute hides costs no time and is in none of them."
)

_AGAINST: tuple[tuple[str, str, Callable[[Evaluation], float | None]], ...] = (
    ("rounds", "plain", lambda entry: entry.round),
    ("payload bytes of a worker, up and down", "bytes", lambda entry: entry.sent),
    ("training seconds (wall clock, without evaluation)", "plain", lambda entry: entry.seconds),
)
_METRICS: tuple[tuple[str, str, Callable[[Evaluation], float | None]], ...] = (
    ("loss", "plain", lambda entry: entry.loss),
    ("accuracy", "share", lambda entry: entry.accuracy),
    ("gradient norm", "log", lambda entry: entry.grad_norm),
)


def write_report(runs: Sequence[Run], output: Path | str) -> Path:
    """Write the page for ``runs`` (from ``load_runs``, at least one) to ``output``."""
    return write_whole(Path(output), render_page(runs))


def render_page(runs: Sequence[Run]) -> str:
    """The page's HTML. Equal runs give equal text."""
    title = _title(runs)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{CSS}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{escape(title)}</h1><p>{escape(_subtitle(runs))}</p></header>",
            "<main>",
            _comparison(runs),
            _breakdown(runs),
            *_curves(runs),
            _bytes(runs),
            _details(runs),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _values(runs: Sequence[Run], key: str) -> list[str]:
    return list(dict.fromkeys(clean(run.text(key)) for run in runs))


def _title(runs: Sequence[Run]) -> str:
    tasks = _values(runs, "task")
    where = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    return f"{runs[0].label} on {where}" if len(runs) == 1 else f"{len(runs)} runs on {where}"


def _subtitle(runs: Sequence[Run]) -> str:
    facts = []
    for key, unit in (("workers", "worker"), ("servers", "server"), ("dimension", "parameter")):
        values = _values(runs, key)
        if len(values) == 1:
            count = human_count(float(values[0])) if values[0].isdecimal() else values[0]
            facts.append(f"{count} {unit}{'' if values[0] == '1' else 's'}")
    links = sorted({clean(str(run.summary["link"])) for run in runs if run.summary.get("link")})
    if links:
        facts.append(f"links of {' and '.join(links)}")
    versions = sorted({clean(str(run.summary.get("version", "unknown"))) for run in runs})
    return ", ".join([*facts, f"measured by psrv {' and '.join(versions)}"])


def _section(title: str, *content: str) -> str:
    return "\n".join([f"<section><h2>{escape(title)}</h2>", *content, "</section>"])


def _table(
    label: str,
    head: Sequence[tuple[str, bool]],
    rows: Iterable[Sequence[str]],
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """A table that scrolls sideways by itself; the first cell of a row is its heading.

    Args:
        label: what the table is, for screen readers.
        head: (title, is numeric) of each column.
        rows: cells as plain text.
        groups: (title, columns) of a heading row above ``head``.
    """
    above = ""
    if groups:
        cells = "".join(
            f'<th colspan="{span}" scope="colgroup">{escape(title)}</th>'
            if title
            else f'<td colspan="{span}"></td>'
            for title, span in groups
        )
        above = f'<tr class="groups">{cells}</tr>'
    kinds = ["" if numeric else ' class="text"' for _, numeric in head]
    titles = "".join(
        f'<th scope="col"{kind}>{escape(title)}</th>'
        for (title, _), kind in zip(head, kinds, strict=True)
    )
    lines = [
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">',
        f'<table class="wide"><thead>{above}<tr>{titles}</tr></thead><tbody>',
    ]
    for row in rows:
        cells = "".join(
            f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def _comparison(runs: Sequence[Run]) -> str:
    columns = comparison_columns(runs)
    return _section(
        "Side by side" if len(runs) > 1 else "Result",
        _table(
            "Comparison of the runs",
            [(column.title, column.numeric) for column in columns],
            ([column.cell(run) for column in columns] for run in runs),
        ),
        f'<p class="note">{escape(comparison_note(runs))}</p>',
    )


def _breakdown(runs: Sequence[Run]) -> str:
    legend = "".join(
        f'<li><span class="swatch" style="background:{PART_COLOURS[part]}"></span>{part}</li>'
        for part in PARTS
    )
    head = [("ms a step", False), *((part, True) for part in PARTS), ("step", True)]
    head += [("median", True), ("p90", True), ("hidden", True)]
    rows = (
        [
            run.label,
            *(milliseconds(run.number("breakdown_seconds", part)) for part in PARTS),
            *(milliseconds(run.number("step_seconds", key)) for key in ("mean", "median", "p90")),
            milliseconds(run.number("hidden_seconds")),
        ]
        for run in runs
    )
    notes = "".join(
        f"<li><strong>{escape(run.label)}</strong>: {escape(straggler_note(run))}</li>"
        for run in runs
    )
    return _section(
        "Where a step’s time goes",
        f"<p>{escape(HOW_TO_READ)}</p>",
        f'<ul class="legend" aria-label="Parts of a step">{legend}</ul>',
        '<figure class="bars">',
        f'<div class="broad">{breakdown_figure(runs, "broad")}</div>',
        f'<div class="narrow">{breakdown_figure(runs, "narrow", narrow=True)}</div>',
        "</figure>",
        f'<ul class="notes">{notes}</ul>',
        "<details><summary>All parts in numbers</summary>",
        _table("Parts of a step in milliseconds", head, rows),
        '<p class="note">hidden: time a step in which a message was under way while the training '
        "thread worked. Median and p90 are each worker’s own, averaged.</p>",
        "</details>",
    )


def straggler_note(run: Run) -> str:
    """One sentence: whom the workers of this run waited for, and how long."""
    waited = run.number("breakdown_seconds", "straggler") or 0.0
    step = run.number("step_seconds", "mean") or 0.0
    entries = run.summary.get("stragglers")
    known = {
        rank: run.number("stragglers", rank, "seconds") or 0.0
        for rank in (entries if isinstance(entries, dict) else {})
    }
    if not known or waited < 0.01 * step:
        return "nobody kept the others waiting for more than 1% of a step."
    slowest = max(known, key=lambda rank: (known[rank], rank))
    part = min(known[slowest] / waited, 1.0)
    share = percent(run.number("stragglers", slowest, "share"), 0)
    found = f"{milliseconds(waited)} ms of the mean step were spent waiting for a slower worker; "
    if part < _STANDS_OUT / max(run.number("workers") or 1, 1):
        return found + f"no one stands out (worker {clean(slowest)} took {percent(part, 0)} of it)."
    return found + (
        f"worker {clean(slowest)} took {percent(part, 0)} of it, "
        f"and was the last in {share} of the others’ steps."
    )


def _curves(runs: Sequence[Run]) -> list[str]:
    """One section a task: the losses of different tasks have nothing to say to each other."""
    sections = []
    tasks = _values(runs, "task")
    for place, task in enumerate(tasks):
        members = [(i, run) for i, run in enumerate(runs) if clean(run.text("task")) == task]
        figures: list[str] = []
        for metric, metric_kind, value in _METRICS:
            for against, against_kind, where in _AGAINST:
                series = [
                    Series(run.label, _points(run.history, where, value), index)
                    for index, run in members
                ]
                svg = curve_figure(
                    series,
                    f"curve{place}-{len(figures)}",
                    metric=metric,
                    against=against,
                    metric_kind=metric_kind,
                    against_kind=against_kind,
                )
                if svg is not None:
                    figures.append(f"<figure>{svg}</figure>")
        title = "Progress" if len(tasks) == 1 else f"Progress on {task}"
        if not figures:
            text = '<p class="note">These runs hold no evaluations.</p>'
            sections.append(_section(title, text))
            continue
        legend = "".join(_legend_entry(run.label, index) for index, run in members)
        sections.append(
            _section(
                title,
                f'<ul class="legend" aria-label="Runs">{legend}</ul>',
                '<div class="curves">',
                *figures,
                "</div>",
            )
        )
    return sections


def _points(
    history: Iterable[Evaluation],
    where: Callable[[Evaluation], float | None],
    value: Callable[[Evaluation], float | None],
) -> list[tuple[float, float]]:
    pairs = ((where(entry), value(entry)) for entry in history)
    return [(x, y) for x, y in pairs if x is not None and y is not None]


def _legend_entry(label: str, index: int) -> str:
    colour, dashes = line_style(index)
    pattern = f' stroke-dasharray="{" ".join(f"{2.5 * d:g}" for d in dashes)}"' if dashes else ""
    return (
        '<li><svg class="stroke" viewBox="0 0 30 12" aria-hidden="true">'
        f'<path d="M0 6H30" stroke="{colour}" stroke-width="2.5"{pattern}/></svg>'
        f"{escape(label)}</li>"
    )


def _bytes(runs: Sequence[Run]) -> str:
    def count(run: Run, key: str) -> str:
        return human_count(run.number("bytes_per_worker_round", key))

    def bits(run: Run, key: str) -> str:
        sent, size = run.number("bytes_per_worker_round", key), run.number("dimension")
        return ABSENT if sent is None or not size else significant(8 * sent / size)

    rows = (
        [
            run.label,
            bits(run, "payload_up"),
            bits(run, "payload_down"),
            *(
                count(run, f"{kind}_{way}")
                for kind in ("payload", "message", "tcp")
                for way in ("up", "down")
            ),
        ]
        for run in runs
    )
    head = [("method", False), *(((way, True)) for _ in range(4) for way in ("up", "down"))]
    groups = [("", 1), ("bits a parameter", 2), ("payload", 2), ("message", 2), ("TCP", 2)]
    sources: dict[str, list[str]] = {}
    for run in runs:
        source = clean(str(run.summary.get("tcp_source", "unknown")))
        sources.setdefault(source, []).append(run.label)
    said = "; ".join(
        source if len(sources) == 1 else f"{source} ({', '.join(labels)})"
        for source, labels in sources.items()
    )
    return _section(
        "Bytes of one worker in one round",
        _table("Bytes of one worker in one round", head, rows, groups),
        '<p class="note">Payload is what the compressor made, message adds headers, TCP is what '
        "crossed the connection by the kernel’s count, everything else it carried included. "
        f"Source of the TCP bytes: {escape(said)}.</p>",
    )


def _details(runs: Sequence[Run]) -> str:
    blocks = []
    for run in runs:
        facts: dict[str, Any] = {
            "directory": run.path.name,
            **{
                key: run.summary.get(key)
                for key in (
                    "replica_digest", "dimension", "seed", "servers", "version", "tcp_source",
                )
            },
        }  # fmt: skip
        pairs = [*_flat(facts), *_flat(run.job)]
        seen = dict(pairs)
        rows = "".join(
            f'<tr><th scope="row">{escape(clean(key))}</th><td>{escape(clean(text))}</td></tr>'
            for key, text in seen.items()
        )
        blocks.append(
            f"<details><summary>{escape(run.label)}</summary>"
            f'<table class="pairs"><tbody>{rows}</tbody></table></details>'
        )
    return _section("Machines and configuration", *blocks)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """(dotted key, text) of every leaf, in order; lists are shown as JSON."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _flat(item, f"{prefix}{key}.")
        elif isinstance(item, str):
            yield f"{prefix}{key}", item
        elif item is None:
            yield f"{prefix}{key}", ABSENT
        else:
            yield f"{prefix}{key}", json.dumps(item)
