"""The methods of a sweep: runs that differ in their seed alone, and their numbers together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sparsum.report.experiments import Experiment, experiment_named, experiment_of
from sparsum.report.intervals import Difference, Sample, difference
from sparsum.report.labels import IGNORED, own_options
from sparsum.report.metrics import EVALUATIONS, NLL, Metric
from sparsum.report.published import RUNS, STUDIES, Published, departures, published
from sparsum.report.style import DASHES, PALETTE, Dash
from sparsum.runs import Run
from sparsum.sweeps import Entry, Sweep

SWEEP_NLL = replace(
    NLL,
    decimals=3,
    meaning="negative log-likelihood in bits per pixel; lower is better",
    error="",
)
"""Without the Monte Carlo error: ± is another thing here."""

_METRICS = {NLL: SWEEP_NLL}


@dataclass(frozen=True)
class Method:
    """The runs of a sweep that share a label."""

    label: str
    name: str
    """The label without what all labels of its experiment begin with."""
    entries: tuple[Entry, ...]
    colour: str = PALETTE[0]
    dash: Dash = "-"

    @property
    def runs(self) -> list[Run]:
        """Those with something to show, finished or not."""
        return [entry.run for entry in self.entries if entry.run is not None]

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def begun(self) -> bool:
        return any(entry.begun for entry in self.entries)

    @property
    def options(self) -> list[dict[str, str | float | int | bool]]:
        """Those of each run, begun or not, of which they are known."""
        return [fields for entry in self.entries if (fields := entry.fields)]

    @property
    def fields(self) -> dict[str, str | float | int | bool]:
        """The options of the first run of which they are known, begun ones before others."""
        begun = [entry.fields for entry in self.entries if entry.run is not None]
        return next((fields for fields in (*begun, *self.options) if fields), {})

    @property
    def kind(self) -> tuple[str, ...]:
        """The estimator and what else makes it another; the label where no options are known."""
        fields = self.fields
        if not fields:
            return (self.label,)
        budget = fields.get("budget", -1)
        limited = isinstance(budget, (int, float)) and budget >= 0
        kinds = [str(fields.get(key, "")) for key in ("estimator", "structure", "loss")]
        return (*kinds, str(limited))

    @property
    def published(self) -> Published | None:
        """What is published of it, if all its runs are of the same method."""
        found = {published(fields) for fields in self.options}
        return found.pop() if len(found) == 1 else None

    @property
    def departures(self) -> list[str]:
        """In what its runs are made otherwise than published."""
        return list(dict.fromkeys(d for fields in self.options for d in departures(fields)))

    def used(self, metric: Metric | None) -> list[Entry]:
        """The finished runs that have a test result; without a metric, none has."""
        if metric is None:
            return []
        key = f"test.{metric.key}"
        return [
            entry
            for entry in self.entries
            if entry.run is not None and entry.run.finished and entry.run.result(key) is not None
        ]

    def sample(self, metric: Metric) -> Sample | None:
        """The test results of the finished runs, as shown; None if there are none."""
        values = [run.result(f"test.{metric.key}") for run in self.finished]
        kept = tuple(value * metric.factor for value in values if value is not None)
        return Sample(kept) if kept else None

    def seconds(self) -> Sample | None:
        """From start to end, of the finished runs."""
        kept = tuple(s for run in self.finished if (s := run.result("seconds")) is not None)
        return Sample(kept) if kept else None

    def difference(self, metric: Metric) -> Difference | None:
        """Of the test results from the published value, or None without either."""
        sample, reference = self.sample(metric), self.published
        if sample is None or reference is None:
            return None
        return difference(sample, reference.value, reference.deviation, RUNS)


@dataclass(frozen=True)
class Study:
    """The methods of one experiment."""

    experiment: Experiment
    methods: tuple[Method, ...]

    def __iter__(self) -> Iterator[Method]:
        return iter(self.methods)

    @property
    def runs(self) -> list[Run]:
        return [run for method in self for run in method.runs]

    @property
    def main(self) -> Metric | None:
        """The number that the methods are compared by; None if no run has finished."""
        metrics = self.metrics
        known = STUDIES.get(self.experiment.name)
        for metric in metrics:
            if known is not None and metric.key == known.metric:
                return metric
        return metrics[0] if metrics else None

    @property
    def metrics(self) -> list[Metric]:
        """Those of the tables, without the calls: of which some run has a test result."""
        known = [_METRICS.get(m, m) for m in self.experiment.results]
        metrics = known or self.experiment.result_metrics(self.runs)
        if not any(m.sample(k) for m in self for k in metrics):
            metrics = [m for m in self.experiment.result_metrics(self.runs) if m is not EVALUATIONS]
        return [metric for metric in metrics if any(method.sample(metric) for method in self)]

    @property
    def curves(self) -> tuple[Metric, ...]:
        """What is drawn by epoch: two numbers, or of several settings one."""
        return self.experiment.curves[: 1 if len(self.settings()) > 1 else 2]

    def settings(self) -> list[tuple[str, Study]]:
        """The methods by what they are not to be compared across: the data and the code's length.

        Each with words that tell it from the others. Methods that have nothing to show are left
        out; one whose options are not known stands with the others where they have one setting.
        """
        groups: dict[tuple[str, str], list[Method]] = {}
        shown = [method for method in self if method.runs]
        known = {_setting(method.fields) for method in shown} - {("", "")}
        for method in shown:
            key = _setting(method.fields)
            if key == ("", "") and len(known) == 1:
                (key,) = known
            groups.setdefault(key, []).append(method)
        data = len({key[0] for key in groups}) > 1
        found = []
        for (dataset, bits), members in groups.items():
            words = [dataset] if data and dataset else []
            words += [f"{bits} bits"] if bits else []
            found.append((" · ".join(words), replace(self, methods=tuple(members))))
        return found


def _setting(fields: Mapping[str, object]) -> tuple[str, str]:
    return str(fields.get("dataset", "")), str(fields.get("bits", ""))


def left_out(study: Study) -> list[str]:
    """A line for each number that a finished run lacks, and that the means are without."""
    known = STUDIES.get(study.experiment.name)
    main = study.main
    key = main.key if main is not None else known.metric if known is not None else None
    lines = []
    for method in study:
        finished = [entry for entry in method.entries if entry.state == "finished"]
        present = [m.key for m in (*study.metrics, EVALUATIONS) if method.used(m)]
        keys = list(dict.fromkeys([*([key] if key is not None else []), *present]))
        for entry in finished:
            if entry.run is None:
                continue
            lacking = [k for k in keys if entry.run.result(f"test.{k}") is None]
            if entry.fields.get("importance-samples") == 0:
                lacking = [k for k in lacking if k != NLL.key]  # it was not asked for
            if lacking:
                names = ", ".join(f"test.{k}" for k in lacking)
                what = "a number" if len(lacking) == 1 else "numbers"
                lines.append(
                    f"runs/{entry.name}: summary.json: {names}: expected {what}, got none: the"
                    " means are without"
                )
    return lines


def studies(sweep: Sweep) -> list[Study]:
    """The methods of each experiment, in the order of the sweep."""
    groups: dict[str, tuple[Experiment, dict[str, list[Entry]]]] = {}
    for entry in sweep.entries:
        named = experiment_named(entry.experiment)
        experiment = named if entry.run is None else experiment_of(entry.run)
        _, methods = groups.setdefault(experiment.name, (experiment, {}))
        methods.setdefault(entry.label, []).append(entry)
    return [_study(experiment, methods) for experiment, methods in groups.values()]


def unlike(method: Method) -> list[str]:
    """Options besides the seed in which the runs of a method differ; there should be none."""
    return differing([own_options(run) for run in method.runs])


def differing(options: Sequence[dict[str, object]]) -> list[str]:
    """Options that are not the same in all, without the seed and what says where a run was made."""
    keys = dict.fromkeys(key for each in options for key in each)
    return [
        key
        for key in keys
        if key not in (*IGNORED, "seed", "checkpoint-every")
        and len({repr(each.get(key)) for each in options}) > 1
    ]


def _study(experiment: Experiment, groups: dict[str, list[Entry]]) -> Study:
    methods = [
        Method(label, name, tuple(entries))
        for (label, entries), name in zip(groups.items(), _short(experiment, groups), strict=True)
    ]
    study = Study(experiment, tuple(methods))
    families = [method.kind for method in methods]
    for _, members in study.settings():
        kinds = [method.kind for method in members]
        if len(set(kinds)) < len(kinds):  # a family has two methods that are to be told apart
            families = [(method.label,) for method in methods]
            break
    distinct = list(dict.fromkeys(families))
    styled = []
    for method, family in zip(methods, families, strict=True):
        place = distinct.index(family)
        dash = DASHES[place // len(PALETTE) % len(DASHES)]
        styled.append(replace(method, colour=PALETTE[place % len(PALETTE)], dash=dash))
    return replace(study, methods=tuple(styled))


def _short(experiment: Experiment, groups: dict[str, list[Entry]]) -> list[str]:
    """Labels without the experiment's name and the data set's, where all begin with them."""
    labels = list(groups)
    options = [fields for entries in groups.values() for e in entries if (fields := e.fields)]
    datasets = {str(fields.get("dataset", "")) for fields in options}
    beginnings = [experiment.name, *(datasets if len(datasets) == 1 else [])]
    for beginning in beginnings:
        start = f"{beginning}-"
        if beginning and all(label.startswith(start) and label != start for label in labels):
            labels = [label.removeprefix(start) for label in labels]
    return labels
