"""What the experiments have of their own: metrics, words, and how their pictures are explained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sparsum.report import captions
from sparsum.report.captions import Caption
from sparsum.report.metrics import (
    ACCURACY,
    BOUND,
    DISTORTION,
    ELBO,
    EVALUATIONS,
    EXACT,
    GAME_NLL,
    LABELLED,
    MUTUAL_INFORMATION,
    NLL,
    OBJECTIVE,
    RATE,
    SENDER_ENTROPY,
    STATISTICS,
    SUCCESS,
    SYMBOLS,
    TOPOGRAPHIC,
    UNLABELLED,
    Metric,
)
from sparsum.runs import Run

SPLITS = ("train", "validation", "test")

DATASETS = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "mnist+fashion-mnist": "MNIST and Fashion-MNIST",
}

_TITLE_RECONSTRUCTIONS = "Test images and what the model makes of them"
_TITLE_SAMPLES = "Images that the model makes up"

_SAMPLING_ESTIMATORS = {
    "sfe-loo": "score function; each sample's baseline is the mean loss of the others.",
    "unordered-set": "samples without replacement, each weighted by how likely it was to be among"
    " them.",
    "rebar": "score function with the loss at a relaxed sample as control variate.",
    "relax": "score function with a learned function of a relaxed sample as control variate.",
    "arm": "bits drawn in opposite pairs; two decoder calls, no baseline.",
    "disarm": "the same with part of the noise averaged out by a formula.",
    "muprop": "score function with the loss's linear expansion at the mean as control variate.",
    "vimco": "a tighter bound from several samples, each with the others as its baseline.",
    "gumbel": "a relaxed sample (Gumbel-softmax): one decoder call, a biased gradient.",
    "st-gumbel": "a hard sample with the gradient of a relaxed one: one decoder call, biased.",
    "straight-through": "a sample with the gradient of its mean: one decoder call, biased.",
    "imle": "the best assignment of noisy scores, compared with that of scores moved down the loss:"
    " one decoder call, biased.",
}

_ESTIMATORS = {
    "dense": "softmax probabilities; every class is summed over: exact, and as many decoder calls"
    " as there are classes.",
    "sparsemax": "probabilities of which most are exactly zero; only the others are summed over:"
    " exact, with few decoder calls.",
    "entmax": "between softmax and sparsemax: probabilities of which many are exactly zero; only"
    " the others are summed over.",
    "top-k": "sparsemax over the k best assignments, found without listing all.",
    "top-k-adaptive": "the same with a k that grows until nothing more would get a probability.",
    "sparsemap": "a sparse distribution over structures, found by an active-set solver.",
    "sfe": "score function (REINFORCE): one class is drawn; one decoder call, a noisy gradient;"
    " a moving average of past losses takes some of the noise away.",
    "sfe-plus": "score function with a second sample as its baseline: two decoder calls.",
    "nvil": "score function with a learned baseline: one decoder call, a noisy gradient.",
    "sum-and-sample": "the most probable classes summed, one of the rest drawn.",
    **_SAMPLING_ESTIMATORS,
}

_BIT_ESTIMATORS = {
    "dense": "softmax probabilities; all 2^D codes are summed over: exact, and possible for a few"
    " bits only.",
    "top-k": "sparsemax over the k best codes, found without listing all: at most k decoder calls,"
    " and fewer as the model becomes sure.",
    "top-k-adaptive": "the same with a k that grows until no further code would get a probability"
    " above zero, or a bound is met.",
    "sparsemap": "a few codes with probabilities above zero, such that each bit on its own is on"
    " about as often as its score asks; only they are summed over.",
    "sparsemap-budget": "SparseMAP over the codes with no more than B bits on.",
    "sfe": "score function (REINFORCE): codes are drawn, one unless told otherwise; one decoder"
    " call a draw, a noisy gradient; a moving average of past losses takes some of the noise away.",
    "sfe-plus": "score function with a second sample as its baseline: two decoder calls.",
    "nvil": "score function with a learned baseline: one decoder call, a noisy gradient.",
    "sum-and-sample": "the most probable codes summed, one of the rest drawn.",
    **_SAMPLING_ESTIMATORS,
}

_IMAGES = {
    "samples": (
        _TITLE_SAMPLES,
        "Each row is one class z, each column one draw of the continuous code h, the same in all"
        " rows. Look for rows that keep to one kind of object, and columns that share"
        " a manner, such as slant or thickness: then the model has told the two apart.",
    ),
    "reconstructions": (
        _TITLE_RECONSTRUCTIONS,
        "Top row: images the model has never seen. Below: the same, encoded and drawn again under"
        " the class that the model finds most probable. Look for the same object below;"
        " a different one is a misread class, a blurred one lost detail.",
    ),
}

_BIT_IMAGES = {
    "reconstructions": (
        _TITLE_RECONSTRUCTIONS,
        "Rows in pairs: images the model has never seen, and below each its reconstruction: the"
        " image is turned into its most probable code and drawn again from these bits alone, every"
        " pixel at its mean grey. Look for the same object below, with its outline and"
        " brightness; fine detail is what few bits cannot hold.",
    ),
    "samples": (
        _TITLE_SAMPLES,
        "40 codes drawn from the prior, under which every vector of bits is equally likely, and the"
        " image that each stands for, every pixel at its mean grey. Look for objects that"
        " could be in the data; blends of several are codes that no training image uses, and the"
        " more of them, the more of the code is wasted.",
    ),
    "walk": (
        "What single bits mean",
        "Each row belongs to one test image. First column: its reconstruction. Then the same code"
        " with one bit flipped, another bit in each column, those that change the image most first"
        " (a column is not the same bit in all rows). Look for flips that change one thing"
        " and leave an image that could be real, such as its width or brightness; where"
        " nothing changes, the model makes little use of the bits.",
    ),
}

_SYMBOL_ESTIMATORS = {
    name: words.replace("classes", "symbols")
    .replace("class", "symbol")
    .replace("decoder", "receiver")
    for name, words in _ESTIMATORS.items()
}

_SYMBOL_IMAGES = {
    "symbols": (
        "What symbols stand for",
        "Each row is one symbol, the most used first: the test images it is said of with the"
        " highest probability. Look for rows of one kind: such a symbol is a word.",
    ),
    "symbols-concepts": (
        "Symbols and concepts",
        "Each row is one symbol, the most used first, each column one concept. The stronger a"
        " cell's colour (in a grey picture: the brighter a cell), the larger that concept's share among the images that the symbol is said"
        " of. Look for one strong cell a row: a row of pale ones is a symbol that says little, and"
        " several rows with the same concept are synonyms, or tell apart what has no name.",
    ),
}

_CALL = "Loss evaluation, decoder call"
_ESTIMATOR = "Estimator"
_BOUND_ENTRY = (
    "ELBO",
    "evidence lower bound: what a model of this kind is trained to raise. A bound from"
    " below on the log-probability of an image, in nats (1 nat = 1.44 bits); nearer to zero is"
    " better. Compare it only on the same data set and with the same preparation of images.",
)
_SPLITS_ENTRY = (
    "Train, validation, test",
    "images to learn from; images to watch progress and choose by;"
    " images looked at once, for the final numbers.",
)
_SEED_ENTRY = (
    "Seed",
    "the number that all random choices follow from. Runs with several seeds show"
    " how much of a difference is chance.",
)

_GLOSSARY = (
    (_ESTIMATOR, "how training gets a gradient through the discrete class: by summing over all"
     " classes, over the few with a probability above zero, or by drawing samples."),
    (_CALL, "one run of the decoder for one example and one class: the"
     " unit in which methods are compared, because it is what costs time."),
    _BOUND_ENTRY,
    ("Warm-up, warm start", "a first phase on labelled images alone, the same for every estimator."
     " The model it ends with is the start of the comparison."),
    _SPLITS_ENTRY,
    _SEED_ENTRY,
)  # fmt: skip

_BIT_GLOSSARY = (
    ("Code", "the latent variable z, a vector of D bits. The encoder gives each bit a score, and"
     " the scores make up the distribution q(z|x) of an image's code; the decoder draws an image"
     " from a code."),
    (_ESTIMATOR, "how training gets a gradient through the bits: by summing over the few codes"
     " with a probability above zero, or by drawing samples. Each sets up q(z|x) in its own way."),
    (_CALL, "one run of the decoder for one example and one code: the"
     " unit in which methods are compared, because it is what costs time."),
    _BOUND_ENTRY,
    ("Rate, distortion", "the two parts of the negative ELBO. Rate: the divergence of q(z|x) from"
     " the prior, that is what the code tells of its image; D · log 2 nats at most, when q settles"
     " for one code. Distortion: −log p(x|z), what remains to be told."),
    ("NLL, bits per dimension", "negative log-likelihood −log p(x), in bits, for each of the"
     " image's pixels: with a perfect coder, the space that a pixel of 8 bits would take."
     " Estimated by importance sampling, which on average never comes out below the truth."),
    ("Monte Carlo standard error", "how much the estimate of the NLL would vary if its random"
     " draws were others, the images and the model being the same. What another seed of the"
     " training would change is not in it."),
    _SPLITS_ENTRY,
    _SEED_ENTRY,
)  # fmt: skip


_SYMBOL_GLOSSARY = (
    ("Game", "the sender sees one image, the receiver several in random order, and is told the"
     " symbol that the sender says. By chance one of as many as there are candidates is right."),
    (_ESTIMATOR, "how training gets a gradient through the symbol: by summing over all symbols,"
     " over the few with a probability above zero, or by drawing samples."),
    ("Loss evaluation, receiver call", "one choice of the receiver, for one game and one symbol:"
     " the unit in which methods are compared."),
    ("Validation", "games with training images that were set aside, the same in every run."),
    ("Test", "games with test images, the same in every run."),
    _SEED_ENTRY,
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """What the report has to know of an experiment; by default what fits any."""

    name: str
    title: str
    about: str = ""
    curves: tuple[Metric, ...] = (ACCURACY, ELBO)
    """By epoch, as learning curves."""
    objectives: tuple[Metric, ...] = (OBJECTIVE, LABELLED, UNLABELLED)
    results: tuple[Metric, ...] = (ACCURACY, ELBO)
    """Of the summary, in the order of the table's columns; decoder calls come after them."""
    cards: tuple[Metric, ...] | None = None
    """What is shown large of a single run; None: the first results there are."""
    progress: Metric = ACCURACY
    """What is told of a run without results."""
    known: frozenset[str] = frozenset()
    """Further keys that are shown somewhere."""
    estimators: Mapping[str, str] = field(default_factory=lambda: _ESTIMATORS)
    images: Mapping[str, tuple[str, str]] = field(default_factory=lambda: _IMAGES)
    """Title and caption of the runs' own pictures, in the order of the page."""
    glossary: Sequence[tuple[str, str]] = _GLOSSARY
    learning_curves: Caption = captions.LEARNING_CURVES
    evaluations: Callable[..., Caption] = captions.evaluations

    def other_metrics(self, runs: Sequence[Run]) -> list[Metric]:
        """Metrics that the runs have and the experiment does not know, as they appear."""
        metrics = (*self.curves, *self.objectives, *self.results)
        known = {metric.key for metric in metrics} | {f"evaluations.{s}" for s in STATISTICS}
        known |= self.known
        found: dict[str, None] = {}
        for run in runs:
            summary = run.summary.values if run.summary is not None else {}
            for values in (*(row.values for row in run.rows), summary):
                for name in values:
                    split, _, key = name.partition(".")
                    if split in SPLITS and key and key not in known:
                        found.setdefault(key)
        return [Metric(key, key.replace("_", " ").replace(".", " ")) for key in found]

    def result_metrics(self, runs: Sequence[Run]) -> list[Metric]:
        """Metrics of which some run has a test result; the well-known ones first."""
        candidates = (*self.results, *self.other_metrics(runs), EVALUATIONS)
        return [
            m for m in candidates if any(run.result(f"test.{m.key}") is not None for run in runs)
        ]

    def image_words(self, kind: str) -> tuple[str, str]:
        """Title and caption of one of the runs' own pictures."""
        return self.images.get(kind, (kind.replace("_", " "), "A picture that the run made."))

    def card_metrics(self, run: Run) -> list[Metric]:
        """What is shown large of a single run."""
        metrics = self.result_metrics([run])
        return metrics[:4] if self.cards is None else [m for m in metrics if m in self.cards]


