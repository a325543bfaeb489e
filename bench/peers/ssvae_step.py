"""A training step of the semi-supervised VAE in Python: with sparsum.expectation, and written
plainly with PyTorch and PyPI's entmax.

    python bench/peers/ssvae_step.py RUN --data FOLDER [--threads 1] [--rounds 40]

RUN is a finished run of `sparsum train ssvae`, whose trained network is timed;
`bench_training_step RUN` times the same step in C++. FOLDER holds `mnist/`. Every step draws 64 labelled and 64 unlabelled
images, binarises them, and updates with Adam (a step size of 0: the model stays as it is). Before
anything is timed, all contenders must agree in objective and gradients on one batch. They take
turns, a few steps at a time; the median over the turns is what counts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path

import entmax
import sparsum
import torch
from torch import Tensor
from torch.nn import functional

CLASSES, LATENTS, BATCH, STEPS = 10, 8, 64, 10
UNLABELLED_WEIGHT = 9.0  # 45,000 unlabelled images to 5,000 labelled


class Model(torch.nn.Module):
    """p(x|z,h), q(h|x,z) and π(z|x), with the trained parameters of a run."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in parameters.items():
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(tensor.clone()))

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))

    def scores(self, x: Tensor) -> Tensor:
        for layer in range(3):
            x = self.linear(f"classifier_{layer}", x).relu_()
        return self.linear("classifier_3", x)

    def loss(self, features: Tensor, code: Tensor, decoded: Tensor, x: Tensor, h: Tensor) -> Tensor:
        """−log p(x|z,h) + KL(q(h|x,z) ‖ N(0, I)) of each pair.

        features: of x. code, decoded: z's rows of the encoder's and the decoder's tables.
        x: images. h: noise. All with a row a pair."""
        hidden = self.linear("encoder_rest_0", (features + code).relu_()).relu_()
        mean, log_sigma = self.linear("encoder_rest_1", hidden).chunk(2, -1)
        sigma = log_sigma.exp()
        divergence = 0.5 * (mean.square() + sigma.square() - 1).sum(-1) - log_sigma.sum(-1)
        latent = self.linear("decoder", mean + sigma * h) + decoded
        hidden = self.linear("decoder_rest_0", latent.relu_()).relu_()
        logits = self.linear("decoder_rest_1", hidden)
        nll = (functional.softplus(logits) - x * logits).sum(-1)
        return nll + divergence


class Batch:
    def __init__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        chosen = torch.randint(len(images), (2 * BATCH,), generator=generator)
        pixels = images[chosen]
        self.x = (torch.rand(pixels.shape, generator=generator) < pixels).float()
        self.labels = labels[chosen[:BATCH]]
        # Noise for every (example, class), so that all contenders see the same.
        self.noise = torch.randn(2 * BATCH, CLASSES, LATENTS, generator=generator)


def with_sparsum(model: Model, batch: Batch) -> Tensor:
    scores, features = model.scores(batch.x), model.linear("encoder", batch.x)
    q = sparsum.SparseDistribution.from_dense(sparsum.sparsemax(scores[BATCH:]))
    labelled: list[Tensor] = []

    def loss(z: sparsum.Assignments) -> Tensor:
        # The labelled images ride along.
        rows = torch.cat([torch.arange(BATCH), z.rows + BATCH])
        classes = torch.cat([batch.labels, z.indices])
        both = model.loss(
            features[rows], model.encoder_table[classes], model.decoder_table[classes],
            batch.x[rows], batch.noise[rows, classes],
        )  # fmt: skip
        labelled.append(both[:BATCH])
        return both[BATCH:]

    unlabelled = sparsum.expectation(q, loss) - q.entropy()
    supervised = sparsum.sparsemax_loss(scores[:BATCH], batch.labels, reduction="mean")
    return objective(labelled[0], supervised, unlabelled)


def with_entmax_on_the_support(model: Model, batch: Batch) -> Tensor:
    scores, features = model.scores(batch.x), model.linear("encoder", batch.x)
    probs = entmax.sparsemax(scores[BATCH:], -1)
    examples, outcomes = probs.nonzero(as_tuple=True)
    rows = torch.cat([torch.arange(BATCH), examples + BATCH])
    classes = torch.cat([batch.labels, outcomes])
    both = model.loss(
        features[rows], model.encoder_table[classes], model.decoder_table[classes],
        batch.x[rows], batch.noise[rows, classes],
    )  # fmt: skip
    weights = probs[examples, outcomes]
    expected = torch.zeros(BATCH).index_add(0, examples, weights * both[BATCH:])
    entropy = -torch.zeros(BATCH).index_add(0, examples, weights * weights.log())
    supervised = entmax.sparsemax_loss(scores[:BATCH], batch.labels).mean()
    return objective(both[:BATCH], supervised, expected - entropy)


