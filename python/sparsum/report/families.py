"""Studies of very many methods, such as grids of options: what is drawn of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsum.report.methods import Method, Study
from sparsum.report.style import DASHES, PALETTE

MOST_METHODS = 12
"""Up to so many methods in one panel are told apart by their looks and numbers."""


@dataclass(frozen=True)
class Family:
    """Methods of one setting that share the estimator and what makes it another."""

    name: str
    words: str
    """What tells its setting from the others."""
    methods: tuple[Method, ...]
    """The best by validation first."""


def crowded(study: Study) -> bool:
    """Whether there are more methods than can be told apart in one picture."""
    if any(len(members.methods) > MOST_METHODS for _, members in study.settings()):
        return True
    looks: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for method in study:
        looks.setdefault((method.colour, str(method.dash)), set()).add(method.kind)
    return any(len(kinds) > 1 for kinds in looks.values())


def families(study: Study) -> list[Family]:
    """In the order of the study; each kind of method in a colour of its own."""
    kinds = list(dict.fromkeys(method.kind for method in study if method.runs))
    found = []
    for words, members in study.settings():
        for place, kind in enumerate(kinds):
            dash = DASHES[place // len(PALETTE) % len(DASHES)]
            colour = PALETTE[place % len(PALETTE)]
            methods = [
                replace(method, colour=colour, dash=dash)
                for method in members
                if method.runs and method.kind == kind
            ]
            if methods:
                name = common_name(methods) or kind[0] or "methods"
                methods.sort(key=lambda method: _score(study, method), reverse=True)
                found.append(Family(name, words, tuple(methods)))
    return found


def best(study: Study, each: int = 1) -> Study:
    """Of each family the best by validation, ``each`` many."""
    methods = [method for family in families(study) for method in family.methods[:each]]
    return replace(study, methods=tuple(methods))


def common_name(methods: Sequence[Method]) -> str:
    """The beginning that the bare names share, in whole words."""
    parts = [bare_name(method).split("-") for method in methods]
    shared = []
    for words in zip(*parts):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    return "-".join(shared)


def bare_name(method: Method) -> str:
    """The name without the data set and the number of bits at its beginning."""
    name = method.name
    if method.runs:
        fields = method.fields
        for part in (fields.get("dataset", ""), f"d{fields.get('bits', '')}"):
            name = name.removeprefix(f"{part}-") or name
    return name


def _score(study: Study, method: Method) -> float:
    """The best validation result, the mean over seeds; no choice is made by test data."""
    metric = study.experiment.progress
    scores = [max(values) for run in method.runs if (values := metric.curve(run, "validation")[1])]
    return sum(scores) / len(scores) if scores else -float("inf")
