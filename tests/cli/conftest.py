"""The program under test, and small data for it."""

from __future__ import annotations

import gzip
import os
import random
import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("SPARSUM_BIN", ROOT / "build" / "release" / "sparsum")).resolve()

Sparsum = Callable[..., subprocess.CompletedProcess]


def pytest_configure() -> None:
    if not PROGRAM.exists():
        raise pytest.UsageError(f"{PROGRAM}: expected the program; build it, or set SPARSUM_BIN")


def write_idx(path: Path, shape: tuple[int, ...], values: bytes) -> None:
    header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(path, "wb", compresslevel=1, mtime=0) as file:
        file.write(header + values)


def write_images(folder: Path, kind: str, count: int) -> None:
    """Ten classes, each a bright square in a place of its own on a dim, noisy ground."""
    noise = random.Random(7)
    pixels = bytearray()
    for i in range(count):
        image = bytearray(noise.choices(range(40), k=784))
        top, left = 2 + 13 * (i % 10 // 5), 1 + 5 * (i % 5)
        for row in range(top, top + 10):
            image[28 * row + left : 28 * row + left + 5] = bytes([230] * 5)
        pixels += image
    write_idx(folder / f"{kind}-images-idx3-ubyte.gz", (count, 28, 28), bytes(pixels))
    write_idx(folder / f"{kind}-labels-idx1-ubyte.gz", (count,), bytes(i % 10 for i in range(count)))


def fails(result: subprocess.CompletedProcess, message: str, code: int = 2) -> None:
    """One line on stderr that begins with the program's name and matches; nothing on stdout."""
    assert result.returncode == code, result
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert re.fullmatch(f"sparsum: {message}", lines[0]), lines[0]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a small mnist/ in it; not to be changed."""
    root = tmp_path_factory.mktemp("data")
    write_images(root / "mnist", "train", 320)
    write_images(root / "mnist", "t10k", 50)
    return root


@pytest.fixture
def sparsum(tmp_path: Path, data: Path) -> Sparsum:
    """Runs the program in an empty folder, on the small data."""

    def run(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(PROGRAM), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "SPARSUM_DATA": str(data), **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
