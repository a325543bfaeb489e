"""The pictures of a report: each a list of panels, of which those with data are drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (the backend comes first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: E402

from sparsum.report import style  # noqa: E402
from sparsum.report.labels import Labels  # noqa: E402
from sparsum.report.metrics import (  # noqa: E402
    CURVES,
    OBJECTIVES,
    Metric,
    other_metrics,
    result_metrics,
)
from sparsum.report.style import EpochAxis, RunStyle  # noqa: E402
from sparsum.runs import Run  # noqa: E402

MOST_NUMBERED_RUNS = 6
"""Up to so many runs get their final numbers written beside the curves."""


@dataclass(frozen=True)
class Picture:
    """A figure with the words that go with it."""

    file: str
    title: str
    shows: str
    """One line, for the terminal."""
    caption: str
    """For the page: what is drawn, the units, what to look for; without mark-up."""
    png: bytes


@dataclass(frozen=True)
class Drawing:
    """The runs to draw and how."""

    runs: Sequence[Run]
    styles: Sequence[RunStyle]

    def __iter__(self):
        return iter(zip(self.runs, self.styles))


def draw_all(runs: Sequence[Run], labels: Labels) -> list[Picture]:
    """Every picture for which the runs have data, the most telling first."""
    drawing = Drawing(runs, style.style_runs(labels))
    makers: tuple[Callable[[Drawing], Picture | None], ...] = (
        lambda d: results(d, labels),
        learning_curves,
        evaluations,
        objectives,
        others,
    )
    with plt.rc_context(style.RC):
        pictures = [make(drawing) for make in makers]
    return [picture for picture in pictures if picture is not None]


def results(drawing: Drawing, labels: Labels) -> Picture | None:
    """Several runs' test results side by side, each as a step from the warm-started model's."""
    metrics = result_metrics(drawing.runs)
    rows = [
        (run, label, run_style)
        for (run, run_style), label in zip(drawing, labels.full)
        if run.finished and any(run.result(f"test.{metric.key}") is not None for metric in metrics)
    ]
    if len(rows) < 2:
        return None
    figure, grid = plt.subplots(
        1,
        len(metrics),
        figsize=(style.WIDTH, 1.25 + 0.42 * len(rows)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, metric in zip(grid[0], metrics):
        _results_panel(axes, metric, rows)
    started = any(run.result(f"warmup.test.{m.key}") is not None for run, _, _ in rows for m in metrics)
    key = [_marker("D", "the final model")]
    if started:
        key.insert(0, _marker("o", "the warm-started model, before it saw unlabelled images", False))
    figure.legend(handles=key, loc="outside lower left", ncols=2, handletextpad=0.3)
    names = ", ".join(metric.name for metric in metrics)
    return Picture(
        "results.png",
        "Test results",
        f"the runs' test results side by side: {names}",
        "One line per run, measured on test images that no choice was made by. The filled diamond"
        " and the number are the final model"
        + (
            "; the hollow circle is the same model after its warm-up on labelled images alone, so"
            " the line between them is what the unlabelled images were worth. "
            if started
            else ". "
        )
        + "Accuracy and ELBO: further right is better. Loss evaluations: further left is cheaper;"
        " 1 is the least there is.",
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
        "Each curve follows one training run. An epoch is a fixed number of training steps."
        " Solid: images held back for validation; thin and dotted: the labelled training images."
        " On the shaded part, the warm-up, the model sees labelled images only; after it, unlabelled"
        " ones as well, with the run's own estimator. The dashed horizontal line is the"
        " warm-started model on the test images, the diamond the final model on them, its number"
        " beside it. Accuracy, in per cent: the share of images whose class the model gets right."
        " ELBO, in nats (1 nat = 1.44 bits): a lower bound on the log-probability of an image;"
        " nearer to zero is better. Look for curves that rise after the shaded part and diamonds"
        " above the dashed line: that is what unlabelled images bring. Training accuracy far above"
        " validation accuracy means that labelled images are being learnt by heart.",
        _png(figure),
    )


def evaluations(drawing: Drawing) -> Picture | None:
    """Decoder calls per example by epoch: mean, median and quartiles."""
    panels = [
        ("train", "loss evaluations while training"),
        ("validation", "loss evaluations on validation images"),
    ]
    panels = [(s, t) for s, t in panels if _has_series(drawing, f"{s}.evaluations.mean")]
    if not panels:
        return None
    figure, grid = _stacked(len(panels))
    axis = EpochAxis(drawing.runs)
    crowded = any(run_style.crowded for run_style in drawing.styles)
    for axes, (split, title) in zip(grid, panels):
        _evaluations_panel(axes, drawing, axis, split, title)
    grid[-1].set_xlabel(axis.label)
    key = [Line2D([], [], color=style.MUTED, linewidth=2, label="mean")]
    if not crowded:
        key.append(
            Line2D([], [], color=style.MUTED, linewidth=1.1, linestyle=(0, (2, 2)), label="median")
        )
        key.append(Patch(color=style.MUTED, alpha=0.22, linewidth=0, label="middle half of examples"))
    _legends(figure, drawing, key)
    return Picture(
        "evaluations.png",
        "Loss evaluations: the cost of an example",
        "decoder calls per example in each epoch (mean, median, quartiles)",
        "How many times the decoder, the most expensive part of the model, runs for one example."
        " Summing over all classes costs as many calls as there are classes; sampling costs one or"
        " two; sparse marginalization costs one call for each class that still has a probability"
        " above zero, decided afresh for each example. Solid: the mean over the epoch's examples"
        + (
            "."
            if crowded
            else "; dotted: the median; the band holds the middle half of the examples (first to"
            " third quartile; no band is seen where all examples cost the same)."
        )
        + " Look for a sparse run falling towards 1 as the model becomes sure of itself: exact"
        " gradients at the price of a sample.",
        _png(figure),
    )


def objectives(drawing: Drawing) -> Picture | None:
    """The training objective and its parts."""
    figure = _curves_figure(drawing, OBJECTIVES, marks=False, splits=("train",), height=2.3)
    if figure is None:
        return None
    return Picture(
        "objective.png",
        "Training objective",
        "what training minimises, and its labelled and unlabelled parts, in nats",
        "What the optimiser makes smaller, averaged over each epoch's steps, in nats per example."
        " The objective is the labelled part plus the unlabelled part times the ratio of unlabelled"
        " to labelled images; in the warm-up it is the labelled part alone, so it jumps where the"
        " shaded part ends. Look for curves that fall and flatten; a curve that climbs or leaps"
        " about asks for a smaller learning rate.",
        _png(figure),
    )


def others(drawing: Drawing) -> Picture | None:
    """Metrics that have no figure of their own."""
    figure = _curves_figure(drawing, other_metrics(drawing.runs), marks=True, height=2.3)
    if figure is None:
        return None
    return Picture(
        "other_metrics.png",
        "Other metrics",
        "further numbers of the runs by epoch, under the names they are logged by",
        "Numbers that this experiment logs besides those above, under their own names and in the"
        " units they are logged in. Solid: validation; thin and dotted: training; dashed: the"
        " warm-started model, and diamond: the final model, both on test data.",
        _png(figure),
    )


def _has_series(drawing: Drawing, key: str) -> bool:
    return any(key in row.values for run in drawing.runs for row in run.rows)


def _stacked(count: int, height: float = 3.1) -> tuple[Figure, list[Axes]]:
    figure, grid = plt.subplots(
        count,
        1,
        figsize=(style.WIDTH, height * count + 0.9),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(hspace=0.05, h_pad=0.07)
    return figure, [row[0] for row in grid]


def _curves_figure(
    drawing: Drawing,
    metrics: Sequence[Metric],
    *,
    marks: bool,
    splits: Sequence[str] = ("train", "validation"),
    height: float = 3.1,
) -> Figure | None:
    drawn = [m for m in metrics if any(_has_series(drawing, f"{s}.{m.key}") for s in splits)]
    if not drawn:
        return None
    figure, grid = _stacked(len(drawn), height)
    axis = EpochAxis(drawing.runs)
    for axes, metric in zip(grid, drawn):
        _curves_panel(axes, drawing, axis, metric, splits, marks)
    grid[-1].set_xlabel(axis.label)
    key: list = []
    if len(splits) > 1:
        key = [
            Line2D([], [], color=style.MUTED, linewidth=2, label="validation"),
            Line2D([], [], color=style.MUTED, linewidth=1.1, linestyle=(0, (1, 1.6)), label="training"),
        ]
        seen = [s for s in splits if any(_has_series(drawing, f"{s}.{m.key}") for m in drawn)]
        key = [line for line, split in zip(key, ("validation", "train")) if split in seen]
    if marks and _any_result(drawing, "warmup.test", drawn):
        key.append(
            Line2D([], [], color=style.MUTED, linewidth=1.2, linestyle="--", label="warm start, test")
        )
    if marks and _any_result(drawing, "test", drawn):
        key.append(_marker("D", "final model, test"))
    _legends(figure, drawing, key)
    return figure


def _any_result(drawing: Drawing, prefix: str, metrics: Sequence[Metric]) -> bool:
    return any(run.result(f"{prefix}.{m.key}") is not None for run in drawing.runs for m in metrics)


def _curves_panel(
    axes: Axes,
    drawing: Drawing,
    axis: EpochAxis,
    metric: Metric,
    splits: Sequence[str],
    marks: bool,
) -> None:
    """One metric: a curve for each split of each run, and the test results of the finished ones."""
    drawn: list[list[float]] = []
    levels: list[float] = []
    numbers: list[tuple[float, str, str]] = []
    numbered = len(drawing.runs) <= MOST_NUMBERED_RUNS
    for run, run_style in drawing:
        for split in splits:
            epochs, values = run.series(f"{split}.{metric.key}")
            if not values:
                continue
            values = [value * metric.factor for value in values]
            drawn.append(values)
            main = split == "validation" or len(splits) == 1
            axes.plot(
                epochs,
                values,
                color=run_style.colour,
                linestyle=run_style.dash if main else (0, (1, 1.6)),
                linewidth=(1.2 if run_style.crowded else 1.9) if main else 1.1,
                alpha=1.0 if main else 0.75,
                marker="o" if len(values) < 3 else "",
                markersize=4,
                zorder=3 if main else 2,
            )
        if not marks:
            continue
        start = run.result(f"warmup.test.{metric.key}")
        final = run.result(f"test.{metric.key}")
        if start is not None:
            levels.append(start * metric.factor)
            axes.axhline(
                levels[-1], color=run_style.colour, linewidth=1.0, linestyle="--", alpha=0.8, zorder=2
            )
            if numbered:
                text = f"{metric.text(start)} warm start"
                numbers.append((levels[-1], text, run_style.colour))
        if final is not None:
            levels.append(final * metric.factor)
            axes.plot(
                max(run.last_epoch, 1),
                levels[-1],
                marker="D",
                markersize=6.5,
                color=run_style.colour,
                markeredgecolor="white",
                markeredgewidth=0.9,
                clip_on=False,
                zorder=5,
            )
            if numbered:
                numbers.append((levels[-1], f"{metric.text(final)} final", run_style.colour))
    low, high, cut = style.robust_limits(drawn, levels)
    axes.set_ylim(low, high)
    axis.apply(axes)
    axes.set_ylabel(metric.unit)
    title = metric.name[0].upper() + metric.name[1:]
    axes.set_title(title, pad=18 if axis.ends else 8)
    if cut:
        axes.annotate(
            "the first epochs lie outside the axis",
            xy=(1, 1),
            xycoords="axes fraction",
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8.5,
            color=style.MUTED,
            ha="right",
            va="bottom",
        )
    style.margin_labels(axes, _merged(numbers), gap=0.068 * 3.1 / _inches(axes))


def _inches(axes: Axes) -> float:
    return axes.figure.get_size_inches()[1] / len(axes.figure.axes)


def _merged(numbers: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Runs that share a warm start get its number once, in ink rather than in one run's colour."""
    merged: dict[tuple[float, str], str] = {}
    for level, text, colour in numbers:
        merged[level, text] = colour if (level, text) not in merged else style.MUTED
    return [(level, text, colour) for (level, text), colour in merged.items()]


