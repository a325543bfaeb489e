"""The signal game through the program, on small images of two data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Sparsum, fails, write_images

SMALL = (
    *("train", "signal", "--epochs", 2, "--steps-per-epoch", 5, "--batch-size", 8, "--hidden", 8),
    *("--embedding", 8, "--symbols", 12, "--candidates", 4, "--validation-games", 16),
    *("--test-games", 24, "--quiet", "--out", "run"),
)  # fmt: skip


@pytest.fixture
def both(tmp_path: Path, data: Path) -> dict[str, str]:
    """The environment with a data folder that has mnist/ and fashion-mnist/."""
    root = tmp_path / "both"
    shutil.copytree(data / "mnist", root / "mnist")
    write_images(root / "fashion-mnist", "train", 320)
    write_images(root / "fashion-mnist", "t10k", 60)
    return {"SPARSUM_DATA": str(root)}


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_trains_plays_and_evaluates(
    sparsum: Sparsum, tmp_path: Path, both: dict[str, str]
) -> None:
    result = sparsum(*SMALL, env=both)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert 0 <= summary["test"]["success"] <= 1
    assert 1 <= summary["test"]["evaluations"]["mean"] <= 12
    images = tmp_path / "run" / "images"
    assert sorted(path.name for path in images.iterdir()) == [
        *("symbols-concepts.json", "symbols-concepts.png", "symbols.png")
    ]
    # A number and ten images of 28 pixels, twice as large, two pixels apart.
    assert png_size(images / "symbols.png")[0] == 11 * 56 + 10 * 2

    result = sparsum("play", "run", "--games", 3, env=both)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 1 + 3 + 2
    assert lines[-2] == "run/play/games.json: the games with all probabilities"
    assert lines[-1].startswith("run/play/games.png: a game a row: the target, the symbol")
    assert png_size(tmp_path / "run" / "play" / "games.png")[0] == 6 * 56 + 5 * 2
    games = json.loads((tmp_path / "run" / "play" / "games.json").read_text())
    assert json.loads(sparsum("play", "run", "--games", 3, "--json", env=both).stdout) == games
    for line, game in zip(lines[1:4], games, strict=True):
        pick = game["candidates"][game["pick"]]
        assert line.split()[-1] == ("right" if game["pick"] == game["target"] else "wrong")
        assert f"{game['symbol']:7d} {game['symbol_probability']:6.3f}" in line
        assert f"{pick['probability']:6.3f}" in line
        assert sum(c["probability"] for c in game["candidates"]) == pytest.approx(1, abs=1e-5)
        assert game["candidates"][game["target"]]["concept"] == game["concept"]

    again = json.loads(sparsum("evaluate", "run", "--json", env=both).stdout)
    assert again["test"] == summary["test"]
    fewer = json.loads(sparsum("evaluate", "run", "--json", "--test-games", 1, env=both).stdout)
    assert fewer["test"]["success"] in (0, 1)


def test_a_switch_may_stand_alone(sparsum: Sparsum, tmp_path: Path, both: dict[str, str]) -> None:
    options = (*SMALL, "--same-concept", "--epochs", 1)
    fails(
        sparsum(*options, env=both),
        "validation games: expected at least 4 images of each concept, got 3 of 'digit 0'; "
        "--validation-share says how many training images are set aside for them",
    )
    result = sparsum(*options, "--validation-share", 0.2, env=both)
    assert result.returncode == 0, result.stderr
    assert "same-concept = true" in (tmp_path / "run" / "config.toml").read_text()
    games = json.loads(sparsum("play", "run", "--json", env=both).stdout)
    assert all(len({c["concept"] for c in game["candidates"]}) == 1 for game in games)


def test_options_of_feature_files_are_refused_without_them(sparsum: Sparsum) -> None:
    for option, value in (("features", "x"), ("features-name", "f"), ("labels-name", "y")):
        fails(
            sparsum("train", "signal", f"--{option}", value),
            f"option --{option}: only --dataset features reads it, the dataset is mnist\\+fashion-mnist",
        )
