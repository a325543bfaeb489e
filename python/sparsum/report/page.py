"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from sparsum import __version__
from sparsum.report.experiments import Experiment, distinct, title
from sparsum.report.figures import Picture, estimation_text
from sparsum.report.labels import Labels
from sparsum.report.metrics import EVALUATIONS, NLL, duration_text
from sparsum.report.published import SOURCE, published_nll
from sparsum.report.style import DPI, RunStyle
from sparsum.report.tables import Table, status
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
details td { text-align: left; padding: 3px 18px 3px 0; }
code { font: 13.5px ui-monospace, "DejaVu Sans Mono", Consolas, monospace; }
footer { border-top: 1px solid var(--line); margin-top: 56px; padding: 16px 0 32px;
  color: var(--muted); font-size: 14px; }
footer ul { margin: 6px 0 14px; padding-left: 20px; }
@media (max-width: 640px) { dl { display: block; } dd { margin-bottom: 8px; } }
@media print { h2 { break-after: avoid; } figure, .card { break-inside: avoid; } }
"""


MOST_OPEN_IMAGES = 6
"""Pictures of one kind that the page shows at once; those of further runs unfold on a click."""


@dataclass(frozen=True)
class RunImage:
    """A picture that a run made, and its copy's name in the report's folder."""

    kind: str
    label: str
    """The run's name among all runs of the report."""
    file: str
    png: bytes


@dataclass(frozen=True)
class Part:
    """What the report has of one experiment's runs."""

    experiment: Experiment
    runs: Sequence[Run]
    labels: Labels
    styles: Sequence[RunStyle]
    table: Table
    seeds: Table | None
    pictures: Sequence[Picture]
    images: Sequence[RunImage]

    @property
    def title(self) -> str:
        return title(self.experiment, self.runs)


@dataclass(frozen=True)
class Comparison:
    """A comparison of gradients: its figure and its numbers."""

    picture: Picture
    table: Table


def render(
    parts: Sequence[Part],
    runs: Sequence[Run],
    labels: Labels,
    problems: Sequence[str],
    comparisons: Sequence[Comparison] = (),
) -> str:
    """The whole page. ``runs``: all, under the names that tell them apart, ``labels``."""
    several = len(parts) > 1
    sections = [
        _contents(parts) if several else "",
        *(section for part in parts for section in _part(part, several=several)),
        "" if parts else "<header><h1>Quality of gradients</h1></header>",
        *(_comparison(comparison) for comparison in comparisons),
        _glossary(parts) if parts else "",
        _options(runs, labels) if runs else "",
        _footer(problems),
    ]
    whole_title = " and ".join(part.title for part in parts) or "Quality of gradients"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(whole_title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
    )


def _contents(parts: Sequence[Part]) -> str:
    items = "".join(
        f'<li><a href="#{_anchor(part)}">{escape(part.title)}</a>: {len(part.runs)}'
        f" run{'s' if len(part.runs) > 1 else ''}</li>"
        for part in parts
    )
    return (
        '<header><h1>Training report</h1><p class="lead">Runs of different experiments, each'
        " with its own part: their numbers are not to be compared.</p>"
        f'<ul class="estimators">{items}</ul></header>'
    )


def _anchor(part: Part) -> str:
    return quote(f"part-{part.experiment.name}")


def _part(part: Part, *, several: bool) -> list[str]:
    """The sections of one experiment; ``several``: the page has others too."""
    return [
        _head(part, several=several),
        _cards(part.experiment, part.runs[0]) if len(part.runs) == 1 else "",
        _numbers(part),
        *(_picture(picture) for picture in part.pictures),
        *_image_sections(part),
    ]