def _evaluations_panel(
    axes: Axes, drawing: Drawing, axis: EpochAxis, split: str, title: str
) -> None:
    lowest, highest = float("inf"), 0.0
    numbers: list[tuple[float, str, str]] = []
    for run, run_style in drawing:
        epochs, mean = run.series(f"{split}.evaluations.mean")
        if not mean:
            continue
        lowest, highest = min(lowest, *mean, mean[0]), max(highest, *mean, mean[0])
        axes.plot(
            epochs,
            mean,
            color=run_style.colour,
            linestyle=run_style.dash,
            linewidth=1.2 if run_style.crowded else 2.0,
            marker="o" if len(mean) < 3 else "",
            markersize=4,
            zorder=3,
        )
        if len(drawing.runs) <= MOST_NUMBERED_RUNS:
            numbers.append((mean[-1], f"{mean[-1]:.2f} last epoch", run_style.colour))
        if run_style.crowded:
            continue
        middle_epochs, middle = run.series(f"{split}.evaluations.median")
        axes.plot(
            middle_epochs,
            middle,
            color=run_style.colour,
            linestyle=(0, (2, 2)),
            linewidth=1.1,
            zorder=2.5,
        )
        low_epochs, low = run.series(f"{split}.evaluations.q25")
        high_epochs, high = run.series(f"{split}.evaluations.q75")
        if low_epochs == high_epochs and low:
            lowest, highest = min(lowest, *low, low[0]), max(highest, *high, high[0])
            axes.fill_between(
                low_epochs, low, high, color=run_style.colour, alpha=0.16, linewidth=0, zorder=1.5
            )
    _calls_scale(axes, lowest, highest, vertical=True)
    axis.apply(axes)
    axes.set_ylabel("decoder calls per example")
    axes.set_title(title[0].upper() + title[1:], pad=18 if axis.ends else 8)
    style.margin_labels(axes, _merged(numbers), gap=0.068)


