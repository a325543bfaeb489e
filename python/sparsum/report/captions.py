"""The words under the figures: what each shows, its units, what to look for."""

from __future__ import annotations

from collections.abc import Sequence

from sparsum.report.metrics import EVALUATIONS, Metric

Caption = tuple[tuple[str, str], ...]
"""Headings and texts, without mark-up."""

_SHOWS, _UNITS, _LOOK = "What it shows", "Units", "What to look for"

_HIGHER = ("accuracy", "success", "elbo", "mutual_information", "exact")
_LOWER = ("nll", "nll.bits_per_dimension", "distortion")
"""Keys of metrics of which more, and of which less, is better."""


def results(metrics: Sequence[Metric], *, started: bool) -> Caption:
    """``started``: the warm-started models' results are drawn too."""
    start = (
        "; the hollow circle is the same model after its warm-up on labelled images alone: the line"
        " between the two is what the unlabelled images were worth."
    )
    units = [
        f"{_capital(m.name)}: {', '.join(filter(None, (m.unit, m.meaning)))}."
        for m in metrics
        if m.meaning
    ]
    if len(units) < len(metrics):
        units.append("Others: as logged.")
    return (
        (
            _SHOWS,
            "One line per run, measured on test data, which no choice was made by. The filled"
            " diamond with its number is the model of the best validation score"
            + (start if started else "."),
        ),
        (_UNITS, " ".join(units)),
        (_LOOK, _directions(metrics)),
    )


def _directions(metrics: Sequence[Metric]) -> str:
    """On which side of each panel a good method is."""
    up, down, rest = [], [], []
    for metric in metrics:
        if metric.key in _HIGHER:
            up.append(metric.name)
        elif metric.key in _LOWER:
            down.append(metric.name)
        elif metric is not EVALUATIONS:
            rest.append(metric.name)
    found = [f"{_capital(_listed(up))}: further right is better."] if up else []
    if down:
        found.append(f"{_capital(_listed(down))}: further left is better.")
    if EVALUATIONS in metrics:
        found.append("Loss evaluations: further left is cheaper, and 1 is the least there is.")
    if rest:
        found.append(f"{_capital(_listed(rest))}: neither side is better in itself.")
    return " ".join(found)


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def evaluations(*, bands: bool, exact: bool = False) -> Caption:
    """``bands``: medians and quartiles are drawn too; ``exact`` is for experiments that have it."""
    del exact
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


def bit_evaluations(*, bands: bool, exact: bool) -> Caption:
    """Of a bit-vector model; ``exact``: the share of exact examples is drawn too."""
    spread = (
        "; dotted: the median; the band holds the middle half of them (first to third quartile),"
        " and is not seen where all cost the same."
    )
    certain = (
        " Last panel: the share of validation images for which it is certain that nothing was left"
        " out: for top-k, that no code beyond the k best would have got any probability; for"
        " SparseMAP, that its solver met its tolerance."
    )
    return (
        (
            _SHOWS,
            "How often the decoder, the most expensive part of the model, runs for one image. A"
            " sum over all codes would take 2^D calls; sparse marginalization takes one for each"
            " code whose probability is above zero, which differs from image to image; the score"
            " function takes one for each draw. Solid: the mean over the epoch's images"
            + (spread if bands else ".")
            + (certain if exact else ""),
        ),
        (
            _UNITS,
            "Across: epochs. Upwards: decoder calls per example; a call is one pass for one code."
            " Where methods differ by factors, equal steps upwards multiply the cost equally."
            + (" Exact examples: per cent of images." if exact else ""),
        ),
        (
            _LOOK,
            "Sparse runs that fall towards 1 as the model becomes sure of its codes: gradients"
            " without noise at nearly the price of one sample. A top-k run whose band lies at k"
            " has more to say than it is allowed to"
            + (", which its share of exact examples shows as well." if exact else "."),
        ),
    )


def signal_evaluations(*, bands: bool, exact: bool = False) -> Caption:
    """Of a signal game."""
    del exact
    spread = "; dotted: the median; the band holds the middle half of them." if bands else "."
    return (
        (
            _SHOWS,
            "For how many symbols the receiver chooses in one game. Summing over all symbols costs a"
            " choice for each; sampling costs one or two; sparse marginalization costs one for each"
            " symbol whose probability is still above zero. Solid: the mean over the epoch's games"
            + spread,
        ),
        (_UNITS, "Across: epochs. Upwards: choices of the receiver for one game."),
        (_LOOK, "Sparse runs that fall from the whole vocabulary to a few symbols."),
    )


