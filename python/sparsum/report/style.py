"""The looks that all figures share."""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sparsum.report.labels import Labels
from sparsum.runs import Run

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#1A1A1A", "#8C6D46")
"""Okabe and Ito's colours, told apart by readers with any common colour blindness; without their
yellow, which is too light for lines on white, and with a brown in its place."""

Dash = Literal["-"] | tuple[float, Sequence[float]]

DASHES: tuple[Dash, ...] = ("-", (0, (6, 1.5)), (0, (4, 1.5, 1, 1.5)))
"""Line styles for the first, second and third time round the palette."""

DOTTED: Dash = (0, (1, 1.6))
MEDIAN_DASH: Dash = (0, (2, 2))

INK = "#24292F"
MUTED = "#6E7781"
SHADE = "#1F3347"
SHADE_ALPHA = 0.075
"""Light enough for the shades of warm-ups of different lengths to add up."""
WIDTH = 9.6
"""Inches; at 100 points an inch this is the page's column, so that 10 points read as 10 points."""
DPI = 200

MANY_TIMES = 10
"""A number so many times the median of its like wants a logarithmic scale."""

LOWEST_LABEL = 0.02
"""Where the lowest number in the margin is, above the texts of the axis below it."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#B5BCC4",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDE1E6",
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.unicode_minus": True,
    "text.parse_math": False,  # labels come from files: a dollar sign is a dollar sign
}


@dataclass(frozen=True)
class RunStyle:
    """How one run is drawn."""

    label: str
    """Its entry in the legend."""
    in_legend: bool
    """False for all but the first run of a group that shares one entry."""
    colour: str
    dash: Dash
    crowded: bool
    """True where there are too many runs for bands and numbers."""


def style_runs(labels: Labels) -> list[RunStyle]:
    """A colour for each run; for each group of seeds where the runs outnumber the palette."""
    crowded = len(labels.full) > len(PALETTE)
    names = labels.groups if crowded else labels.full
    distinct = list(dict.fromkeys(names))
    styles: list[RunStyle] = []
    for index, name in enumerate(names):
        place = distinct.index(name)
        count = names.count(name)
        styles.append(
            RunStyle(
                label=f"{name} ({count} runs)" if count > 1 else name,
                in_legend=name not in names[:index],
                colour=PALETTE[place % len(PALETTE)],
                dash=DASHES[place // len(PALETTE) % len(DASHES)],
                crowded=crowded,
            )
        )
    return styles


class EpochAxis:
    """The x axis: epochs over both phases, the warm-up shaded, and squeezed where it is long.

    A warm-up of 100 epochs before 20 of training would leave the training a sixth of the width, so
    the warm-up gets no more than 30 % of it; the axis is then drawn in two parts.
    """

    WARMUP_SHARE = 0.3

    def __init__(self, runs: Sequence[Run]):
        self.ends = sorted({run.warmup_end for run in runs if run.warmup_end})
        self.last = max((run.last_epoch for run in runs), default=0) or 1
        end = self.ends[-1] if self.ends else 0
        alike = all(run.warmup_end == end for run in runs)
        self.end = end
        self.squeezed = alike and 0 < end < self.last and end / self.last > self.WARMUP_SHARE + 0.05

    def apply(self, axes: Axes, *, noted: bool = True) -> None:
        """Scale, limits, ticks and shading; ``noted``: the shade is named above the axes."""
        if self.squeezed:
            axes.set_xscale("function", functions=(self._to_width, self._to_epoch))
            axes.set_xticks(self._ticks())
        else:
            locator = MaxNLocator(nbins=10, integer=True, steps=[1, 2, 2.5, 5, 10])
            axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
        axes.set_xlim(0 if self.last > 3 else 0.5, self.last if self.last > 3 else self.last + 0.5)
        for end in self.ends:
            axes.axvspan(0, end, color=SHADE, alpha=SHADE_ALPHA, zorder=0, linewidth=0)
        for end in self.ends:
            axes.axvline(end, color="#C4CAD1", linewidth=0.8, zorder=0.5)
        if self.ends and noted:
            note_above(axes, "warm-up")

    @property
    def label(self) -> str:
        return "epoch (the warm-up drawn narrower than the training)" if self.squeezed else "epoch"

    def _to_width(self, epoch: np.ndarray) -> np.ndarray:
        epoch = np.asarray(epoch, dtype=float)
        left = epoch / self.end * self.WARMUP_SHARE
        slope = (1 - self.WARMUP_SHARE) / (self.last - self.end)
        return np.where(epoch < self.end, left, self.WARMUP_SHARE + (epoch - self.end) * slope)

    def _to_epoch(self, width: np.ndarray) -> np.ndarray:
        width = np.asarray(width, dtype=float)
        left = width / self.WARMUP_SHARE * self.end
        slope = (self.last - self.end) / (1 - self.WARMUP_SHARE)
        return np.where(
            width < self.WARMUP_SHARE, left, self.end + (width - self.WARMUP_SHARE) * slope
        )

    def _ticks(self) -> list[float]:
        steps = [1, 2, 2.5, 5, 10]
        before = MaxNLocator(nbins=4, integer=True, steps=steps).tick_values(0, self.end)
        after = MaxNLocator(nbins=8, integer=True, steps=steps).tick_values(self.end, self.last)
        return [tick for tick in before if 0 <= tick < self.end * 0.9] + [
            tick for tick in after if self.end <= tick <= self.last
        ]


def note_above(axes: Axes, text: str, *, right: bool = False) -> None:
    """A small remark on top of the axes, at its left or right end."""
    axes.annotate(
        text,
        xy=(1 if right else 0, 1),
        xycoords="axes fraction",
        xytext=(0 if right else 5, 3),
        textcoords="offset points",
        fontsize=8.5,
        color=MUTED,
        ha="right" if right else "left",
        va="bottom",
        annotation_clip=False,
    )


@dataclass(frozen=True)
class Limits:
    """Of an upright axis."""

    low: float
    high: float
    note: str = ""
    """What lies outside; empty if nothing does."""
    logarithmic: bool = False

    def apply(self, axes: Axes, unit: str, most: float | None) -> None:
        """Scale, limits and label; ``most``: the largest value there can be."""
        high = self.high
        if self.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            if high / self.low < 100:  # powers of ten alone would be one or two ticks
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        elif most is not None:
            high = min(high, most + 0.06 * (most - self.low))
        axes.set_ylim(self.low, high)
        axes.set_ylabel(f"{unit} (log scale)" if self.logarithmic else unit)


def robust_limits(
    series: Sequence[Sequence[float]], marks: Sequence[float], *, logarithmic: bool = False
) -> Limits:
    """Limits that hold the marks and the ends of all curves, but not the steep first epochs.

    The first tenth of a curve is where a model learns that images are dark; with it on the axis the
    rest is a flat line. It is left out where that more than doubles the scale of the rest; so are
    peaks of a few epochs. ``logarithmic``: such a scale may be chosen, for numbers above zero of
    which one is large and most are small.
    """
    curves = [[value for value in values if math.isfinite(value)] for values in series]
    curves = [values for values in curves if values]
    held = [*marks, *(values[-1] for values in curves)]
    tails = [value for values in curves for value in values[len(values) // 10 :]]
    every = [value for values in curves for value in values] + held
    if not every:
        return Limits(0.0, 1.0)
    low, high = min(every), max(every)
    if logarithmic and low > 0 and max(held) > MANY_TIMES * float(np.median(held)):
        room = (high / low) ** 0.06
        return Limits(low / room, high * room, logarithmic=True)
    inner = sorted(tails) or every
    inner_low = min([inner[len(inner) // 50], *held])
    inner_high = max([inner[-1 - len(inner) // 50], *held])
    span = inner_high - inner_low
    if span > 0 and low < inner_low - span:
        low = inner_low - 0.15 * span
    if span > 0 and high > inner_high + span:
        high = inner_high + 0.15 * span
    note = ""
    first = max(map(len, curves), default=0) // 10
    if any(not low <= value <= high for values in curves for value in values[first:]):
        note = "some epochs lie outside the axis"
    elif any(not low <= value <= high for value in every):
        note = "the first epochs lie outside the axis"
    pad = 0.06 * (high - low) or max(abs(high) * 0.02, 1e-3)
    return Limits(low - pad, high + pad, note)


@contextmanager
def missing_glyphs_told() -> Iterator[None]:
    """Says in one line, once, that a name has characters which the font has not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing = False
    for warning in caught:
        if _MISSING_GLYPH.match(str(warning.message)):
            missing = True
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if missing:
        _tell_missing_glyphs()


