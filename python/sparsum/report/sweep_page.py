"""The report of a sweep as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from sparsum.report import elements
from sparsum.report.experiments import title
from sparsum.report.figures import Picture
from sparsum.report.labels import IGNORED, own_options, slug
from sparsum.report.methods import Method, Study, differing
from sparsum.report.metrics import EVALUATIONS, Metric, duration_text
from sparsum.report.published import RUNS, STUDIES
from sparsum.report.sweep_tables import DEPARTED, LEFT_OUT, departure_lines
from sparsum.report.tables import Table
from sparsum.runs import Run
from sparsum.sweeps import Sweep


@dataclass(frozen=True)
class Part:
    """What the report has of one experiment's methods."""

    study: Study
    table: Table
    runs: Table | None
    """A row a run."""
    pictures: Sequence[Picture]

    @property
    def title(self) -> str:
        return title(self.study.experiment, self.study.runs)

    @property
    def slug(self) -> str:
        """The experiment's name as part of a file's."""
        return slug(self.study.experiment.name)

    @property
    def file(self) -> str:
        """The beginning of its tables' files."""
        return f"table-{self.slug}"


def render(
    sweep: Sweep,
    parts: Sequence[Part],
    problems: Sequence[str],
    comparisons: Sequence[elements.Comparison] = (),
) -> str:
    """The whole page."""
    experiments = [part.study.experiment for part in parts]
    sections = [
        _head(sweep, parts),
        _not_begun(sweep),
        *(section for part in parts for section in _part(part)),
        *(elements.comparison(comparison) for comparison in comparisons),
        _making(sweep, parts),
        elements.glossary(experiments) if experiments else "",
        _footer(problems),
    ]
    return elements.document(f"Study {sweep.name}", sections)


def render_empty(name: str, problems: Sequence[str]) -> str:
    """The page of a folder in which no run is listed that could be read."""
    head = (
        f"<header><h1>Study: {escape(name)}</h1>"
        '<p class="lead"><b>There is nothing to show</b>: no run of this study could be found. The'
        " end of the page says why.</p></header>"
    )
    return elements.document(f"Study {name}", [head, _footer(problems)])


def compute_seconds(runs: Sequence[Run]) -> tuple[float, float]:
    """The time of all runs together, and the same times each run's threads."""
    total = cores = 0.0
    for run in runs:
        seconds = run.result("seconds")
        if seconds is None:
            seconds = sum(row.values.get("seconds", 0.0) for row in run.timing)
        threads = run.result("threads")
        if threads is None:
            option = run.fields.get("threads", 0)
            threads = float(option) if isinstance(option, (int, float)) else 0.0
        total += seconds
        cores += seconds * max(1.0, threads)
    return total, cores


def _footer(problems: Sequence[str]) -> str:
    what = "What is missing above, has not finished, or could not be read"
    return elements.footer(problems, what)


def _not_begun(sweep: Sweep) -> str:
    """What is planned, where no run has anything to show."""
    if sweep.runs:
        return ""
    labels = list(dict.fromkeys(entry.label for entry in sweep.entries))
    items = "".join(f"<li>{escape(label)}</li>" for label in labels)
    return (
        '<section><h2>Nothing to show yet</h2><p class="note">No run has ended an epoch. The end of'
        " the page says what is known of each run. These methods are planned:</p>"
        f'<ul class="note">{items}</ul></section>'
    )


def _head(sweep: Sweep, parts: Sequence[Part]) -> str:
    states = [entry.state for entry in sweep.entries]
    total, cores = compute_seconds(sweep.runs)
    labels = {entry.label for entry in sweep.entries}
    seeds = sorted({len(m.used(part.study.main)) for part in parts for m in part.study}) or [0]
    seeds_text = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    cards = [
        (f"{states.count('finished')} of {len(states)}", "runs finished"),
        (str(len(labels)), "methods" if len(labels) != 1 else "method"),
        (seeds_text, "finished seeds a method"),
        (duration_text(total), "training and validation, all runs together"),
        (f"{cores / 3600:,.2f} h" if cores else "–", "the same in core-hours (time × threads)"),
    ]
    items = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(what)}</span></div>'
        for value, what in cards
    )
    counts = [
        f"{states.count(state)} {state}"
        for state in ("failed", "not finished", "not started", "unreadable")
        if state in states
    ]
    missing = (
        f'<p class="lead"><b>Not all runs have finished</b> ({escape(", ".join(counts))}): the'
        " tables count the finished ones, the curves show what there is, and the end of the page"
        " names the others.</p>"
        if counts
        else ""
    )
    contents = "".join(
        f'<li><a href="#{_anchor(part)}">{escape(part.title)}</a>:'
        f" {len(part.study.methods)} methods</li>"
        for part in parts
    )
    return (
        f"<header><h1>Study: {escape(sweep.name)}</h1>"
        '<p class="lead">Models with a discrete latent variable are trained by several methods of'
        " getting a gradient through it. Each method is trained several times, from different"
        " seeds, that is with other random numbers: what differs between methods by more than"
        " between seeds is the method's. Beside our numbers are those that others have published,"
        " with how far apart the two are.</p>"
        f'{missing}<div class="cards">{items}</div><ul class="estimators">{contents}</ul></header>'
        "<section><h2>How the numbers are made</h2>"
        '<p class="note"><b>The choice of the model.</b> As in the published study: after each'
        " training epoch the model is measured on validation data, the model of the best epoch is"
        " kept, and only that one is measured on test data, once, when training has ended. No"
        " choice is made by test data. (The best is that of the highest accuracy for the"
        " semi-supervised VAE, of the highest success for the signal game, and of the highest ELBO"
        " for the bit-vector VAE; a warm-up is measured on test data where it ends, too, for"
        " comparison alone.)</p>"
        '<p class="note"><b>±</b> is the standard deviation over seeds (with n − 1), not the error'
        " of the mean. <b>Difference</b> is our mean less the published one; in brackets, its 95 %"
        " interval by Student's t for one sample, which takes the published mean as exact, or,"
        f" where a standard deviation over {RUNS} runs is published, by Welch's t for two samples."
        " An interval that holds 0: these seeds show no difference from what was published. One"
        " seed has no spread, and so no interval.</p>"
        '<p class="note"><b>Calls</b> are loss evaluations: how often the decoder, or the receiver'
        " of the game, is run for one test example, on average. <b>Time</b> is that of training"
        " and validation, on the machine of the runs.</p></section>"
    )


