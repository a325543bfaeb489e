"""The numbers of a sweep: a row a method, means over seeds beside the published values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sparsum.report.intervals import Difference, Sample
from sparsum.report.labels import Labels
from sparsum.report.methods import Method, Study
from sparsum.report.metrics import EVALUATIONS, Metric, duration_text
from sparsum.report.published import Published
from sparsum.report.tables import Table, csv_lines, run_table

DEPARTED = "†"
"""Beside published values of runs that were made otherwise."""

NONE = "–"

LEFT_OUT = ("entropy", "symbols", "mutual_information", "topographic_similarity", "exact", "nll")
"""Keys that the table of methods has no room for; they are in the files."""


def method_table(study: Study) -> Table:
    """Every method: test results, difference from the published value, calls and time."""
    main = study.main
    metrics = [metric for metric in study.metrics if metric is main or metric.key not in LEFT_OUT]
    compared = any(method.published is not None for method in study)
    header = ["method", "seeds"]
    for metric in metrics:
        header.append(f"test {metric.heading}")
        if metric is main and compared:
            header += ["published", "difference\n[95 % interval]"]
    header += ["calls per\nexample", "published\ncalls", "time\na run"]
    rows = []
    for method in study:
        reference = method.published
        cells = [method.name, _seeds(method, main)]
        for metric in metrics:
            cells.append(_cell(metric, method, main))
            if metric is main and compared:
                cells.append(_published_text(metric, reference, bool(method.departures)))
                cells.append(difference_text(metric, method.difference(metric)))
        cells.append(_cell(EVALUATIONS, method, main))
        cells.append(_calls_text(reference))
        seconds = method.seconds()
        cells.append(NONE if seconds is None else duration_text(seconds.mean))
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows)).without_empty_columns()


def method_csv(study: Study) -> str:
    """The same and more, a column a number, at full precision and in the units of the tables."""
    metrics = [*study.metrics, EVALUATIONS]
    main = study.main
    header: list[object] = ["experiment", "method", "label", "seeds", "planned"]
    for metric in metrics:
        header += [f"{metric.heading} mean", f"{metric.heading} standard deviation"]
    header += ["published mean", "published standard deviation"]
    header += ["published calls", "published calls standard deviation"]
    header += ["difference", "interval low", "interval high", "interval of"]
    header += ["seconds mean", "not as published", "runs"]
    lines = [header]
    for method in study:
        reference = method.published
        apart = method.difference(main) if main is not None else None
        used = method.used(main)
        line: list[object] = [study.experiment.name, method.name, method.label]
        line += [len(used), len(method.entries)]
        for metric in metrics:
            sample = method.sample(metric)
            line += [sample and sample.mean, sample and sample.deviation]
        line += (
            [reference.value, reference.deviation, reference.calls, reference.calls_deviation]
            if reference is not None
            else [None] * 4
        )
        line += [apart.value, apart.low, apart.high, apart.test] if apart else [None] * 4
        seconds = method.seconds()
        line += [seconds and seconds.mean]
        line += ["; ".join(method.departures) if reference is not None else None]
        line += ["; ".join(entry.name for entry in used)]
        lines.append(line)
    return csv_lines(lines)


def run_rows(study: Study) -> Table | None:
    """What the methods' numbers are made of: a row a run."""
    entries = [entry for method in study for entry in method.entries if entry.run is not None]
    if not entries:
        return None
    names = tuple(entry.name for entry in entries)
    runs = [entry.run for entry in entries if entry.run is not None]
    return run_table(study.experiment, runs, Labels(names, names))


def sample_text(metric: Metric, sample: Sample | None) -> str:
    """Mean ± standard deviation, the mean alone of a single seed."""
    if sample is None:
        return NONE
    shown = replace(metric, factor=1.0)
    deviation = sample.deviation
    mean = shown.text(sample.mean)
    return mean if deviation is None else f"{mean} ± {shown.text(deviation)}"


def difference_text(metric: Metric, apart: Difference | None) -> str:
    """Such as ``+0.12 [−0.10, +0.34]``, the interval on a line of its own."""
    if apart is None:
        return NONE
    if apart.low is None or apart.high is None:
        return f"{_signed(metric, apart.value)}\n(one seed: no interval)"
    ends = ", ".join(_signed(metric, end) for end in (apart.low, apart.high))
    return f"{_signed(metric, apart.value)}\n[{ends}]"


def _signed(metric: Metric, value: float) -> str:
    text = replace(metric, factor=1.0).text(value)
    return text if text.startswith("−") else f"+{text}"


def _cell(metric: Metric, method: Method, main: Metric | None) -> str:
    """The text of a sample, with its size where it is not the number of seeds beside it."""
    sample = method.sample(metric)
    text = sample_text(metric, sample)
    if sample is None or sample.count == len(method.used(main)):
        return text
    return f"{text} (n = {sample.count})"


def _seeds(method: Method, main: Metric | None) -> str:
    """How many runs the main number is over."""
    done, planned = len(method.used(main)), len(method.entries)
    return str(done) if done == planned else f"{done} of {planned}"


def _published_text(metric: Metric, reference: Published | None, departed: bool) -> str:
    if reference is None:
        return NONE
    shown = replace(metric, factor=1.0, decimals=2)
    text = shown.text(reference.value)
    if reference.deviation is not None:
        text += f" ± {shown.text(reference.deviation)}"
    return f"{text} {DEPARTED}" if departed else text


def _calls_text(reference: Published | None) -> str:
    if reference is None or reference.calls is None:
        return NONE
    spread = reference.calls_deviation
    return f"{reference.calls:g}" if spread is None else f"{reference.calls:g} ± {spread:g}"


def departure_lines(methods: Sequence[Method]) -> list[str]:
    """A line for each way in which methods with a published value were made otherwise."""
    groups: dict[str, list[str]] = {}
    for method in methods:
        if method.published is not None and method.departures:
            groups.setdefault("; ".join(method.departures), []).append(method.name)
    return [f"{', '.join(names)}: {words}" for words, names in groups.items()]
