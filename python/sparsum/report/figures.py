"""The pictures of a report: each a list of panels, of which those with data are drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sparsum.report import captions, panels, style
from sparsum.report.labels import Labels
from sparsum.report.metrics import CURVES, OBJECTIVES, Metric, other_metrics, result_metrics
from sparsum.report.panels import FULL_HEIGHT, Drawing
from sparsum.report.style import DOTTED, MEDIAN_DASH, MUTED, EpochAxis
from sparsum.runs import Run

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


def draw_all(runs: Sequence[Run], labels: Labels) -> list[Picture]:
    """Every picture for which the runs have data, the most telling first."""
    drawing = Drawing(runs, labels.full, style.style_runs(labels))
    makers: tuple[Callable[[Drawing], Picture | None], ...] = (
        results,
        learning_curves,
        evaluations,
        objectives,
        others,
    )
    with matplotlib.rc_context(style.RC):
        pictures = [make(drawing) for make in makers]
    return [picture for picture in pictures if picture is not None]


def results(drawing: Drawing) -> Picture | None:
    """Several runs' test results side by side, each as a step from the warm-started model's."""
    metrics = result_metrics(drawing.runs)
    finished = drawing.only(
        lambda run: any(run.result(f"test.{metric.key}") is not None for metric in metrics)
    )
    count = len(finished.runs)
    if count < 2:
        return None
    figure = Figure(figsize=(style.WIDTH, 1.25 + 0.42 * count), layout="constrained")
    grid = figure.subplots(1, len(metrics), sharey=True, squeeze=False)
    for axes, metric in zip(grid[0], metrics, strict=True):
        panels.results_panel(axes, finished, metric)
    started = any(finished.has_result(f"warmup.test.{metric.key}") for metric in metrics)
    key = [_marker("D", "best model by validation")]
    if started:
        start = "the warm-started model, before it saw unlabelled images"
        key.insert(0, _marker("o", start, filled=False))
    figure.legend(handles=key, loc="outside lower left", ncols=2, handletextpad=0.3)
    names = ", ".join(metric.name for metric in metrics)
    return Picture(
        "results.png",
        "Test results",
        f"the runs' test results side by side: {names}",
        captions.results(metrics, started=started),
        _png(figure),
    )


def learning_curves(drawing: Drawing) -> Picture | None:
    """Accuracy and ELBO by epoch."""
    figure = _curves_figure(drawing, CURVES, marks=True)
    if figure is None:
        return None
    return Picture(
        "learning_curves.png",
        "Learning curves",
        "accuracy and ELBO after each epoch, on training and validation images",
        captions.LEARNING_CURVES,
        _png(figure),
    )


def evaluations(drawing: Drawing) -> Picture | None:
    """Decoder calls per example by epoch: mean, median and quartiles."""
    titles = {
        "train": "Loss evaluations while training",
        "validation": "Loss evaluations on validation images",
    }
    splits = [split for split in titles if drawing.has_series(f"{split}.evaluations.mean")]
    if not splits:
        return None
    figure, grid = _stacked(len(splits), FULL_HEIGHT)
    axis = EpochAxis(drawing.runs)
    for axes, split in zip(grid, splits, strict=True):
        panels.evaluations_panel(axes, drawing, axis, split, titles[split])
    grid[-1].set_xlabel(axis.label)
    key: list[Artist] = [Line2D([], [], color=MUTED, linewidth=2, label="mean")]
    if not drawing.crowded:
        key += [
            Line2D([], [], color=MUTED, linewidth=1.1, linestyle=MEDIAN_DASH, label="median"),
            Patch(color=MUTED, alpha=0.22, linewidth=0, label="middle half of examples"),
        ]
    _legends(figure, drawing, key)
    return Picture(
        "evaluations.png",
        "Loss evaluations: the cost of an example",
        "decoder calls per example in each epoch (mean, median, quartiles)",
        captions.evaluations(bands=not drawing.crowded),
        _png(figure),
    )


def objectives(drawing: Drawing) -> Picture | None:
    """The training objective and its parts."""
    figure = _curves_figure(drawing, OBJECTIVES, marks=False, splits=("train",), height=LOW_HEIGHT)
    if figure is None:
        return None
    return Picture(
        "objective.png",
        "Training objective",
        "what training minimises, and its labelled and unlabelled parts, in nats",
        captions.OBJECTIVES,
        _png(figure),
    )


def others(drawing: Drawing) -> Picture | None:
    """Metrics that have no figure of their own."""
    figure = _curves_figure(drawing, other_metrics(drawing.runs), marks=True, height=LOW_HEIGHT)
    if figure is None:
        return None
    return Picture(
        "other_metrics.png",
        "Other metrics",
        "further numbers of the runs by epoch, under the names they are logged by",
        captions.OTHERS,
        _png(figure),
    )


def _stacked(count: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(
        figsize=(style.WIDTH, height * count + 0.9),
        layout=ConstrainedLayoutEngine(hspace=0.05, h_pad=0.07),
    )
    grid = figure.subplots(count, 1, squeeze=False)
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

    def has_curve(metric: Metric, split: str) -> bool:
        return drawing.has_series(f"{split}.{metric.key}")

    drawn = [m for m in metrics if any(has_curve(m, split) for split in splits)]
    if not drawn:
        return None
    figure, grid = _stacked(len(drawn), height)
    axis = EpochAxis(drawing.runs)
    for axes, metric in zip(grid, drawn, strict=True):
        panels.curves_panel(axes, drawing, axis, metric, splits, marks=marks, height=height)
    grid[-1].set_xlabel(axis.label)
    key: list[Artist] = []
    if any(has_curve(m, "validation") for m in drawn) and "validation" in splits:
        key.append(Line2D([], [], color=MUTED, linewidth=2, label="validation"))
        if any(has_curve(m, "train") for m in drawn):
            dots = Line2D([], [], color=MUTED, linewidth=1.1, linestyle=DOTTED, label="training")
            key.append(dots)
    if marks and any(drawing.has_result(f"warmup.test.{m.key}") for m in drawn):
        dashes = Line2D([], [], color=MUTED, linewidth=1.2, linestyle="--")
        dashes.set_label("warm start, test")
        key.append(dashes)
    if marks and any(drawing.has_result(f"test.{m.key}") for m in drawn):
        key.append(_marker("D", "best model by validation, test"))
    _legends(figure, drawing, key)
    return figure


def _marker(shape: str, label: str, *, filled: bool = True) -> Line2D:
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
    figure.legend(handles=entries, loc="outside upper left", ncols=columns)
    if key:
        figure.legend(handles=list(key), loc="outside lower left", ncols=len(key))


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=style.DPI)
    return buffer.getvalue()
