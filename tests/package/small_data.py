"""Small data sets in the files of MNIST, made here."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        file.write(header + array.astype(np.uint8).tobytes())


def make_images(count: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Ten classes, each a bright square in a place of its own on a dim, noisy ground:
    images [count, 28, 28] uint8 and labels [count]."""
    images = np.random.default_rng(seed).integers(0, 40, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count) % 10
    for image, label in zip(images, labels, strict=True):
        top, left = 2 + 13 * (label // 5), 1 + 5 * (label % 5)
        image[top : top + 10, left : left + 5] = 230
    return images, labels


def write_data(root: Path, *names: str) -> Path:
    """A data folder with a small data set of each name."""
    for seed, name in enumerate(names):
        for kind, count in (("train", 320), ("t10k", 50)):
            images, labels = make_images(count, seed)
            write_idx(root / name / f"{kind}-images-idx3-ubyte.gz", images)
            write_idx(root / name / f"{kind}-labels-idx1-ubyte.gz", labels)
    return root
