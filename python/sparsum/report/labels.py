"""Names for runs, made from what differs between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsum.runs import Run

_FIRST = ("experiment", "dataset", "estimator")
"""Options that say most about a run, and whose value needs no name beside it."""

_EARLY = ("bits", "structure", "budget")
"""Options that say more about a run than those of its training."""

_LAST = ("epochs", "warmup-epochs", "seed")
"""Options that tell runs apart only when nothing else does."""

IGNORED = ("out", "data", "config", "resume", "threads", "device", "json")
"""Options that say where and on what a run was made, not what it is."""

_SPARSEMAP = ("sparsemap", "sparsemap-budget")
_RELAXED = ("gumbel", "st-gumbel")
_LEARNED = ("nvil", "rebar", "relax")
_SAMPLED = (
    *("sfe", "sfe-plus", "sfe-loo", "sum-and-sample", "unordered-set", "arm", "disarm", "muprop"),
    *("vimco", "straight-through", "imle", *_RELAXED, *_LEARNED),
)

_READ_BY: dict[str, tuple[str, ...]] = {
    "algorithm": _SPARSEMAP,
    "encoding": _SPARSEMAP,
    "init": _SPARSEMAP,
    "tolerance": _SPARSEMAP,
    "max-iterations": _SPARSEMAP,
    "k": ("top-k", "top-k-adaptive", "sum-and-sample"),
    "max-k": ("top-k-adaptive",),
    "max-outcomes": ("dense",),
    "alpha": ("entmax",),
    "samples": _SAMPLED,
    "baseline": ("sfe", "muprop", "sum-and-sample", "unordered-set"),
    "baseline-decay": ("sfe", "muprop"),
    "baseline-layers": ("nvil", "relax"),
    "baseline-hidden": ("nvil", "relax"),
    "baseline-lr": _LEARNED,
    "baseline-weight-decay": _LEARNED,
    "control-scale": ("rebar", "relax"),
    "embed-loss": ("relax",),
    "adapt-temperature": ("rebar",),
    "temperature": (*_RELAXED, "rebar", "relax"),
    "temperature-decay": _RELAXED,
    "temperature-min": _RELAXED,
    "temperature-every": _RELAXED,
    "noise": ("imle",),
    "noise-temperature": ("imle",),
    "gamma-size": ("imle",),
    "gamma-terms": ("imle",),
    "target-step": ("imle",),
}
"""Options that only some estimators read: of others they say nothing."""

NOT_SET = "not set"


@dataclass(frozen=True)
class Labels:
    """How each of several runs is called, in their order."""

    full: tuple[str, ...]
    """One name per run, no two alike."""
    groups: tuple[str, ...]
    """The same without the seed: alike for runs that only their seeds tell apart."""


def label_runs(runs: Sequence[Run]) -> Labels:
    """Names from the fewest options that tell the runs apart; the folder's name where none does."""
    fields = [own_options(run) for run in runs]
    telling = _telling_keys(fields)
    if len(runs) == 1:
        telling = [key for key in ("dataset", "estimator", "bits", "seed") if key in fields[0]]
    full: list[str] = []
    groups: list[str] = []
    for run, options in zip(runs, fields, strict=True):
        shown = [key for key in telling if key in options or key not in _READ_BY]
        parts = [(key, _part(key, options.get(key))) for key in shown]
        full.append(" · ".join(part for _, part in parts) or run.name)
        groups.append(" · ".join(part for key, part in parts if key != "seed") or "all runs")
    return Labels(_made_unique(full, runs), tuple(groups))


def slug(label: str) -> str:
    """A label as part of a file name: letters, digits, dots and single dashes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-.").lower() or "run"


def own_options(run: Run | Mapping[str, object]) -> dict[str, object]:
    """What a run is: its options without those that its estimator does not read."""
    options = run.fields if isinstance(run, Run) else run
    estimator = str(options.get("estimator", ""))
    return {k: v for k, v in options.items() if estimator in _READ_BY.get(k, (estimator,))}


def _telling_keys(fields: Sequence[dict[str, object]]) -> list[str]:
    """Options by importance, each kept only if it splits runs that those before it left together.

    So a learning rate that goes with the estimator does not appear beside it.
    """
    every = {key for options in fields for key in options} - set(IGNORED)
    middle = sorted(every - {*_FIRST, *_EARLY, *_LAST})
    kept: list[str] = []
    apart = 1
    for key in (*_FIRST, *_EARLY, *middle, *_LAST):
        signatures = {tuple(repr(o.get(k)) for k in (*kept, key)) for o in fields}
        if len(signatures) > apart:
            kept.append(key)
            apart = len(signatures)
    return kept


def _part(key: str, value: object) -> str:
    if value is None:
        return f"{key} {NOT_SET}"
    if key == "bits":
        return f"{value} bits"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if key in _FIRST else f"{key} {text}"


def _made_unique(labels: Sequence[str], runs: Sequence[Run]) -> tuple[str, ...]:
    """Adds the folder's name, or its whole path, where options leave two runs with one name."""
    names = [run.name for run in runs]
    for further in (names, [str(run.path) for run in runs]):
        labels = [
            label if labels.count(label) == 1 else more if label == name else f"{label} · {more}"
            for label, name, more in zip(labels, names, further, strict=True)
        ]
    return tuple(labels)