def _head(part: Part, *, several: bool) -> str:
    experiment, runs, styles = part.experiment, part.runs, part.styles
    parts = [f"<h1>{escape(part.title)}</h1>"]
    if experiment.about:
        parts.append(f'<p class="lead">{escape(experiment.about)}</p>')
    running = [run for run in runs if not run.finished]
    if running:
        have = "has" if len(running) == 1 else "have"
        what = "This run has" if len(runs) == 1 else f"{len(running)} of {len(runs)} runs {have}"
        parts.append(
            f'<p class="lead"><b>{what} not finished</b>: what there is so far is shown.'
            " Draw the report again later for the rest.</p>"
        )
    explained = [name for name in distinct(runs, "estimator") if name in experiment.estimators]
    if explained:
        by_estimator = {run.fields.get("estimator"): s for run, s in zip(runs, styles)}
        counts = {name: sum(r.fields.get("estimator") == name for r in runs) for name in explained}
        single = all(count == 1 for count in counts.values()) and len(runs) > 1
        items = []
        for name in explained:
            colour = by_estimator[name].colour
            chip = f'<span class="chip" style="background:{colour}"></span>' if single else ""
            text = escape(experiment.estimators[name])
            items.append(f"<li>{chip}<b>{escape(name)}</b>: {text}</li>")
        what = "The estimator" if len(items) == 1 else "The estimators"
        parts.append(f"<h3>{what}: how the gradient gets through the discrete choice</h3>")
        kind = "estimators keyed" if single else "estimators"
        parts.append(f'<ul class="{kind}">{"".join(items)}</ul>')
    start = f'<header class="part" id="{_anchor(part)}">' if several else "<header>"
    return f"{start}{''.join(parts)}</header>"


def _cards(experiment: Experiment, run: Run) -> str:
    """A single run's results, large."""
    cards: list[tuple[str, str, str]] = []
    for metric in experiment.card_metrics(run):
        value = run.result(f"test.{metric.key}")
        start = run.result(f"warmup.test.{metric.key}")
        unit = metric.unit if metric is not EVALUATIONS else ""
        if metric is EVALUATIONS:
            what = "decoder calls per test example, on average"
        else:
            what = f"test {metric.name}"
            if start is not None:
                what += f", from {metric.text(start)} after the warm-up"
            reference = published_nll(run) if metric is NLL else None
            if reference is not None:
                what += f", published: {reference:.2f}"
        cards.append((metric.text(value), unit, what))
    progress = experiment.progress
    last = run.series(f"validation.{progress.key}")[1]
    if not run.finished and last:
        what = f"validation {progress.name} after epoch {run.last_epoch}"
        cards.append((progress.text(last[-1]), progress.unit, what))
    if not run.finished:
        cards.append((status(run), "", "not finished yet"))
    seconds = run.result("seconds")
    if seconds is not None:
        threads = run.result("threads")
        on = f" on {threads:.0f} thread{'s' if threads != 1 else ''}" if threads else ""
        cards.append((duration_text(seconds), "", f"from start to end{on}"))
    items = "".join(
        f'<div class="card"><b>{escape(value)} <small>{escape(unit)}</small></b>'
        f"<span>{escape(what)}</span></div>"
        for value, unit, what in cards
    )
    return f'<div class="cards">{items}</div>'


def _numbers(part: Part) -> str:
    runs, seeds = part.runs, part.seeds
    noun = "this run" if len(runs) == 1 else "each run"
    results = part.experiment.result_metrics(runs)
    words = (
        f"Final results of {noun}, on test images."
        if results
        else "Results on test images come when a run ends; so far there is this."
    )
    meanings = [
        f"{metric.name[0].upper()}{metric.name[1:]}: {metric.meaning}."
        for metric in results
        if metric.meaning
    ]
    if NLL in results:
        source = f" Published NLL: {SOURCE}." if any(map(published_nll, runs)) else ""
        meanings[results.index(NLL)] += f" It is {estimation_text(runs)}.{source}"
    best = any(run.result("best.epoch") is not None for run in runs)
    if best:
        meanings.append("Best epoch: the one with the best result on validation images.")
    parts = [
        "<h2>The numbers</h2>",
        f'<p class="note">{escape(" ".join([words, *meanings]))}</p>',
        f'<div class="scroll">{_table(part.table)}</div>',
    ]
    if seeds is not None:
        parts += [
            "<h3>Over seeds</h3>",
            '<p class="note">Mean ± standard deviation over runs that only their seeds tell apart:'
            " a difference between two rows that is not clearly larger than these deviations may"
            " be chance.</p>",
            f'<div class="scroll">{_table(seeds)}</div>',
        ]
    parts.append(
        '<p class="note">The same in files beside this page: <code>table.md</code> as shown,'
        " <code>table.csv</code> with every number at full precision.</p>"
    )
    return f"<section>{''.join(parts)}</section>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    wide = ' class="wide"' if len(table.header) > 10 else ""
    return f"<table{wide}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of a PNG file."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _comparison(comparison: Comparison) -> str:
    return (
        f"{_picture(comparison.picture)}"
        '<section><p class="note">Lengths are in units of the reference\'s; ± is the Monte Carlo'
        " standard error of the bias: an unbiased estimator shows a bias of about that size.</p>"
        f'<div class="scroll">{_table(comparison.table)}</div></section>'
    )


