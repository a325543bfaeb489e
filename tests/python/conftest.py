"""Run folders made up for the tests, in the schema that the program writes."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYTHON_ROOT = Path(__file__).resolve().parents[2] / "python"
sys.path.insert(0, str(PYTHON_ROOT))

MakeRun = Callable[..., Path]


def png_bytes(width: int = 6, height: int = 4, grey: int = 200) -> bytes:
    """A PNG file written by hand, so that no library under test makes its own input."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + bytes([grey, 0] * width)[:width] for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def evaluations(mean: float) -> dict[str, float]:
    return {"mean": mean, "median": round(mean), "q25": 1.0, "q75": math.ceil(mean)}


def metrics_row(epoch: int, warmup: int = 4) -> dict[str, Any]:
    in_warmup = epoch <= warmup
    calls = 1.0 + 2.0 / epoch
    return {
        "schema": 1,
        "epoch": epoch,
        "phase": "warmup" if in_warmup else "train",
        "steps": 79 if in_warmup else 704,
        "train": {
            "objective": 300.0 - epoch,
            "labelled": 150.0 - epoch,
            "unlabelled": None if in_warmup else 140.0 - epoch,
            "accuracy": 0.99 - 0.3 / epoch,
            "evaluations": None if in_warmup else evaluations(calls),
        },
        "validation": {
            "accuracy": 0.97 - 0.3 / epoch,
            "elbo": -100.0 - 80.0 / epoch,
            "evaluations": evaluations(calls),
        },
    }


def timing_row(epoch: int, warmup: int = 4) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "phase": "warmup" if epoch <= warmup else "train",
        "seconds": 0.5 if epoch <= warmup else 2.5,
        "steps_per_second": 158.0,
        "evaluate_seconds": 0.2,
    }


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run folder; options are keys of config.toml, with ``_`` for ``-``."""

    def make(
        name: str = "run",
        *,
        warmup: int = 4,
        epochs: int = 6,
        finished: bool = True,
        accuracy: float = 0.9687,
        **options: Any,
    ) -> Path:
        path = tmp_path / name
        (path / "images").mkdir(parents=True)
        config = {
            "experiment": "ssvae",
            "dataset": "mnist",
            "estimator": "sparsemax",
            "seed": 0,
            "epochs": epochs,
            "warmup_epochs": warmup,
            "lr": 5e-4,
            **options,
        }
        (path / "config.toml").write_text(
            "".join(f"{k.replace('_', '-')} = {json.dumps(v)}\n" for k, v in config.items())
        )
        last = warmup + epochs if finished else warmup + epochs // 2
        write_lines(path / "metrics.jsonl", [metrics_row(e, warmup) for e in range(1, last + 1)])
        write_lines(path / "timing.jsonl", [timing_row(e, warmup) for e in range(1, last + 1)])
        if finished:
            summary = {
                "schema": 1,
                **{k: config[k] for k in ("experiment", "estimator", "dataset", "seed")},
                "epochs": epochs,
                "warmup_epochs": warmup,
                "seconds": 63.4,
                "parameters": 512345,
                "warmup": {
                    "test": {"accuracy": 0.9471, "elbo": -140.13, "evaluations": evaluations(2.5)}
                },
                "best": {"epoch": last - 1, "validation": {"accuracy": accuracy}},
                "test": {"accuracy": accuracy, "elbo": -98.24, "evaluations": evaluations(1.01)},
                "versions": {"sparsum": "0.1.0", "torch": "2.13.0"},
                "threads": 2,
            }
            (path / "summary.json").write_text(json.dumps(summary))
        for image in ("samples", "reconstructions"):
            (path / "images" / f"{image}.png").write_bytes(png_bytes())
        return path

    return make


def run_module(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m ARGUMENTS`` with nothing but this project's sources on the path."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PYTHON_ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
