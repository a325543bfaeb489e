"""The figures of reports: limits, texts beside the axes, many methods, many panels."""

from __future__ import annotations

import json

import pytest
from test_report import Page, assert_drawn

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from sparsum.report import captions, elements, families, style
from sparsum.report.__main__ import main
from sparsum.report.methods import studies
from sparsum.report.metrics import ACCURACY, ELBO, EVALUATIONS, GAME_NLL, SUCCESS, SYMBOLS
from sparsum.report.tables import Table
from sparsum.sweeps import read_sweep


def describe(root, runs):
    """Writes what makes a folder a sweep's: (name, label, experiment) for each run."""
    listed = [{"name": n, "label": lab, "experiment": e, "epochs": 6} for n, lab, e in runs]
    plan = {"schema": 1, "name": "grid", "versions": {}, "runs": listed}
    (root / "sweep.json").write_text(json.dumps(plan))
    return root


@pytest.fixture
def make_grid(tmp_path, make_run):
    """A sweep of estimators by learning rates; the last rate is the best."""

    def make(estimators, rates):
        runs = []
        for estimator in estimators:
            for place, rate in enumerate(rates):
                label = f"ssvae-mnist-{estimator}-lr{rate}"
                path = make_run(
                    f"grid/runs/{label}-s0", estimator=estimator, lr=rate, accuracy=0.9
                )
                rows = [json.loads(row) for row in (path / "metrics.jsonl").open()]
                for row in rows:
                    row["validation"]["accuracy"] = 0.8 + 0.01 * place
                text = "".join(json.dumps(row) + "\n" for row in rows)
                (path / "metrics.jsonl").write_text(text)
                runs.append((path.name, label, "ssvae"))
        return describe(tmp_path / "grid", runs)

    return make


# --- limits --------------------------------------------------------------------------------------


def test_limits_hold_the_end_of_each_curve():
    low_one = [3.0 - 0.005 * epoch for epoch in range(500)]
    short_one = [3.0 + epoch for epoch in range(8)]
    limits = style.robust_limits([low_one, low_one, short_one], [])
    assert limits.low < 0.505
    assert limits.high > 10
    assert limits.note == ""


def test_limits_say_which_epochs_are_outside():
    steep = [500.0] * 5 + [10.0 - 0.01 * epoch for epoch in range(95)]
    limits = style.robust_limits([steep], [])
    assert limits.high < 20
    assert limits.note == "the first epochs lie outside the axis"
    peak = [10.0 - 0.01 * epoch for epoch in range(100)]
    peak[60] = 500.0
    limits = style.robust_limits([peak], [])
    assert limits.high < 20
    assert limits.note == "some epochs lie outside the axis"


def test_limits_are_logarithmic_where_one_curve_ends_far_above_the_others():
    curves = [[2.0, 1.0, 0.1], [2.0, 1.0, 0.2], [3.0, 20.0, 40.0]]
    limits = style.robust_limits(curves, [], logarithmic=True)
    assert limits.logarithmic
    assert 0 < limits.low < 0.1
    assert limits.high > 40
    assert not style.robust_limits(curves, []).logarithmic
    curves[0][1] = 0.0
    assert not style.robust_limits(curves, [], logarithmic=True).logarithmic


def test_limits_of_nothing():
    limits = style.robust_limits([[float("nan")], []], [])
    assert limits.low < limits.high


# --- texts beside and under the axes -------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 12, 40])
def test_numbers_in_the_margin_stay_beside_the_axes(count):
    axes = Figure().subplots()
    axes.set_ylim(0, 1)
    levels = [0.0] * (count - 1) + [34.0]
    style.margin_labels(axes, [(level, "1.0", "black") for level in levels], 0.068)
    places = sorted(text.xyann[1] for text in axes.texts)
    assert places[0] >= style.LOWEST_LABEL - 1e-9
    assert places[-1] == pytest.approx(1.0)
    if count > 1:
        least = min(b - a for a, b in zip(places, places[1:]))
        assert least >= min(0.068, 0.97 / count) - 1e-9


def test_ticks_that_touch_are_thinned():
    figure = Figure(figsize=(1.6, 1))
    axes = figure.subplots()
    axes.set_xlim(-2052, -2038)
    axes.set_xticks([-2050, -2045, -2040])
    assert style._ticks_touch(axes)
    style.thin_ticks(figure)
    assert not style._ticks_touch(axes)


