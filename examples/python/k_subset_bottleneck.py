"""A classifier that may read k words only, and so says which words its prediction rests on.

Reviews are good, bad or neutral; the first two hold a few words of opinion among filler, and nobody
tells the model which are which. It scores every word, SparseMAP over the subsets of exactly k
words keeps the few that matter, and a classifier reads the words of each subset. The loss is its
expectation over those subsets, exactly. The picture shows reviews with the words it chose.

    python examples/python/k_subset_bottleneck.py --out k_subset_bottleneck.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

import sparsum

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

GOOD = "wonderful charming superb moving brilliant delightful".split()
BAD = "tedious dreadful clumsy bland pointless forgettable".split()
FILLER = (
    "the a film plot it was its with and of actors scenes story we saw that ending music "
    "director by in this year cinema"
).split()
WORDS = FILLER + GOOD + BAD
LENGTH, WIDTH = 12, 16


def make_reviews(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Word indices [count, LENGTH] and labels [count]: 0 bad and 1 good, two or three words of that
    opinion and at times one of the other; 2 neutral, filler alone."""
    words = torch.randint(len(FILLER), (count, LENGTH), generator=generator)
    labels = torch.randint(3, (count,), generator=generator)
    first = {1: len(FILLER), 0: len(FILLER) + len(GOOD)}
    for i in range(count):
        label = int(labels[i])
        if label == 2:
            continue
        own = 2 + int(torch.randint(2, (), generator=generator))
        other = int(torch.randint(4, (), generator=generator) == 0)
        places = torch.randperm(LENGTH, generator=generator)[: own + other]
        picks = torch.randint(len(GOOD), (own + other,), generator=generator)
        words[i, places[:own]] = picks[:own] + first[label]
        words[i, places[own:]] = picks[own:] + first[1 - label]
    return words, labels


class SubsetClassifier(nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.structure = sparsum.Subset(LENGTH, k)
        self.scorer = nn.Sequential(
            nn.Embedding(len(WORDS), WIDTH), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1)
        )
        self.reader = nn.EmbeddingBag(len(WORDS), WIDTH, mode="sum")
        self.out = nn.Linear(WIDTH, 3)

    def chosen(self, words: Tensor) -> sparsum.SparseDistribution:
        return sparsum.sparsemap(self.structure, self.scorer(words).squeeze(2))

    def read(self, words: Tensor, chosen: Tensor) -> Tensor:
        """Logits of the label from the chosen words alone: [n, LENGTH], [n, LENGTH] -> [n, 3]."""
        return self.out(self.reader(words, per_sample_weights=chosen))

    def loss(self, words: Tensor, labels: Tensor) -> Tensor:
        q = self.chosen(words)

        def error(z: sparsum.Assignments) -> Tensor:
            logits = self.read(z.gather(words), z.values())
            return nn.functional.cross_entropy(logits, z.gather(labels), reduction="none")

        return sparsum.expectation(q, error).mean()

    @torch.no_grad()
    def predict(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """Labels by the most probable subset, and the marginal probability of every word."""
        q = self.chosen(words)
        return self.read(words, q.mode).argmax(1), q.marginals()


def train(steps: int, k: int = 2, seed: int = 0) -> tuple[SubsetClassifier, Tensor, Tensor]:
    """The trained model, and reviews that it has not seen with their labels."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    words, labels = make_reviews(1000, generator)
    model = SubsetClassifier(k)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        batch = torch.randint(len(words), (64,), generator=generator)
        loss = model.loss(words[batch], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, *make_reviews(300, generator)


def draw(words: Tensor, labels: Tensor, predicted: Tensor, marginals: Tensor, out: Path) -> None:
    rows = len(words)
    figure, axis = plt.subplots(figsize=(11.5, 0.42 * rows + 0.7), layout="constrained")
    axis.set(xlim=(0, LENGTH + 1.6), ylim=(rows, -0.6))
    axis.axis("off")
    names, colors = ("bad", "good", "neutral"), ("#cc3311", "#228833", "#555555")
    axis.text(LENGTH + 0.1, -0.3, "prediction", fontsize=9, weight="bold")
    explanation = "a review; the darker a word, the surer it is chosen"
    axis.text(0.05, -0.3, explanation, fontsize=9, weight="bold")
    for row in range(rows):
        color = colors[int(predicted[row])]
        for place in range(LENGTH):
            p = float(marginals[row, place])
            corner = (place + 0.02, row + 0.1)
            axis.add_patch(plt.Rectangle(corner, 0.96, 0.8, color=color, alpha=0.75 * p, lw=0))
            axis.text(
                place + 0.5, row + 0.5, WORDS[int(words[row, place])],
                ha="center", va="center", fontsize=8.5,
                color="black" if p > 0 else "#999999",
            )  # fmt: skip
        right = "" if predicted[row] == labels[row] else " (wrong)"
        prediction = names[int(predicted[row])] + right
        axis.text(LENGTH + 0.1, row + 0.5, prediction, va="center", color=color)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500, help="[default 500]")
    parser.add_argument(
        "--out", type=Path, default=Path("k_subset_bottleneck.png"), help="the picture"
    )
    options = parser.parse_args(arguments)
    model, words, labels = train(options.steps)
    predicted, marginals = model.predict(words)
    accuracy = (predicted == labels).float().mean().item()
    # Of the reviews that hold any: how much of the choice falls on words of opinion.
    chosen = marginals[labels < 2] * (words[labels < 2] >= len(FILLER))
    opinion = chosen.sum().item() / marginals[labels < 2].sum().item()
    draw(words[:10], labels[:10], predicted[:10], marginals[:10], options.out)
    print(
        f"accuracy {accuracy:.1%} from 2 words of {LENGTH}; {opinion:.1%} of the choice is words "
        f"of opinion: {options.out}"
    )


if __name__ == "__main__":
    main()
