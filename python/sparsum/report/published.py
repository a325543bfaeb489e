"""Numbers that others have published, for runs that are made as theirs were.

All are of Correia, Niculae, Aziz and Martins, "Efficient Marginalization of Discrete and Structured
Latent Variables via Sparsity" (NeurIPS 2020): means over ten runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsum.runs import Run

AUTHORS = "Correia, Niculae, Aziz and Martins, 2020"
RUNS = 10
"""Seeds behind each published mean."""

SOURCE = f"{AUTHORS}, figure 2 and appendix"
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
    "sparsemax": Published(96.87, calls=1.01),
}
"""Of the semi-supervised VAE. Deviations of .001 and .002 are printed beside them, in a unit that
is not said."""

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

_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "ssvae": {
        "labelled": 5000,
        "unlabelled": 45000,
        "warmup-epochs": 100,
        "epochs": 200,
        "steps-per-epoch": 704,
        "batch-size": 64,
        "weight-decay": 1e-5,
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
    },
    "bitvector": {
        "epochs": 100,
        "steps-per-epoch": None,
        "importance-samples": 1024,
        "importance-images": None,
        "weight-decay": 0.0,
    },
}
"""The published options. None: as many as there are."""

_AUTOMATIC = {"steps-per-epoch": 0, "importance-images": 0, "lr": 0.0, "entropy-weight": -1.0}
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
}
"""Learning rates, where they are not 1e-3."""


def published(run: Run) -> Published | None:
    """What is published of the run's method on its data, or None."""
    fields = run.fields
    experiment, estimator = fields.get("experiment"), str(fields.get("estimator"))
    if experiment == "ssvae" and fields.get("dataset") == "mnist":
        return _ACCURACY.get(estimator)
    if experiment == "signal" and not fields.get("same-concept"):
        return _SUCCESS.get((estimator, str(fields.get("loss"))))
    if experiment == "bitvector":
        value = published_nll(run)
        return None if value is None else Published(value)
    return None


def published_nll(run: Run) -> float | None:
    """The published value for the run's data set, number of bits and estimator, or None."""
    fields = run.fields
    bits = fields.get("bits")
    if not isinstance(bits, int):
        return None
    values = _NLL.get((str(fields.get("dataset")), bits), {})
    method = (fields.get("estimator"), fields.get("structure"))
    if method in (("sparsemap-budget", "bits"), ("sparsemap", "budget")):
        return values.get("budget") if fields.get("budget") == bits // 2 else None
    return values.get(str(method[0])) if method[1] == "bits" else None


def departures(run: Run) -> list[str]:
    """In what a run with a published value was made otherwise, such as ``epochs 5, not 200``."""
    fields = run.fields
    found = []
    for key, wanted in _published_options(run).items():
        value = fields.get(key)
        if value is None or value == wanted or value == _AUTOMATIC.get(key):
            continue
        if key == "warmup-epochs" and fields.get("warm-start"):
            continue  # the warm-up of another run
        if key == "dataset" and value == "features":
            continue  # files of one's own; whether they are the published ones is not known
        found.append(f"{key} {value}" + ("" if wanted is None else f", not {wanted}"))
    return found


def _published_options(run: Run) -> dict[str, Any]:
    fields = run.fields
    experiment, estimator = str(fields.get("experiment")), str(fields.get("estimator"))
    options = dict(_OPTIONS.get(experiment, {}))
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
    return options
