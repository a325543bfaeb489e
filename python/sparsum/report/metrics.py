"""What the numbers of a run mean and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparsum.runs import Run

SPLITS = ("train", "validation", "test")
STATISTICS = ("mean", "median", "q25", "q75")


@dataclass(frozen=True)
class Metric:
    """A number that is logged as ``train.KEY``, ``validation.KEY`` or ``test.KEY``."""

    key: str
    name: str
    unit: str = ""
    factor: float = 1.0
    """From the logged number to the shown one: 100 for a fraction shown in per cent."""
    decimals: int | None = None
    """None: four significant digits."""
    meaning: str = ""
    """A sentence for a reader who does not know the code."""

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, value: float | None, unit: bool = False) -> str:
        """A logged number as shown; an en dash where there is none."""
        if value is None:
            return "–"
        shown = value * self.factor
        text = f"{shown:.4g}" if self.decimals is None else f"{shown:.{self.decimals}f}"
        text = text.replace("-", "−", 1) if text.startswith("-") else text
        return f"{text} {self.unit}" if unit and self.unit else text


ACCURACY = Metric(
    "accuracy",
    "accuracy",
    "%",
    100.0,
    2,
    "the share of images for which the class that the model finds most probable is the right one",
)
ELBO = Metric(
    "elbo",
    "ELBO",
    "nats",
    decimals=1,
    meaning="a lower bound on the log-probability that the model gives an image, averaged over"
    " images; higher, that is nearer to zero, is better",
)
EVALUATIONS = Metric(
    "evaluations.mean",
    "loss evaluations",
    "per example",
    decimals=2,
    meaning="how many values of the discrete variable the decoder was run for, for one example",
)
OBJECTIVE = Metric("objective", "training objective", "nats", decimals=1)
LABELLED = Metric("labelled", "labelled images", "nats", decimals=1)
UNLABELLED = Metric("unlabelled", "unlabelled images", "nats", decimals=1)

CURVES = (ACCURACY, ELBO)
OBJECTIVES = (OBJECTIVE, LABELLED, UNLABELLED)
KNOWN = (*CURVES, EVALUATIONS, *OBJECTIVES)


def other_metrics(runs: Sequence[Run]) -> list[Metric]:
    """Metrics that the runs have and this module does not know, in the order they appear."""
    known = {metric.key for metric in KNOWN} | {f"evaluations.{s}" for s in STATISTICS}
    found: dict[str, None] = {}
    for run in runs:
        summary = run.summary.values if run.summary is not None else {}
        for values in (*(row.values for row in run.rows), summary):
            for name in values:
                split, _, key = name.partition(".")
                if split in SPLITS and key and key not in known:
                    found.setdefault(key)
    return [Metric(key, key.replace("_", " ").replace(".", " ")) for key in found]


def result_metrics(runs: Sequence[Run]) -> list[Metric]:
    """Metrics of which some run has a test result; the well-known ones first."""
    candidates = (*CURVES, *other_metrics(runs), EVALUATIONS)
    return [m for m in candidates if any(run.result(f"test.{m.key}") is not None for run in runs)]


def duration_text(seconds: float | None) -> str:
    """Seconds as ``9.1 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