_MISSING_GLYPH = re.compile(r"Glyph \d+ .*missing from")


@cache
def _tell_missing_glyphs() -> None:
    text = "report: the figures' font lacks some characters of the names; boxes stand for them"
    print(text, file=sys.stderr)


def thin_ticks(figure: Figure) -> None:
    """Takes ticks from the axes on which neighbours' texts would touch."""
    for _ in range(6):
        with missing_glyphs_told():
            figure.draw_without_rendering()
        touching = [axes for axes in figure.axes if _ticks_touch(axes)]
        for axes in touching:
            ticks = [tick for tick in axes.get_xticks() if _within(axes, tick)]
            axes.xaxis.set_major_locator(
                FixedLocator(ticks[::2])
                if axes.get_xscale() == "log" or len(ticks) < 4
                else MaxNLocator(nbins=len(ticks) - 2)
            )
        if not touching:
            return


def _within(axes: Axes, tick: float) -> bool:
    low, high = sorted(axes.get_xlim())
    return low <= tick <= high


def _ticks_touch(axes: Axes) -> bool:
    """Whether two texts under the axes have less than four points between them."""
    boxes = sorted(
        (label.get_window_extent().x0, label.get_window_extent().x1)
        for tick, label in zip(axes.get_xticks(), axes.get_xticklabels())
        if label.get_text() and _within(axes, tick)
    )
    room = 4 / 72 * axes.get_figure().dpi
    return any(right[0] - left[1] < room for left, right in pairwise(boxes))