def _anchor(part: Part) -> str:
    return quote(f"part-{part.slug}")


def _part(part: Part) -> list[str]:
    study = part.study
    colours: dict[str, set[str]] = {}
    for method in study:
        for run in method.runs:
            colours.setdefault(str(run.fields.get("estimator")), set()).add(method.colour)
    keyed = all(len(found) == 1 for found in colours.values())
    chips = {name: next(iter(found)) for name, found in colours.items()} if keyed else None
    about = study.experiment.about
    return [
        f'<header class="part" id="{_anchor(part)}"><h1>{escape(part.title)}</h1>'
        + (f'<p class="lead">{escape(about)}</p>' if about else "")
        + elements.estimators(study.experiment, study.runs, chips)
        + "</header>",
        _numbers(part),
        *(elements.picture(picture) for picture in part.pictures),
        _options(study),
    ]


def _numbers(part: Part) -> str:
    study, main = part.study, part.study.main
    notes = []
    if main is None and any(method.finished for method in study):
        notes.append("No finished run has a result on test data: the end of the page names them.")
    elif main is None:
        notes.append("No run has finished: results on test data come when a run ends.")
    shown = [metric for metric in study.metrics if metric is main or metric.key not in LEFT_OUT]
    notes += [_meaning(metric) for metric in [*shown, EVALUATIONS] if metric.meaning]
    single = [method.name for method in study if len(method.used(main)) == 1]
    if single and any(method.published for method in study):
        notes.append(f"One seed, and so no interval: {', '.join(single)}.")
    known = STUDIES.get(study.experiment.name)
    published = [method for method in study if method.published is not None]
    if known is not None and published:
        notes.append(f"Published: {known.source}. {known.setting}")
    without = [m.name for m in study if m.published is None and m.options]
    if published and without:
        notes.append(f"Without a published value, a dash: {', '.join(without)}.")
    waiting = [method.name for method in study if not method.begun]
    if waiting:
        notes.append(f"Not begun: {', '.join(waiting)}.")
    parts = [
        "<h2>The numbers</h2>",
        f'<div class="scroll">{elements.table(part.table)}</div>',
        f'<p class="note">{escape(" ".join(notes))}</p>',
    ]
    lines = departure_lines(study.methods)
    if lines:
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(
            f'<p class="note">{DEPARTED} These are not made as the published ones were, and a'
            " difference may come from that:</p>"
            f'<ul class="note">{items}</ul>'
        )
    if part.runs is not None:
        parts.append(
            "<details><summary>The runs behind each number</summary>"
            f"{_sources(study)}"
            f'<div class="scroll">{elements.table(part.runs)}</div></details>'
        )
    parts.append(
        f'<p class="note">In files beside this page: <code>{part.file}.md</code>,'
        f" <code>{part.file}.tex</code> and, at full precision, <code>{part.file}.csv</code>; every"
        " number of every run in <code>runs.csv</code>; each figure as <code>.png</code> and"
        " <code>.pdf</code>.</p>"
    )
    return f"<section>{''.join(parts)}</section>"


def _meaning(metric: Metric) -> str:
    return f"{metric.name[:1].upper()}{metric.name[1:]}: {metric.meaning}."


def _sources(study: Study) -> str:
    """Which runs each row of the table is the mean of."""
    rows = "".join(
        f"<tr><td>{escape(method.name)}</td>"
        f"<td><code>{escape(', '.join(_names(method, study.main)))}</code></td></tr>"
        for method in study
    )
    return (
        '<p class="note">Each number of a method is over these runs, of the folder'
        " <code>runs/</code>:</p>"
        f'<table class="text"><tbody>{rows}</tbody></table>'
        '<p class="note">And each run by itself:</p>'
    )


