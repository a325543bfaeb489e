"""Numbers that others have published, for runs that are made as theirs were.

All are of Correia, Niculae, Aziz and Martins, "Efficient Marginalization of Discrete and Structured
Latent Variables via Sparsity" (NeurIPS 2020): means over ten runs.

Where a number is published, all options of a run are compared with those of the published setting,
so that none that could matter is missed; only :data:`FREE` may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsum.report.labels import IGNORED, own_options
from sparsum.runs import Run

AUTHORS = "Correia, Niculae, Aziz and Martins, 2020"
RUNS = 10
"""Seeds behind each published mean."""

SOURCE = f"{AUTHORS}, figure 2; the numbers are in the table that its authors presented with it"
"""Of the negative log-likelihoods."""


@dataclass(frozen=True)
class Published:
    """What is published of one method."""

    value: float
    """The mean of the experiment's main number, in its unit: per cent, or bits per dimension."""
    deviation: float | None = None
    """Its standard deviation over RUNS runs, where the paper gives one in a known unit."""
    calls: float | None = None
    """Decoder calls per example."""
    calls_deviation: float | None = None


@dataclass(frozen=True)
class Study:
    """What is published of one experiment."""

    metric: str
    """The key of its main number."""
    source: str
    setting: str
    """One sentence: on what, how long, how many runs."""


STUDIES: Mapping[str, Study] = {
    "ssvae": Study(
        "accuracy",
        f"{AUTHORS}, figure 1; the numbers are in the table that its authors presented with it",
        "MNIST with 5,000 labelled and 45,000 unlabelled images, a warm-up of 100 epochs and 200"
        " epochs after it, ten runs.",
    ),
    "signal": Study(
        "success",
        f"{AUTHORS}, table 1",
        "Features of ImageNet, 463 concepts, 16 images a game and 256 symbols, 500 epochs, ten"
        " runs; chance is 6.25 %.",
    ),
    "bitvector": Study(
        "nll.bits_per_dimension",
        SOURCE,
        "Fashion-MNIST, 100 epochs, importance sampling with 1,024 draws for each test image, ten"
        " runs.",
    ),
}

_ACCURACY = {
    "sfe": Published(94.75, calls=1),
    "sfe-plus": Published(96.53, calls=2),
    "nvil": Published(96.01, calls=1),
    "gumbel": Published(95.46, calls=1),
    "dense": Published(96.93, calls=10),
    "sparsemax": Published(96.87, calls=1.01, calls_deviation=0.01),
}
"""Of the semi-supervised VAE. Beside them .001 and .002 are printed: by the caption of figure 1,
standard errors over ten runs. Whether they are fractions or per cent is not said: none is used."""

_SUCCESS = {
    ("sfe", "nll"): Published(33.05, 2.84, 1),
    ("sfe", "zero-one"): Published(55.36, 2.92, 1),
    ("sfe-plus", "zero-one"): Published(44.32, 2.72, 2),
    ("nvil", "nll"): Published(37.04, 1.61, 1),
    ("gumbel", "nll"): Published(23.51, 16.19, 1),
    ("st-gumbel", "nll"): Published(27.42, 13.36, 1),
    ("dense", "nll"): Published(93.37, 0.42, 256),
    ("sparsemax", "nll"): Published(93.35, 0.50, 3.13, 0.48),
}
"""Of the signal game, by estimator and loss."""

_NLL = {
    ("fashion-mnist", 32): {
        **{"sfe": 3.74, "sfe-plus": 3.61, "nvil": 3.65, "gumbel": 3.57},
        **{"top-k": 3.62, "sparsemap": 3.72, "budget": 3.64},
    },
    ("fashion-mnist", 128): {
        **{"sfe": 3.77, "sfe-plus": 3.59, "nvil": 3.60, "gumbel": 3.49},
        **{"top-k": 3.61, "sparsemap": 3.67, "budget": 3.66},
    },
}
"""Negative log-likelihood of the test images in bits per dimension, by data set and D; ``budget``:
SparseMAP with at most D/2 bits on."""

Option = str | float | int | bool

_SAME = object()
"""As the model's learning rate."""