SSVAE = Experiment(
    "ssvae",
    "Semi-supervised VAE",
    "A model of images is trained that also learns to name what is on them. It explains an"
    " image by its class z, one of a few, and by a continuous code h for everything else, such"
    " as slant and stroke. A small part of the training images comes with its class; for the"
    " others the model has to sum, or guess, over the classes.",
)

SIGNAL = Experiment(
    "signal",
    "Emergent communication",
    "A sender sees an image and says one symbol of a vocabulary; a receiver sees several images"
    " and has to pick the one that was meant. The two learn a language of their own. Training sums"
    " over the symbols that the sender might say, or draws one.",
    curves=(SUCCESS, GAME_NLL, SENDER_ENTROPY),
    objectives=(OBJECTIVE,),
    results=(SUCCESS, GAME_NLL, SENDER_ENTROPY, SYMBOLS, MUTUAL_INFORMATION, TOPOGRAPHIC),
    cards=(SUCCESS, GAME_NLL, SYMBOLS, EVALUATIONS),
    progress=SUCCESS,
    known=frozenset(("loss", "expected_success")),
    estimators=_SYMBOL_ESTIMATORS,
    images=_SYMBOL_IMAGES,
    glossary=_SYMBOL_GLOSSARY,
    learning_curves=captions.SIGNAL_LEARNING_CURVES,
    evaluations=captions.signal_evaluations,
)

