"""The words under the figures: what each shows, its units, what to look for."""

from __future__ import annotations

from collections.abc import Sequence

from sparsum.report.metrics import Metric

Caption = tuple[tuple[str, str], ...]
"""Headings and texts, without mark-up."""

_SHOWS, _UNITS, _LOOK = "What it shows", "Units", "What to look for"


def results(metrics: Sequence[Metric], *, started: bool) -> Caption:
    """``started``: the warm-started models' results are drawn too."""
    start = (
        "; the hollow circle is the same model after its warm-up on labelled images alone: the line"
        " between the two is what the unlabelled images were worth."
    )
    units = [
        f"{m.name[0].upper()}{m.name[1:]}: {m.unit}, {m.meaning}." for m in metrics if m.meaning
    ]
    if len(units) < len(metrics):
        units.append("Others: as logged.")
    return (
        (
            _SHOWS,
            "One line per run, measured on test images, which no choice was made by. The filled"
            " diamond with its number is the model of the best validation score" + (start if started else "."),
        ),
        (_UNITS, " ".join(units)),
        (
            _LOOK,
            "Accuracy and ELBO: further right is better. Loss evaluations: further left is"
            " cheaper, and 1 is the least there is. A good method is on the right in the first and"
            " on the left in the last.",
        ),
    )


def evaluations(*, bands: bool) -> Caption:
    """``bands``: medians and quartiles are drawn too."""
    spread = (
        "; dotted: the median; the band holds the middle half of them (first to third quartile),"
        " and is not seen where all cost the same."
    )
    return (
        (
            _SHOWS,
            "How often the decoder, the most expensive part of the model, runs for one example."
            " Summing over all classes costs a call for each class; sampling costs one or two;"
            " sparse marginalization costs a call for each class whose probability is still above"
            " zero, which differs from example to example. (In the warm-up all classes are known,"
            " and training has nothing to sum over.) Solid: the mean over the epoch's examples"
            + (spread if bands else "."),
        ),
        (
            _UNITS,
            "Across: epochs. Upwards: decoder calls per example; a call is one pass for one class."
            " Where methods differ by factors, equal steps upwards multiply the cost equally.",
        ),
        (
            _LOOK,
            "A sparse run that falls towards 1 as the model becomes sure of itself: exact gradients"
            " at the price of a single sample.",
        ),
    )


LEARNING_CURVES: Caption = (
    (
        _SHOWS,
        "How each run gets better. Solid: images held back for validation; thin and dotted: the"
        " labelled training images. In the shaded part, the warm-up, the model sees labelled images"
        " only; after it, unlabelled ones as well, by the run's own estimator. The dashed"
        " horizontal line is the model at the end of the warm-up and the diamond the best by validation,"
        " both on the test images. Where warm-ups differ in length, the shade is darker where more"
        " runs are in theirs.",
    ),
    (
        _UNITS,
        "Across: epochs, each a fixed number of training steps, counted on over both phases."
        " Accuracy: per cent of images whose class the model gets right. ELBO: nats per image"
        " (1 nat = 1.44 bits), a lower bound on the image's log-probability; nearer to zero is"
        " better.",
    ),
    (
        _LOOK,
        "Curves that go on rising after the shaded part, and diamonds above the dashed line: that"
        " is what unlabelled images bring. Training accuracy far above validation accuracy means"
        " that labelled images are being learnt by heart.",
    ),
)

OBJECTIVES: Caption = (
    (
        _SHOWS,
        "What the optimiser makes smaller, averaged over the steps of each epoch. The objective is"
        " the labelled part plus the unlabelled part times the ratio of unlabelled to labelled"
        " images. In the warm-up it is the labelled part alone: the two pieces of its curve are not"
        " to be compared.",
    ),
    (_UNITS, "Across: epochs. Upwards: nats per example; lower is better."),
    (
        _LOOK,
        "Curves that fall and flatten. One that climbs or leaps about asks for a smaller learning"
        " rate.",
    ),
)

OTHERS: Caption = (
    (
        _SHOWS,
        "Numbers that this experiment logs besides those above, under their own names. Solid:"
        " validation; thin and dotted: training; dashed: the model at the end of the warm-up, and"
        " diamond: the model of the best validation score, both on test data.",
    ),
    (_UNITS, "Across: epochs. Upwards: as logged."),
)
