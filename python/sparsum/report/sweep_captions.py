"""The words under the figures of a sweep: what each shows, its units, what to look for."""

from __future__ import annotations

from collections.abc import Sequence

from sparsum.report.captions import Caption
from sparsum.report.metrics import Metric

_SHOWS, _UNITS, _LOOK = "What it shows", "Units", "What to look for"


def learning_curves(
    metrics: Sequence[Metric], *, seeds: bool, unfinished: bool, warmup: bool
) -> Caption:
    """``seeds``: some method has several runs; ``unfinished``: some run is not at its end."""
    spread = (
        " The line is the median over a method's seeds; the band holds the middle half of them"
        " (first to third quartile). It is not seen where the seeds agree."
        if seeds
        else " Each line is a single run."
    )
    start = (
        " In the shaded part, the warm-up, the model sees labelled data only, and methods that"
        " share a map to probabilities are the same; after it, each trains with its own gradient."
        if warmup
        else ""
    )
    ends = (
        " Where runs have not finished, an epoch is drawn from the seeds that have reached it."
        if unfinished
        else ""
    )
    return (
        (
            _SHOWS,
            "How each method gets better, on data held back for validation."
            + spread
            + start
            + ends
            + " The number on the right is the last median.",
        ),
        (_UNITS, "Across: epochs. Upwards: " + _units(metrics)),
        (
            _LOOK,
            "Curves that get early to where others end, upwards for "
            + _listed([m.name for m in metrics if not _lower(m)])
            + (
                f", downwards for {_listed([m.name for m in metrics if _lower(m)])}"
                if any(map(_lower, metrics))
                else ""
            )
            + ". Bands that stay apart are a sign that two methods differ by more than their seeds"
            " do; a wide band is a method that depends on luck.",
        ),
    )


def choice(count: int, each: int) -> tuple[str, str]:
    """Of very many methods, which are drawn: of each family the best, ``each`` many."""
    best = "best" if each == 1 else f"{each} best"
    return (
        "Which methods",
        f"There are {count}, too many for one picture. Drawn are the {best} of each family by the"
        " best validation result. A family shares the estimator, its structure and its loss. All"
        " methods are in the table.",
    )


def family_curves(metric: Metric, count: int, axis: str) -> Caption:
    """``count``: of all methods; ``axis``: how epochs are drawn."""
    return (
        (
            _SHOWS,
            f"How each of the {count} methods gets better, on data held back for validation. A"
            " panel holds a family: methods that share the estimator, its structure and its loss,"
            " and differ in other options. A line is the median over a method's seeds. Thick, and"
            " named above the panel with its last value: the method of the best validation result."
            " Its numbers and those of the others are in the table.",
        ),
        (_UNITS, f"Across: {axis}. Upwards: " + _units([metric])),
        (
            _LOOK,
            f"Families whose lines all end {'low' if _lower(metric) else 'high'}: they need no"
            " careful choice of options. A family of which one line alone is good asks for a"
            " search.",
        ),
    )


def results(
    main: Metric, second: Metric | None, *, published: bool, estimated: str = ""
) -> Caption:
    """``estimated``: how the main number is estimated."""
    beside = (
        " Hollow: the published mean, with its standard deviation where the paper gives one."
        if published
        else ""
    )
    how = f" The {main.name} is {estimated}." if estimated else ""
    metrics = [main] if second is None else [main, second]
    return (
        (
            _SHOWS,
            "Each run's model of the best validation score, on test data. Left: bars from zero,"
            " which show how much the methods differ on the whole. Then the same with the scale"
            " stretched: the diamond is the mean over seeds, the line through it ± one standard"
            " deviation, each small dot one seed." + beside + how,
        ),
        (
            _UNITS,
            _units(metrics) + " Calls: how often the decoder (in the game, the receiver) is"
            " run for one example.",
        ),
        (
            _LOOK,
            f"{_capital(main.name)}: {_direction(main)}. Calls: further left is cheaper, and 1 is"
            " the least there is. Two methods whose dots mix cannot be told apart by these seeds."
            + (
                " A hollow mark far from the dots is a result that was not reproduced, or was made"
                " with other options: the table says which."
                if published
                else ""
            ),
        ),
    )


def calls(split: str, *, seeds: bool) -> Caption:
    """``split``: of the examples that the calls are counted on."""
    where = "training" if split == "train" else "validation"
    over = (
        " Each is the median over the method's seeds of what the runs have logged." if seeds else ""
    )
    return (
        (
            _SHOWS,
            f"How often the decoder (in the game, the receiver) is run for one {where} example, by"
            " epoch. Solid: the median of the epoch's examples; the band holds the middle half of"
            " them (first to third quartile) and is not seen where all cost the same; dotted: the"
            " mean. Methods that cost the same share a line." + over,
        ),
        (
            _UNITS,
            "Across: epochs. Upwards: calls per example, one for each value of the discrete"
            " variable that the loss is computed at. Where methods differ by factors, equal steps"
            " upwards multiply the cost equally.",
        ),
        (
            _LOOK,
            "Sparse methods that begin near the cost of the full sum and fall towards 1 as the"
            " model becomes sure: exact gradients at nearly the price of one sample. Sampling"
            " methods are level at the number of their draws, and the full sum at the number of"
            " values.",
        ),
    )


def _units(metrics: Sequence[Metric]) -> str:
    distinct = list(dict.fromkeys(metrics))
    words = [f"{m.name} in {m.unit or 'its own unit'} ({m.meaning})" for m in distinct]
    return _capital("; ".join(words)) + "."


def _lower(metric: Metric) -> bool:
    """Whether less is better."""
    return metric.name in ("NLL", "distortion")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def _direction(metric: Metric) -> str:
    return "further left is better" if _lower(metric) else "further right is better"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
