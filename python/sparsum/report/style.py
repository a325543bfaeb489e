"""The looks that all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

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

    def apply(self, axes: Axes) -> None:
        """Scale, limits, ticks, shading and label."""
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
        if self.ends:
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


def robust_limits(
    series: Sequence[Sequence[float]], marks: Sequence[float]
) -> tuple[float, float, bool]:
    """Limits that hold the marks and the curves but not the steep first epochs, and if any was cut.

    The first tenth of a curve is where a model learns that images are dark; with it on the axis the
    rest is a flat line. It is left out where that more than doubles the scale of the rest.
    """
    every = [value for values in series for value in values] + list(marks)
    tails = [value for values in series for value in values[len(values) // 10 :]]
    low, high = min(every), max(every)
    inner = sorted(tails) or every
    inner_low = min([inner[len(inner) // 50], *marks])
    inner_high = max([inner[-1 - len(inner) // 50], *marks])
    span = inner_high - inner_low
    cut = False
    if span > 0 and low < inner_low - span:
        low, cut = inner_low - 0.15 * span, True
    if span > 0 and high > inner_high + span:
        high, cut = inner_high + 0.15 * span, True
    pad = 0.06 * (high - low) or max(abs(high) * 0.02, 1e-3)
    return low - pad, high + pad, cut


def margin_labels(axes: Axes, entries: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Writes (y, text, colour) to the right of the axes, moved apart so that none overlap.

    ``gap``: the least distance between two, as a fraction of the axes' height.
    """
    low, high = axes.get_ylim()
    scale = axes.transScale
    place = [scale.transform((1.0, y))[1] for y in (low, high)]
    fractions = [
        (scale.transform((1.0, y))[1] - place[0]) / (place[1] - place[0]) for y, _, _ in entries
    ]
    order = sorted(range(len(entries)), key=fractions.__getitem__)
    spread = _spread([fractions[i] for i in order], gap)
    for position, index in zip(spread, order):
        _, text, colour = entries[index]
        axes.annotate(
            text,
            xy=(1, fractions[index]),
            xytext=(1.022, position),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            ha="left",
            fontsize=9,
            color=colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6}
            if abs(position - fractions[index]) > 0.01
            else None,
        )


def edge_labels(axes: Axes, entries: Sequence[tuple[float, str, str]], gap: float) -> None:
    """Writes (y, text, colour) for levels at the axes' right edge, each led to its text by a line.

    Like margin_labels for many: texts stay beside the axes, and no line runs through one.
    """
    if not entries:
        return
    low, high = axes.transScale.transform([(1.0, y) for y in axes.get_ylim()])[:, 1]
    levels = axes.transScale.transform([(1.0, y) for y, _, _ in entries])[:, 1]
    fractions = [(level - low) / (high - low) for level in levels]
    order = sorted(range(len(entries)), key=fractions.__getitem__)
    places = _spread([fractions[i] for i in order], gap)
    last = len(places) - 1
    places = [min(place, 1 - gap * (last - i)) for i, place in enumerate(places)]
    places = [max(place, gap * i) for i, place in enumerate(places)]
    for place, index in zip(places, order):
        _, text, colour = entries[index]
        line = axes.plot(
            [1, 1.015, 1.055, 1.065],
            [fractions[index]] * 2 + [place] * 2,
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
