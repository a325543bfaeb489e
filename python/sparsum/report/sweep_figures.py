"""The pictures of a sweep: methods over seeds, as the figures of the published study have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator

from sparsum.report import captions, families, figures, panels, style, sweep_captions
from sparsum.report.families import Family
from sparsum.report.figures import Picture, estimation_text, make_room, marker, stacked
from sparsum.report.intervals import Sample
from sparsum.report.labels import slug
from sparsum.report.methods import Method, Study
from sparsum.report.metrics import EVALUATIONS, GAME_NLL, NLL, RATE, Metric
from sparsum.report.panels import FULL_HEIGHT, Drawing
from sparsum.report.style import DOTTED, MUTED, EpochAxis, RunStyle
from sparsum.runs import Run

LABEL_GAP = 0.068
"""The least distance of two numbers in the margin, as a fraction of a panel's height."""

MOST_BANDS = 10
"""Up to so many methods in one panel have bands."""


@dataclass(frozen=True)
class Bands:
    """Median and quartiles of several seeds' curves, epoch by epoch."""

    epochs: np.ndarray
    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray


def draw_all(study: Study) -> list[Picture]:
    """Every picture for which the methods have data, in the order of the published study."""
    with matplotlib.rc_context({**style.RC, "pdf.fonttype": 42}):
        if families.crowded(study):
            pictures = _draw_families(study)
        else:
            pictures = [make(study) for make in _MAKERS]
    return [picture for picture in pictures if picture is not None]