BITVECTOR = Experiment(
    "bitvector",
    "Bit-vector VAE",
    "A model of images is trained whose code is a vector of bits: each image is squeezed"
    " into that many yes-or-no answers and drawn again from them. There are far too many codes to"
    " sum over, four billion with 32 bits: training sums over the few that matter, or draws.",
    curves=(BOUND, RATE, DISTORTION),
    objectives=(),
    results=(NLL, BOUND, RATE, DISTORTION, EXACT),
    cards=(NLL, BOUND, EVALUATIONS),
    progress=BOUND,
    known=frozenset(
        ("objective", "nll.nats", "nll.standard_error", "nll.samples", "nll.images"),
    ),
    estimators=_BIT_ESTIMATORS,
    images=_BIT_IMAGES,
    glossary=_BIT_GLOSSARY,
    learning_curves=captions.BIT_LEARNING_CURVES,
    evaluations=captions.bit_evaluations,
)

_KNOWN = {experiment.name: experiment for experiment in (SSVAE, SIGNAL, BITVECTOR)}


def experiment_of(run: Run) -> Experiment:
    """The experiment that a run says it is of, known or not."""
    return experiment_named(str(run.fields.get("experiment", "")))


def experiment_named(name: str) -> Experiment:
    """The experiment of a name, known or not."""
    return _KNOWN.get(name) or Experiment(name, name or "Training report")


def by_experiment(runs: Sequence[Run]) -> list[tuple[Experiment, list[Run]]]:
    """The runs of each experiment, experiments in the order in which they are met."""
    groups: dict[str, tuple[Experiment, list[Run]]] = {}
    for run in runs:
        experiment = experiment_of(run)
        groups.setdefault(experiment.name, (experiment, []))[1].append(run)
    return list(groups.values())


def title(experiment: Experiment, runs: Sequence[Run]) -> str:
    """What was trained on what, such as ``Bit-vector VAE on MNIST and Fashion-MNIST``."""
    data = " and ".join(DATASETS.get(name, name) for name in distinct(runs, "dataset"))
    return f"{experiment.title} on {data}" if data else experiment.title


def distinct(runs: Sequence[Run], key: str) -> list[str]:
    """The values of an option, in the order in which they are met."""
    return list(dict.fromkeys(str(run.fields[key]) for run in runs if key in run.fields))