def _names(method: Method, main: Metric | None) -> list[str]:
    return [entry.name for entry in method.used(main)] or ["none yet"]


def _options(study: Study) -> str:
    """What each method is: the options in which the methods differ, and those that all share."""
    begun = [method for method in study if method.runs]
    if not begun:
        return ""
    options = [own_options(method.runs[0]) for method in begun]
    telling = differing(options)
    rows = "".join(
        f"<tr><td>{escape(method.label)}</td>"
        f"<td><code>{escape(_listed({k: own[k] for k in telling if k in own}))}</code></td></tr>"
        for method, own in zip(begun, options, strict=True)
    )
    shared = {
        key: value
        for key, value in options[0].items()
        if key not in (*telling, *IGNORED, "seed") and all(key in own for own in options)
    }
    sizes = {n for run in study.runs if (n := run.result("parameters")) is not None}
    parameters = " to ".join(f"{n:,.0f}" for n in sorted({min(sizes), max(sizes)})) if sizes else ""
    model = f'<p class="note">Parameters of the model: {parameters}.</p>' if parameters else ""
    what = "The options in which the methods differ" if len(begun) > 1 else "The method"
    return (
        "<section><h2>What each method is</h2>"
        f'<p class="note">{what}; each run folder holds all options as <code>config.toml</code>'
        " (<code>runs/NAME/config.toml</code>).</p>"
        f'<div class="scroll"><table class="text"><tbody>{rows}</tbody></table></div>{model}'
        "<details><summary>Options that all share</summary>"
        f"<p><code>{escape(_listed(shared))}</code></p></details></section>"
    )


_STANDS_FOR: Mapping[tuple[str, object], str] = {
    ("budget", -1): "none; half of the bits where one is needed",
    ("samples", 0): "as few as the estimator needs",
    ("k", 0): "10, of sum-and-sample 1",
    ("max-iterations", 0): "1000 and 20 for each part",
    ("steps-per-epoch", 0): "one pass over the training images",
    ("importance-images", 0): "all",
    ("importance-samples", 0): "none: not estimated",
    ("batch-size", 0): "as published",
    ("lr", 0): "as published, or chosen for the data",
    ("entropy-weight", -1): "as published, or chosen for the data",
    ("baseline-lr", 0): "the model's",
    ("temperature-decay", -1): "as published",
    ("checkpoint-every", 0): "never",
    ("max-evaluations-per-chunk", 0): "no bound",
}
"""What values mean that are no quantities."""


def _listed(options: Mapping[str, object]) -> str:
    def text(key: str, value: object) -> str:
        if isinstance(value, bool):
            return f"{key} {str(value).lower()}"
        known = _STANDS_FOR.get((key, value))
        return f"{key} {value}" + (f" ({known})" if known is not None else "")

    return " · ".join(text(key, value) for key, value in options.items() if value != "")


def _making(sweep: Sweep, parts: Sequence[Part]) -> str:
    """Versions, times, and how to do it again."""
    runs = sweep.runs
    rows: list[tuple[str, str]] = []
    for program in ("sparsum", "torch"):
        found = {
            run.summary.texts.get(f"versions.{program}", "unknown")
            for run in runs
            if run.summary is not None
        }
        found = found or {sweep.versions[program]} if program in sweep.versions else found
        if found:
            rows.append((program, ", ".join(sorted(found))))
    threads = sorted({int(t) for run in runs if (t := run.result("threads")) is not None})
    if threads:
        rows.append(("threads a run", ", ".join(map(str, threads))))
    devices = sorted({str(run.fields["device"]) for run in runs if "device" in run.fields})
    if devices:
        rows.append(("device", ", ".join(devices)))
    for part in parts:
        total, _ = compute_seconds(part.study.runs)
        rows.append((f"time of {part.study.experiment.title}", duration_text(total)))
    total, cores = compute_seconds(runs)
    if runs:
        text = f"{duration_text(total)} ({cores / 3600:,.2f} core-hours)"
        rows.append(("time of all runs", text))
    body = "".join(
        f"<tr><td>{escape(key)}</td><td><code>{escape(value)}</code></td></tr>"
        for key, value in rows
    )
    text = (
        f"<details><summary>The file</summary><pre>{escape(sweep.text)}</pre></details>"
        if sweep.text
        else ""
    )
    return (
        "<section><h2>How to repeat it</h2>"
        '<p class="note"><code>sparsum sweep FILE.toml --out DIR</code> repeats the study;'
        " <code>sparsum train EXPERIMENT --config configs/NAME.toml</code> repeats one run: with"
        " the same number of threads, versions and processor to the bit. <code>python -m"
        " sparsum.report DIR --out REPORT</code> makes this page.</p>"
        f'<table class="text"><tbody>{body}</tbody></table>{text}</section>'
    )
