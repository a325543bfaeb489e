"""`sparsum train bitvector`, and `sparsum encode` and `sparsum decode` with what it trained."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from conftest import Sparsum, fails

SMALL = (
    *("train", "bitvector", "--dataset", "mnist", "--bits", 6, "--epochs", 2),
    *("--steps-per-epoch", 5, "--batch-size", 16, "--validation", 60, "--threads", 2),
    *("--importance-images", 8, "--importance-samples", 32),
)


def write_npy(path: Path, shape: tuple[int, ...], values: bytes) -> None:
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values)


def read_npy(path: Path) -> bytes:
    content = path.read_bytes()
    return content[10 + struct.unpack("<H", content[8:10])[0] :]


def test_trains_evaluates_encodes_and_decodes(sparsum: Sparsum, tmp_path: Path) -> None:
    result = sparsum(*SMALL)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "runs" / "bitvector-mnist-d6-top-k-s0"
    assert re.search(r"loss \S+  calls \S+  validation: ELBO \S+  rate ", result.stderr)
    assert "acc" not in result.stderr
    assert re.search(r"^test +ELBO \S+  rate \S+  distortion \S+ nats  NLL \S+ ± \S+ bits/dim", result.stdout, re.M)
    assert sorted(path.name for path in (out / "images").iterdir()) == [
        *("reconstructions.png", "samples.png", "walk.png")
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["test"]) >= {"elbo", "rate", "distortion", "evaluations", "exact", "nll"}
    assert json.loads(sparsum("evaluate", out, "--json").stdout)["test"] == summary["test"]
    more = sparsum("evaluate", out, "--json", "--importance-images", 20, "--importance-samples", 8)
    nll = json.loads(more.stdout)["test"].pop("nll")
    assert (nll["images"], nll["samples"]) == (20, 8)
    assert nll["nats"] != summary["test"]["nll"]["nats"]
    refused = sparsum("evaluate", out, "--test-games", 5)
    assert refused.returncode == 2 and "unknown option --test-games" in refused.stderr

    write_npy(tmp_path / "images.npy", (3, 28, 28), bytes(i * 7 % 256 for i in range(3 * 784)))
    result = sparsum("encode", out, "images.npy", "-o", "codes.npy", "--support", "support.npz")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "3 images as 6 bits each: codes.npy"
    codes = read_npy(tmp_path / "codes.npy")
    assert len(codes) == 18 and set(codes) <= {0, 1}
    assert (tmp_path / "support.npz").read_bytes().startswith(b"PK")

    result = sparsum("decode", out, "codes.npy", "-o", "images.png")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "3 images from 6 bits each: images.png\n"
    assert (tmp_path / "images.png").read_bytes().startswith(b"\x89PNG")
    sparsum("decode", out, "codes.npy", "-o", "decoded.npy")
    assert len(read_npy(tmp_path / "decoded.npy")) == 3 * 784


@pytest.mark.parametrize(
    ("estimator", "more"),
    [
        ("dense", ()),
        ("top-k-adaptive", ("--max-k", 32)),
        ("sparsemap", ("--algorithm", "closed-form", "--encoding", "one-state")),
        ("sparsemap-budget", ("--budget", 2)),
        ("sparsemap", ("--structure", "subset", "--budget", 2, "--init", "random")),
        ("sfe", ()),
        ("nvil", ("--baseline-hidden", 16, "--baseline-layers", 1, "--samples", 2)),
        ("gumbel", ("--temperature", 2, "--temperature-every", 3)),
        ("rebar", ("--adapt-temperature", "true")),
        ("imle", ("--noise", "sum-of-gamma", "--gamma-size", 3)),
    ],
)
def test_options_are_kept_in_the_config(
    sparsum: Sparsum, tmp_path: Path, estimator: str, more: tuple
) -> None:
    result = sparsum(*SMALL, "--estimator", estimator, *more, "--epochs", 1, "--out", "run")
    assert result.returncode == 0, result.stderr
    config = (tmp_path / "run" / "config.toml").read_text()
    for name, value in zip(more[::2], more[1::2], strict=True):
        key = name.removeprefix("--")
        expected = f'["\']?{value}(\\.0)?["\']?'
        assert re.search(rf"^{key} = {expected}$", config, re.MULTILINE), config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--k", -1), r"option --k: expected a whole number at least 0 .*"),
        (("--bits", 0), r"option --bits: expected a whole number from 1 to 100000 .*"),
        (("--structure", "budget", "--budget", 9), r"option --budget: expected at most the 6 bits there are, got 9"),
        (("--estimator", "dense", "--bits", 20), r"estimator 'dense' is for .*; bit-vector\(20\) has 1048576"),
        (("--estimator", "sparsemax"), r"estimator 'sparsemax' is for categorical.*; .*bit-vector\(6\).*"),
        (("--estimator", "gumble"), r"option --estimator: expected one of dense, .*, imle, got 'gumble' \(did you mean gumbel\?\)"),
        (("--estimator", "sfe", "--budget", 3), r"option --budget: estimator 'sfe' does not read it; sparsemap-budget does"),
        (("--estimator", "sfe-loo", "--samples", 1), r"estimator 'sfe-loo': expected samples >= 2, .*got 1"),
        (("--estimator", "gumbel", "--temperature", 0), r"option --temperature: expected a finite number at least .*, got '0'"),
        (("--estimator", "sum-and-sample", "--k", 64), r"estimator 'sum-and-sample': expected k < 64, .*got 64"),
        (("--estimator", "top-k-adaptive", "--max-k", 5), r"option --max-k: expected at least --k, 10, got 5"),
        (("--algorithm", "newton"), r"option --algorithm: expected one of active-set, closed-form, got 'newton'.*"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(
    sparsum: Sparsum, tmp_path: Path, arguments: tuple, message: str
) -> None:
    fails(sparsum(*SMALL, *arguments), message)
    assert sorted(tmp_path.iterdir()) == []


def test_bad_images_and_codes_are_named(sparsum: Sparsum, tmp_path: Path) -> None:
    assert sparsum(*SMALL, "--epochs", 1, "--out", "run").returncode == 0
    write_npy(tmp_path / "large.npy", (1, 32, 32), bytes(1024))
    write_npy(tmp_path / "five.npy", (2, 5), bytes(10))
    write_npy(tmp_path / "two.npy", (1, 6), b"\0\0\2\0\0\0")
    for command, name, output, message in [
        ("encode", "large.npy", "o.npy", r"large\.npy: expected images of 28×28 pixels, \[N, 28, 28\], got \[1, 32, 32\]"),
        ("encode", "none.npy", "o.npy", r"cannot read none\.npy: No such file or directory"),
        ("encode", "large.npy", "o.txt", r"the codes: expected a file name that ends in \.npy, got 'o\.txt'"),
        ("decode", "five.npy", "o.png", r"five\.npy: expected codes of 6 bits, \[N, 6\], got \[2, 5\]"),
        ("decode", "two.npy", "o.png", r"two\.npy: expected codes of 0 and 1, got 2 in row 0, column 2"),
    ]:  # fmt: skip
        fails(sparsum(command, "run", name, "-o", output), message)
        assert not (tmp_path / output).exists()
