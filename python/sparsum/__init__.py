"""Sparsum: exact training with discrete and structured latent variables, in Python.

Importing this package loads nothing heavy: torch and the compiled core are loaded when one of
their names is first used.

* ``python -m sparsum.report RUN... --out DIR`` draws a report of training runs;
* ``python -m sparsum.tensorboard RUN`` shows a run in TensorBoard while it trains;
* :func:`sparsum.train` trains one of the experiments, :func:`sparsum.load` loads what it trained;
* :mod:`sparsum.runs` reads the run folders that ``sparsum train`` writes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives; loaded when it is first asked for.
_EXPORTS: dict[str, tuple[str, ...]] = {
    "ops": (
        "entmax",
        "entmax15",
        "entmax15_loss",
        "entmax_loss",
        "linear_cross_entropy",
        "scalar_perceptron",
        "sparsemax",
        "sparsemax_loss",
        "support",
        "top_k_sparsemax",
    ),
    "nn": (
        "Entmax",
        "Entmax15",
        "Entmax15Loss",
        "EntmaxLoss",
        "Sparsemax",
        "SparsemaxLoss",
        "TopKSparsemax",
    ),
    "structures": ("BitVector", "Budget", "Categorical", "Structure", "Subset"),
    "distributions": (
        "Assignments",
        "Distribution",
        "Gibbs",
        "SparseDistribution",
        "SparsemapResult",
        "adaptive_top_k_sparsemax",
        "one_per_example",
        "solve_sparsemap",
        "sparsemap",
        "sparsemap_loss",
        "sparsemap_marginals",
    ),
    "estimators": (
        "Estimate",
        "Estimator",
        "Loss",
        "estimator_names",
        "expectation",
        "make_estimator",
    ),
    "experiments": ("InputError", "TrainingDiverged", "load", "train"),
    "runs": ("Run", "read_run"),
}
# Modules that are names of the package without being imported by hand.
_MODULES = ("compat", "distributions", "estimators", "experiments", "nn", "ops", "runs", "structures")
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

if TYPE_CHECKING:
    from .distributions import (
        Assignments,
        Distribution,
        Gibbs,
        SparseDistribution,
        SparsemapResult,
        adaptive_top_k_sparsemax,
        one_per_example,
        solve_sparsemap,
        sparsemap,
        sparsemap_loss,
        sparsemap_marginals,
    )
    from .estimators import (
        Estimate,
        Estimator,
        Loss,
        estimator_names,
        expectation,
        make_estimator,
    )
    from .nn import (
        Entmax,
        Entmax15,
        Entmax15Loss,
        EntmaxLoss,
        Sparsemax,
        SparsemaxLoss,
        TopKSparsemax,
    )
    from .ops import (
        entmax,
        entmax15,
        entmax15_loss,
        entmax_loss,
        linear_cross_entropy,
        scalar_perceptron,
        sparsemax,
        sparsemax_loss,
        support,
        top_k_sparsemax,
    )
    from .experiments import InputError, TrainingDiverged, load, train
    from .runs import Run, read_run

__all__ = ["__version__", *sorted({*_HOME, *_MODULES})]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"sparsum.{name}")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sparsum' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sparsum.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
