"""What ``sparsum gradient-quality`` found: read, as a table, and as a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsum.report.tables import Table
from sparsum.runs import SCHEMA, is_number

if TYPE_CHECKING:  # loads matplotlib, which may be missing
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from sparsum.report.figures import Picture

FILE = "gradient_quality.json"

PARTS = {"scores": "gradient in the scores", "loss": "gradient in the loss's parameters"}

FAMILIES = {
    "exact": "exact",
    "sparse": "exact, for a sparse distribution",
    "score-function": "score function",
    "set": "sampling without replacement",
    "control-variate": "control variates, coupled draws",
    "bound": "multi-sample bound",
    "relaxed": "relaxed, biased",
}
"""Families of estimators in the order of the legend; each has a colour and a marker of its own."""

_MARKERS = ("D", "s", "o", "^", "v", "P", "X")

_NUMBERS = ("bias", "bias_error", "variance", "cosine", "rmse")

_COLUMNS = {
    "bias": "bias",
    "bias_error": "bias standard error",
    "sd": "standard deviation",
    "cosine": "cosine",
    "rmse": "RMSE",
}
"""Keys of a row's parts and their headings in a file."""


@dataclass(frozen=True)
class Row:
    """One estimator's gradients; lengths are in units of the reference's."""

    name: str
    family: str
    objective: str
    """``"the same"`` as the reference's, or which other one the estimator has."""
    evaluations: float
    milliseconds: float
    parts: Mapping[str, Mapping[str, float]]
    """For each of PARTS: bias, bias_error, sd, cosine, rmse; NaN where unknown."""

    @property
    def own_objective(self) -> bool:
        return self.objective != "the same"


@dataclass(frozen=True)
class Quality:
    """One comparison of gradients."""

    path: Path
    title: str
    exact: bool
    """Whether the reference is the exact gradient."""
    examples: int
    rows: tuple[Row, ...]


class QualityError(Exception):
    """A file is no comparison of gradients; the text is one line."""


def read_quality(folder: Path) -> Quality | None:
    """The comparison in a folder, or None if it holds none. Raises QualityError."""
    path = folder / FILE
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise QualityError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise QualityError(f"{path}: not JSON ({' '.join(str(error).split())})") from None
    try:
        if tree["schema"] != SCHEMA:
            raise QualityError(f"{path}: expected schema {SCHEMA}, got {tree['schema']!r}")
        reference = tree["reference"]
        units = {part: _number(reference[part]["norm"]) for part in PARTS}
        rows = tuple(_row(entry, units) for entry in tree["estimators"])
        where = f"model of {tree['run']}" if tree.get("run") else "fresh model"
        return Quality(
            path=path,
            title=f"{tree['model']['experiment']}, {tree['structure']}, {where}",
            exact=reference["kind"] == "exact",
            examples=int(tree["examples"]),
            rows=rows,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"not as sparsum gradient-quality writes it ({error!r})"
        raise QualityError(f"{path}: {what}") from None


def table(quality: Quality) -> Table:
    """Every number, an estimator a row."""
    header = ["estimator", "objective", "calls per example", "time (ms)"]
    for words in ("scores", "loss"):
        header += [f"{words}: bias", "sd", "cosine", "RMSE"]
    rows = []
    for row in quality.rows:
        cells = [row.name, row.objective, _text(row.evaluations), _text(row.milliseconds)]
        for part in PARTS:
            n = row.parts[part]
            cells.append(f"{_text(n['bias'])} ± {_text(n['bias_error'])}")
            cells += [_text(n["sd"]), _text(n["cosine"]), _text(n["rmse"])]
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows))