def _calls_scale(axes: Axes, lowest: float, highest: float, *, vertical: bool) -> None:
    """Calls from 1 up: linear while they are few, logarithmic where methods differ by factors."""
    axis = axes.yaxis if vertical else axes.xaxis
    set_scale = axes.set_yscale if vertical else axes.set_xscale
    set_limits = axes.set_ylim if vertical else axes.set_xlim
    lowest = min(lowest, 1.0)
    if lowest > 0 and highest / lowest > 4:
        set_scale("log", base=2)
        ticks = [1.0]
        while ticks[-1] * (2 if highest < 100 else 4) <= highest * 1.2:
            ticks.append(ticks[-1] * (2 if highest < 100 else 4))
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        set_limits(lowest / 1.15, highest * 1.3)
    else:
        span = max(highest - lowest, 0.25)
        set_limits(lowest - 0.08 * span, highest + 0.15 * span)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _results_panel(
    axes: Axes, metric: Metric, rows: Sequence[tuple[Run, str, RunStyle]]
) -> None:
    values: list[float] = []
    for place, (run, _, run_style) in enumerate(rows):
        final = run.result(f"test.{metric.key}")
        start = run.result(f"warmup.test.{metric.key}")
        if final is None:
            continue
        x = final * metric.factor
        values.append(x)
        if start is not None:
            values.append(start * metric.factor)
            axes.plot(
                [values[-1], x], [place, place], color=run_style.colour, linewidth=2, alpha=0.45
            )
            axes.plot(
                values[-1],
                place,
                marker="o",
                markersize=6,
                markerfacecolor="white",
                markeredgecolor=run_style.colour,
                markeredgewidth=1.5,
            )
        axes.plot(
            x,
            place,
            marker="D",
            markersize=7,
            color=run_style.colour,
            markeredgecolor="white",
            markeredgewidth=0.9,
        )
        axes.annotate(
            metric.text(final),
            xy=(x, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
        )
    if metric.key == "evaluations.mean":
        low, high = min(values), max(values)
        _calls_scale(axes, low, high, vertical=False)
        left, right = axes.get_xlim()
        if axes.get_xscale() == "log":
            axes.set_xlim(left / 1.25, right * 1.15)
        else:
            axes.set_xlim(left - 0.1 * (right - left), right + 0.1 * (right - left))
    else:
        span = max(values) - min(values) or max(abs(values[0]) * 0.02, 1e-3)
        axes.set_xlim(min(values) - 0.18 * span, max(values) + 0.18 * span)
        axes.locator_params(axis="x", nbins=5)
    axes.set_yticks(range(len(rows)), [label for _, label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_title(metric.name[0].upper() + metric.name[1:])
    axes.set_xlabel(metric.unit)


def _marker(shape: str, label: str, filled: bool = True) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="",
        marker=shape,
        markersize=6.5,
        color=style.MUTED,
        markerfacecolor=style.MUTED if filled else "white",
        markeredgewidth=0 if filled else 1.5,
        label=label,
    )


def _legends(figure: Figure, drawing: Drawing, key: Sequence) -> None:
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
    plt.close(figure)
    return buffer.getvalue()
