"""The report's table of symbols and concepts."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from conftest import PYTHON_ROOT
from sparsum.report import heat_map

TABLE = {
    "symbols": [7, 3],
    "use": [0.75, 0.25],
    "concepts": ["digit 0", "a $ bag"],
    "shares": [[0.9, 0.1], [0.0, 1.0]],
}


def write(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**TABLE, **changes}))
    return path


def test_a_row_for_each_symbol_and_a_strong_cell_for_its_concept(tmp_path):
    table = heat_map.read(write(tmp_path / "t.json"))
    assert table.symbols == [7, 3] and table.concepts == ["digit 0", "a $ bag"]
    with Image.open(BytesIO(heat_map.draw(table))) as picture:
        pixels = picture.convert("RGB")
    # Dark blue is a share near 1: two cells, one to the left and above the other.
    dark = [
        (x, y)
        for x in range(0, pixels.width, 4)
        for y in range(0, pixels.height, 4)
        if (p := pixels.getpixel((x, y)))[2] > 90 and p[0] < 30 and p[2] - p[0] > 70
    ]
    cells = [(x, y) for x, y in dark if x < 0.85 * pixels.width]  # the rest is the colour bar
    left = [y for x, y in cells if x < 0.49 * pixels.width]
    right = [y for x, y in cells if x >= 0.49 * pixels.width]
    assert left and right and max(left) < min(right)


def test_of_many_concepts_the_strongest_are_shown(tmp_path):
    # Symbol i says concept 10 i, and nobody says the others.
    shares = [[float(c == 10 * i) for c in range(463)] for i in range(40)]
    table = heat_map.SymbolTable(
        list(range(40)), [1 / 40] * 40, [f"concept {c}" for c in range(463)], shares
    )
    with Image.open(BytesIO(heat_map.draw(table))) as picture:
        pixels = picture.convert("RGB")
    # A diagonal of dark cells: as many columns as there are rows are dark somewhere.
    dark = {
        (x, y)
        for x in range(0, int(0.85 * pixels.width), 3)
        for y in range(0, pixels.height, 3)
        if (p := pixels.getpixel((x, y)))[0] < 20 and p[2] > 80
    }
    rows = {y for _, y in dark}
    assert len(rows) > 0.5 * (max(rows) - min(rows)) / 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use": [1.0]}, "as many rows and uses as symbols"),
        ({"symbols": [], "use": [], "shares": []}, "at least one"),
        ({"shares": [[1.0], [1.0]]}, "a share for each concept"),
        ({"shares": [[1.0, float("nan")], [0.0, 1.0]]}, "finite"),
        ({"shares": None}, "NoneType"),
    ],
)
def test_what_is_no_table_is_said(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        heat_map.read(write(tmp_path / "t.json", **changes))


def test_a_missing_key_and_a_broken_file_are_said(tmp_path):
    path = tmp_path / "t.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="'symbols' is missing"):
        heat_map.read(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        heat_map.read(path)


def report(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sparsum.report", *map(str, arguments)],
        env={"PYTHONPATH": str(PYTHON_ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_report_draws_it_and_names_a_damaged_one(make_run, tmp_path):
    run = make_run(experiment="signal")
    plain = BytesIO()
    Image.new("L", (8, 8)).save(plain, "PNG")
    picture = run / "images" / "symbols-concepts.png"
    picture.write_bytes(plain.getvalue())
    write(picture.with_suffix(".json"))
    result = report(run, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "out" / "symbols-concepts.png") as drawn:
        assert drawn.width > 1000
    picture.with_suffix(".json").write_text("[]")
    result = report(run, "--out", tmp_path / "out")
    assert result.returncode == 0
    assert "images/symbols-concepts.json: damaged" in result.stderr
    with Image.open(tmp_path / "out" / "symbols-concepts.png") as drawn:
        assert drawn.size == (8, 8)