def _picture(picture: Picture) -> str:
    width, height = png_size(picture.png)
    caption = "".join(
        f"<p><b>{escape(heading)}.</b> {escape(text)}</p>" for heading, text in picture.caption
    )
    shown = (round(width * 100 / DPI), round(height * 100 / DPI))
    return (
        f"<section><h2>{escape(picture.title)}</h2><figure>"
        f'<img src="{_data_uri(picture.png)}" alt="{escape(picture.shows)}"'
        f' width="{shown[0]}" height="{shown[1]}">'
        f"<figcaption>{caption}</figcaption></figure></section>"
    )


def _image_sections(part: Part) -> list[str]:
    images, several = part.images, len(part.runs) > 1
    sections = []
    known = [kind for kind in part.experiment.images if any(image.kind == kind for image in images)]
    for kind in dict.fromkeys([*known, *(image.kind for image in images)]):
        members = [image for image in images if image.kind == kind]
        heading, caption = part.experiment.image_words(kind)
        figures = []
        for image in members:
            width, height = png_size(image.png)
            room = 460 if several else 960
            if width > room:
                factor, look = room / width, ""
            else:  # whole multiples keep the pixels of small images square and sharp
                factor, look = max(1, min(room, 640) // width), ' class="sharp"'
            name = f"<h3>{escape(image.label)}</h3>" if several else ""
            figures.append(
                f'<figure>{name}<img src="{_data_uri(image.png)}" width="{round(width * factor)}"'
                f' height="{round(height * factor)}"{look}'
                f' alt="{escape(heading)}: {escape(image.label)}"></figure>'
            )
        at_once = figures if len(figures) <= MOST_OPEN_IMAGES else figures[:MOST_OPEN_IMAGES]
        rest = figures[len(at_once) :]
        more = (
            f"<details><summary>The same of {len(rest)} more runs</summary>"
            f'<div class="pictures">{"".join(rest)}</div></details>'
            if rest
            else ""
        )
        sections.append(
            f"<section><h2>{escape(heading)}</h2>"
            f'<p class="note">{escape(caption)}</p>'
            f'<div class="pictures">{"".join(at_once)}</div>{more}</section>'
        )
    return sections


def _glossary(parts: Sequence[Part]) -> str:
    """The words of all parts; one that means something else in each says where."""
    entries = {entry: part for part in reversed(parts) for entry in part.experiment.glossary}
    ordered = dict.fromkeys(entry for part in parts for entry in part.experiment.glossary)
    terms = [term for term, _ in ordered]
    items = "".join(
        f"<dt>{escape(term)}"
        + (f"<br>({escape(entries[term, text].experiment.title)})" if terms.count(term) > 1 else "")
        + f"</dt><dd>{escape(text)}</dd>"
        for term, text in ordered
    )
    return f"<section><h2>Words used here</h2><dl>{items}</dl></section>"


def _options(runs: Sequence[Run], labels: Labels) -> str:
    parts = []
    for run, label in zip(runs, labels.full):
        versions: dict[str, str] = {}
        if run.summary is not None:
            versions = {k: v for k, v in run.summary.texts.items() if k.startswith("versions.")}
        parameters = run.result("parameters")
        if parameters is not None:
            versions["parameters of the model"] = f"{parameters:,.0f}"
        rows = "".join(
            f"<tr><td><code>{escape(str(key))}</code></td>"
            f"<td><code>{escape(str(value))}</code></td></tr>"
            for key, value in {"folder": run.path, **run.fields, **versions}.items()
        )
        parts.append(
            f"<details><summary>{escape(label)}</summary><table><tbody>{rows}</tbody></table>"
            "</details>"
        )
    return (
        "<section><h2>How to repeat it</h2><p class='note'>Each run folder holds the complete"
        " options as <code>config.toml</code>; <code>sparsum train EXPERIMENT --config"
        " config.toml</code> repeats the run. The options of each run:</p>"
        f"{''.join(parts)}</section>"
    )


def _footer(problems: Sequence[str]) -> str:
    notes = ""
    if problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        notes = f"<p>What could not be read, and is missing above:</p><ul>{items}</ul>"
    return f"<footer>{notes}Drawn by <code>sparsum.report</code> {__version__}.</footer>"
