"""The pieces of HTML that reports are put together from."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sparsum import __version__
from sparsum.report.experiments import Experiment, distinct
from sparsum.report.figures import Picture
from sparsum.report.style import DPI
from sparsum.report.tables import Table
from sparsum.runs import Run

STYLE = """
:root { color-scheme: light; --ink: #24292f; --muted: #57606a; --line: #d8dee4; --soft: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Arial, sans-serif; }
main { max-width: 1008px; margin: 0 auto; padding: 40px 24px 24px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 12px; letter-spacing: -0.01em; }
.part { margin-top: 76px; padding-top: 26px; border-top: 3px solid var(--line); }
.part h1 { font-size: 26px; }
h2 { font-size: 21px; margin: 52px 0 10px; }
h3 { font-size: 16px; margin: 22px 0 8px; }
p { margin: 0 0 12px; }
a { color: #0969da; }
.lead { max-width: 76ch; }
.estimators { margin: 12px 0 0; padding: 0; list-style: none; max-width: 84ch; }
.estimators li { margin: 4px 0; }
.estimators.keyed li { padding-left: 22px; text-indent: -22px; }
.chip { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 10px; }
.cards { display: flex; flex-wrap: wrap; gap: 14px; margin: 24px 0 8px; }
.card { flex: 1 1 180px; background: var(--soft); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px 18px; }
.card b { display: block; font-size: 27px; line-height: 1.25; font-weight: 650; }
.card b small { font-size: 15px; font-weight: 500; }
.card span { color: var(--muted); font-size: 14px; display: block; line-height: 1.4; }
.scroll { overflow-x: auto; margin-bottom: 10px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 9px; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; }
td { white-space: nowrap; }
th { vertical-align: bottom; font-weight: 600; line-height: 1.3; border-bottom: 2px solid #afb8c1; }
th:first-child, td:first-child { text-align: left; padding-left: 2px; white-space: normal;
  min-width: 140px; }
table.wide { font-size: 12.5px; }
table.wide :is(th, td) { padding: 7px 6px; }
table.wide :is(th, td):first-child { padding-left: 2px; min-width: 84px; }
figure { margin: 0; }
figure > img { display: block; max-width: 100%; height: auto; margin: 6px 0 8px; }
figcaption p { margin: 0 0 6px; }
figcaption b { color: var(--ink); font-weight: 600; }
figcaption, .note { color: var(--muted); font-size: 14.5px; max-width: 88ch; }
.pictures { display: flex; flex-wrap: wrap; gap: 26px 40px; }
.pictures img { border-radius: 4px; }
.sharp { image-rendering: pixelated; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 7px 20px; font-size: 14.5px; }
dt { font-weight: 600; } dd { margin: 0; color: var(--muted); max-width: 72ch; }
details { margin: 10px 0; font-size: 14.5px; }
summary { cursor: pointer; font-weight: 600; }
details table { margin: 8px 0 18px; }
details table.text td, table.text td { text-align: left; white-space: normal;
  padding: 4px 18px 4px 0; }
table.text td:first-child { white-space: nowrap; }
pre { font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", Consolas, monospace; overflow-x: auto;
  background: var(--soft); padding: 12px 16px; border-radius: 8px; }
ul.note { margin: 0 0 12px; padding-left: 20px; }
details td { text-align: left; padding: 3px 18px 3px 0; }
details .scroll td { text-align: right; padding: 5px 9px; }
details .scroll td:first-child { text-align: left; padding-left: 2px; white-space: nowrap; }
code { font: 13.5px ui-monospace, "DejaVu Sans Mono", Consolas, monospace; }
footer { border-top: 1px solid var(--line); margin-top: 56px; padding: 16px 0 32px;
  color: var(--muted); font-size: 14px; }
footer ul { margin: 6px 0 14px; padding-left: 20px; }
@media (max-width: 640px) { dl { display: block; } dd { margin-bottom: 8px; } }
@media print { h2 { break-after: avoid; } figure, .card { break-inside: avoid; } }
"""


COLUMN = 960
"""Pixels that the page's text is wide."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of gradients: its figure and its numbers."""

    picture: Picture
    table: Table


def document(title: str, sections: Sequence[str]) -> str:
    """A whole page; empty sections are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def estimators(
    experiment: Experiment, runs: Sequence[Run], colours: Mapping[str, str] | None
) -> str:
    """What each estimator does, with its colour in the figures if ``colours`` tell; or nothing."""
    names = [name for name in distinct(runs, "estimator") if name in experiment.estimators]
    items = []
    for name in names:
        colour = (colours or {}).get(name)
        chip = f'<span class="chip" style="background:{colour}"></span>' if colour else ""
        items.append(f"<li>{chip}<b>{escape(name)}</b>: {escape(experiment.estimators[name])}</li>")
    if not items:
        return ""
    what = "The estimator" if len(items) == 1 else "The estimators"
    kind = "estimators keyed" if colours else "estimators"
    return (
        f"<h3>{what}: how the gradient gets through the discrete choice</h3>"
        f'<ul class="{kind}">{"".join(items)}</ul>'
    )


def table(shown: Table) -> str:
    """A table; a cell's line break is kept."""

    def cell(text: str) -> str:
        return "<br>".join(map(escape, text.split("\n")))

    head = "".join(f"<th>{cell(text)}</th>" for text in shown.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{cell(text)}</td>" for text in row) + "</tr>" for row in shown.rows
    )
    wide = ' class="wide"' if _pixels(shown) > COLUMN else ""
    return f"<table{wide}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _pixels(shown: Table) -> float:
    """About how wide the table is in its usual type; the first column breaks its lines."""
    total = 158.0
    for place, title in enumerate(shown.header[1:], start=1):
        cells = [line for row in shown.rows for line in row[place].split("\n")]
        total += 18 + 7.6 * max(map(len, [*title.split(), *cells]))
    return total


def data_uri(png: bytes) -> str:
    """The file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of a PNG file."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def picture(shown: Picture) -> str:
    """A figure, embedded, with its words."""
    width, height = png_size(shown.png)
    caption = "".join(
        f"<p><b>{escape(heading)}.</b> {escape(text)}</p>" for heading, text in shown.caption
    )
    size = (round(width * 100 / DPI), round(height * 100 / DPI))
    return (
        f"<section><h2>{escape(shown.title)}</h2><figure>"
        f'<img src="{data_uri(shown.png)}" alt="{escape(shown.shows)}"'
        f' width="{size[0]}" height="{size[1]}">'
        f"<figcaption>{caption}</figcaption></figure></section>"
    )


def comparison(shown: Comparison) -> str:
    """A comparison of gradients: figure and numbers."""
    return (
        f"{picture(shown.picture)}"
        '<section><p class="note">Lengths are in units of the reference\'s; ± is the Monte Carlo'
        " standard error of the bias: an unbiased estimator shows a bias of about that size.</p>"
        f'<div class="scroll">{table(shown.table)}</div></section>'
    )


def glossary(experiments: Sequence[Experiment]) -> str:
    """The words of all experiments; one that means something else in each says where."""
    entries = {entry: known for known in reversed(experiments) for entry in known.glossary}
    ordered = dict.fromkeys(entry for known in experiments for entry in known.glossary)
    terms = [term for term, _ in ordered]
    items = "".join(
        f"<dt>{escape(term)}"
        + (f"<br>({escape(entries[term, text].title)})" if terms.count(term) > 1 else "")
        + f"</dt><dd>{escape(text)}</dd>"
        for term, text in ordered
    )
    return f"<section><h2>Words used here</h2><dl>{items}</dl></section>"


def footer(
    problems: Sequence[str], what: str = "What could not be read, and is missing above"
) -> str:
    """What went wrong, headed by ``what``, and who drew the page."""
    notes = ""
    if problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        notes = f"<p>{what}:</p><ul>{items}</ul>"
    return f"<footer>{notes}Drawn by <code>sparsum.report</code> {__version__}.</footer>"
