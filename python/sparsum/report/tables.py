"""The numbers of a report: one row per run, and means over seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from sparsum.report.experiments import Experiment
from sparsum.report.labels import Labels
from sparsum.report.metrics import EVALUATIONS, NLL, STATISTICS, duration_text
from sparsum.report.published import published_nll
from sparsum.runs import Run


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def without_empty_columns(self) -> Table:
        """Leaves out columns that have an en dash in every row."""
        keep = [i for i in range(len(self.header)) if any(row[i] != "–" for row in self.rows)]
        return Table(
            tuple(self.header[i] for i in keep),
            tuple(tuple(row[i] for i in keep) for row in self.rows),
        )

    def markdown(self) -> str:
        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(_one_line(c).replace("|", "\\|") for c in cells) + " |"

        rule = "|---|" + "---:|" * (len(self.header) - 1)
        return "\n".join([line(self.header), rule, *(line(row) for row in self.rows)]) + "\n"

    def latex(self) -> str:
        """A ``tabular`` in the style of the package booktabs."""

        def line(cells: Sequence[str]) -> str:
            return " & ".join(_latex(_one_line(cell)) for cell in cells) + r" \\"

        return "\n".join(
            [
                rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}",
                r"\toprule",
                line(self.header),
                r"\midrule",
                *(line(row) for row in self.rows),
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _one_line(cell: str) -> str:
    return " ".join(cell.split("\n"))


def csv_lines(rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV; numbers at full precision, None as an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return buffer.getvalue()


def status(run: Run) -> str:
    """Whether the run has finished, and else how far it came."""
    if run.finished:
        return "finished"
    planned = run.planned_epochs
    return f"epoch {run.last_epoch} of {planned}" if planned else f"epoch {run.last_epoch}"


def run_table(experiment: Experiment, runs: Sequence[Run], labels: Labels) -> Table:
    """Final test results, cost and time of each run of an experiment."""
    metrics = [m for m in experiment.result_metrics(runs) if m is not EVALUATIONS]
    progress = experiment.progress
    header = ["run", "status"]
    unfinished = any(not run.finished for run in runs)
    for metric in metrics:
        header += [f"test {metric.heading}", "… at warm start"]
        if metric is NLL:
            header.append("published NLL")
    header += [
        "calls per example, mean",
        "median (quartiles)",
        "best epoch",
        f"last validation {progress.heading}",
        "time",
        "time per epoch",
    ]
    rows = []
    for run, label in zip(runs, labels.full):
        cells = [label, status(run) if unfinished else "–"]
        for metric in metrics:
            cells.append(metric.result_text(run, "test"))
            cells.append(metric.result_text(run, "warmup.test"))
            if metric is NLL:
                reference = published_nll(run)
                cells.append("–" if reference is None else f"{reference:.2f}")
        last = run.series(f"validation.{progress.key}")[1]
        cells += [
            EVALUATIONS.text(run.result("test.evaluations.mean")),
            _quartiles(run),
            _whole(run.result("best.epoch")),
            progress.text(last[-1]) if last and not metrics else "–",
            duration_text(run.result("seconds")),
            duration_text(run.seconds_per_epoch()),
        ]
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows)).without_empty_columns()


def seed_table(experiment: Experiment, runs: Sequence[Run], labels: Labels) -> Table | None:
    """Means and standard deviations over the finished runs that only a seed tells apart."""
    metrics = experiment.result_metrics(runs)
    header = ["runs", "seeds", *(f"test {metric.heading}" for metric in metrics)]
    rows = []
    for group in dict.fromkeys(labels.groups):
        members = [r for r, name in zip(runs, labels.groups) if name == group and r.finished]
        if len({run.fields.get("seed") for run in members}) < 2:
            continue
        cells = [group, str(len(members))]
        for metric in metrics:
            values = [
                value for run in members if (value := run.result(f"test.{metric.key}")) is not None
            ]
            cells.append(
                f"{metric.text(mean(values))} ± {metric.text(stdev(values))}"
                if len(values) > 1
                else "–"
            )
        rows.append(tuple(cells))
    return Table(tuple(header), tuple(rows)) if rows else None


def csv_text(
    runs: Sequence[Run], labels: Labels, folders: Sequence[str | Path] | None = None
) -> str:
    """Every number of the summaries at full precision and in the units of the logs.

    ``folders``: what to call those of the runs; None: by their paths.
    """
    options = list(dict.fromkeys(key for run in runs for key in run.fields))
    numbers = dict.fromkeys(
        key for run in runs if run.summary is not None for key in run.summary.values
    )
    results = [key for key in numbers if key.replace("_", "-") not in options and key != "schema"]
    lines: list[list[object]] = [["run", "folder", "status", "last epoch", *options, *results]]
    places = [run.path for run in runs] if folders is None else folders
    for run, label, place in zip(runs, labels.full, places, strict=True):
        values = [run.result(key) for key in results]
        lines.append(
            [label, place, status(run), run.last_epoch]
            + [run.fields.get(key, "") for key in options]
            + [int(v) if v is not None and v.is_integer() else v for v in values]
        )
    return csv_lines(lines)


def _quartiles(run: Run) -> str:
    values = [run.result(f"test.evaluations.{name}") for name in STATISTICS]
    _, middle, low, high = values
    if middle is None or low is None or high is None:
        return "–"
    return f"{middle:g} ({low:g}–{high:g})"


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