def rate_distortion(*, unfinished: bool, each: str = "") -> Caption:
    """``unfinished``: results of the last validation are drawn too; ``each``: what has a panel."""
    return (
        (
            _SHOWS,
            "What the code tells of an image (rate) against what it leaves to be told"
            " (distortion), one mark per run: the model of the best validation score, on test"
            " images"
            + (
                "; hollow: the last validation result of a run that has not finished."
                if unfinished
                else "."
            )
            + " All points of a dashed line have the same ELBO, minus the sum of the two. The"
            " dotted upright line is the most that D bits can tell, D · log 2, reached when every"
            " image has a single code."
            + (f" Each {each} has its own panel." if each else ""),
        ),
        (
            _UNITS,
            "Across and upwards: nats per image (1 nat = 1.44 bits). The two scales differ.",
        ),
        (
            _LOOK,
            "Marks on lower lines: a better ELBO. Of two on one line, the one further right says"
            " more with its code. A mark far to the left of the dotted line is of a model whose"
            " code tells little for its length: q(z|x) stays spread over many codes. Where the"
            " dashed lines are nearly level, the distortion decides.",
        ),
    )


def likelihoods(estimated: str, *, source: str | None) -> Caption:
    """``estimated``: from how many images and draws; ``source``: of published numbers drawn."""
    published = (
        " Hollow: the published value for the same data set, number of bits and estimator"
        f" ({source})."
        if source
        else ""
    )
    return (
        (
            _SHOWS,
            "How well the whole model predicts images that it has never seen: the negative"
            f" log-likelihood, {estimated}. Left: bars from zero. Right: the same with the scale"
            " stretched, and ± one Monte Carlo standard error of the estimate, which is often"
            " smaller than the mark." + published,
        ),
        (
            _UNITS,
            "Bits per dimension: the bits that a perfect coder with this model would spend on one"
            " pixel of 8 bits.",
        ),
        (
            _LOOK,
            "Further left is better. The error is that of the estimate for this model and these"
            " images: training with another seed changes more."
            + (
                " Hold a short run, or an estimate from a part of the test images, against"
                " published values with care."
                if source
                else ""
            ),
        ),
    )


SIGNAL_LEARNING_CURVES: Caption = (
    (
        _SHOWS,
        "How each run learns to be understood. Solid: games with images held back for validation."
        " The diamond is the model of the best validation score, on games with test images.",
    ),
    (
        _UNITS,
        "Across: epochs. Upwards: per cent of the games; nats (1 nat = 1.44 bits).",
    ),
    (
        _LOOK,
        "A success that leaves chance, one in as many as there are candidates, and an entropy that"
        " falls with it. A run that stays where it began, with the largest entropy there is, has a"
        " sender that says everything of everything: its entropy is rewarded too much.",
    ),
)

BIT_LEARNING_CURVES: Caption = (
    (
        _SHOWS,
        "How each run gets better, and by what. Solid: images held back for validation; thin and"
        " dotted: training images, while the model still changes. The diamond is the model of the"
        " best validation score, on test images. The ELBO is minus the sum of the other two: the"
        " rate is what the code tells of an image, the distortion what is left to tell. For the"
        " score function the distortion is estimated from a draw for each image; for the others it"
        " is a sum over all codes with a probability.",
    ),
    (
        _UNITS,
        "Across: epochs. Upwards: nats per image (1 nat = 1.44 bits). ELBO: a lower bound on the"
        " image's log-probability; nearer to zero is better. Rate: from 0 to D · log 2, which is"
        " 22.2 with 32 bits and 88.7 with 128. Distortion: lower is better.",
    ),
    (
        _LOOK,
        "An ELBO that rises and a distortion that falls, for validation as for training: a gap"
        " between the two means that training images are being learnt by heart. A rate near its"
        " limit says that q(z|x) settles for one code; one near zero, that the bits are ignored.",
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


def objectives(*, parts: bool) -> Caption:
    """``parts``: whether the objective is drawn with its labelled and unlabelled parts."""
    return (
        (
            _SHOWS,
            "What the optimiser makes smaller, averaged over the steps of each epoch."
            + (
                " The objective is the labelled part plus the unlabelled part times the ratio of"
                " unlabelled to labelled images. In the warm-up it is the labelled part alone: the"
                " two pieces of its curve are not to be compared."
                if parts
                else " Estimates of it are noisy, and some are not estimates of the same thing:"
                " compare runs by what is drawn above."
            ),
        ),
        (_UNITS, "Across: epochs. Upwards: nats per example; lower is better."),
        (
            _LOOK,
            "Curves that fall and flatten. One that climbs or leaps about asks for a smaller"
            " learning rate.",
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
