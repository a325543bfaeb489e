"""The report as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from sparsum.report import elements
from sparsum.report.experiments import Experiment, title
from sparsum.report.figures import Picture, estimation_text
from sparsum.report.labels import Labels
from sparsum.report.metrics import EVALUATIONS, NLL, duration_text
from sparsum.report.published import SOURCE, published_nll
from sparsum.report.style import RunStyle
from sparsum.report.tables import Table, status
from sparsum.runs import Run

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


def render(
    parts: Sequence[Part],
    runs: Sequence[Run],
    labels: Labels,
    problems: Sequence[str],
    comparisons: Sequence[elements.Comparison] = (),
) -> str:
    """The whole page. ``runs``: all, under the names that tell them apart, ``labels``."""
    several = len(parts) > 1
    sections = [
        _contents(parts) if several else "",
        *(section for part in parts for section in _part(part, several=several)),
        "" if parts else "<header><h1>Quality of gradients</h1></header>",
        *(elements.comparison(comparison) for comparison in comparisons),
        elements.glossary([part.experiment for part in parts]) if parts else "",
        _options(runs, labels) if runs else "",
        elements.footer(problems),
    ]
    whole_title = " and ".join(part.title for part in parts) or "Quality of gradients"
    return elements.document(whole_title, sections)


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
        *(elements.picture(picture) for picture in part.pictures),
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
    by_estimator = {str(run.fields.get("estimator")): s.colour for run, s in zip(runs, styles)}
    single = len(runs) > 1 and len(by_estimator) == len(runs)
    parts.append(elements.estimators(experiment, runs, by_estimator if single else None))
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
        f'<div class="scroll">{elements.table(part.table)}</div>',
    ]
    if seeds is not None:
        parts += [
            "<h3>Over seeds</h3>",
            '<p class="note">Mean ± standard deviation over runs that only their seeds tell apart:'
            " a difference between two rows that is not clearly larger than these deviations may"
            " be chance.</p>",
            f'<div class="scroll">{elements.table(seeds)}</div>',
        ]
    parts.append(
        '<p class="note">The same in files beside this page: <code>table.md</code> as shown,'
        " <code>table.csv</code> with every number at full precision.</p>"
    )
    return f"<section>{''.join(parts)}</section>"


def _image_sections(part: Part) -> list[str]:
    images, several = part.images, len(part.runs) > 1
    sections = []
    known = [kind for kind in part.experiment.images if any(image.kind == kind for image in images)]
    for kind in dict.fromkeys([*known, *(image.kind for image in images)]):
        members = [image for image in images if image.kind == kind]
        heading, caption = part.experiment.image_words(kind)
        figures = []
        for image in members:
            width, height = elements.png_size(image.png)
            room = 460 if several else 960
            if width > room:
                factor, look = room / width, ""
            else:  # whole multiples keep the pixels of small images square and sharp
                factor, look = max(1, min(room, 640) // width), ' class="sharp"'
            name = f"<h3>{escape(image.label)}</h3>" if several else ""
            size = f'width="{round(width * factor)}" height="{round(height * factor)}"'
            figures.append(
                f'<figure>{name}<img src="{elements.data_uri(image.png)}" {size}{look}'
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
