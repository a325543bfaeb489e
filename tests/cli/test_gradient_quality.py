"""`sparsum gradient-quality`: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import PROGRAM, Sparsum, fails

FRESH = (
    *("gradient-quality", "bitvector", "--dataset", "mnist", "--bits", 3, "--validation", 60),
    *("--threads", 2, "--examples", 4, "--repeats", 6, "--settle", 3),
)


def test_of_a_fresh_model_prints_a_table_and_writes_json(sparsum: Sparsum, tmp_path: Path) -> None:
    result = sparsum(*FRESH, "--out", "quality")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "bit-vector(3), 4 examples; reference: exact, 8 evaluations per example"
    assert re.match(r"estimator +calls +ms \| +bias +\+- +sd +cosine +rmse \|", lines[4])
    names = [line.split()[0] for line in lines[5:]]
    assert names[:3] == ["dense", "top-k", "top-k-adaptive"]
    assert "arm" in names and "imle" in names and "sparsemax" not in names
    assert lines[5].split()[4:9] == ["0.0000", "0.0000", "0.000", "1.000", "0.000"]
    assert lines[6].endswith("  another map")
    # Progress is a line an estimator where stderr is no terminal.
    progress = result.stderr.splitlines()
    assert progress[0] == "reference"
    assert progress[1:] == [f"{n} ({i} of {len(names)})" for i, n in enumerate(names, 1)]
    written = json.loads((tmp_path / "quality" / "gradient_quality.json").read_text())
    assert [row["estimator"] for row in written["estimators"]] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["quality"]
    assert [path.name for path in (tmp_path / "quality").iterdir()] == ["gradient_quality.json"]


def test_json_and_quiet_and_options_for_some(sparsum: Sparsum, tmp_path: Path) -> None:
    arguments = ("--estimators", "disarm,sfe,gumbel", "--samples", 3, "--temperature", 0.7)
    result = sparsum(*FRESH, *arguments, "--json", "--quiet")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    rows = json.loads(result.stdout)["estimators"]
    assert [row["estimator"] for row in rows] == ["sfe", "disarm", "gumbel"]
    assert [row["evaluations"] for row in rows] == [3, 6, 3]
    assert sorted(tmp_path.iterdir()) == []


def test_of_a_run(sparsum: Sparsum, tmp_path: Path) -> None:
    trained = sparsum(
        *("train", "ssvae", "--labelled", 40, "--unlabelled", 96, "--validation", 60),
        *("--batch-size", 16, "--warmup-epochs", 1, "--epochs", 1, "--threads", 2),
        *("--estimator", "sfe", "--out", "run"),
    )
    assert trained.returncode == 0, trained.stderr
    before = {path.name for path in (tmp_path / "run").iterdir()}
    result = sparsum(
        *("gradient-quality", "run", "run", "--estimators", "dense,sparsemax,sfe,vimco"),
        *("--examples", 4, "--repeats", 4, "--settle", 2, "--out", "run", "--json"),
    )
    assert result.returncode == 0, result.stderr
    quality = json.loads(result.stdout)
    assert quality["model"]["experiment"] == "ssvae"
    assert quality["checkpoint"] == "run/checkpoints/best.safetensors"
    objectives = {row["estimator"]: row["objective"] for row in quality["estimators"]}
    assert objectives == {
        "dense": "the same",
        "sparsemax": "another map",
        "sfe": "the same",
        "vimco": "another bound",
    }
    assert {path.name for path in (tmp_path / "run").iterdir()} == before | {"gradient_quality.json"}


def test_ctrl_c_writes_nothing_and_exits_with_130(data: Path, tmp_path: Path) -> None:
    arguments = (*FRESH, "--repeats", 100000, "--estimators", "sfe", "--out", "quality")
    process = subprocess.Popen(
        [str(PROGRAM), *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "SPARSUM_DATA": str(data)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("sfe"):
            break
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr == "sparsum: stopped; nothing was written\n"
    assert list((tmp_path / "quality").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--estimators", "sfe,gumble"), r"option --estimators: no estimator is called 'gumble' \(did you mean gumbel\?\)"),
        (("--estimators", "sparsemax"), r"estimator 'sparsemax' is for categorical.*"),
        (("--estimators", "sfe", "--alpha", 1.2), r"option --alpha: none of the estimators asked for reads it"),
        (("--repeats", 1), r"option --repeats: expected a whole number at least 2 \(estimates\), got '1'"),
        (("--examples", 1000), r"option --examples: expected at most the 260 training images, got 1000"),
        (("--data", "nowhere"), r"data set mnist not found: .*"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(
    sparsum: Sparsum, tmp_path: Path, arguments: tuple, message: str
) -> None:
    fails(sparsum(*FRESH, *arguments), message)
    assert sorted(tmp_path.iterdir()) == []


def test_bad_folders_are_named(sparsum: Sparsum, tmp_path: Path) -> None:
    fails(
        sparsum("gradient-quality", "run", "nowhere"),
        r"nowhere: expected the folder of a run, found no config\.toml in it",
    )
    (tmp_path / "file").write_text("")
    fails(
        sparsum(*FRESH, "--estimators", "sfe", "--out", "file/deeper"),
        r"file/deeper: cannot make the folder: Not a directory",
    )