_ESTIMATOR_OPTIONS: Mapping[str, Any] = {
    "k": 10,
    "encoding": "one-state",
    "algorithm": "active-set",
    "init": "map",
    "tolerance": 1e-9,
    "max-iterations": None,
    "samples": 1,
    "baseline": "moving-average",
    "baseline-decay": 0.99,
    "baseline-layers": 3,
    "baseline-hidden": 512,
    "baseline-lr": _SAME,
    "baseline-weight-decay": 0.0,
    "temperature": 1.0,
    "temperature-decay": 1e-5,
    "temperature-min": 0.5,
    "temperature-every": 1000,
    "alpha": 1.5,
    "max-k": 160,
    "control-scale": 1.0,
    "embed-loss": False,
    "adapt-temperature": False,
    "noise": "gumbel",
    "noise-temperature": 1.0,
    "gamma-size": 1,
    "gamma-terms": 10,
    "target-step": 10.0,
}
"""Of the estimators that read them; the last ones, of those of which nothing is published."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "ssvae": {
        "labelled": 5000,
        "unlabelled": 45000,
        "warmup-epochs": 100,
        "epochs": 200,
        "steps-per-epoch": 704,
        "batch-size": 64,
        "weight-decay": 1e-5,
        "lr": 1e-3,
        "warmup-lr": 1e-3,
        "lr-schedule": "constant",
        "split": "published",
        "split-seed": 0,
        "validation": 10000,
        **_ESTIMATOR_OPTIONS,
        "temperature-decay": 1e-4,
    },
    "signal": {
        "dataset": "features of ImageNet",
        "symbols": 256,
        "candidates": 16,
        "test-games": 10000,
        "epochs": 500,
        "steps-per-epoch": 100,
        "batch-size": 64,
        "weight-decay": 0.0,
        "lr": 1e-3,
        "entropy-weight": 0.1,
        "lr-schedule": "constant",
        "same-concept": False,
        "hidden": 512,
        "embedding": 256,
        "validation-share": 0.1,
        "validation-games": 1024,
        **_ESTIMATOR_OPTIONS,
    },
    "bitvector": {
        "epochs": 100,
        "steps-per-epoch": None,
        "importance-samples": 1024,
        "importance-images": None,
        "weight-decay": 0.0,
        "lr": 1e-3,
        "batch-size": 64,
        "lr-schedule": "constant",
        "split-seed": 0,
        "validation": 5000,
        **_ESTIMATOR_OPTIONS,
        "encoding": "both-states",
    },
}
"""The published options, those of single methods aside. None: as many as there are, or it takes."""

FREE = (
    *(*IGNORED, "seed", "checkpoint-every", "max-evaluations-per-chunk", "max-outcomes"),
    *("features", "features-name", "labels-name", "features-cache", "warm-start"),
    *("experiment", "estimator", "loss", "bits", "structure", "budget"),
)
"""Options that change nothing, say where the data are, or choose what is compared."""

_AUTOMATIC: Mapping[str, tuple[Any, ...]] = {
    "steps-per-epoch": (0,),
    "batch-size": (0,),
    "importance-images": (0,),
    "lr": (0.0,),
    "entropy-weight": (-1.0,),
    "split": ("auto",),
    "k": (0,),
    "samples": (0,),
    "max-iterations": (0,),
    "baseline": ("auto",),
    "baseline-lr": (0.0,),
    "temperature-decay": (-1.0,),
}
"""Values that leave the choice to the program, which then does as published."""

_SSVAE_RATES = {"sparsemax": 5e-4, "sfe": 1e-4, "sfe-plus": 1e-4}
_SIGNAL_RATES = {
    ("sparsemax", "nll"): (5e-3, 0.1),
    ("sfe", "nll"): (1e-3, 0.05),
    ("sfe", "zero-one"): (1e-3, 0.01),
    ("sfe-plus", "zero-one"): (1e-3, 0.05),
    ("gumbel", "nll"): (1e-3, 0.01),
    ("st-gumbel", "nll"): (1e-3, 0.01),
}
"""Learning rate and weight of the entropy, where they are not 1e-3 and 0.1."""
_BIT_RATES = {
    ("top-k", 32): 2e-3,
    ("sparsemap", 32): 2e-3,
    ("sparsemap", 128): 2e-3,
    ("sparsemap-budget", 32): 2e-3,
    ("sparsemap-budget", 128): 2e-3,
    ("nvil", 128): 5e-4,
    ("st-gumbel", 128): 5e-4,
}
"""Learning rates, where they are not 1e-3."""

IMAGES = "mnist+fashion-mnist"
_IMAGE_RATES = {
    ("sparsemax", "nll"): (1e-3, 0.03),
    ("dense", "nll"): (5e-3, 0.03),
    ("sfe", "nll"): (1e-3, 0.1),
    ("sfe", "zero-one"): (2e-3, 0.03),
    ("sfe-plus", "zero-one"): (5e-3, 0.03),
    ("nvil", "nll"): (1e-3, 0.01),
    ("gumbel", "nll"): (5e-3, 0.1),
    ("st-gumbel", "nll"): (2e-3, 0.1),
}
"""Of the game on digits and clothes: learning rate and weight of the entropy, chosen for it on
validation games, as configs/ has them."""


def published(run: Run | Mapping[str, Option]) -> Published | None:
    """What is published of the method on its data, or None. ``run``: one, or its options."""
    fields = _fields(run)
    experiment, estimator = fields.get("experiment"), str(fields.get("estimator"))
    if experiment == "ssvae" and fields.get("dataset") == "mnist":
        return _ACCURACY.get(estimator)
    if experiment == "signal" and not fields.get("same-concept"):
        return _SUCCESS.get((estimator, str(fields.get("loss"))))
    if experiment == "bitvector":
        value = published_nll(fields)
        return None if value is None else Published(value)
    return None


def published_nll(run: Run | Mapping[str, Option]) -> float | None:
    """The published value for the data set, number of bits and estimator, or None."""
    fields = _fields(run)
    bits = fields.get("bits")
    if not isinstance(bits, int):
        return None
    values = _NLL.get((str(fields.get("dataset")), bits), {})
    method = (fields.get("estimator"), fields.get("structure"))
    if method in (("sparsemap-budget", "bits"), ("sparsemap", "budget")):
        # -1 stands for half of the bits.
        return values.get("budget") if fields.get("budget") in (bits // 2, -1) else None
    return values.get(str(method[0])) if method[1] == "bits" else None


def departures(run: Run | Mapping[str, Option]) -> list[str]:
    """In what a run with a published value was made otherwise, such as ``epochs 5, not 200``.

    An option that the published setting does not know is named, too.
    """
    fields = _fields(run)
    own = {k: v for k, v in own_options(fields).items() if k not in FREE}
    wanted = _published_options(fields)
    tuned = _is_tuned(fields)
    ignored = {"lr", "entropy-weight"} if tuned else set()
    if fields.get("warm-start"):
        ignored |= {"warmup-epochs", "warmup-lr"}  # the warm-up is another run's
    if fields.get("experiment") == "ssvae" and fields.get("split", "auto") != "stratified":
        ignored.add("split-seed")  # not read
    found = []
    for key in (*(k for k in wanted if k in own), *(k for k in own if k not in wanted)):
        value, expected = own[key], wanted.get(key, _UNKNOWN)
        if key in ignored:
            continue
        if expected is _UNKNOWN:
            if key != "dataset":  # elsewhere, what is published is chosen by it
                found.append(f"{key} {_text(value)}, of which nothing is published")
            continue
        if expected is _SAME:
            expected = fields.get("lr")
        if value == expected or value in _AUTOMATIC.get(key, ()):
            continue
        if key == "dataset" and value == "features":
            continue  # files of one's own; whether they are the published ones is not known
        words = f"{key} {_text(value)}" + ("" if expected is None else f", not {_text(expected)}")
        if key == "dataset" and tuned:
            words += " (learning rate and weight of the entropy are those chosen for it)"
        found.append(words)
    return found


_UNKNOWN = object()


def _fields(run: Run | Mapping[str, Option]) -> Mapping[str, Option]:
    return run.fields if isinstance(run, Run) else run


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_tuned(fields: Mapping[str, Option]) -> bool:
    """Whether learning rate and weight of the entropy are those chosen for digits and clothes."""
    if fields.get("experiment") != "signal" or fields.get("dataset") != IMAGES:
        return False
    method = (str(fields.get("estimator")), str(fields.get("loss")))
    if method not in _IMAGE_RATES:
        return False
    rate, weight = _IMAGE_RATES[method]
    return fields.get("lr") in (rate, 0.0) and fields.get("entropy-weight") in (weight, -1.0)


def _published_options(fields: Mapping[str, Option]) -> dict[str, Any]:
    experiment, estimator = str(fields.get("experiment")), str(fields.get("estimator"))
    options = dict(OPTIONS.get(experiment, {}))
    if experiment == "ssvae":
        options["lr"] = _SSVAE_RATES.get(estimator, 1e-3)
    elif experiment == "signal":
        rates = _SIGNAL_RATES.get((estimator, str(fields.get("loss"))), (1e-3, 0.1))
        options["lr"], options["entropy-weight"] = rates
    elif experiment == "bitvector":
        bits = fields.get("bits")
        is_budget = estimator == "sparsemap-budget" or fields.get("structure") == "budget"
        family = "sparsemap-budget" if is_budget else estimator
        options["lr"] = _BIT_RATES.get((family, int(bits) if isinstance(bits, int) else 0), 1e-3)
        wide = bits == 128 and estimator in ("sparsemap", "sparsemap-budget")
        options["batch-size"] = 16 if wide else 64
        if estimator == "gumbel" and bits == 128:
            options["temperature-decay"] = 1e-4
    return options