def test_missing_glyphs_are_told_in_one_line(capsys, recwarn):
    style._tell_missing_glyphs.cache_clear()
    for _ in range(2):
        figure = Figure()
        figure.text(0.5, 0.5, "日本")
        style.thin_ticks(figure)
    assert not recwarn.list
    assert capsys.readouterr().err.count("\n") == 1


# --- captions and tables -------------------------------------------------------------------------


def test_caption_of_results_speaks_of_its_own_panels():
    text = " ".join(
        t for _, t in captions.results([SUCCESS, GAME_NLL, SYMBOLS, EVALUATIONS], started=False)
    )
    assert "Success: further right is better. NLL: further left is better." in text
    assert "Symbols in use: how many symbols" in text
    assert "Symbols in use: neither side" in text
    for word in ("Accuracy", "ELBO", "first"):
        assert word not in text
    text = " ".join(t for _, t in captions.results([ACCURACY, ELBO], started=False))
    assert "Accuracy and ELBO: further right is better." in text
    assert "cheaper" not in text


def test_wide_tables_are_set_in_smaller_type():
    cells = ("d128-top-k", "10 of 10", "3.731 ± 0.012", "3.67 †", "+0.061\n[−2.350, +2.610]")
    cells += ("−2052.5 ± 1.2", "87.61 ± 0.12", "1964.9 ± 1.2", "6.14", "20 min 42 s")
    header = tuple(f"column {i}" for i in range(10))
    assert 'class="wide"' in elements.table(Table(header, (cells,)))
    assert 'class="wide"' not in elements.table(Table(header[:5], (cells[:5],)))


# --- many methods --------------------------------------------------------------------------------


def test_a_grid_is_drawn_by_families(make_grid, tmp_path, capfd):
    root = make_grid(["sparsemax", "dense", "sfe", "nvil"], [1e-4, 2e-4, 5e-4, 1e-3])
    (study,) = studies(read_sweep(root))
    assert families.crowded(study)
    found = families.families(study)
    assert [family.name for family in found] == ["sparsemax", "dense", "sfe", "nvil"]
    assert [family.methods[0].name for family in found] == [
        f"{name}-lr0.001" for name in ("sparsemax", "dense", "sfe", "nvil")
    ], "the best by validation"
    assert len({family.methods[0].colour for family in found}) == 4
    assert len(families.best(study, 3).methods) == 12
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    assert "constrained_layout" not in capfd.readouterr().err
    for stem in ("results", "learning_curves", "calls"):
        assert_drawn(out / f"{stem}-ssvae.png")
    page = Page((out / "index.html").read_text())
    assert "There are 16, too many for one picture." in page.text
    assert "How each of the 16 methods gets better" in page.text
    assert page.text.count("nvil-lr0.0002") >= 1, "the table has all"


def test_few_methods_are_drawn_one_by_one(make_grid):
    (study,) = studies(read_sweep(make_grid(["sparsemax", "dense"], [1e-4, 1e-3])))
    assert not families.crowded(study)


def test_a_family_alone_is_drawn_with_its_best_methods(make_grid, tmp_path):
    root = make_grid(["sparsemax"], [k * 1e-4 for k in range(1, 15)])
    (study,) = studies(read_sweep(root))
    assert [family.name for family in families.families(study)] == ["sparsemax"]
    assert len(families.best(study, 12).methods) == 12
    assert main([str(root), "--out", str(tmp_path / "out")]) == 0


def test_panels_of_rate_and_distortion_are_named_by_what_differs(make_bit_run, tmp_path):
    runs = []
    for bits in (32, 128):
        for estimator in ("sparsemap", "top-k"):
            label = f"bitvector-fashion-mnist-d{bits}-{estimator}"
            make_bit_run(f"grid/runs/{label}-s0", bits=bits, estimator=estimator)
            runs.append((f"{label}-s0", label, "bitvector"))
    root, out = describe(tmp_path / "grid", runs), tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    text = Page((out / "index.html").read_text()).text
    (study,) = studies(read_sweep(root))
    assert families.common_name(study.methods[::2]) == "sparsemap"
    assert "Each number of bits has its own panel." in text
    assert "Each data set has its own panel." not in text
