"""`sparsum sweep`: a list of runs, done once each, whatever stops or fails in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from conftest import PROGRAM, ROOT, Sparsum

COMMON = """
[common]
experiment = "ssvae"
split = "stratified"
labelled = 40
unlabelled = 200
validation = 40
warmup-epochs = 1
epochs = 2
steps-per-epoch = 3
batch-size = 10
"""


def write(folder: Path, runs: str) -> Path:
    path = folder / "study.toml"
    path.write_text(COMMON + runs)
    return path


def finished(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in (folder / "runs").glob("*/summary.json"))


def test_every_run_is_done_once_and_as_train_does_it(sparsum: Sparsum, tmp_path: Path):
    study = write(tmp_path, '[[runs]]\nseed = [0, 1]\n[[runs]]\nestimator = "dense"\nlabel = "a b"\n')
    out = tmp_path / "out"
    first = sparsum("sweep", study, "--out", out, "--jobs", 2, "--threads", 2, "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == {
        "sweep": str(out),
        "finished": 3,
        "failed": 0,
        "elsewhere": 0,
        "waiting": 0,
    }
    names = ["a b-s0", "ssvae-mnist-sparsemax-s0", "ssvae-mnist-sparsemax-s1"]
    assert finished(out) == names
    plan = json.loads((out / "sweep.json").read_text())
    assert sorted(run["name"] for run in plan["runs"]) == names
    # Every method's first seed before any second.
    sparse = "ssvae-mnist-sparsemax"
    assert [run["label"] for run in plan["runs"]] == [sparse, "a b", sparse]
    assert all(run["epochs"] == 3 for run in plan["runs"])
    assert (out / "sweep.toml").read_text() == study.read_text()

    # The same as by hand, to the byte.
    alone = sparsum("train", "ssvae", "--config", out / "configs" / "a b-s0.toml", "--threads", 1,
                    "--out", tmp_path / "alone", "--quiet")
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "alone/metrics.jsonl").read_bytes() == (
        out / "runs" / "a b-s0" / "metrics.jsonl"
    ).read_bytes()

    # Again: nothing is left to do, and nothing is done.
    before = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    again = sparsum("sweep", study, "--out", out)
    assert again.returncode == 0 and again.stderr == "", again.stderr
    assert "3 done, 0 failed" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}


def begun(
    study: Path, out: Path, data: Path, *, run: str, epochs: int, options: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """The process of a sweep, one of whose runs has ended so many epochs."""
    process = subprocess.Popen(
        [str(PROGRAM), "sweep", str(study), "--out", str(out), *options],
        cwd=out.parent,
        env={**os.environ, "SPARSUM_DATA": str(data)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = out / "runs" / run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < epochs:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_failed_run_does_not_stop_the_others_and_is_tried_again(sparsum: Sparsum, tmp_path: Path):
    study = write(tmp_path, '[[runs]]\nlr = 1e30\nlabel = "hot"\n[[runs]]\nlabel = "mild"\n')
    out = tmp_path / "out"
    result = sparsum("sweep", study, "--out", out)
    assert result.returncode == 1
    assert "1 done, 1 failed" in result.stdout
    assert finished(out) == ["mild-s0"]
    failure = json.loads((out / "failed/hot-s0.json").read_text())
    assert failure["exit_code"] == 3
    assert "training stopped at step" in failure["message"]
    assert f"hot-s0: failed: {failure['message']}" in result.stderr
    again = sparsum("sweep", study, "--out", out, "--quiet")
    assert again.returncode == 1 and again.stderr.startswith("hot-s0: failed: ")


def test_a_failure_says_what_ended_this_attempt(sparsum: Sparsum, tmp_path: Path, data: Path):
    study = write(tmp_path, '[[runs]]\nlabel = "long"\nepochs = 1000\n')
    out = tmp_path / "out"
    away = sparsum("sweep", study, "--out", out, "--quiet", env={"SPARSUM_DATA": str(tmp_path / "no")})
    assert away.returncode == 1 and "not found" in away.stderr
    process = begun(study, out, data, run="long-s0", epochs=1, options=["--quiet"])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 1
    told = "ended by signal 9 (Killed), as where memory runs out"
    assert messages == f"long-s0: failed: {told}\n"
    failure = json.loads((out / "failed/long-s0.json").read_text())
    assert failure == {"run": "long-s0", "exit_code": 137, "message": told}


def test_shards_share_the_runs_out(sparsum: Sparsum, tmp_path: Path):
    study = write(tmp_path, "[[runs]]\nseed = [0, 1, 2]\n")
    out = tmp_path / "out"
    assert sparsum("sweep", study, "--out", out, "--shard", "1/2").returncode == 0
    assert finished(out) == ["ssvae-mnist-sparsemax-s1"]
    assert sparsum("sweep", study, "--out", out, "--shard", "0/2").returncode == 0
    assert len(finished(out)) == 3


def test_stopped_and_gone_on_with(sparsum: Sparsum, tmp_path: Path, data: Path):
    study = write(tmp_path, "[[runs]]\nepochs = 20\ncheckpoint-every = 1\n")
    out = tmp_path / "out"
    process = begun(study, out, data, run="ssvae-mnist-sparsemax-s0", epochs=3)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on where it was" in messages
    assert finished(out) == []
    result = sparsum("sweep", study, "--out", out)
    assert result.returncode == 0, result.stderr
    assert len(finished(out)) == 1
    # Uninterrupted, in another folder: the same numbers.
    assert sparsum("sweep", study, "--out", tmp_path / "other").returncode == 0
    metrics = "runs/ssvae-mnist-sparsemax-s0/metrics.jsonl"
    assert (out / metrics).read_bytes() == (tmp_path / "other" / metrics).read_bytes()


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ('[[runs]]\nestimator = ["dense", "arm"]\n', "estimator 'arm' is for bit vectors"),
        ("[[runs]]\nlr = [1e-3, -1.0]\n", "option --lr: expected a finite number at least 0"),
        ("[[runs]]\nseed = 0\n[[runs]]\nseed = 0\n", "two runs are called"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_begins(
    sparsum: Sparsum, tmp_path: Path, runs: str, message: str
):
    study = write(tmp_path, runs)
    result = sparsum("sweep", study, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert result.stderr.startswith(f"sparsum: {study}") and message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_keeps_its_runs_options(sparsum: Sparsum, tmp_path: Path):
    out = tmp_path / "out"
    assert sparsum("sweep", write(tmp_path, "[[runs]]\nseed = 0\n"), "--out", out).returncode == 0
    result = sparsum("sweep", write(tmp_path, "[[runs]]\nlr = 0.1\n"), "--out", out)
    assert result.returncode == 2
    assert "has a run of this name with other options" in result.stderr
    # More runs may come.
    more = sparsum("sweep", write(tmp_path, "[[runs]]\nseed = [0, 1]\n"), "--out", out)
    assert more.returncode == 0 and "2 done" in more.stdout


def test_a_folder_goes_on_where_options_are_described_in_other_words(
    sparsum: Sparsum, tmp_path: Path
):
    out = tmp_path / "out"
    study = write(tmp_path, "[[runs]]\nseed = 0\n")
    assert sparsum("sweep", study, "--out", out).returncode == 0
    (config,) = (out / "configs").glob("*.toml")
    text = config.read_text()
    assert "\n# seed of everything random" in text
    config.write_text(text.replace("\n# seed of everything random", "\n# seed"))
    result = sparsum("sweep", study, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "1 done" in result.stdout


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "a/b", "1/2/3"])
def test_a_shard_is_a_place_and_a_number(sparsum: Sparsum, tmp_path: Path, shard: str):
    study = write(tmp_path, "[[runs]]\nseed = 0\n")
    result = sparsum("sweep", study, "--out", tmp_path / "out", f"--shard={shard}")
    assert result.returncode == 2
    assert f"expected I/N with 0 <= I < N, got '{shard}'" in result.stderr


def test_what_is_kept_of_a_sweep_makes_its_page_again(sparsum: Sparsum, tmp_path: Path):
    study = write(tmp_path, "[[runs]]\nseed = [0, 1]\n")
    assert sparsum("sweep", study, "--out", tmp_path / "out").returncode == 0
    (tmp_path / "out/failed").mkdir(exist_ok=True)
    (tmp_path / "out/failed/x-s0.json").write_text("{}")
    config = (tmp_path / "out/configs/ssvae-mnist-sparsemax-s1.toml").read_bytes()
    (tmp_path / "out/configs/not-begun-s0.toml").write_bytes(config)
    keep = ROOT / "scripts/keep_results.sh"
    result = subprocess.run(
        [keep, "out", "kept"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and result.stdout == "kept: 2 runs\n", result.stderr
    names = sorted(path.name for path in (tmp_path / "kept/runs/ssvae-mnist-sparsemax-s0").iterdir())
    assert names == ["config.toml", "metrics.jsonl", "summary.json", "timing.jsonl"]
    assert [path.name for path in (tmp_path / "kept/configs").iterdir()] == ["not-begun-s0.toml"]
    for name in ("configs/not-begun-s0.toml", "failed/x-s0.json"):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    tables = []
    for folder in ("out", "kept"):
        page = tmp_path / f"page-{folder}"
        subprocess.run(
            [sys.executable, "-m", "sparsum.report", str(tmp_path / folder), "--out", str(page)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
            capture_output=True,
            check=True,
        )
        tables.append((page / "table-ssvae.csv").read_bytes())
    assert tables[0] == tables[1]
    result = subprocess.run([keep, "kept/runs", "x"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "found no sweep.json" in result.stderr


SMALLER = {
    "ssvae": {
        "split": "stratified",
        "labelled": 40,
        "unlabelled": 200,
        "validation": 40,
        "warmup-epochs": 1,
        "epochs": 1,
        "steps-per-epoch": 2,
    },
    "signal": {"epochs": 1, "steps-per-epoch": 2, "validation-games": 16, "test-games": 16},
    "bitvector": {
        "validation": 40,
        "epochs": 1,
        "steps-per-epoch": 2,
        "importance-images": 4,
        "importance-samples": 8,
    },
}


def test_the_quick_study_and_its_page(sparsum: Sparsum, tmp_path: Path, data: Path):
    """sweeps/quick.toml from its file to the page, every run of it cut down to a few steps."""
    quick = tomllib.loads((ROOT / "sweeps/quick.toml").read_text())
    lines = ["[common]", f"seed = {quick['common']['seed']}"]
    for run in quick["runs"]:
        experiment = Path(run["config"]).name.split("-")[0]
        options = {**run, **SMALLER[experiment], "config": str(ROOT / "sweeps" / run["config"])}
        lines += ["[[runs]]", *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
    study = tmp_path / "quick.toml"
    study.write_text("\n".join(lines))
    both = tmp_path / "both"
    both.mkdir()
    for name in ("mnist", "fashion-mnist"):
        (both / name).symlink_to(data / "mnist")

    out = tmp_path / "out"
    result = sparsum("sweep", study, "--out", out, "--jobs", 2, env={"SPARSUM_DATA": str(both)})
    assert result.returncode == 0, result.stderr
    assert len(finished(out)) == 2 * len(quick["runs"])

    page = subprocess.run(
        [sys.executable, "-m", "sparsum.report", str(out), "--out", str(tmp_path / "page")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page/index.html").read_text()
    for name in finished(out):
        assert name in text
