"""The pictures of a report: each a list of panels, of which those with data are drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import PurePath

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsum.report import captions, panels, published, style
from sparsum.report.experiments import BITVECTOR, DATASETS, Experiment, distinct
from sparsum.report.labels import Labels
from sparsum.report.metrics import EVALUATIONS, EXACT, NLL, Metric
from sparsum.report.panels import FULL_HEIGHT, Drawing
from sparsum.report.style import DOTTED, MEDIAN_DASH, MUTED, EpochAxis
from sparsum.runs import Run

MOST_ABREAST = 4
"""Panels of test results side by side."""

LOW_HEIGHT = 2.3
"""Inches that a panel of secondary interest takes."""


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it."""

    file: str
    title: str
    shows: str
    """One line, for the terminal."""
    caption: captions.Caption
    png: bytes
    svg: bytes | None = None
    pdf: bytes | None = None


def draw_all(
    experiment: Experiment, runs: Sequence[Run], labels: Labels, *, suffix: str = ""
) -> list[Picture]:
    """Every picture for which the runs of an experiment have data, the most telling first.

    ``suffix`` goes into the files' names, to tell experiments apart.
    """
    drawing = Drawing(experiment, runs, labels.full, style.style_runs(labels))
    makers = _MAKERS_OF.get(experiment.name, _MAKERS)
    with matplotlib.rc_context(style.RC):
        pictures = [make(drawing) for make in makers]
    named = [picture for picture in pictures if picture is not None]
    return [replace(picture, file=_with_suffix(picture.file, suffix)) for picture in named]


def _with_suffix(file: str, suffix: str) -> str:
    path = PurePath(file)
    return f"{path.stem}-{suffix}{path.suffix}" if suffix else file