def margin_labels(axes: Axes, entries: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Writes (y, text, colour) to the right of the axes, moved apart so that none overlap.

    ``gap``: the least distance between two, as a fraction of the axes' height. All stay beside the
    axes, those of levels outside it at its end.
    """
    fractions, places = _margin_places(axes, entries, gap)
    for (_, text, colour), fraction, place in zip(entries, fractions, places, strict=True):
        axes.annotate(
            text,
            xy=(1, fraction),
            xytext=(1.022, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            ha="left",
            fontsize=9,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "relpos": (0, 0.5),
            }
            if abs(place - fraction) > 0.01
            else None,
        )


def _margin_places(
    axes: Axes, entries: Sequence[tuple[float, str, str]], gap: float, lowest: float = LOWEST_LABEL
) -> tuple[list[float], list[float]]:
    """Of each entry its level and its text's, as fractions of the axes' height."""
    if not entries:
        return [], []
    low, high = axes.transScale.transform([(1.0, y) for y in axes.get_ylim()])[:, 1]
    levels = axes.transScale.transform([(1.0, y) for y, _, _ in entries])[:, 1]
    fractions = [min(max(float((y - low) / (high - low)), 0.0), 1.0) for y in levels]
    order = sorted(range(len(entries)), key=fractions.__getitem__)
    last = len(order) - 1
    gap = min(gap, (1 - lowest) / max(last, 1))
    spread = _spread([fractions[i] for i in order], gap)
    spread = [min(place, 1 - gap * (last - i)) for i, place in enumerate(spread)]
    spread = [max(place, lowest + gap * i) for i, place in enumerate(spread)]
    places = [0.0] * len(order)
    for index, place in zip(order, spread, strict=True):
        places[index] = place
    return fractions, places


def edge_labels(axes: Axes, entries: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Writes (y, text, colour) for levels at the axes' right edge, each led to its text by a line.

    Like margin_labels for many: texts stay beside the axes, and no line runs through one.
    """
    if not entries:
        return
    fractions, places = _margin_places(axes, entries, gap, lowest=0.0)
    for (_, text, colour), fraction, place in zip(entries, fractions, places, strict=True):
        line = axes.plot(
            [1, 1.015, 1.055, 1.065],
            [fraction] * 2 + [place] * 2,
            transform=axes.transAxes,
            color=colour,
            linewidth=0.8,
            alpha=0.6,
            clip_on=False,
            scalex=False,
            scaley=False,
        )[0]
        line.set_in_layout(False)
        axes.annotate(
            text,
            xy=(1.075, place),
            xycoords="axes fraction",
            va="center",
            ha="left",
            fontsize=9,
            color=colour,
            annotation_clip=False,
        )


def _spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending positions at least ``gap`` apart and near those wanted: clusters stay centred."""
    clusters: list[list[float]] = []  # each [sum of wanted centres, size]
    for value in wanted:
        clusters.append([value, 1])
        while len(clusters) > 1 and _overlap(clusters[-2], clusters[-1], gap):
            total, size = clusters.pop()
            clusters[-1][0] += total
            clusters[-1][1] += size
    positions: list[float] = []
    for total, size in clusters:
        centre = total / size
        positions.extend(centre + (i - (size - 1) / 2) * gap for i in range(int(size)))
    return positions


def _overlap(lower: list[float], upper: list[float], gap: float) -> bool:
    distance = upper[0] / upper[1] - lower[0] / lower[1]
    return distance < gap * (lower[1] + upper[1]) / 2