def csv_rows(quality: Quality) -> list[list[object]]:
    """The same at full precision, a column a number; None where a number is unknown."""

    def known(value: float) -> float | None:
        return value if math.isfinite(value) else None

    header: list[object] = ["estimator", "family", "objective", "calls per example", "time (ms)"]
    for part in PARTS:
        header += [f"{part}: {name}" for name in _COLUMNS.values()]
    lines = [header]
    for row in quality.rows:
        line: list[object] = [row.name, row.family, row.objective]
        line += [known(row.evaluations), known(row.milliseconds)]
        for part in PARTS:
            line += [known(row.parts[part][name]) for name in _COLUMNS]
        lines.append(line)
    return lines


def draw(quality: Quality, file: str) -> Picture:
    """The error of each estimator against what it costs, in evaluations and in time."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    from sparsum.report import figures, style

    with matplotlib.rc_context({**style.RC, "svg.hashsalt": "sparsum"}):
        height = max(3.2, 1.2 + 0.19 * len(quality.rows))
        figure = Figure(
            figsize=(style.WIDTH, 2 * height + 1.1),
            layout=ConstrainedLayoutEngine(hspace=0.04, h_pad=0.07),
        )
        grid = figure.subplots(2, 2, sharey="row", sharex="col", squeeze=False)
        for (part, words), (left, right) in zip(PARTS.items(), grid, strict=True):
            labels = _error_panels(left, right, quality, part)
            left.set_title(words[0].upper() + words[1:])
            left.set_ylabel("root mean squared error\n(1 = length of the reference)")
            style.edge_labels(right, labels, gap=0.165 / height)
        grid[1][0].set_xlabel("loss evaluations per example")
        grid[1][1].set_xlabel("time per estimate (ms)")
        present = [family for family in FAMILIES if any(r.family == family for r in quality.rows)]
        handles = [
            Line2D([], [], linestyle="", markersize=7, label=FAMILIES[family], **_look(family))
            for family in present
        ]
        if any(row.own_objective for row in quality.rows):
            hollow = {**_look("exact"), "color": style.MUTED, "markerfacecolor": "white"}
            handles.append(
                Line2D([], [], linestyle="", markersize=7, label="hollow: own objective", **hollow)
            )
        figure.legend(handles=handles, loc="outside upper left", ncols=3, handletextpad=0.3)
        return figures.Picture(
            file,
            f"Gradients: {quality.title}",
            "the error of each estimator's gradient against its loss evaluations and its time",
            _caption(quality),
            figures.to_bytes(figure, "png"),
            figures.to_bytes(figure, "svg"),
            figures.to_bytes(figure, "pdf"),
        )


def _error_panels(
    left: Axes, right: Axes, quality: Quality, part: str
) -> list[tuple[float, str, str]]:
    """Draws one part's errors into both panels; returns level, name and colour of each."""
    from sparsum.report import style

    errors = [row.parts[part]["rmse"] for row in quality.rows]
    # Rounding is no error that could be seen beside the others.
    zero = 1e-9
    positive = [e for e in errors if math.isfinite(e) and e > zero] or [1.0]
    low, high = min(positive), max(positive)
    any_zero = any(e <= zero for e in errors)
    floor = low / 2.5
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(visible=True, which="major")
        axes.grid(visible=False, which="minor")
    labels = []
    for row, error in zip(quality.rows, errors, strict=True):
        if not math.isfinite(error):
            continue
        level = error if error > zero else floor
        look = _look(row.family)
        face = "white" if row.own_objective else look["color"]
        for axes, cost in ((left, row.evaluations), (right, row.milliseconds)):
            if not (math.isfinite(cost) and cost > 0):
                continue
            edge = {"color": look["color"], "linewidth": 0.7, "alpha": 0.3, "zorder": 1.5}
            axes.plot([cost, 1e12], [level, level], scalex=False, **edge)
            axes.plot(
                cost,
                level,
                linestyle="",
                markersize=7.5,
                **{**look, "markerfacecolor": face},
                markeredgewidth=1.4,
                markeredgecolor=look["color"],
                zorder=3,
                clip_on=False,
            )
        labels.append((level, row.name, look["color"]))
    left.set_ylim(floor / 1.6 if any_zero else low / 1.5, high * 1.5)
    if any_zero:
        for axes in (left, right):
            shade = {"color": style.SHADE, "alpha": style.SHADE_ALPHA, "linewidth": 0}
            axes.axhspan(floor / 1.6, floor * 1.5, **shade)
        left.annotate(
            "no error",
            xy=(0, floor),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=style.MUTED,
            va="center",
        )
    for axes, costs in (
        (left, [row.evaluations for row in quality.rows]),
        (right, [row.milliseconds for row in quality.rows]),
    ):
        known = [cost for cost in costs if math.isfinite(cost) and cost > 0] or [1.0]
        axes.set_xlim(min(known) / 1.35, max(known) * 1.35)
        _plain_numbers(axes.xaxis, max(known) / min(known))
        # The shaded band is below the scale.
        _plain_numbers(axes.yaxis, high / low, above=floor * 1.5 if any_zero else 0)
    return labels


