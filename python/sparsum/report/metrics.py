"""What the numbers of a run mean and how they are printed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sparsum.runs import Run

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
    error: str = ""
    """The key of its standard error, where one is logged."""
    training: tuple[str, float] | None = None
    """Key and factor in the rows of training, where they are others."""
    most: float | None = None
    """The largest value there can be, as shown: no axis goes far beyond it."""

    @property
    def heading(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def curve(self, run: Run, split: str) -> tuple[list[int], list[float]]:
        """Epochs and values as shown."""
        key, factor = (self.key, self.factor)
        if split == "train" and self.training is not None:
            key, factor = self.training
        epochs, logged = run.series(f"{split}.{key}")
        return epochs, [value * factor for value in logged]

    def result_text(self, run: Run, name: str) -> str:
        """A result of the summary, such as ``"test"``'s, with its standard error if it has one."""
        value = run.result(f"{name}.{self.key}")
        text = self.text(value)
        error = self.result_error(run, name)
        return text if value is None or error is None else f"{text} ± {self._size_text(error)}"

    def result_error(self, run: Run, name: str) -> float | None:
        """The standard error of a result, as shown."""
        error = run.result(f"{name}.{self.error}") if self.error else None
        return None if error is None or error < 0 else error * self.factor

    def _size_text(self, size: float) -> str:
        """An error as shown, with more digits than the value where it would be rounded to zero."""
        decimals = self.decimals
        while decimals is not None and size > 0 and decimals < 9:
            text = replace(self, factor=1.0, decimals=decimals).text(size)
            if float(text) > 0:
                return text
            decimals += 1
        return replace(self, factor=1.0).text(size)

    def text(self, value: float | None, unit: bool = False) -> str:
        """A logged number as shown; an en dash where there is none."""
        if value is None:
            return "–"
        shown = value * self.factor
        long = self.decimals is None or abs(shown) >= 1e12
        text = f"{shown:.4g}" if long else f"{shown:.{self.decimals}f}"
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
SUCCESS = Metric(
    "success",
    "success",
    "%",
    100.0,
    2,
    "the share of games in which the receiver's most probable image, given the sender's most"
    " probable symbol, is the one that was meant",
)
GAME_NLL = Metric(
    "nll",
    "NLL",
    "nats",
    decimals=3,
    meaning="negative log-probability that the receiver gives the right image, averaged over the"
    " sender's symbols",
)
SENDER_ENTROPY = Metric(
    "entropy",
    "sender's entropy",
    "nats",
    decimals=3,
    meaning="how undecided the sender is between symbols, 0 where it always says the same of an"
    " image",
)
SYMBOLS = Metric(
    "symbols",
    "symbols in use",
    decimals=0,
    meaning="how many symbols are the most probable one of some game",
)
MUTUAL_INFORMATION = Metric(
    "mutual_information",
    "mutual information",
    "nats",
    decimals=3,
    meaning="what the symbol tells of the image's concept",
)
TOPOGRAPHIC = Metric(
    "topographic_similarity",
    "topographic similarity",
    decimals=3,
    meaning="rank correlation between the distances of images and those of the symbols said of"
    " them, 1 where like images get like symbols",
)
OBJECTIVE = Metric("objective", "training objective", "nats", decimals=1)
LABELLED = Metric("labelled", "labelled images", "nats", decimals=1)
UNLABELLED = Metric("unlabelled", "unlabelled images", "nats", decimals=1)

BOUND = replace(ELBO, training=("objective", -1.0))
"""The ELBO of a model whose training objective is its negative."""
RATE = Metric(
    "rate",
    "rate",
    "nats",
    decimals=2,
    meaning="what the code tells of an image, D · log 2 = 0.69 · D nats at most",
)
DISTORTION = Metric(
    "distortion",
    "distortion",
    "nats",
    decimals=1,
    meaning="what is left to tell once the code is known; lower is better",
)
NLL = Metric(
    "nll.bits_per_dimension",
    "NLL",
    "bits/dim",
    decimals=4,
    meaning="negative log-likelihood in bits per pixel ± Monte Carlo standard error; lower is"
    " better",
    error="nll.standard_error",
)
EXACT = Metric(
    "exact",
    "exact examples",
    "%",
    100.0,
    2,
    "the share of images for which it is certain that the sum left nothing out",
    most=100.0,
)


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
