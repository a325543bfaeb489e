"""The program from the outside: what it prints, what it exits with, what it leaves behind."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PROGRAM, Sparsum, fails, write_idx

# Seconds on the small data: 2 epochs of 3 steps of warm-up, 3 epochs of 6 steps after it.
SMALL = (
    *("--labelled", 40, "--unlabelled", 96, "--validation", 60, "--batch-size", 16),
    *("--warmup-epochs", 2, "--epochs", 3, "--threads", 2),
)
# The same, but long enough to be stopped in the middle.
LONG = (*SMALL[:-6], "--warmup-epochs", 2, "--epochs", 40, "--threads", 2)


def train(*more: object) -> tuple[object, ...]:
    return ("train", "ssvae", *SMALL, *more)


def start(*arguments: object, cwd: Path, data: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [str(PROGRAM), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "SPARSUM_DATA": str(data)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(path: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"{path} has no {count} rows after two minutes")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- what it says of itself -----------------------------------------------------------------------


def test_version_and_info(sparsum: Sparsum, data: Path) -> None:
    version = sparsum("--version")
    assert version.returncode == 0
    assert re.fullmatch(r"sparsum \d+\.\d+\.\d+ \(LibTorch \d+\.\d+\.\d+\)\n", version.stdout)
    info = json.loads(sparsum("info", "--json").stdout)
    assert list(info) == ["sparsum", "torch", "simd", "threads", "devices", "data"]
    assert info["devices"][0] == "cpu"
    assert info["data"] == str(data)
    text = sparsum("info").stdout
    assert f"simd     {info['simd']}\n" in text


def test_help_names_unit_range_and_default_of_every_option(sparsum: Sparsum) -> None:
    text = " ".join(sparsum("train", "ssvae", "--help").stdout.split())
    for words in (
        "--epochs INT length of semi-supervised training [epochs; at least 0; default 200]",
        "--batch-size INT labelled images a step, and unlabelled images a step "
        "[images; at least 1; default 64]",
        "--dataset mnist|fashion-mnist images to model [default mnist]",
        "--weight-decay FLOAT",
        "[steps; at least 0; default 0: one pass over the unlabelled images, 704 steps",
        "--resume",
        "--out DIR",
    ):
        assert words in text, words
    options = re.findall(r"--[a-z-]+ (?:INT|FLOAT|TEXT|DIR|FILE|[a-z|-]+\|[a-z|-]+) ", text)
    described = re.findall(r"\[[^\]]*default [^\]]+\]", text)
    assert len(options) >= 25
    assert len(described) >= len(options)
    assert "130" in sparsum("--help").stdout


# --- training -------------------------------------------------------------------------------------


def test_trains_and_prints_results_on_stdout_and_lines_on_stderr(
    sparsum: Sparsum, tmp_path: Path
) -> None:
    result = sparsum(*train())
    assert result.returncode == 0, result.stderr
    out = tmp_path / "runs" / "ssvae-mnist-sparsemax-s0"
    lines = result.stderr.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        *("warmup 1/2", "warmup 2/2"),
        *("train 1/3", "train 2/3", "train 3/3"),
    ]
    assert "\r" not in result.stderr
    assert re.search(r"loss \S+  acc \S+ %  calls \S+  validation: accuracy ", lines[-1])
    assert result.stdout.splitlines()[0] == "run         runs/ssvae-mnist-sparsemax-s0"
    assert re.search(r"^test +accuracy \S+ %  ELBO -\S+  calls ", result.stdout, re.MULTILINE)
    assert sorted(path.name for path in out.iterdir()) == [
        *("checkpoints", "config.toml", "images"),
        *("metrics.jsonl", "summary.json", "timing.jsonl"),
    ]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == [
        *("best.safetensors", "last.safetensors", "warmup.safetensors")
    ]
    summary = json.loads((out / "summary.json").read_text())

    evaluated = json.loads(sparsum("evaluate", out, "--json").stdout)
    assert evaluated["test"] == summary["test"]
    assert sparsum("evaluate", out).stdout.splitlines()[1].startswith("test        accuracy ")


def test_json_and_quiet(sparsum: Sparsum) -> None:
    result = sparsum(*train("--json", "--quiet", "--out", "r", "--estimator", "dense"))
    assert result.stderr == ""
    summary = json.loads(result.stdout)
    assert summary["run"] == "r"
    assert summary["test"]["evaluations"] == {"mean": 10, "median": 10, "q25": 10, "q75": 10}


def test_shows_a_bar_on_a_terminal(data: Path, tmp_path: Path) -> None:
    primary, secondary = pty.openpty()
    arguments = ("train", "ssvae", *LONG, "--out", "r")
    process = subprocess.Popen(
        [str(PROGRAM), *map(str, arguments)],
        cwd=tmp_path,
        env={**os.environ, "SPARSUM_DATA": str(data)},
        stdout=subprocess.PIPE,
        stderr=secondary,
    )
    os.close(secondary)
    shown = b""
    try:
        while chunk := os.read(primary, 4096):
            shown += chunk
    except OSError:
        pass  # how Linux says that the other end was closed
    os.close(primary)
    assert process.wait() == 0
    assert b"steps/s  ETA " in shown
    assert re.search(rb"\r\x1b\[Ktrain \d+/40  \[=+ *\] +\d+ %", shown)
    assert shown.endswith(b"\r\x1b[K"), "the bar stays on the screen"


def test_config_runs_again_and_the_command_line_wins(sparsum: Sparsum, tmp_path: Path) -> None:
    assert sparsum(*train("--out", "one", "--seed", 3)).returncode == 0
    again = sparsum("train", "ssvae", "--config", "one/config.toml", "--out", "two")
    assert again.returncode == 0, again.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert (one / "config.toml").read_bytes() == (two / "config.toml").read_bytes()
    shorter = sparsum(
        *("train", "ssvae", "--config", "one/config.toml", "--out", "three", "--epochs", 1)
    )
    assert shorter.returncode == 0
    assert len(rows(tmp_path / "three" / "metrics.jsonl")) == 3


# --- stopping and going on ------------------------------------------------------------------------


def test_killed_in_the_middle_it_resumes_as_if_it_had_not_been(
    sparsum: Sparsum, data: Path, tmp_path: Path
) -> None:
    # With checkpoints inside epochs as well, so that some are in the middle of one.
    arguments = ("train", "ssvae", *LONG, "--checkpoint-every", 4, "--out")
    assert sparsum(*arguments, "straight").returncode == 0
    process = start(*arguments, "killed", cwd=tmp_path, data=data)
    for count in (1, 9, 21):
        wait_for_rows(tmp_path / "killed" / "metrics.jsonl", count, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "summary.json").exists()
        process = start(*arguments, "killed", "--resume", cwd=tmp_path, data=data)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert "resuming after epoch" in stderr
    for name in ("metrics.jsonl", "config.toml"):
        straight = (tmp_path / "straight" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == straight, name
    summaries = [
        json.loads((tmp_path / run / "summary.json").read_text()) for run in ("straight", "killed")
    ]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
    for name in ("best", "warmup"):
        file = Path("checkpoints") / f"{name}.safetensors"
        assert (tmp_path / "straight" / file).read_bytes() == (
            tmp_path / "killed" / file
        ).read_bytes()
    assert len(rows(tmp_path / "killed" / "timing.jsonl")) == 42


def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(
    sparsum: Sparsum, data: Path, tmp_path: Path
) -> None:
    arguments = ("train", "ssvae", *LONG, "--out")
    assert sparsum(*arguments, "straight").returncode == 0
    process = start(*arguments, "stopped", cwd=tmp_path, data=data)
    wait_for_rows(tmp_path / "stopped" / "metrics.jsonl", 5, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert stderr.splitlines()[-1] == (
        "sparsum: stopped, and the state is saved; go on with: "
        "sparsum train ssvae --resume --out 'stopped'"
    )
    resumed = sparsum("train", "ssvae", "--resume", "--out", "stopped")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "straight" / "metrics.jsonl").read_bytes() == (
        tmp_path / "stopped" / "metrics.jsonl"
    ).read_bytes()


def test_a_loss_that_is_not_finite_stops_training_with_3(sparsum: Sparsum, tmp_path: Path) -> None:
    result = sparsum(*train("--lr", "1e30", "--quiet", "--out", "r"))
    fails(
        result,
        r"training stopped at step 8 \(train epoch 1, batch 2 of 6\): .* on 16 labelled training "
        r"images \([0-9, ]+, …\) and 16 unlabelled training images \([0-9, ]+, …\); last good "
        r"checkpoint: r/checkpoints/last\.safetensors",
        code=3,
    )
    assert len(rows(tmp_path / "r" / "metrics.jsonl")) == 2


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "-1"), r"option --epochs: expected a whole number at least 0 \(epochs\), got '-1'"),
        (("--epochs", "many"), r"option --epochs: expected a whole number .*, got 'many'"),
        (("--batch-size", "0"), r"option --batch-size: expected a whole number at least 1 .*, got '0'"),
        (("--lr", "nan"), r"option --lr: expected a finite number at least 0, got 'nan'"),
        (("--dataset", "mnits"), r"option --dataset: expected one of mnist, fashion-mnist, got 'mnits'.*mnist.*"),
        (("--estimator", "sparsmax"), r"option --estimator: expected one of .*, got 'sparsmax' \(did you mean sparsemax\?\)"),
        (("--device", "cuda:7"), r"option --device: expected cpu, cuda or cuda:INDEX, got 'cuda:7', and there are \d+ CUDA devices"),
        (("--split", "published"), r".*mnist-splits.*"),
        (("--labelled", "1000"), r"stratified split: expected .*"),
        (("--estimator", "top-k", "--k", "-1"), r"option --k: expected a whole number at least 0 .*"),
        (("--alpha", "1.2"), r"option --alpha: estimator 'sparsemax' does not read it; entmax does"),
        (("--estimator", "arm"), r"estimator 'arm' is for .*; .*categorical\(10\).*"),
        (("--config", "nowhere.toml"), r"cannot read nowhere\.toml: No such file or directory"),
        (("--config", "broken.toml"), r"broken\.toml:2: no valid TOML: .*"),
        (("--config", "unknown.toml"), r"unknown\.toml:1: unknown key \"epocs\" \(did you mean epochs\?\)"),
        (("--config", "range.toml"), r"range\.toml:1: epochs: expected a whole number at least 0 \(epochs\), got -5"),
        (("--config", "type.toml"), r"type\.toml:1: epochs: expected a whole number .*, got \"ten\""),
        (("--warm-start", "nowhere.safetensors"), r"cannot read nowhere\.safetensors: No such file or directory"),
        (("--no-such-flag", "1"), r".*--no-such-flag.*"),
        (("--resume",), r"runs/ssvae-mnist-sparsemax-s0: expected the folder of a run, found no config\.toml in it"),
        (("--data", "nowhere"), r"data set mnist not found: looked in .*nowhere.*"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line_and_leave_nothing(
    sparsum: Sparsum, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name, text in {
        "broken": "epochs = 1\nseed = = 2\n",
        "unknown": "epocs = 1\n",
        "range": "epochs = -5\n",
        "type": 'epochs = "ten"\n',
    }.items():
        (tmp_path / f"{name}.toml").write_text(text)
    before = sorted(tmp_path.iterdir())
    fails(sparsum(*train(*arguments)), message)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_in_use_is_not_written_into(sparsum: Sparsum, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("do not touch")
    fails(
        sparsum(*train("--out", "mine")),
        "mine: expected a new or empty folder for the run, found one with files in it; continue "
        "that run with --resume, or give another folder with --out",
    )
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def wrong_magic(file: Path) -> None:
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(b"\x01\x02" + content[2:])


def too_short(file: Path) -> None:
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[:-100]))


def labels_for_fewer_images(file: Path) -> None:
    write_idx(file, (319,), bytes(i % 10 for i in range(319)))


def label_out_of_range(file: Path) -> None:
    write_idx(file, (320,), bytes([11] + [i % 10 for i in range(319)]))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("train-images-idx3-ubyte.gz", Path.unlink, r"data set mnist not found: .*"),
        ("train-images-idx3-ubyte.gz", truncate, r".*train-images-idx3-ubyte\.gz: .*"),
        ("train-images-idx3-ubyte.gz", too_short, r".*train-images-idx3-ubyte\.gz: the header says .* bytes, the contents have .*"),
        ("t10k-images-idx3-ubyte.gz", wrong_magic, r".*t10k-images-idx3-ubyte\.gz: expected .*"),
        (
            "train-labels-idx1-ubyte.gz",
            labels_for_fewer_images,
            r".*train-labels-idx1-ubyte\.gz: expected 320 .*319.*",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            label_out_of_range,
            r".*train-labels-idx1-ubyte\.gz: expected labels from 0 to 9, got 11.*",
        ),
    ],
)
def test_bad_data_are_named(
    sparsum: Sparsum, data: Path, tmp_path: Path, file: str, damage: object, message: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    damage(root / "mnist" / file)
    fails(sparsum(*train("--out", "r"), env={"SPARSUM_DATA": str(root)}), message)
    assert not (tmp_path / "r").exists()


def test_a_folder_that_cannot_be_written_is_named(sparsum: Sparsum, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    fails(sparsum(*train("--out", "file/run")), r"file/run/?.*: .*Not a directory.*")


def test_a_full_disk_is_named_and_leaves_no_half_written_file(
    data: Path, tmp_path: Path
) -> None:
    # A limit on the size of files stands in for the disk: checkpoints do not fit, config.toml does.
    # Where the limit is met, writing fails (the signal is ignored), as it does when a disk is full.
    script = 'trap "" XFSZ; ulimit -f 1024; exec "$0" "$@"'
    result = subprocess.run(
        ["bash", "-c", script, str(PROGRAM), *map(str, train("--out", "r", "--quiet"))],
        cwd=tmp_path,
        env={**os.environ, "SPARSUM_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )
    fails(result, r"cannot write r/checkpoints/\S+\.safetensors: File too large")
    assert list((tmp_path / "r" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("case", ["truncated", "version", "model"])
def test_bad_checkpoints_are_named(sparsum: Sparsum, tmp_path: Path, case: str) -> None:
    assert sparsum(*train("--out", "r")).returncode == 0
    file = tmp_path / "r" / "checkpoints" / "last.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    expected = r"r/checkpoints/last\.safetensors: "
    if case == "truncated":
        file.write_bytes(content[:-1])
        expected += ".*"
    else:
        key, value = ("version", "99") if case == "version" else ("signature", "another model")
        found = header["__metadata__"][key]
        header["__metadata__"][key] = value
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        expected += f"expected a checkpoint of {key} '{found}', found '{value}'"
    metrics = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    fails(sparsum("train", "ssvae", "--resume", "--out", "r"), expected)
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == metrics
    fails(sparsum("evaluate", "r", "--checkpoint", "last"), expected)


def test_resuming_with_other_options_is_refused(sparsum: Sparsum) -> None:
    assert sparsum(*train("--out", "r")).returncode == 0
    fails(
        sparsum("train", "ssvae", "--resume", "--out", "r", "--batch-size", 8),
        r"option --batch-size: expected '16', with which the run in r began, got '8'; "
        r"a resumed run keeps its options",
    )


# --- data -----------------------------------------------------------------------------------------


def test_data_list_and_check(sparsum: Sparsum, data: Path) -> None:
    listed = json.loads(sparsum("data", "list", "--json").stdout)
    assert [row["name"] for row in listed] == ["mnist", "fashion-mnist"]
    assert listed[0]["folder"] == str(data / "mnist")
    assert "sparsum data get" in sparsum("data", "list", "--data", "/nonexistent").stdout

    checked = sparsum("data", "check", "mnist", "--json")
    assert checked.returncode == 2, "made-up images are not MNIST's"
    files = json.loads(checked.stdout)
    assert len(files) == 4
    assert all(file["present"] and not file["matches"] for file in files)
    missing = sparsum("data", "check", "mnist", "--data", "/nonexistent")
    assert missing.returncode == 2
    assert all(line.startswith(("missing", "ok")) for line in missing.stdout.splitlines())
    fails(sparsum("data", "check", "mnsit"), r".*mnsit.*mnist.*")
