"""Comparisons of gradients: read, tabulated and drawn."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import run_module
from PIL import Image

from sparsum.report.__main__ import main
from sparsum.report.gradients import FAMILIES, QualityError, read_quality, table


def quality(**changes):
    """A file as ``sparsum gradient-quality`` writes it, with one estimator of each family twice."""

    def numbers(rmse):
        return {"bias": rmse / 4, "bias_error": 0.1, "variance": rmse**2, "cosine": 0.5, "rmse": rmse}

    rows = [
        {
            "estimator": f"{family}-{i}",
            "family": family,
            "objective": "another map" if family == "sparse" else "the same",
            "evaluations": 1 + place + i,
            "milliseconds": 0.5 * (place + 1),
            "repeats": 100,
            "scores": numbers(0 if family == "exact" else 3.0 * place + i),
            "loss": numbers(0 if family == "exact" else 2.0),
        }
        for place, family in enumerate(FAMILIES)
        for i in range(2)
    ]
    tree = {
        "schema": 1,
        "model": {"experiment": "bitvector", "estimator": "top-k"},
        "run": None,
        "structure": "bit-vector(5)",
        "examples": 16,
        "reference": {
            "kind": "exact",
            "evaluations": 32,
            "scores": {"norm": 2.0, "error": 0, "size": 80},
            "loss": {"norm": 4.0, "error": 0, "size": 9},
        },
        "estimators": rows,
    }
    return {**tree, **changes}


def write(folder, tree):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gradient_quality.json").write_text(json.dumps(tree))
    return folder


def test_lengths_are_in_units_of_the_reference(tmp_path):
    assert read_quality(tmp_path) is None
    found = read_quality(write(tmp_path, quality()))
    assert found.exact
    assert found.title == "bitvector, bit-vector(5), fresh model"
    row = next(row for row in found.rows if row.name == "relaxed-1")
    assert row.parts["scores"]["rmse"] == pytest.approx(19 / 2)
    assert row.parts["scores"]["sd"] == pytest.approx(19 / 2)
    assert row.parts["loss"]["rmse"] == pytest.approx(2 / 4)
    assert row.parts["loss"]["bias_error"] == pytest.approx(0.1 / 4)
    assert row.parts["loss"]["cosine"] == 0.5
    cells = table(found).rows[-1]
    assert cells[:4] == ("relaxed-1", "the same", "8", "3.5")
    assert cells[4:8] == ("2.38 ± 0.05", "9.5", "0.5", "9.5")


def test_a_comparison_alone_is_drawn(tmp_path, capsys):
    folder, out = write(tmp_path / "quality", quality()), tmp_path / "report"
    assert main([str(folder), "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert sorted(path.name for path in out.iterdir()) == [
        "gradient_quality.png",
        "gradient_quality.svg",
        "index.html",
        "table.md",
    ]
    with Image.open(out / "gradient_quality.png") as image:
        assert image.width >= 1600
        assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    drawing = ElementTree.parse(out / "gradient_quality.svg").getroot()
    assert drawing.tag.endswith("svg")
    html = (out / "index.html").read_text()
    for words in ("Quality of gradients", "What to look for", "relaxed-1", "9.5"):
        assert words in html, words
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([str(folder), "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before, "the same bytes"


def test_beside_runs_and_several(make_run, tmp_path):
    run = make_run()
    write(run, quality(run="runs/a"))
    other = write(tmp_path / "other", quality(reference={**quality()["reference"], "kind": "mean"}))
    out = tmp_path / "report"
    assert main([str(run), str(other), "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"learning_curves.png", "gradient_quality-1.png", "gradient_quality-2.svg"} <= names
    html = (out / "index.html").read_text()
    assert "model of runs/a" in html
    assert "leave-one-out" in html


def test_numbers_that_are_missing_or_odd_are_drawn_around(tmp_path):
    tree = quality()
    tree["estimators"][3]["scores"] = dict.fromkeys(tree["estimators"][3]["scores"])
    tree["estimators"][4]["family"] = "of a later version"
    tree["estimators"][5]["milliseconds"] = None
    tree["reference"]["loss"]["norm"] = 0
    folder = write(tmp_path / "q", tree)
    assert main([str(folder), "--out", str(tmp_path / "report")]) == 0
    assert "–" in table(read_quality(folder)).rows[3][4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not as sparsum gradient-quality writes it"),
        (json.dumps(quality(schema=2)), "expected schema 1, got 2"),
        (json.dumps(quality(estimators=[{}])), "not as sparsum gradient-quality writes it"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    (tmp_path / "gradient_quality.json").write_text(content)
    with pytest.raises(QualityError, match=message) as error:
        read_quality(tmp_path)
    assert "\n" not in str(error.value)
    result = run_module("sparsum.report", tmp_path, "--out", tmp_path / "report")
    assert result.returncode == 2
    assert not (tmp_path / "report").exists()