def with_entmax_over_all_classes(model: Model, batch: Batch) -> Tensor:
    scores, features = model.scores(batch.x), model.linear("encoder", batch.x)
    probs = entmax.sparsemax(scores[BATCH:], -1)
    costs = model.loss(
        features[BATCH:, None], model.encoder_table, model.decoder_table,
        batch.x[BATCH:, None].expand(-1, CLASSES, -1), batch.noise[BATCH:],
    )  # fmt: skip
    labels = batch.labels
    labelled = model.loss(
        features[:BATCH], model.encoder_table[labels], model.decoder_table[labels],
        batch.x[:BATCH], batch.noise[torch.arange(BATCH), labels],
    )  # fmt: skip
    entropy = -torch.special.xlogy(probs, probs.clamp_min(1e-38)).sum(-1)
    supervised = entmax.sparsemax_loss(scores[:BATCH], labels).mean()
    return objective(labelled, supervised, (probs * costs).sum(-1) - entropy)


def objective(labelled: Tensor, supervised: Tensor, unlabelled: Tensor) -> Tensor:
    prior = math.log(CLASSES)
    return labelled.mean() + supervised + prior + UNLABELLED_WEIGHT * (unlabelled.mean() + prior)


CONTENDERS: dict[str, Callable[[Model, Batch], Tensor]] = {
    "sparsum.expectation": with_sparsum,
    "entmax, its support": with_entmax_on_the_support,
    "entmax, all classes": with_entmax_over_all_classes,
}


def read_network(path: Path) -> dict[str, Tensor]:
    """The network's tensors in a safetensors checkpoint."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    prefix = "model/network."
    tensors = {}
    for name, entry in header.items():
        if name.startswith(prefix):
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            flat = torch.frombuffer(bytearray(content[begin:end]), dtype=torch.float32)
            tensors[name.removeprefix(prefix)] = flat.view(entry["shape"])
    return tensors


def read_mnist(folder: Path) -> tuple[Tensor, Tensor]:
    images = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = torch.frombuffer(bytearray(images), dtype=torch.uint8).view(-1, 784)
    return pixels.float().div_(255), torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()


def gradients(step: Callable[[Model, Batch], Tensor], model: Model, batch: Batch) -> list[Tensor]:
    value = step(model, batch)
    return [value.detach(), *torch.autograd.grad(value, list(model.parameters()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds mnist/")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # As the program does: weight decay shrinks the weights of pixels that are never on until they
    # are denormal numbers, and an update by Adam takes three times as long.
    torch.set_flush_denormal(True)
    images, labels = read_mnist(arguments.data / "mnist")
    parameters = read_network(arguments.run / "checkpoints" / "best.safetensors")
    generator = torch.Generator().manual_seed(1)

    # All of them are the same step.
    batch = Batch(images, labels, generator)
    reference = gradients(with_entmax_over_all_classes, Model(parameters), batch)
    for name, step in CONTENDERS.items():
        for ours, theirs in zip(
            gradients(step, Model(parameters), batch), reference, strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, msg=name)

    models = {name: Model(parameters) for name in CONTENDERS}
    optimisers = {
        name: torch.optim.Adam(model.parameters(), lr=0.0, weight_decay=1e-5, fused=True)
        for name, model in models.items()
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(-2, arguments.rounds):
        for name, step in CONTENDERS.items():
            begin = time.perf_counter()
            for _ in range(STEPS):
                step(models[name], Batch(images, labels, generator)).backward()
                optimisers[name].step()
                optimisers[name].zero_grad()
            if turn >= 0:
                milliseconds[name].append((time.perf_counter() - begin) * 1e3 / STEPS)
    own = statistics.median(milliseconds["sparsum.expectation"])
    print(f"{'step':22} {'ms/step':>10} {'/ sparsum':>10}")
    for name, times in milliseconds.items():
        print(f"{name:22} {statistics.median(times):10.2f} {statistics.median(times) / own:10.2f}")


if __name__ == "__main__":
    main()
