"""report.html: a study in one file that loads nothing and runs no script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from psrv.report.style import CSS
from psrv.report.units import human_seconds
from psrv.repro.panels import Claim, Table

if TYPE_CHECKING:
    from psrv.repro.study import Study

_SCALE = 0.6
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
.verdicts td, .verdicts th { white-space: normal; text-align: left; vertical-align: top; }
.verdicts tbody th { font-weight: 400; position: static; }
.verdicts .place { color: var(--faint); font-size: .85rem; }
.verdicts td:last-child { white-space: nowrap; }
.verdict { border-radius: 4px; padding: .1rem .5rem; font-weight: 600; font-size: .85rem; }
.held { background: #d9f0df; color: #14532d; }
.not-held { background: #fbdcdc; color: #7f1d1d; }
.undecided { background: #fdf0cf; color: #6b4700; }
figure { margin: 1rem 0 1.75rem; }
figure img { display: block; max-width: 100%; height: auto; }
.tight td { white-space: normal; }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 3px; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its title, file name, PNG, what it shows in words, and whether its
    title has to be said, not being that of its one panel."""

    title: str
    file: str
    content: bytes
    words: str
    heading: bool = True


def render(study: Study, about: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    """The page's HTML.

    Args:
        study: that has ended. about: ``output.describe``. pictures: in order.
    """
    from psrv.repro.output import count_line

    experiment = study.experiment
    title = f"{experiment.name}: {experiment.paper}, {experiment.place}"
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{CSS}{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<header><h1>{escape(experiment.name)}</h1>",
        f"<p>{escape(experiment.paper)}, {escape(experiment.place)}</p></header>",
        "<main>",
        f"<p>{escape(experiment.question)}</p>",
        (
            f"<p><strong>{escape(about['setting'].capitalize())} setting.</strong> "
            f"{escape(about['setting_in_words'])}</p>"
        ),
        "<section><h2>Verdicts</h2>",
        f"<p>{escape(count_line(study.claims))}</p>",
        _verdicts(study.claims),
        (
            '<p class="note">A claim is held, or not held, where two standard errors over seeds '
            "stay on one side of the figure it needs; otherwise it is undecided.</p>"
        ),
        "</section>",
    ]
    if pictures:
        parts += ["<section><h2>Figures</h2>", *map(_picture, pictures), "</section>"]
    if study.tables:
        parts += ["<section><h2>Tables</h2>", *map(_table, study.tables), "</section>"]
    if study.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in study.notes)
        parts.append(
            f'<section><h2>What differs from the paper</h2><ul class="notes">{notes}</ul></section>'
        )
    parts += [_repeat(about), "</main>", "</body>", "</html>", ""]
    return "\n".join(parts)


def _verdicts(claims: Sequence[Claim]) -> str:
    rows = []
    for claim in claims:
        place = f' <span class="place">{escape(claim.place)}</span>' if claim.place else ""
        kind = claim.verdict.replace(" ", "-")
        rows.append(
            f'<tr><th scope="row">{escape(claim.sentence)}{place}</th>'
            f"<td>{escape(claim.needs)}</td><td>{escape(claim.measured)}</td>"
            f'<td><span class="verdict {kind}">{escape(claim.verdict)}</span></td></tr>'
        )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("Claim", "Needs", "Measured", "Verdict")
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Verdicts">'
        f'<table class="wide verdicts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode()
    heading = f"<h3>{escape(picture.title)}</h3>" if picture.heading else ""
    # A PNG's width stands at byte 16; shown at one size of type, however many panels it has.
    width = round(int.from_bytes(picture.content[16:20], "big") * _SCALE)
    return (
        f"<figure>{heading}"
        f'<img alt="{escape(picture.words)}" width="{width}" src="data:image/png;base64,{data}">'
        f'<figcaption class="note">{escape(picture.file)}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    from psrv.repro.output import shown

    numeric = [
        all(row[i] is None or isinstance(row[i], int | float) for row in table.rows)
        for i in range(len(table.columns))
    ]
    kinds = ["" if yes else ' class="text"' for yes in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column)}</th>'
        for column, kind in zip(table.columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{escape(shown(cell))}</td>" for cell, kind in zip(row, kinds, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f"<h3>{escape(table.title)}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f'<table class="tight"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"</div>{note}"
    )


def machine_line(about: Mapping[str, Any]) -> str:
    """Processor, cores, memory, kernel and versions in one line."""
    machine, versions = about["machine"], about["versions"]
    memory = machine.get("memory_bytes")
    parts = [f"{machine['cores']} cores of {machine['cpu']}"]
    if memory:
        parts.append(f"{memory / 1e9:.0f} GB")
    parts.append(machine["kernel"])
    parts += [f"{name} {version}" for name, version in versions.items()]
    return ", ".join(parts)


def _repeat(about: Mapping[str, Any]) -> str:
    done = f"{about['computed']} cells and runs in {human_seconds(about['seconds'])}"
    if about["kept"]:
        done += f"; {about['kept']} more were there from before"
    seeds = len(about["seeds"])
    return "\n".join(
        [
            "<section><h2>Where it ran, and how to repeat it</h2>",
            f"<p><code>{escape(about['command'])}</code></p>",
            f"<p>{escape(machine_line(about))}</p>",
            (
                f'<p class="note">{escape(done)}; {seeds} seed{"s" * (seeds != 1)}; ended '
                f"{escape(about['ended'])}. All numbers are in data.json and curves.csv beside "
                "this page.</p>"
            ),
            "</section>",
        ]
    )
