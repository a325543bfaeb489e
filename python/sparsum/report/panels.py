"""What is drawn into one pair of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from sparsum.report import style
from sparsum.report.experiments import Experiment
from sparsum.report.metrics import DISTORTION, EVALUATIONS, GAME_NLL, NLL, OBJECTIVE, RATE, Metric
from sparsum.report.published import published_nll
from sparsum.report.style import DOTTED, MEDIAN_DASH, EpochAxis, RunStyle
from sparsum.runs import Run

FULL_HEIGHT = 3.1
"""Inches that a panel takes, unless it is of secondary interest."""

MOST_NUMBERED_RUNS = 6
"""Up to so many runs get their test numbers written beside the curves."""

_LABEL_GAP = 0.068
"""The least distance of two numbers in the margin, as a fraction of a full-height panel."""


@dataclass(frozen=True)
class Drawing:
    """The runs of one experiment, how they are called and how they look."""

    experiment: Experiment
    runs: Sequence[Run]
    names: Sequence[str]
    styles: Sequence[RunStyle]

    def __iter__(self) -> Iterator[tuple[Run, RunStyle]]:
        return iter(zip(self.runs, self.styles, strict=True))

    @property
    def crowded(self) -> bool:
        return any(run_style.crowded for run_style in self.styles)

    @property
    def numbered(self) -> bool:
        return len(self.runs) <= MOST_NUMBERED_RUNS

    def only(self, wanted: Callable[[Run], bool]) -> Drawing:
        """The same without the runs that are not wanted."""
        kept = [i for i, run in enumerate(self.runs) if wanted(run)]
        return replace(
            self,
            runs=[self.runs[i] for i in kept],
            names=[self.names[i] for i in kept],
            styles=[self.styles[i] for i in kept],
        )

    def has_curve(self, metric: Metric, split: str) -> bool:
        return any(metric.curve(run, split)[0] for run in self.runs)

    def has_result(self, key: str) -> bool:
        return any(run.result(key) is not None for run in self.runs)


def curves_panel(
    axes: Axes,
    drawing: Drawing,
    axis: EpochAxis,
    metric: Metric,
    splits: Sequence[str],
    *,
    marks: bool,
    height: float,
) -> None:
    """One metric: a curve for each split of each run and, with ``marks``, the test results."""
    curves: list[list[float]] = []
    levels: list[float] = []
    numbers: list[tuple[float, str, str]] = []
    for run, run_style in drawing:
        for split in splits:
            main = split == "validation" or len(splits) == 1
            values = _draw_curve(axes, run, run_style, metric, split, main=main)
            if values:
                curves.append(values)
    if marks:
        numbers = _draw_results(axes, drawing, metric)
        levels = [level for level, _, _ in numbers]
    limits = style.robust_limits(curves, levels, logarithmic=metric is GAME_NLL)
    limits.apply(axes, metric.unit, metric.most)
    axis.apply(axes)
    axes.set_title(_capital(metric.name), pad=18 if axis.ends or limits.note else 8)
    if limits.note:
        style.note_above(axes, limits.note, right=True)
    if drawing.numbered:
        gap = _LABEL_GAP * FULL_HEIGHT / height
        style.margin_labels(axes, list(dict.fromkeys(numbers)), gap)


def _draw_curve(
    axes: Axes, run: Run, run_style: RunStyle, metric: Metric, split: str, *, main: bool
) -> list[float]:
    epochs, values = metric.curve(run, split)
    across: Sequence[float] = epochs
    upwards: Sequence[float] = values
    if metric is OBJECTIVE:
        across, upwards = _parted(epochs, values, run.warmup_end)
    axes.plot(
        across,
        upwards,
        color=run_style.colour,
        linestyle=run_style.dash if main else DOTTED,
        linewidth=(1.2 if run_style.crowded else 1.9) if main else 1.1,
        alpha=1.0 if main else 0.75,
        marker="o" if len(values) < 3 else "",
        markersize=4,
        zorder=3 if main else 2,
    )
    return values


def _draw_results(axes: Axes, drawing: Drawing, metric: Metric) -> list[tuple[float, str, str]]:
    """Draws the test results of warm starts and best models; returns level, text and colour."""
    numbers: list[tuple[float, str, str]] = []
    starts = [run.result(f"warmup.test.{metric.key}") for run in drawing.runs]
    for (run, run_style), start in zip(drawing, starts, strict=True):
        if start is not None:
            # A start that several runs share is drawn in grey, not in the colour of the last.
            colour = style.MUTED if starts.count(start) > 1 else run_style.colour
            level = start * metric.factor
            axes.axhline(level, color=colour, linewidth=1.0, linestyle="--", alpha=0.8, zorder=2)
            numbers.append((level, f"{metric.text(start)} warm start", colour))
        final = run.result(f"test.{metric.key}")
        if final is not None:
            level = final * metric.factor
            axes.plot(
                max(run.last_epoch, 1),
                level,
                marker="D",
                markersize=4.5 if run_style.crowded else 6.5,
                color=run_style.colour,
                markeredgecolor="white",
                markeredgewidth=0.5 if run_style.crowded else 0.9,
                clip_on=False,
                zorder=5,
            )
            numbers.append((level, f"{metric.text(final)} test", run_style.colour))
    return numbers


def evaluations_panel(
    axes: Axes, drawing: Drawing, axis: EpochAxis, split: str, title: str
) -> None:
    """Calls per example of each run: the mean and, unless crowded, the median and quartiles."""
    seen: list[float] = []
    numbers: list[tuple[float, str, str]] = []
    for run, run_style in drawing:
        epochs, mean = run.series(f"{split}.evaluations.mean")
        if not mean:
            continue
        seen += mean
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
        numbers.append((mean[-1], f"{mean[-1]:.2f} last epoch", run_style.colour))
        if run_style.crowded:
            continue
        axes.plot(
            *run.series(f"{split}.evaluations.median"),
            color=run_style.colour,
            linestyle=MEDIAN_DASH,
            linewidth=1.1,
            zorder=2.5,
        )
        low_epochs, low = run.series(f"{split}.evaluations.q25")
        high_epochs, high = run.series(f"{split}.evaluations.q75")
        if low and low_epochs == high_epochs:
            seen += [*low, *high]
            axes.fill_between(
                low_epochs, low, high, color=run_style.colour, alpha=0.16, linewidth=0, zorder=1.5
            )
    calls_scale(axes, min(seen), max(seen), vertical=True)
    axis.apply(axes)
    axes.set_ylabel("decoder calls per example")
    axes.set_title(title, pad=18 if axis.ends else 8)
    if drawing.numbered:
        style.margin_labels(axes, numbers, _LABEL_GAP)


def results_panel(axes: Axes, drawing: Drawing, metric: Metric) -> None:
    """One metric on test data: a line for each run, from its warm start to its best model."""
    values: list[float] = []
    for place, (run, run_style) in enumerate(drawing):
        colour = run_style.colour
        final = run.result(f"test.{metric.key}")
        start = run.result(f"warmup.test.{metric.key}")
        if final is None:
            continue
        x = final * metric.factor
        values.append(x)
        if start is not None:
            from_x = start * metric.factor
            values.append(from_x)
            axes.plot([from_x, x], [place, place], color=colour, linewidth=2, alpha=0.45)
            axes.plot(
                from_x,
                place,
                marker="o",
                markersize=6,
                markerfacecolor="white",
                markeredgecolor=colour,
                markeredgewidth=1.5,
            )
        axes.plot(
            x,
            place,
            marker="D",
            markersize=7,
            color=colour,
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
    if metric is EVALUATIONS:
        calls_scale(axes, min(values), max(values), vertical=False)
    else:
        span = max(values) - min(values) or max(abs(values[0]) * 0.02, 1e-3)
        axes.set_xlim(min(values) - 0.24 * span, max(values) + 0.24 * span)
        axes.locator_params(axis="x", nbins=5)
    axes.set_yticks(range(len(drawing.runs)), list(drawing.names))
    axes.set_ylim(len(drawing.runs) - 0.5, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_title(_capital(metric.name))
    axes.set_xlabel(metric.unit)


def likelihood_bars(axes: Axes, drawing: Drawing) -> None:
    """NLL of each run as a bar from zero, the published value as a hollow one below it."""
    published = [published_nll(run) for run in drawing.runs]
    highest = 0.0
    for place, ((run, run_style), reference) in enumerate(zip(drawing, published, strict=True)):
        value = run.result(f"test.{NLL.key}") or 0.0
        bars = [(value, run_style.colour, run_style.colour)]
        if reference is not None:
            bars.append((reference, "white", style.MUTED))
        thick = 0.62 / 2 if any(r is not None for r in published) else 0.5
        for row, (length, face, edge) in enumerate(bars):
            y = place + (row - (len(bars) - 1) / 2) * thick
            axes.barh(y, length, height=thick * 0.86, color=face, edgecolor=edge, linewidth=1.1)
        highest = max(highest, *(length for length, _, _ in bars))
    axes.set_xlim(0, highest * 1.04)
    axes.set_title("From zero")
    axes.locator_params(axis="x", nbins=5)
    _one_row_each(axes, drawing)


def likelihood_points(axes: Axes, drawing: Drawing) -> None:
    """The same enlarged, with the Monte Carlo standard error."""
    low, high = math.inf, -math.inf
    for place, (run, run_style) in enumerate(drawing):
        value = run.result(f"test.{NLL.key}")
        if value is None:
            continue
        error = NLL.result_error(run, "test") or 0.0
        reference = published_nll(run)
        shift = 0.0 if reference is None else 0.155
        axes.errorbar(
            value,
            place - shift,
            xerr=error,
            color=run_style.colour,
            marker="D",
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.8,
            elinewidth=1.6,
            capsize=4,
            capthick=1.4,
        )
        _beside(axes, value + error, place - shift, NLL.result_text(run, "test"), run_style.colour)
        low, high = min(low, value - error), max(high, value + error)
        if reference is not None:
            axes.plot(
                reference,
                place + shift,
                marker="D",
                markersize=6,
                markerfacecolor="white",
                markeredgecolor=style.MUTED,
                markeredgewidth=1.4,
            )
            _beside(axes, reference, place + shift, f"{reference:.2f} published", style.MUTED)
            low, high = min(low, reference), max(high, reference)
    span = max(high - low, 0.01)
    axes.set_xlim(low - 0.08 * span, high + 0.42 * span)  # the room that the numbers take
    axes.set_title("Enlarged")
    axes.locator_params(axis="x", nbins=6)
    _one_row_each(axes, drawing)


def rate_distortion_panel(axes: Axes, drawing: Drawing, title: str) -> None:
    """Rate and distortion of each run, and lines of equal ELBO."""
    points = [(*rate_and_distortion(run), run_style) for run, run_style in drawing]
    rates = [rate for rate, _, _, _ in points]
    heights = [distortion for _, distortion, _, _ in points]
    limits = sorted({bits for run in drawing.runs if (bits := _code_nats(run)) is not None})
    left, right = min([*rates, *limits]), max([*rates, *limits])
    across = max(right - left, 1.0)
    upwards = max(max(heights) - min(heights), 0.02 * max(map(abs, heights)), 1e-3)
    axes.set_xlim(left - 0.15 * across, right + 0.07 * across)
    axes.set_ylim(min(heights) - 0.22 * upwards, max(heights) + 0.22 * upwards)
    for limit in limits:
        axes.axvline(limit, color=style.MUTED, linewidth=1.1, linestyle=DOTTED, zorder=1.5)
        axes.annotate(
            f"{limit / math.log(2):.0f} bits",
            xy=(limit, 1),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            ha="left",
            va="top",
            rotation=90,
            fontsize=8.5,
            color=style.MUTED,
            bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )
    _equal_sums(axes)
    for rate, distortion, final, run_style in points:
        axes.plot(
            rate,
            distortion,
            linestyle="",
            marker="D" if final else "o",
            markersize=6.5 if run_style.crowded else 8.5,
            color=run_style.colour,
            markerfacecolor=run_style.colour if final else "white",
            markeredgecolor="white" if final else run_style.colour,
            markeredgewidth=1.0 if final else 1.8,
            zorder=5,
        )
    axes.grid(visible=False)
    axes.set_xlabel("rate (nats)")
    axes.set_ylabel("distortion (nats)")
    axes.set_title(title)


def rate_and_distortion(run: Run) -> tuple[float, float, bool]:
    """Those of the test, or else of the last validation, and which; NaN where there are none."""
    rate, distortion = (run.result(f"test.{metric.key}") for metric in (RATE, DISTORTION))
    if rate is not None and distortion is not None:
        return rate, distortion, True
    for row in reversed(run.rows):
        keys = [f"validation.{metric.key}" for metric in (RATE, DISTORTION)]
        if all(key in row.values for key in keys):
            return row.values[keys[0]], row.values[keys[1]], False
    return math.nan, math.nan, False


def _code_nats(run: Run) -> float | None:
    """The most that the run's bits can tell."""
    bits = run.fields.get("bits")
    return bits * math.log(2) if isinstance(bits, int) and 0 < bits <= 10**6 else None