def results(drawing: Drawing) -> Picture | None:
    """Several runs' test results side by side, each as a step from the warm-started model's."""
    metrics = drawing.experiment.result_metrics(drawing.runs)
    finished = drawing.only(
        lambda run: any(run.result(f"test.{metric.key}") is not None for metric in metrics)
    )
    count = len(finished.runs)
    if count < 2:
        return None
    rows = -(-len(metrics) // MOST_ABREAST)
    columns = -(-len(metrics) // rows)
    figure = Figure(
        figsize=(style.WIDTH, 0.35 + rows * (0.9 + 0.42 * count)),
        layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.03),
    )
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, metric in zip(grid, metrics):
        panels.results_panel(axes, finished, metric)
    for axes in grid[len(metrics) :]:
        axes.set_visible(False)
    started = any(finished.has_result(f"warmup.test.{metric.key}") for metric in metrics)
    key = [marker("D", "best model by validation")]
    if started:
        start = "the warm-started model, before it saw unlabelled images"
        key.insert(0, marker("o", start, filled=False))
    figure.legend(handles=key, loc="outside lower left", ncols=2, handletextpad=0.3)
    style.thin_ticks(figure)
    names = ", ".join(metric.name for metric in metrics)
    return Picture(
        "results.png",
        "Test results",
        f"the runs' test results side by side: {names}",
        captions.results(metrics, started=started),
        _png(figure),
    )


def learning_curves(drawing: Drawing) -> Picture | None:
    """What tells of progress, by epoch."""
    metrics = drawing.experiment.curves
    figure = _curves_figure(drawing, metrics, marks=True)
    if figure is None:
        return None
    *names, last = (metric.name for metric in metrics)
    return Picture(
        "learning_curves.png",
        "Learning curves",
        f"{', '.join(names)} and {last} after each epoch, on training and validation images",
        drawing.experiment.learning_curves,
        _png(figure),
    )


def evaluations(drawing: Drawing) -> Picture | None:
    """Decoder calls per example by epoch: mean, median and quartiles."""
    titles = {
        "train": "Loss evaluations while training",
        "validation": "Loss evaluations on validation images",
    }
    splits = [split for split in titles if drawing.has_curve(EVALUATIONS, split)]
    if not splits:
        return None
    exact = EXACT in drawing.experiment.results and drawing.has_curve(EXACT, "validation")
    figure, grid = stacked(*[FULL_HEIGHT] * len(splits), *[LOW_HEIGHT] * exact)
    axis = EpochAxis(drawing.runs)
    for axes, split in zip(grid, splits):
        panels.evaluations_panel(axes, drawing, axis, split, titles[split])
    if exact:
        panels.curves_panel(
            grid[-1], drawing, axis, EXACT, ["validation"], marks=True, height=LOW_HEIGHT
        )
    grid[-1].set_xlabel(axis.label)
    key: list[Artist] = [Line2D([], [], color=MUTED, linewidth=2, label="mean")]
    if not drawing.crowded:
        key += [
            Line2D([], [], color=MUTED, linewidth=1.1, linestyle=MEDIAN_DASH, label="median"),
            Patch(color=MUTED, alpha=0.22, linewidth=0, label="middle half of examples"),
        ]
    if exact and drawing.has_result(f"test.{EXACT.key}"):
        key.append(marker("D", "best model by validation, test"))
    _legends(figure, drawing, key)
    return Picture(
        "evaluations.png",
        "Loss evaluations: the cost of an example",
        "decoder calls per example in each epoch (mean, median, quartiles)",
        drawing.experiment.evaluations(bands=not drawing.crowded, exact=exact),
        _png(figure),
    )


def objectives(drawing: Drawing) -> Picture | None:
    """The training objective and its parts."""
    metrics = drawing.experiment.objectives
    figure = _curves_figure(drawing, metrics, marks=False, splits=("train",), height=LOW_HEIGHT)
    if figure is None:
        return None
    return Picture(
        "objective.png",
        "Training objective",
        "what training minimises"
        + (", and its labelled and unlabelled parts" if len(metrics) > 1 else "")
        + ", in nats",
        captions.objectives(parts=len(metrics) > 1),
        _png(figure),
    )


def others(drawing: Drawing) -> Picture | None:
    """Metrics that have no figure of their own."""
    metrics = drawing.experiment.other_metrics(drawing.runs)
    figure = _curves_figure(drawing, metrics, marks=True, height=LOW_HEIGHT)
    if figure is None:
        return None
    return Picture(
        "other_metrics.png",
        "Other metrics",
        "further numbers of the runs by epoch, under the names they are logged by",
        captions.OTHERS,
        _png(figure),
    )


def likelihoods(drawing: Drawing) -> Picture | None:
    """Negative log-likelihoods in bits per dimension, beside published ones."""
    finished = drawing.only(lambda run: run.result(f"test.{NLL.key}") is not None)
    count = len(finished.runs)
    if count == 0:
        return None
    compared = any(published.published_nll(run) is not None for run in finished.runs)
    row = 0.56 if compared else 0.42
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure = Figure(figsize=(style.WIDTH, 1.3 + row * count), layout=layout)
    bars, points = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [2, 3]})
    panels.likelihood_bars(bars, finished)
    panels.likelihood_points(points, finished)
    key = [marker("D", "this run ± standard error")]
    if compared:
        key.append(marker("D", "published", filled=False))
    figure.legend(handles=key, loc="outside lower left", ncols=2, handletextpad=0.3)
    return Picture(
        "likelihood.png",
        "Negative log-likelihood",
        "negative log-likelihood of test images in bits per dimension, with its standard error"
        + (" and published values" if compared else ""),
        captions.likelihoods(
            estimation_text(finished.runs), source=published.SOURCE if compared else None
        ),
        _png(figure),
    )


def estimation_text(runs: Sequence[Run]) -> str:
    """From how many images and draws negative log-likelihoods are estimated."""

    def several(name: str) -> str:
        numbers = sorted({n for run in runs if (n := run.result(f"test.nll.{name}")) is not None})
        return " or ".join(f"{number:,.0f}" for number in numbers)

    images, draws = several("images"), several("samples")
    if not images or not draws:
        return "estimated by importance sampling"
    return f"estimated on {images} test images by importance sampling with {draws} draws each"


def rate_distortion(drawing: Drawing) -> Picture | None:
    """What the code tells against what it leaves to be told, a point a run."""
    drawn = drawing.only(lambda run: isfinite(panels.rate_and_distortion(run)[0]))
    if not drawn.runs:
        return None
    data = distinct(drawn.runs, "dataset") or [""]
    figure = Figure(
        figsize=(style.WIDTH, 3.9 * len(data) + 0.9),
        layout=ConstrainedLayoutEngine(hspace=0.05, h_pad=0.07),
    )
    grid = figure.subplots(len(data), 1, squeeze=False)
    for axes, name in zip(grid[:, 0], data, strict=True):
        members = drawn.only(lambda run, name=name: str(run.fields.get("dataset", data[0])) == name)
        what = DATASETS.get(name, name) if len(data) > 1 else ""
        panels.rate_distortion_panel(axes, members, what)
    finals = {panels.rate_and_distortion(run)[2] for run in drawn.runs}
    key: list[Artist] = []
    if True in finals:
        key.append(marker("D", "best model by validation, test"))
    if False in finals:
        key.append(marker("o", "unfinished run, last validation", filled=False))
    key.append(Line2D([], [], color="#C3C9D0", linewidth=0.9, linestyle="--", label="equal ELBO"))
    limit = Line2D(
        [], [], color=MUTED, linewidth=1.1, linestyle=DOTTED, label="most that D bits tell"
    )
    key.append(limit)
    _legends(figure, drawn, key)
    return Picture(
        "rate_distortion.png",
        "Rate and distortion",
        "the two parts of the ELBO against each other, one point a run",
        captions.rate_distortion(
            unfinished=False in finals, each="data set" if len(data) > 1 else ""
        ),
        _png(figure),
    )