def _plain_numbers(axis: Axis, ratio: float, above: float = 0) -> None:
    """Numbers at powers of ten of a logarithmic axis; in between, too, where it spans few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if math.log10(ratio) < 2.2 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}" if x > above else ""))
    axis.set_minor_formatter(NullFormatter())


def _look(family: str) -> dict[str, Any]:
    from sparsum.report import style

    known = list(FAMILIES)
    place = known.index(family) if family in known else len(known) - 1
    # Black for what is exact: the mark that the others are measured by.
    colours = (style.PALETTE[6], *style.PALETTE[:6])
    return {"color": colours[place], "marker": _MARKERS[place]}


def _caption(quality: Quality) -> tuple[tuple[str, str], ...]:
    reference = (
        "The reference is dense marginalization, the exact gradient of the same objective."
        if quality.exact
        else "There are too many outcomes to sum over: the reference is the mean of many"
        " leave-one-out estimates, and errors below its own are not to be told apart."
    )
    hollow = (
        " Hollow marks have an objective of their own, another distribution or another bound: their"
        " distance from the reference is no error of their gradient."
        if any(row.own_objective for row in quality.rows)
        else ""
    )
    return (
        (
            "What it shows",
            f"One mark per estimator: how far its gradients of one batch of {quality.examples}"
            " examples are from the reference, bias and variance together, against what one"
            f" estimate costs. {reference}{hollow} What the loss itself would draw is drawn once"
            " and kept, so that errors are those of the discrete variable alone.",
        ),
        (
            "Units",
            "Error: the root of the mean squared distance, divided by the reference's length."
            " Evaluations: of the loss, per example. Time: of an estimate"
            " and its backward pass, the median, in milliseconds.",
        ),
        (
            "What to look for",
            "Marks low and to the left: small error for little cost. An error of 1 is as long as"
            " the gradient itself. The table says how much of it is bias, which more samples do not"
            " take away, and how much is noise.",
        ),
    )


def _row(entry: Mapping[str, Any], units: Mapping[str, float]) -> Row:
    parts = {}
    for part, unit in units.items():
        values = {name: _number(entry[part][name]) for name in _NUMBERS}
        scale = 1 / unit if unit > 0 else math.nan
        parts[part] = {
            "bias": values["bias"] * scale,
            "bias_error": values["bias_error"] * scale,
            "sd": math.sqrt(max(0.0, values["variance"])) * scale
            if math.isfinite(values["variance"])
            else math.nan,
            "cosine": values["cosine"],
            "rmse": values["rmse"] * scale,
        }
    return Row(
        name=str(entry["estimator"]),
        family=str(entry["family"]),
        objective=str(entry["objective"]),
        evaluations=_number(entry["evaluations"]),
        milliseconds=_number(entry["milliseconds"]),
        parts=parts,
    )


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if not is_number(value):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _text(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if math.isfinite(value) else "–"