def _equal_sums(axes: Axes) -> None:
    """Dashed lines of equal ELBO = −(x + y) over the axes, named where they leave them."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    locator = MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10])
    for total in locator.tick_values(left + bottom, right + top):
        ends = (max(left, total - top), min(right, total - bottom))
        if ends[0] >= ends[1]:
            continue
        axes.plot(
            ends,
            [total - x for x in ends],
            color="#C3C9D0",
            linewidth=0.9,
            linestyle="--",
            zorder=1,
        )
        at_right = ends[1] == right
        level = (total - right - bottom) / (top - bottom)
        axes.annotate(
            f"ELBO {-total:,.6g}".replace("-", "−"),
            xy=(1, level) if at_right else (ends[1], 0),
            xycoords="axes fraction" if at_right else ("data", "axes fraction"),
            xytext=(5, 0) if at_right else (-2, 4),
            textcoords="offset points",
            fontsize=8.5,
            color=style.MUTED,
            ha="left" if at_right else "right",
            va="center" if at_right else "bottom",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
            annotation_clip=False,
        )


def _beside(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(
        text,
        xy=(x, y),
        xytext=(8, 0),
        textcoords="offset points",
        ha="left",
        va="center",
        fontsize=8.5,
        color=colour,
    )


def _one_row_each(axes: Axes, drawing: Drawing) -> None:
    axes.set_yticks(range(len(drawing.runs)), list(drawing.names))
    axes.set_ylim(len(drawing.runs) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("bits per dimension")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _parted(
    epochs: Sequence[int], values: Sequence[float], end: int
) -> tuple[list[float], list[float]]:
    """A gap between the phases, over which the objective changes its meaning."""
    place = sum(epoch <= end for epoch in epochs)
    gap = [float("nan")]
    return [*epochs[:place], *gap, *epochs[place:]], [*values[:place], *gap, *values[place:]]


def calls_scale(axes: Axes, lowest: float, highest: float, *, vertical: bool) -> None:
    """Calls from 1 up: linear while they are few, logarithmic where methods differ by factors."""
    axis = axes.yaxis if vertical else axes.xaxis
    set_limits = axes.set_ylim if vertical else axes.set_xlim
    room = 1.0 if vertical else 1.8  # across, numbers stand beside the marks
    lowest = min(lowest, 1.0)
    if lowest > 0 and highest / lowest > 4:
        if vertical:
            axes.set_yscale("log", base=2)
        else:
            axes.set_xscale("log", base=2)
        factor = 2 if highest < 100 else 4
        ticks = [1.0]
        while ticks[-1] * factor <= highest * 1.2:
            ticks.append(ticks[-1] * factor)
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        set_limits(lowest / 1.15**room, highest * 1.3**room)
    elif highest - lowest < 1e-6:  # all alike: a line amid whole numbers
        axis.set_major_locator(MaxNLocator(integer=True))
        set_limits(lowest - 0.5, highest + 1.2)
    else:
        span = max(highest - lowest, 0.25)
        set_limits(lowest - 0.08 * room * span, highest + 0.15 * room * span)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