_MAKERS: tuple[Callable[[Drawing], Picture | None], ...] = (
    results,
    learning_curves,
    evaluations,
    objectives,
    others,
)

_MAKERS_OF: dict[str, tuple[Callable[[Drawing], Picture | None], ...]] = {
    BITVECTOR.name: (likelihoods, rate_distortion, learning_curves, evaluations, others),
}


def stacked(*heights: float) -> tuple[Figure, list[Axes]]:
    """Panels of the given heights, one below the other."""
    figure = Figure(
        figsize=(style.WIDTH, sum(heights) + 0.9),
        layout=ConstrainedLayoutEngine(hspace=0.05, h_pad=0.07),
    )
    ratios = {"height_ratios": heights}
    grid = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw=ratios)
    return figure, [row[0] for row in grid]


def _curves_figure(
    drawing: Drawing,
    metrics: Sequence[Metric],
    *,
    marks: bool,
    splits: Sequence[str] = ("train", "validation"),
    height: float = FULL_HEIGHT,
) -> Figure | None:
    """A panel for each metric that has a curve; ``marks``: with the test results of the runs."""
    drawn = [m for m in metrics if any(drawing.has_curve(m, split) for split in splits)]
    if not drawn:
        return None
    figure, grid = stacked(*[height] * len(drawn))
    axis = EpochAxis(drawing.runs)
    for axes, metric in zip(grid, drawn, strict=True):
        panels.curves_panel(axes, drawing, axis, metric, splits, marks=marks, height=height)
    grid[-1].set_xlabel(axis.label)
    key: list[Artist] = []
    if any(drawing.has_curve(m, "validation") for m in drawn) and "validation" in splits:
        key.append(Line2D([], [], color=MUTED, linewidth=2, label="validation"))
        if any(drawing.has_curve(m, "train") for m in drawn):
            dots = Line2D([], [], color=MUTED, linewidth=1.1, linestyle=DOTTED, label="training")
            key.append(dots)
    if marks and any(drawing.has_result(f"warmup.test.{m.key}") for m in drawn):
        dashes = Line2D([], [], color=MUTED, linewidth=1.2, linestyle="--")
        dashes.set_label("warm start, test")
        key.append(dashes)
    if marks and any(drawing.has_result(f"test.{m.key}") for m in drawn):
        key.append(marker("D", "best model by validation, test"))
    _legends(figure, drawing, key)
    return figure


def marker(shape: str, label: str, *, filled: bool = True) -> Line2D:
    """A legend's entry for a marker."""
    return Line2D(
        [],
        [],
        linestyle="",
        marker=shape,
        markersize=6.5,
        color=MUTED,
        markerfacecolor=MUTED if filled else "white",
        markeredgewidth=0 if filled else 1.5,
        label=label,
    )


def _legends(figure: Figure, drawing: Drawing, key: Sequence[Artist]) -> None:
    """Who is who above the panels, what the line styles mean below them: never over the data."""
    entries = [
        Line2D([], [], color=s.colour, linestyle=s.dash, linewidth=2.4, label=s.label)
        for s in drawing.styles
        if s.in_legend
    ]
    longest = max(len(str(entry.get_label())) for entry in entries)
    columns = max(1, min(len(entries), 110 // (longest + 8)))
    make_room(figure, len(entries), columns)
    figure.legend(handles=entries, loc="outside upper left", ncols=columns)
    if key:
        figure.legend(handles=list(key), loc="outside lower left", ncols=len(key))


def make_room(figure: Figure, entries: int, columns: int) -> None:
    """Makes the figure higher by the rows of a legend beyond two."""
    rows = -(-entries // columns)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.21 * max(0, rows - 2))


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a ``png``, ``svg`` or ``pdf`` file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with style.missing_glyphs_told():
        figure.savefig(buffer, format=kind, dpi=style.DPI, metadata=metadata)
    return buffer.getvalue()


def _png(figure: Figure) -> bytes:
    return to_bytes(figure, "png")
