"""Attention with exact zeros: softmax, entmax with a learned alpha and sparsemax side by side.

One attention head learns to turn sequences around: position i of the output is position n − 1 − i
of the input. All three maps learn it; the picture shows where each of them looks.

    python examples/python/sparse_attention.py --out sparse_attention.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from torch import Tensor, nn

import sparsum

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402

LENGTH, SYMBOLS, WIDTH = 12, 8, 24


class Attention(nn.Module):
    """One head over symbol and position embeddings; `to_weights` maps scores to weights."""

    def __init__(self, to_weights: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.to_weights = to_weights
        self.symbols = nn.Embedding(SYMBOLS, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH))
        self.queries = nn.Linear(WIDTH, WIDTH)
        self.keys = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols [B, n] -> logits of the output [B, n, SYMBOLS], weights [B, n, n]."""
        embedded = self.symbols(x)
        scores = self.queries(self.places) @ self.keys(embedded + self.places).transpose(1, 2)
        weights = self.to_weights(scores / WIDTH**0.5)
        return self.out(weights @ embedded), weights


def train(
    to_weights: Callable[[Tensor], Tensor], steps: int, seed: int = 0
) -> tuple[Attention, float]:
    """The trained model and its share of right symbols in fresh sequences."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Attention(to_weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        x = torch.randint(SYMBOLS, (32, LENGTH), generator=generator)
        logits, _ = model(x)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), x.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        x = torch.randint(SYMBOLS, (200, LENGTH), generator=generator)
        right = (model(x)[0].argmax(2) == x.flip(1)).float().mean().item()
    return model, right


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="[default 400]")
    parser.add_argument(
        "--out", type=Path, default=Path("sparse_attention.png"), help="the picture"
    )
    options = parser.parse_args(arguments)

    maps: dict[str, Callable[[Tensor], Tensor]] = {
        "softmax": nn.Softmax(dim=-1),
        "entmax, α learned": sparsum.Entmax(alpha=1.5, learnable=True),
        "sparsemax": sparsum.Sparsemax(),
    }
    # Exact zeros are left white; the smallest weight that is there is already coloured.
    colors = ListedColormap(plt.get_cmap("YlGnBu")([0.15 + 0.85 * i / 255 for i in range(256)]))
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
    x = torch.arange(LENGTH).unsqueeze(0) % SYMBOLS
    for axis, (name, to_weights) in zip(axes, maps.items(), strict=True):
        model, right = train(to_weights, options.steps)
        with torch.no_grad():
            weights = model(x)[1][0]
        zeros = (weights == 0).float().mean().item()
        print(f"{name}: {right:.1%} right, {zeros:.1%} of the weights are exactly 0")
        shown = weights.masked_fill(weights == 0, float("nan"))
        image = axis.imshow(shown.numpy(), cmap=colors, vmin=0, vmax=1)
        title = name
        if isinstance(to_weights, sparsum.Entmax):
            title = f"entmax, α learned: {float(to_weights.alpha.detach()):.2f}"
        axis.set(title=title, xlabel=f"input position\n{zeros:.0%} exact zeros, {right:.0%} right")
        axis.set(xticks=range(LENGTH), yticks=range(LENGTH))
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("output position")
    figure.colorbar(image, ax=axes, label="weight (white: exactly 0)", shrink=0.8)
    figure.savefig(options.out, dpi=110)
    plt.close(figure)
    print(options.out)


if __name__ == "__main__":
    main()
