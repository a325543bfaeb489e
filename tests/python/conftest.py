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


def bit_metrics_row(epoch: int, *, sampled: bool = False) -> dict[str, Any]:
    """Of the bit-vector experiment; ``sampled``: nothing is summed, so nothing is exact."""
    calls = evaluations(1.0 if sampled else 1.0 + 8.0 / epoch)
    rate, distortion = 22.0 - 6.0 / epoch, 2000.0 + 400.0 / epoch
    return {
        "schema": 1,
        "epoch": epoch,
        "phase": "train",
        "steps": 860,
        "train": {
            "objective": rate + distortion + 10.0,
            "rate": rate,
            "distortion": distortion + 10.0,
            "evaluations": calls,
        },
        "validation": {
            "elbo": -rate - distortion,
            "rate": rate,
            "distortion": distortion,
            **({} if sampled else {"exact": 1.0 - 0.4 / epoch}),
            "evaluations": calls,
        },
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


@pytest.fixture
def make_bit_run(tmp_path: Path) -> MakeRun:
    """Makes a run folder of the bit-vector experiment; options as in :func:`make_run`."""

    def make(
        name: str = "bits",
        *,
        epochs: int = 6,
        finished: bool = True,
        nll: float | None = 3.74215,
        error: float = 0.00026,
        **options: Any,
    ) -> Path:
        path = tmp_path / name
        (path / "images").mkdir(parents=True)
        config = {
            "experiment": "bitvector",
            "dataset": "fashion-mnist",
            "estimator": "sparsemap",
            "bits": 32,
            "structure": "bits",
            "budget": -1,
            "seed": 0,
            "epochs": epochs,
            "lr": 2e-3,
            **options,
        }
        (path / "config.toml").write_text(
            "".join(f"{k.replace('_', '-')} = {json.dumps(v)}\n" for k, v in config.items())
        )
        sampled = config["estimator"] == "sfe"
        last = epochs if finished else epochs // 2
        rows = [bit_metrics_row(epoch, sampled=sampled) for epoch in range(1, last + 1)]
        write_lines(path / "metrics.jsonl", rows)
        write_lines(path / "timing.jsonl", [timing_row(e, 0) for e in range(1, last + 1)])
        if finished:
            test = {
                "elbo": -2033.27,
                "rate": 21.12,
                "distortion": 2012.15,
                **({} if sampled else {"exact": 0.9979}),
                "evaluations": evaluations(1.0 if sampled else 1.15),
            }
            if nll is not None:
                test["nll"] = {
                    "bits_per_dimension": nll,
                    "nats": 2033.9,
                    "standard_error": error,
                    "samples": 1024,
                    "images": 1000,
                }
            summary = {
                "schema": 1,
                **{k: config[k] for k in ("experiment", "estimator", "dataset", "bits", "seed")},
                "structure": f"bit-vector({config['bits']})",
                "epochs": epochs,
                "seconds": 63.4,
                "parameters": 616048,
                "best": {"epoch": last, "validation": rows[-1]["validation"]} if rows else {},
                "test": test,
                "versions": {"sparsum": "0.1.0", "torch": "2.13.0"},
                "threads": 1,
            }
            (path / "summary.json").write_text(json.dumps(summary))
        for image in ("reconstructions", "samples", "walk"):
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