def bands(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Bands | None:
    """Of (epochs, values) a seed; each epoch over the seeds that have it."""
    found: dict[int, list[float]] = {}
    for epochs, values in curves:
        for epoch, value in zip(epochs, values, strict=True):
            found.setdefault(epoch, []).append(value)
    if not found:
        return None
    order = sorted(found)
    low, middle, high = np.array([np.quantile(found[e], (0.25, 0.5, 0.75)) for e in order]).T
    return Bands(np.array(order), low, middle, high)


def learning_curves(study: Study) -> Picture | None:
    """Validation results by epoch: the median over seeds, and the middle half of them."""
    wanted = [
        (words, members, metric)
        for words, members in study.settings()
        for metric in study.curves
        if any(metric.curve(run, "validation")[0] for run in members.runs)
    ]
    if not wanted:
        return None
    figure, grid = stacked(*[FULL_HEIGHT] * len(wanted))
    for axes, (words, members, metric) in zip(grid, wanted, strict=True):
        axis = EpochAxis(members.runs)
        _curves_panel(axes, members, axis, metric, words)
        axes.set_xlabel(axis.label)
    key: list[Artist] = [Line2D([], [], color=MUTED, linewidth=2, label="median over seeds")]
    if _has_seeds(study):
        key.append(Patch(color=MUTED, alpha=0.22, linewidth=0, label="middle half of the seeds"))
    _legends(figure, study, key)
    names = " and ".join(dict.fromkeys(metric.name for _, _, metric in wanted))
    return _picture(
        study,
        figure,
        "learning_curves",
        "Learning curves",
        f"{names} on validation data after each epoch, median and quartiles over seeds",
        sweep_captions.learning_curves(
            [metric for _, _, metric in wanted],
            seeds=_has_seeds(study),
            unfinished=any(not run.finished for run in study.runs),
            warmup=any(run.warmup_end for run in study.runs),
        ),
    )


def results(study: Study) -> Picture | None:
    """Final test results: bars from zero, and enlarged with every seed and the published value."""
    main = study.main
    if main is None:
        return None
    methods = [m for _, members in study.settings() for m in members if m.sample(main)]
    second = next((m for m in study.metrics if m is not main and m.key == "elbo"), None)
    calls = any(method.sample(EVALUATIONS) for method in methods)
    widths = [1.3, 2.4, *[1.5] * (second is not None), *[1.5] * calls]
    row = 0.52
    figure = Figure(
        figsize=(style.WIDTH, 1.5 + row * len(methods)),
        layout=ConstrainedLayoutEngine(wspace=0.04),
    )
    ratios = {"width_ratios": widths}
    grid = figure.subplots(1, len(widths), sharey=True, squeeze=False, gridspec_kw=ratios)[0]
    _bars_panel(grid[0], methods, main)
    _points_panel(grid[1], methods, main, published=True)
    grid[1].set_title("Enlarged")
    if second is not None:
        _points_panel(grid[2], methods, second, published=False)
    if calls:
        _points_panel(grid[-1], methods, EVALUATIONS, published=False)
        grid[-1].set_title("Calls")
    grid[0].set_yticks(range(len(methods)), [method.name for method in methods])
    grid[0].set_ylim(len(methods) - 0.4, -0.7)
    ends = np.cumsum([sum(m in methods for m in members) for _, members in study.settings()])
    for axes in grid:
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        for end in set(ends[ends < len(methods)]) - {0}:  # settings are not to be compared
            axes.axhline(float(end) - 0.55, color=MUTED, linewidth=0.8)
    compared = any(method.published is not None for method in methods)
    key = [marker("D", "the result of the one seed")]
    if _has_seeds(study):
        key = [marker("D", "mean over seeds ± standard deviation"), marker(".", "each seed")]
    if compared:
        key.append(marker("D", "published", filled=False))
    figure.legend(handles=key, loc="outside lower left", ncols=len(key), handletextpad=0.3)
    style.thin_ticks(figure)
    estimated = estimation_text(study.runs) if main.key == NLL.key else ""
    return _picture(
        study,
        figure,
        "results",
        "Final results",
        f"{main.name} on test data: bars, and enlarged with every seed"
        + (" and published values" if compared else ""),
        sweep_captions.results(main, second, published=compared, estimated=estimated),
    )


def rate_distortion(study: Study) -> Picture | None:
    """What the code tells against what it leaves to be told, a mark a run."""
    if RATE not in study.experiment.results:
        return None
    drawings = []
    for words, members in study.settings():
        drawn = _by_run(members).only(
            lambda run: bool(np.isfinite(panels.rate_and_distortion(run)[0]))
        )
        if drawn.runs:
            drawings.append((words, drawn))
    if not drawings:
        return None
    figure, grid = stacked(*[3.7] * len(drawings))
    for axes, (words, drawn) in zip(grid, drawings, strict=True):
        panels.rate_distortion_panel(axes, drawn, words)
    finals = {panels.rate_and_distortion(run)[2] for _, drawn in drawings for run in drawn.runs}
    key: list[Artist] = []
    if True in finals:
        key.append(marker("D", "a seed's best model by validation, test"))
    if False in finals:
        key.append(marker("o", "unfinished run, last validation", filled=False))
    key.append(Line2D([], [], color="#C3C9D0", linewidth=0.9, linestyle="--", label="equal ELBO"))
    key.append(
        Line2D([], [], color=MUTED, linewidth=1.1, linestyle=DOTTED, label="most that D bits tell")
    )
    _legends(figure, study, key)
    return _picture(
        study,
        figure,
        "rate_distortion",
        "Rate and distortion",
        "the two parts of the ELBO against each other, a mark a run",
        captions.rate_distortion(unfinished=False in finals, each=_what_differs(drawings)),
    )


def calls(study: Study) -> Picture | None:
    """Decoder calls over training: median and quartiles over the examples."""
    key = EVALUATIONS.key.rpartition(".")[0]
    split = next(
        (
            split
            for split in ("train", "validation")
            if any(run.series(f"{split}.{key}.median")[0] for run in study.runs)
        ),
        None,
    )
    if split is None:
        return None
    wanted = [
        (words, members)
        for words, members in study.settings()
        if any(run.series(f"{split}.{key}.median")[0] for run in members.runs)
    ]
    figure, grid = stacked(*[FULL_HEIGHT] * len(wanted))
    for axes, (words, members) in zip(grid, wanted, strict=True):
        axis = EpochAxis(members.runs)
        _calls_panel(axes, members, axis, f"{split}.{key}", words)
        axes.set_xlabel(axis.label)
    legend: list[Artist] = [
        Line2D([], [], color=MUTED, linewidth=2, label="median of the examples"),
        Patch(color=MUTED, alpha=0.22, linewidth=0, label="middle half of the examples"),
        Line2D([], [], color=MUTED, linewidth=1.1, linestyle=DOTTED, label="mean"),
    ]
    _legends(figure, study, legend)
    return _picture(
        study,
        figure,
        "calls",
        "Calls over training",
        "calls per example in each epoch: median and quartiles over the examples",
        sweep_captions.calls(split, seeds=_has_seeds(study)),
    )


_MAKERS: tuple[Callable[[Study], Picture | None], ...] = (
    results,
    learning_curves,
    rate_distortion,
    calls,
)


def _picture(
    study: Study, figure: Figure, stem: str, title: str, shows: str, caption: captions.Caption
) -> Picture:
    name = slug(study.experiment.name)
    return Picture(
        f"{stem}-{name}.png",
        title,
        shows,
        caption,
        figures.to_bytes(figure, "png"),
        pdf=figures.to_bytes(figure, "pdf"),
    )


def _has_seeds(study: Study) -> bool:
    return any(len(method.runs) > 1 for method in study)


def _by_run(study: Study) -> Drawing:
    """Every run by itself, in its method's colour."""
    pairs = [(method, run) for method in study for run in method.runs]
    crowded = len(pairs) > panels.MOST_NUMBERED_RUNS
    styles = [RunStyle(m.name, True, m.colour, m.dash, crowded) for m, _ in pairs]
    runs: list[Run] = [run for _, run in pairs]
    return Drawing(study.experiment, runs, [method.name for method, _ in pairs], styles)


def _curves_panel(axes: Axes, study: Study, axis: EpochAxis, metric: Metric, words: str) -> None:
    series: list[list[float]] = []
    numbers: list[tuple[float, str, str]] = []
    banded = len(study.methods) <= MOST_BANDS
    for method in study:
        band = bands([metric.curve(run, "validation") for run in method.runs])
        if band is None:
            continue
        _draw_band(axes, method, band, shaded=banded and len(method.runs) > 1)
        series += [band.low.tolist(), band.middle.tolist(), band.high.tolist()]
        last = float(band.middle[-1])
        numbers.append((last, _number(metric, last), method.colour))
    limits = style.robust_limits(series, [], logarithmic=metric is GAME_NLL)
    limits.apply(axes, metric.unit, metric.most)
    axis.apply(axes)
    title = metric.name[:1].upper() + metric.name[1:]
    pad = 18 if axis.ends or limits.note else 8
    axes.set_title(f"{title}, {words}" if words else title, pad=pad)
    if limits.note:
        style.note_above(axes, limits.note, right=True)
    style.margin_labels(axes, numbers, LABEL_GAP)


def _calls_panel(axes: Axes, study: Study, axis: EpochAxis, key: str, words: str) -> None:
    seen: list[float] = []
    numbers: list[tuple[float, str, str]] = []
    for method in study:
        parts = [
            bands([run.series(f"{key}.{name}") for run in method.runs])
            for name in ("median", "q25", "q75", "mean")
        ]
        middle, low, high, mean = parts
        if middle is None:
            continue
        band = Bands(middle.epochs, middle.middle, middle.middle, middle.middle)
        if low is not None and high is not None:
            if list(low.epochs) == list(middle.epochs) == list(high.epochs):
                band = replace(band, low=low.middle, high=high.middle)
        _draw_band(axes, method, band, shaded=len(study.methods) <= MOST_BANDS)
        seen += [*band.low.tolist(), *band.middle.tolist(), *band.high.tolist()]
        if mean is not None:
            axes.plot(
                mean.epochs, mean.middle, color=method.colour, linestyle=DOTTED, linewidth=1.1
            )
            seen += mean.middle.tolist()
        last = float(middle.middle[-1])
        numbers.append((last, f"{last:.4g}", method.colour))
    panels.calls_scale(axes, min(seen), max(seen), vertical=True)
    axis.apply(axes)
    axes.set_ylabel("calls per example")
    if words or axis.ends:
        axes.set_title(words, pad=18 if axis.ends else 8)
    style.margin_labels(axes, _merged(numbers), LABEL_GAP)


def _merged(numbers: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """One label for all methods at the same level, in grey where they are several."""
    levels: dict[str, list[tuple[float, str, str]]] = {}
    for entry in numbers:
        levels.setdefault(entry[1], []).append(entry)
    return [
        found[0] if len(found) == 1 else (found[0][0], text, MUTED)
        for text, found in levels.items()
    ]


def _draw_band(axes: Axes, method: Method, band: Bands, *, shaded: bool) -> None:
    axes.plot(
        band.epochs,
        band.middle,
        color=method.colour,
        linestyle=method.dash,
        linewidth=1.9,
        marker="o" if len(band.epochs) < 3 else "",
        markersize=4,
        zorder=3,
    )
    if shaded:
        axes.fill_between(
            band.epochs,
            band.low,
            band.high,
            color=method.colour,
            alpha=0.18,
            linewidth=0,
            zorder=1.5,
        )


def _bars_panel(axes: Axes, methods: Sequence[Method], metric: Metric) -> None:
    means = [_mean(method, metric) for method in methods]
    axes.barh(range(len(methods)), means, height=0.55, color=[method.colour for method in methods])
    edge = max(map(abs, means)) * 1.04 or 1.0
    axes.set_xlim(-edge if min(means) < 0 else 0, edge if max(means) > 0 else 0)
    axes.locator_params(axis="x", nbins=3)
    axes.set_title(metric.name[:1].upper() + metric.name[1:])
    axes.set_xlabel(metric.unit)


def _points_panel(
    axes: Axes, methods: Sequence[Method], metric: Metric, *, published: bool
) -> None:
    """The mean and the deviation of each method, its seeds, and the published value below."""
    seen: list[float] = []
    for place, method in enumerate(methods):
        sample = method.sample(metric)
        reference = method.published if published else None
        shift = 0.0 if reference is None else 0.14
        if sample is not None:
            seen += _draw_sample(axes, place - shift, method, metric, sample)
        if reference is not None:
            spread = reference.deviation or 0.0
            axes.errorbar(
                reference.value,
                place + 0.22,
                xerr=spread or None,
                color=MUTED,
                marker="D",
                markersize=5.5,
                markerfacecolor="white",
                markeredgecolor=MUTED,
                markeredgewidth=1.3,
                elinewidth=1.1,
                capsize=2.5,
            )
            seen += [reference.value - spread, reference.value + spread]
    if metric is EVALUATIONS:
        panels.calls_scale(axes, min(seen), max(seen), vertical=False)
        low, high = axes.get_xlim()
        axes.set_xlim(low / 1.3 if axes.get_xscale() == "log" else low - 0.06 * (high - low), high)
    else:
        span = max(seen) - min(seen) or max(abs(seen[0]) * 0.02, 1e-3)
        room = 0.16 if published else 0.3  # a narrow panel's numbers are wider than its marks
        axes.set_xlim(min(seen) - room * span, max(seen) + room * span)
        axes.locator_params(axis="x", nbins=4)
    axes.set_title(metric.name[:1].upper() + metric.name[1:])
    axes.set_xlabel(metric.unit)


def _draw_sample(
    axes: Axes, place: float, method: Method, metric: Metric, sample: Sample
) -> list[float]:
    if sample.count > 1:  # a little below, where the line through the mean does not hide them
        axes.plot(
            sample.values,
            [place + 0.13] * sample.count,
            linestyle="",
            marker="o",
            markersize=3.4,
            color=method.colour,
            alpha=0.6,
            markeredgewidth=0,
            zorder=2.5,
        )
    spread = sample.deviation or 0.0
    axes.errorbar(
        sample.mean,
        place,
        xerr=spread or None,
        color=method.colour,
        marker="D",
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.8,
        elinewidth=1.5,
        capsize=3,
        zorder=3,
    )
    axes.annotate(
        _number(metric, sample.mean),
        xy=(sample.mean, place),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.5,
    )
    low = sample.mean - spread if metric is not EVALUATIONS else min(sample.values)
    return [low, sample.mean + spread, *sample.values]


def _mean(method: Method, metric: Metric) -> float:
    sample = method.sample(metric)
    return 0.0 if sample is None else sample.mean


def _number(metric: Metric, shown: float) -> str:
    """A number that is in the metric's shown unit already."""
    return metric.text(shown / metric.factor)


def _legends(figure: Figure, study: Study, key: Sequence[Artist]) -> None:
    """The methods above the panels, each look once; what lines mean below them."""
    looks: dict[tuple[object, ...], list[Method]] = {}
    for method in study:
        if method.runs:
            looks.setdefault((method.colour, str(method.dash)), []).append(method)
    shared = any(len(found) > 1 for found in looks.values())
    entries = [
        Line2D(
            [],
            [],
            color=found[0].colour,
            linestyle=found[0].dash,
            linewidth=2.4,
            label=_common(found) if shared else found[0].name,
        )
        for found in looks.values()
    ]
    longest = max(len(str(entry.get_label())) for entry in entries)
    columns = max(1, min(len(entries), 110 // (longest + 8)))
    make_room(figure, len(entries), columns)
    figure.legend(handles=entries, loc="outside upper left", ncols=columns)
    figure.legend(handles=list(key), loc="outside lower left", ncols=len(key))


def _common(methods: Sequence[Method]) -> str:
    """What one look stands for in several settings: what the names share."""
    shared = families.common_name(methods)
    return shared or " / ".join(method.name for method in methods)


def _what_differs(drawings: Sequence[tuple[str, Drawing]]) -> str:
    """What has a panel of its own; nothing if there is one panel."""
    if len(drawings) < 2:
        return ""
    firsts = [drawn.runs[0].fields for _, drawn in drawings]
    data = len({str(fields.get("dataset", "")) for fields in firsts}) > 1
    bits = len({str(fields.get("bits", "")) for fields in firsts}) > 1
    if data and bits:
        return "pair of a data set and a number of bits"
    return "number of bits" if bits else "data set"


def _draw_families(study: Study) -> list[Picture | None]:
    """Of very many methods: the best of each family, and all of them in small panels."""
    found = families.families(study)
    each = max(1, families.MOST_METHODS // max(1, len(found)))
    count = len(study.methods)
    return [
        _with_choice(results(families.best(study, each)), count, each),
        _family_curves(study, found),
        rate_distortion(replace(study, methods=tuple(m for f in found for m in f.methods))),
        _with_choice(calls(families.best(study)), count, 1),
    ]


def _with_choice(picture: Picture | None, count: int, each: int) -> Picture | None:
    if picture is None:
        return None
    return replace(picture, caption=(sweep_captions.choice(count, each), *picture.caption))


def _family_curves(study: Study, found: Sequence[Family]) -> Picture | None:
    """Validation results by epoch: a small panel for each family, its best method thick."""
    metric = next(
        (m for m in study.curves if any(m.curve(r, "validation")[0] for r in study.runs)), None
    )
    if metric is None:
        return None
    settings: dict[str, list[Family]] = {}
    for family in found:
        settings.setdefault(family.words, []).append(family)
    columns = min(4, max(map(len, settings.values())))
    heights = [-(-len(members) // columns) for members in settings.values()]
    figure = Figure(
        figsize=(style.WIDTH, 2.1 * sum(heights) + 0.7),
        layout=ConstrainedLayoutEngine(hspace=0.06, wspace=0.03),
    )
    grid = figure.subplots(sum(heights), columns, squeeze=False)
    axis = EpochAxis(study.runs)
    top = 0
    for height, members in zip(heights, settings.values(), strict=True):
        block = grid[top : top + height].ravel()
        _family_row(block, members, axis, metric, columns)
        top += height
    key = [
        Line2D([], [], color=MUTED, linewidth=2.2, label="best by validation, with its last value"),
        Line2D([], [], color=MUTED, linewidth=0.8, alpha=0.6, label="the others"),
    ]
    figure.legend(handles=key, loc="outside lower left", ncols=2)
    style.thin_ticks(figure)
    return _picture(
        study,
        figure,
        "learning_curves",
        "Learning curves",
        f"{metric.name} on validation data after each epoch, a panel for each family of methods",
        sweep_captions.family_curves(metric, len(study.methods), axis.label),
    )


def _family_row(
    block: Sequence[Axes], members: Sequence[Family], axis: EpochAxis, metric: Metric, columns: int
) -> None:
    """The panels of one setting, all of the same scale."""
    series: list[list[float]] = []
    for axes, family in zip(block, members):
        for place, method in enumerate(family.methods):
            band = bands([metric.curve(run, "validation") for run in method.runs])
            if band is None:
                continue
            series.append(band.middle.tolist())
            axes.plot(
                band.epochs,
                band.middle,
                color=method.colour,
                linewidth=2.2 if place == 0 else 0.8,
                alpha=1.0 if place == 0 else 0.6,
                marker="o" if len(band.epochs) < 3 else "",
                markersize=3,
                zorder=3 if place == 0 else 2,
            )
            if place == 0:
                own = families.bare_name(method).removeprefix(family.name).strip("-")
                own = own or family.name
                text = f"{own}: {_number(metric, float(band.middle[-1]))}"
                _above(axes, text if len(text) < 40 else f"{text[:16]}…{text[-22:]}")
        words = f"{family.name}, {family.words}" if family.words else family.name
        axes.set_title(words if len(words) < 30 else f"{words[:28]}…", pad=16, fontsize=9.5)
    limits = style.robust_limits(series, [], logarithmic=metric is GAME_NLL)
    for place, axes in enumerate(block):
        if place >= len(members):
            axes.set_visible(False)
            continue
        limits.apply(axes, metric.unit, metric.most)
        axis.apply(axes, noted=False)
        if axis.squeezed:
            axes.xaxis.set_major_locator(FixedLocator([0, axis.end, axis.last]))
        else:
            axes.locator_params(axis="x", nbins=4)
        if place % columns:
            axes.set_ylabel("")
            axes.tick_params(axis="y", labelleft=False)
        if place + columns >= len(members):
            axes.set_xlabel("epoch")
        else:
            axes.tick_params(axis="x", labelbottom=False)


def _above(axes: Axes, text: str) -> None:
    axes.annotate(
        text,
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
        annotation_clip=False,
    ).set_in_layout(False)
