"""A variational auto-encoder whose latent variable is a vector of bits.

Images hold up to five strokes, each at a place of its own; nobody tells the model so. The encoder
gives a score to every bit, top-k sparsemax of all 2^D vectors of bits keeps the few best, and the
evidence lower bound is their sum, exactly. The picture shows images, what their codes decode to,
and what each bit does.

    python examples/python/discrete_vae.py --out discrete_vae.png
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

SIDE = 12


def make_images(count: int, generator: torch.Generator) -> Tensor:
    """Images of five strokes, each there or not, and noise: [count, SIDE²] of 0 and 1."""
    strokes = torch.zeros(5, SIDE, SIDE)
    strokes[0, 1:3, 1:11] = 1
    strokes[1, 9:11, 1:11] = 1
    strokes[2, 3:9, 1:3] = 1
    strokes[3, 3:9, 9:11] = 1
    strokes[4, 4:8, 5:7] = 1
    present = torch.rand(count, 5, generator=generator) < 0.5
    clean = (present.float() @ strokes.flatten(1)).clamp(max=1)
    noise = torch.rand(clean.shape, generator=generator) < 0.03
    return (clean - noise.float()).abs()


class BitVae(nn.Module):
    """q(z|x) from an encoder, p(x|z) from a decoder, p(z) uniform over the 2^bits codes."""

    def __init__(self, bits: int, k: int) -> None:
        super().__init__()
        self.structure = sparsum.BitVector(bits)
        self.k = k
        self.encoder = nn.Sequential(
            nn.Linear(SIDE * SIDE, 64), nn.ReLU(), nn.Linear(64, bits)
        )
        self.decoder = nn.Sequential(
            nn.Linear(bits, 64), nn.ReLU(), nn.Linear(64, SIDE * SIDE)
        )

    def posterior(self, x: Tensor) -> sparsum.SparseDistribution:
        return sparsum.top_k_sparsemax(self.structure, self.encoder(x), self.k)

    def loss(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The negative evidence lower bound in nats, and the decoder's runs per image."""
        q = self.posterior(x)

        def distortion(z: sparsum.Assignments) -> Tensor:
            logits = self.decoder(z.values())
            pixels = nn.functional.binary_cross_entropy_with_logits
            return pixels(logits, z.gather(x), reduction="none").sum(1)

        negative_elbo = (
            sparsum.expectation(q, distortion) - q.entropy() + self.structure.log_size
        )
        return negative_elbo.mean(), q.evaluations().float().mean()

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(codes.float()).sigmoid().view(-1, SIDE, SIDE)


def train(
    steps: int, bits: int = 6, seed: int = 0
) -> tuple[BitVae, Tensor, list[float], list[float]]:
    """The trained model, its images, and the loss and the decoder's runs of every step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images = make_images(2000, generator)
    model = BitVae(bits, k=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    losses, calls = [], []
    for _ in range(steps):
        batch = images[torch.randint(len(images), (64,), generator=generator)]
        loss, evaluations = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        calls.append(evaluations.item())
    return model, images, losses, calls


def draw(
    model: BitVae, images: Tensor, losses: list[float], calls: list[float], out: Path
) -> None:
    shown = images[:8]
    with torch.no_grad():
        codes = model.posterior(shown).mode
    rebuilt = model.decode(codes)
    bits = codes.shape[1]
    flips = codes[0].repeat(bits, 1)
    flips[range(bits), range(bits)] = 1 - flips[range(bits), range(bits)]
    rows = [
        ("image", shown.view(-1, SIDE, SIDE), [""] * 8),
        ("its code, decoded", rebuilt, ["".join(map(str, c)) for c in codes.int().tolist()]),
        (
            "the first code,\none bit flipped",
            torch.cat([rebuilt[:1], model.decode(flips)]),
            ["code", *(f"bit {i + 1}" for i in range(bits))],
        ),
    ]
    figure = plt.figure(figsize=(10, 6.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.9, 1])
    axes = above.subplots(3, 8)
    for row, (label, pictures, titles) in zip(axes, rows, strict=True):
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        row[0].set_ylabel(label)
        for axis, picture, title in zip(row, pictures, titles, strict=False):
            axis.set_frame_on(True)
            axis.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1)
            axis.set_title(title, fontsize=9)
    left, right = below.subplots(1, 2)
    left.plot(losses, color="#4477aa")
    left.set(xlabel="step", ylabel="negative ELBO, nats")
    right.plot(calls, color="#ee6677")
    right.set(xlabel="step", ylabel="decoder runs per image", ylim=(0, model.k + 0.5))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1200, help="[default 1200]")
    parser.add_argument("--out", type=Path, default=Path("discrete_vae.png"), help="the picture")
    options = parser.parse_args(arguments)
    model, images, losses, calls = train(options.steps)
    draw(model, images, losses, calls, options.out)
    print(
        f"negative ELBO {losses[-1]:.1f} nats, {calls[-1]:.1f} decoder runs per image of "
        f"{model.structure.size} codes: {options.out}"
    )


if __name__ == "__main__":
    main()
