"""The report of a sweep: statistics, tables, figures, page, and what it says of broken runs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tomllib
from pathlib import Path

import pytest
from conftest import evaluations, metrics_row, run_module, timing_row, write_lines
from test_gradients import quality, write
from test_imports import python
from test_report import Page, assert_drawn

from sparsum.report.__main__ import main
from sparsum.report.intervals import Sample, difference, t_probability, t_quantile
from sparsum.report.methods import studies, unlike
from sparsum.report.metrics import ACCURACY, EVALUATIONS, SUCCESS
from sparsum.report.published import FREE, OPTIONS, departures, published
from sparsum.report.sweep_figures import bands
from sparsum.report.sweep_page import compute_seconds
from sparsum.report.sweep_tables import difference_text, method_csv, method_table, sample_text
from sparsum.report.tables import Table
from sparsum.runs import read_run
from sparsum.sweeps import SweepError, is_sweep, read_sweep

ROOT = Path(__file__).resolve().parents[2]


def resolved(name: str) -> dict[str, object]:
    """The options of a file of configs/, as a run has them: with the program's own values."""
    fields = tomllib.loads((ROOT / "configs" / f"{name}.toml").read_text())
    others = {"structure": "bits", "budget": -1} if fields["experiment"] == "bitvector" else {}
    return {**others, **fields}


AS_PUBLISHED = {
    "labelled": 5000,
    "unlabelled": 45000,
    "steps_per_epoch": 704,
    "batch_size": 64,
    "weight_decay": 1e-5,
}


def describe(root: Path, runs: list[tuple[str, str, str]], **others) -> Path:
    """Writes what makes a folder a sweep's: (name, label, experiment) for each run."""
    root.mkdir(parents=True, exist_ok=True)
    listed = [{"name": n, "label": lab, "experiment": e, "epochs": 10} for n, lab, e in runs]
    plan = {
        "schema": 1,
        "name": "study",
        "versions": {"sparsum": "0.1.0", "torch": "2.13.0"},
        "runs": listed,
        **others,
    }
    (root / "sweep.json").write_text(json.dumps(plan))
    (root / "sweep.toml").write_text('name = "study"\n[common]\nseed = [0, 1, 2]\n')
    return root


def fail(root: Path, name: str, code: int = 3, message: str = "sparsum: no such file") -> None:
    (root / "failed").mkdir(parents=True, exist_ok=True)
    content = {"run": name, "exit_code": code, "message": message}
    (root / "failed" / f"{name}.json").write_text(json.dumps(content))


def add_run(root: Path, name: str, label: str, experiment: str = "ssvae") -> None:
    plan = json.loads((root / "sweep.json").read_text())
    plan["runs"].append({"name": name, "label": label, "experiment": experiment})
    (root / "sweep.json").write_text(json.dumps(plan))


def plan_run(root: Path, name: str, folder: str = "configs", **options: object) -> None:
    """Writes the options of a run that has not begun."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    known = {"experiment": "ssvae", "dataset": "mnist", "epochs": 200, **options}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in known.items())
    (root / folder / f"{name}.toml").write_text(text)


def just_begun(root: Path, name: str) -> None:
    plan_run(root, "config", f"runs/{name}", estimator="nvil")
    (root / "runs" / name / "metrics.jsonl").write_text("")


@pytest.fixture
def make_game(tmp_path, make_run):
    """Makes a run folder of the signal game."""

    def make(name, *, success=0.9, estimator="dense", loss="nll", epochs=5, calls=256.0, **options):
        path = make_run(
            name,
            experiment="signal",
            dataset="mnist+fashion-mnist",
            estimator=estimator,
            loss=loss,
            warmup=0,
            epochs=epochs,
            **options,
        )
        rows = []
        for epoch in range(1, epochs + 1):
            row = metrics_row(epoch, 0)
            row["train"] = {"objective": 2.0 / epoch, "evaluations": evaluations(calls)}
            row["validation"] = {
                "success": success - 0.3 / epoch,
                "nll": 2.8 / epoch,
                "entropy": 3.0 / epoch,
                "evaluations": evaluations(calls),
            }
            rows.append(row)
        write_lines(path / "metrics.jsonl", rows)
        config = (path / "config.toml").read_text()
        (path / "config.toml").write_text(config.replace("warmup-epochs = 0\n", ""))
        summary = json.loads((path / "summary.json").read_text())
        del summary["warmup"], summary["warmup_epochs"]
        test = {"success": success, "nll": 0.3, "entropy": 0.1, "evaluations": evaluations(calls)}
        summary["test"] = test
        (path / "summary.json").write_text(json.dumps(summary))
        return path

    return make


@pytest.fixture
def make_vae_sweep(tmp_path, make_run):
    """A sweep of the semi-supervised VAE; ``accuracies``: those of each estimator's seeds."""

    def make(accuracies, root="sweep", **options):
        runs = []
        for estimator, values in accuracies.items():
            label = f"ssvae-mnist-{estimator}"
            for seed, accuracy in enumerate(values):
                name = f"{label}-s{seed}"
                make_run(
                    f"{root}/runs/{name}",
                    estimator=estimator,
                    seed=seed,
                    accuracy=accuracy,
                    **options,
                )
                runs.append((name, label, "ssvae"))
        return describe(tmp_path / root, runs)

    return make


# --- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [  # of the tables of the t distribution, two-sided 95 %
        (1, 12.706),
        (2, 4.303),
        (3, 3.182),
        (4, 2.776),
        (5, 2.571),
        (9, 2.262),
        (10, 2.228),
        (18, 2.101),
        (30, 2.042),
        (120, 1.980),
        (1e6, 1.960),
    ],
)
def test_quantiles_of_t(freedom, quantile):
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=5.1e-4)
    assert t_quantile(0.025, freedom) == pytest.approx(-quantile, abs=5.1e-4)


def test_quantiles_of_t_that_have_a_closed_form():
    for p in (0.5, 0.6, 0.9, 0.975, 0.999, 1 - 1e-6):
        one = math.tan(math.pi * (p - 0.5))
        assert t_quantile(p, 1) == pytest.approx(one, rel=1e-8, abs=1e-9)
        alpha = 4 * p * (1 - p)
        two = 2 * (p - 0.5) * math.sqrt(2 / alpha)
        assert t_quantile(p, 2) == pytest.approx(two, rel=1e-8, abs=1e-9)


def test_quantiles_and_probabilities_of_t_are_inverse_and_monotonic():
    last = math.inf
    for freedom in (0.7, 1.0, 1.5, 2.3, 7.7, 42.1, 1234.5):
        quantile = t_quantile(0.975, freedom)
        assert quantile < last
        last = quantile
        assert t_probability(quantile, freedom) == pytest.approx(0.975, abs=1e-12)
        assert t_probability(-quantile, freedom) == pytest.approx(0.025, abs=1e-12)
    assert t_probability(0.0, 3.0) == 0.5


@pytest.mark.parametrize(
    ("probability", "freedom"), [(0.0, 1), (1.0, 1), (math.nan, 1), (0.5, 0), (0.5, math.nan)]
)
def test_quantiles_of_t_outside_their_range(probability, freedom):
    with pytest.raises(ValueError, match="t_quantile: expected"):
        t_quantile(probability, freedom)


def test_mean_and_standard_deviation():
    sample = Sample((2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0))
    assert sample.mean == 5.0
    assert sample.deviation == pytest.approx(math.sqrt(32 / 7))
    assert Sample((3.5,)).deviation is None
    assert Sample((1e8 + 0.1, 1e8 + 0.2, 1e8 + 0.3)).deviation == pytest.approx(0.1, rel=1e-6)


def test_interval_of_one_sample_by_hand():
    apart = difference(Sample((96.0, 97.0, 98.0)), 96.87)
    half = 4.302653 / math.sqrt(3)  # t(0.975; 2) · 1 / √3
    assert apart.value == pytest.approx(0.13)
    assert apart.low == pytest.approx(0.13 - half, abs=1e-5)
    assert apart.high == pytest.approx(0.13 + half, abs=1e-5)
    assert apart.test == "one-sample t"
    assert apart.seen is False
    assert difference(Sample((10.0, 10.01, 10.02)), 5.0).seen is True


def test_interval_of_welch_by_hand():
    # n = 4, s² = 20/3; published 93.35 ± 0.50 over 10: shares 5/3 and 0.025.
    apart = difference(Sample((90.0, 92.0, 94.0, 96.0)), 93.35, 0.50, 10)
    variance = 5 / 3 + 0.025
    freedom = variance**2 / ((5 / 3) ** 2 / 3 + 0.025**2 / 9)
    assert freedom == pytest.approx(3.0904, abs=1e-4)
    half = t_quantile(0.975, freedom) * math.sqrt(variance)
    assert half == pytest.approx(4.073, abs=5e-3)  # t(0.975; 3.0904) is 3.131
    assert apart.value == pytest.approx(-0.35)
    assert apart.low == pytest.approx(-0.35 - half)
    assert apart.high == pytest.approx(-0.35 + half)
    assert apart.test == "Welch"
    # Equal deviations and counts: as many degrees of freedom as the pooled test, 18.
    ten = Sample(tuple(float(i) for i in range(10)))
    deviation = ten.deviation
    assert deviation is not None
    equal = difference(ten, 4.5, deviation, 10)
    assert equal.high == pytest.approx(2.100922 * deviation * math.sqrt(0.2), rel=1e-6)


def test_one_seed_has_no_interval_and_equal_seeds_an_empty_one():
    apart = difference(Sample((96.0,)), 95.0, 0.5, 10)
    assert (apart.value, apart.low, apart.high, apart.seen) == (1.0, None, None, None)
    same = difference(Sample((96.0, 96.0)), 95.0)
    assert (same.low, same.high) == (1.0, 1.0)
    assert difference(Sample((96.0, 96.0)), 95.0, 0.0, 10).seen is True


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e154, 1e200, 1e300])
def test_statistics_of_large_and_small_numbers(size):
    sample = Sample((-size, size, size))
    deviation = sample.deviation
    assert deviation == pytest.approx(2 * size / math.sqrt(3), rel=1e-12)
    for published in ((), (size, 10)):
        apart = difference(sample, 0.0, *published)
        assert apart.high is not None and apart.high > apart.value > 0
        assert math.isfinite(apart.high)


def test_one_run_with_an_enormous_number_does_no_harm(make_vae_sweep, tmp_path):
    root = make_vae_sweep({"dense": [0.96, -1e200, 0.98]}, warmup=1, epochs=1)
    assert main([str(root), "--out", str(tmp_path / "out")]) == 0
    assert "± 5.774e+201" in (tmp_path / "out" / "table-ssvae.md").read_text()


def test_bands_are_quartiles_of_the_seeds_that_are_there():
    found = bands([([1, 2], [1.0, 5.0]), ([1, 2], [2.0, 7.0]), ([1], [4.0]), ([1], [3.0])])
    assert found is not None
    assert found.epochs.tolist() == [1, 2]
    assert found.middle.tolist() == [2.5, 6.0]
    assert found.low.tolist() == [1.75, 5.5]
    assert found.high.tolist() == [3.25, 6.5]
    assert bands([([], [])]) is None


# --- published values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "value", "calls"),
    [
        ("sfe", 94.75, 1),
        ("sfe-plus", 96.53, 2),
        ("nvil", 96.01, 1),
        ("gumbel", 95.46, 1),
        ("dense", 96.93, 10),
        ("sparsemax", 96.87, 1.01),
    ],
)
def test_published_accuracies(make_run, estimator, value, calls):
    found = published(read_run(make_run(estimator=estimator)))
    assert found is not None
    assert (found.value, found.deviation, found.calls) == (value, None, calls)


@pytest.mark.parametrize(
    ("estimator", "loss", "value", "deviation", "calls"),
    [
        ("sfe", "nll", 33.05, 2.84, 1),
        ("sfe", "zero-one", 55.36, 2.92, 1),
        ("sfe-plus", "zero-one", 44.32, 2.72, 2),
        ("nvil", "nll", 37.04, 1.61, 1),
        ("gumbel", "nll", 23.51, 16.19, 1),
        ("st-gumbel", "nll", 27.42, 13.36, 1),
        ("dense", "nll", 93.37, 0.42, 256),
        ("sparsemax", "nll", 93.35, 0.50, 3.13),
    ],
)
def test_published_successes(make_game, estimator, loss, value, deviation, calls):
    found = published(read_run(make_game("a", estimator=estimator, loss=loss)))
    assert found is not None
    assert (found.value, found.deviation, found.calls) == (value, deviation, calls)


def test_published_values_of_other_methods_and_data(make_run, make_game):
    assert published(read_run(make_run("a", estimator="sum-and-sample"))) is None
    assert published(read_run(make_run("b", dataset="fashion-mnist"))) is None
    assert published(read_run(make_run("c", experiment="puzzle"))) is None
    assert published(read_run(make_game("d", estimator="sfe-plus"))) is None
    assert published(read_run(make_game("e", same_concept=True))) is None


def test_departures_from_the_published_setting(make_run, make_game, make_bit_run):
    def of(path):
        return departures(read_run(path))

    assert of(make_run("a", warmup=100, epochs=200, finished=False, **AS_PUBLISHED)) == []
    assert of(make_run("b", **{**AS_PUBLISHED, "lr": 1e-3})) == [
        "warmup-epochs 4, not 100",
        "epochs 6, not 200",
        "lr 0.001, not 0.0005",
    ]
    warm = make_run("c", warmup=0, epochs=200, finished=False, warm_start="w", lr=0.0)
    assert of(warm) == [], "another run's warm-up, and the program's own rate"
    assert of(make_game("d", lr=1e-3, entropy_weight=0.05, epochs=500)) == [
        "dataset mnist+fashion-mnist, not features of ImageNet",
        "entropy-weight 0.05, not 0.1",
    ]
    assert of(make_bit_run("e", epochs=100, importance_images=0, batch_size=64)) == []
    assert of(make_bit_run("f", epochs=100, bits=128, importance_images=500, batch_size=64)) == [
        "importance-images 500",
        "batch-size 64, not 16",
    ]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"estimator": "top-k", "k": 2}, ["k 2, not 10"]),
        ({"algorithm": "closed-form"}, ["algorithm closed-form, not active-set"]),
        ({"encoding": "one-state"}, ["encoding one-state, not both-states"]),
        ({"lr-schedule": "cosine"}, ["lr-schedule cosine, not constant"]),
        ({"estimator": "sfe", "samples": 16}, ["samples 16, not 1"]),
        ({"estimator": "gumbel", "temperature": 5.0}, ["temperature 5.0, not 1.0"]),
        ({"estimator": "nvil", "baseline-lr": 0.5}, ["baseline-lr 0.5, not 0.001"]),
        ({"estimator": "sparsemap", "temperature": 5.0}, []),
        ({"validation": 7}, ["validation 7, not 5000"]),
        ({"max-iterations": 7}, ["max-iterations 7"]),
        ({"a-new-option": True}, ["a-new-option true, of which nothing is published"]),
        ({"device": "cuda", "data": "/x", "seed": 7, "max-evaluations-per-chunk": 9}, []),
    ],
)
def test_every_option_that_matters_is_compared(options, found):
    fields = resolved("bitvector-sparsemap-d32")
    estimator = options.get("estimator")
    if estimator in ("sfe", "gumbel", "nvil"):
        fields["lr"] = 1e-3
    assert departures({**fields, **options}) == found


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("ssvae-sfe", {"baseline": "none"}, ["baseline none, not moving-average"]),
        ("ssvae-sfe", {"split": "stratified"}, ["split stratified, not published"]),
        (
            *("ssvae-sfe", {"split": "stratified", "split-seed": 3}),
            ["split stratified, not published", "split-seed 3, not 0"],
        ),
        ("ssvae-sfe", {"split-seed": 3}, []),
        ("ssvae-sfe", {"warmup-lr": 0.1}, ["warmup-lr 0.1, not 0.001"]),
        ("ssvae-gumbel", {"temperature-decay": 1e-5}, ["temperature-decay 1e-05, not 0.0001"]),
        ("signal-features-dense", {"hidden": 7}, ["hidden 7, not 512"]),
        ("signal-features-dense", {"embedding": 8}, ["embedding 8, not 256"]),
    ],
)
def test_departures_of_other_experiments(name, options, found):
    assert departures({**resolved(name), **options}) == found


def test_rates_that_were_chosen_for_digits_and_clothes_are_named_once():
    words = "dataset mnist+fashion-mnist, not features of ImageNet"
    chosen = " (learning rate and weight of the entropy are those chosen for it)"
    fields = resolved("signal-dense")
    assert departures(fields) == [words + chosen]
    assert departures({**fields, "lr": 0.0, "entropy-weight": -1.0}) == [words + chosen]
    assert departures({**fields, "lr": 0.5}) == [
        *(words, "lr 0.5, not 0.001", "entropy-weight 0.03, not 0.1"),
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_the_files_of_published_settings_are_as_published(path):
    fields = resolved(path.stem)
    found = departures(fields)
    if fields["dataset"] == "mnist+fashion-mnist":
        assert len(found) == 1 and "chosen for it" in found[0], found
    elif published(fields) is not None:
        assert found == []
    else:
        return
    # What leaves the choice to the program is no departure.
    automatic = {"lr": 0.0, "k": 0, "temperature-decay": -1.0, "baseline-lr": 0.0, "batch-size": 0}
    given = {key: value for key, value in automatic.items() if key in fields}
    assert departures({**fields, **given}) == found


def test_the_table_of_options_has_all_that_the_program_has():
    declared = re.compile(r'\b(?:o|options)\s*\.add\(\s*"([a-z-]+)"')
    common = [ROOT / "lab" / "estimator_options.cpp", ROOT / "lab" / "experiment.cpp"]
    shared = {name for path in common for name in declared.findall(path.read_text())}
    assert {"k", "samples", "lr-schedule", "seed"} <= shared
    for experiment, known in OPTIONS.items():
        source = (ROOT / "lab" / "experiments" / f"{experiment}.cpp").read_text()
        names = shared | set(declared.findall(source))
        assert {"epochs", "lr", "dataset"} <= names
        assert names - set(known) - set(FREE) - {"dataset"} == set()
        assert set(known) - names == set(), "no option that there is not"


def test_the_table_of_options_is_that_of_kept_runs():
    paths = sorted((ROOT / "results").glob("*/runs/*/config.toml"))
    assert paths
    free = {"lr", "entropy-weight", "epochs", "importance-images", "algorithm", "dataset"}
    for path in paths:
        for words in departures(tomllib.loads(path.read_text())):
            assert words.split()[0] in free, (path.parent.name, words)


# --- methods and tables --------------------------------------------------------------------------


def test_table_of_methods_by_hand(make_vae_sweep):
    accuracies = {"sparsemax": [0.96, 0.97, 0.98], "dense": [0.9693], "entmax": [0.95, 0.96]}
    sweep = read_sweep(make_vae_sweep(accuracies, warmup=2, epochs=2))
    assert sweep.problems == ()
    (study,) = studies(sweep)
    assert [method.name for method in study] == ["sparsemax", "dense", "entmax"]
    assert [method.label for method in study][0] == "ssvae-mnist-sparsemax"
    assert study.main is ACCURACY
    table = method_table(study)
    assert [" ".join(cell.split()) for cell in table.header] == [
        "method",
        "seeds",
        "test accuracy (%)",
        "published",
        "difference [95 % interval]",
        "test ELBO (nats)",
        "calls per example",
        "published calls",
        "time a run",
    ]
    # t(0.975; 2) = 4.303, standard deviation 1, three seeds: ± 2.48 around 97 − 96.87.
    assert table.rows[0] == (
        *("sparsemax", "3", "97.00 ± 1.00", "96.87 †", "+0.13\n[−2.35, +2.61]"),
        *("−98.2 ± 0.0", "1.01 ± 0.00", "1.01 ± 0.01", "1 min 03 s"),
    )
    assert table.rows[1][:5] == (
        *("dense", "1", "96.93", "96.93 †", "+0.00\n(one seed: no interval)"),
    )
    assert table.rows[2][3:5] == ("–", "–")
    rows = list(csv.DictReader(io.StringIO(method_csv(study))))
    assert float(rows[0]["accuracy (%) mean"]) == pytest.approx(97.0)
    assert float(rows[0]["accuracy (%) standard deviation"]) == pytest.approx(1.0)
    assert float(rows[0]["interval high"]) == pytest.approx(0.13 + 4.302653 / math.sqrt(3))
    assert rows[0]["interval of"] == "one-sample t"
    assert rows[0]["runs"].split("; ") == [f"ssvae-mnist-sparsemax-s{i}" for i in range(3)]
    assert rows[1]["interval low"] == rows[2]["published mean"] == ""
    assert rows[0]["published calls standard deviation"] == "0.01"
    assert "epochs 2, not 200" in rows[0]["not as published"]
    assert compute_seconds(sweep.runs) == pytest.approx((6 * 63.4, 12 * 63.4))


def test_the_game_is_compared_by_welch(make_game, tmp_path):
    names = [f"signal-dense-s{seed}" for seed in range(4)]
    for name, success in zip(names, (0.90, 0.92, 0.94, 0.96)):
        make_game(f"sweep/runs/{name}", success=success, seed=int(name[-1]))
    root = describe(tmp_path / "sweep", [(name, "signal-dense", "signal") for name in names])
    (study,) = studies(read_sweep(root))
    (method,) = study
    assert study.main is SUCCESS
    apart = method.difference(SUCCESS)
    assert apart is not None
    assert apart.test == "Welch"
    variance = 5 / 3 + 0.42**2 / 10
    freedom = variance**2 / ((5 / 3) ** 2 / 3 + (0.42**2 / 10) ** 2 / 9)
    half = t_quantile(0.975, freedom) * math.sqrt(variance)
    assert apart.value == pytest.approx(93.0 - 93.37)
    assert (apart.low, apart.high) == pytest.approx((-0.37 - half, -0.37 + half))
    assert "93.37 ± 0.42 †" in method_table(study).rows[0]


def test_bit_vectors_of_two_lengths_share_colours_and_have_panels_apart(make_bit_run, tmp_path):
    runs = []
    for bits in (32, 128):
        for estimator in ("top-k", "sfe"):
            label = f"bitvector-{estimator}-d{bits}"
            for seed in (0, 1):
                name = f"{label}-s{seed}"
                nll = 3.6 + 0.02 * seed
                make_bit_run(
                    f"sweep/runs/{name}",
                    estimator=estimator, bits=bits, nll=nll, seed=seed, epochs=2,
                )  # fmt: skip
                runs.append((name, label, "bitvector"))
    root = describe(tmp_path / "sweep", runs)
    (study,) = studies(read_sweep(root))
    assert [words for words, _ in study.settings()] == ["32 bits", "128 bits"]
    first, second, third, fourth = study
    assert first.name == "top-k-d32"
    assert first.colour == third.colour != second.colour == fourth.colour
    table = method_table(study)
    assert table.rows[0][2:5] == ("3.610 ± 0.014", "3.62 †", "−0.010\n[−0.137, +0.117]")
    assert [row[3] for row in table.rows] == ["3.62 †", "3.74 †", "3.61 †", "3.77 †"]
    out = tmp_path / "report"
    assert main([str(root), "--out", str(out)]) == 0
    for name in ("results", "learning_curves", "rate_distortion", "calls"):
        assert_drawn(out / f"{name}-bitvector.png")
        assert (out / f"{name}-bitvector.pdf").read_bytes().startswith(b"%PDF")
    text = Page((out / "index.html").read_text()).text
    for words in ("rate (nats)", "distortion (nats)", "NLL (bits/dim)", "importance sampling"):
        assert words in text, words


def test_methods_of_one_estimator_are_told_apart(make_run, tmp_path):
    runs = []
    for rate in (0.1, 0.2):
        name = f"ssvae-lr{rate}-s0"
        make_run(f"sweep/runs/{name}", lr=rate)
        runs.append((name, f"ssvae-lr{rate}", "ssvae"))
    (study,) = studies(read_sweep(describe(tmp_path / "sweep", runs)))
    one, two = study
    assert (one.name, two.name) == ("lr0.1", "lr0.2")
    assert one.colour != two.colour


def test_runs_of_a_method_that_differ_in_more_than_the_seed(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"sweep/runs/a-s{seed}", seed=seed, lr=0.1 + seed, threads=1 + seed, out=str(seed))
    root = describe(tmp_path / "sweep", [(f"a-s{seed}", "a", "ssvae") for seed in (0, 1)])
    (study,) = studies(read_sweep(root))
    assert unlike(study.methods[0]) == ["lr"]


def test_numbers_as_text():
    assert sample_text(ACCURACY, Sample((96.0, 97.0))) == "96.50 ± 0.71"
    assert sample_text(ACCURACY, Sample((96.0,))) == "96.00"
    assert sample_text(EVALUATIONS, Sample((3.0, 4.0))) == "3.50 ± 0.71"
    assert sample_text(EVALUATIONS, None) == "–"
    assert difference_text(ACCURACY, None) == "–"
    assert difference_text(ACCURACY, difference(Sample((96.0,)), 97.0)).startswith("−1.00\n(one")


def test_tables_in_latex_and_markdown():
    table = Table(("method", "a\nb (%)"), (("a_b & $x^{2}~\\", "+1 ± 2 †\n[−1, …]"), ("<|>", "–")))
    assert table.latex().splitlines() == [
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & a b (\%) \\",
        r"\midrule",
        r"a\_b \& \$x\textasciicircum{}\{2\}\textasciitilde{}\textbackslash{} &"
        r" +1 $\pm$ 2 $\dagger$ [$-$1, \dots{}] \\",
        r"\textless{}|\textgreater{} & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert table.markdown().splitlines()[2] == "| a_b & $x^{2}~\\ | +1 ± 2 † [−1, …] |"


# --- the whole report ----------------------------------------------------------------------------

FIGURES = ("results", "learning_curves", "calls")


def test_report_of_a_sweep(make_vae_sweep, make_game, tmp_path, capsys):
    root = make_vae_sweep(
        {"sparsemax": [0.96, 0.97, 0.98], "dense": [0.9693]}, root="a sweep", warmup=2, epochs=3
    )
    plan = json.loads((root / "sweep.json").read_text())
    for seed in (0, 1):
        name = f"my game-s{seed}"
        make_game(f"a sweep/runs/{name}", seed=seed, success=0.9 + 0.01 * seed)
        plan["runs"].append({"name": name, "label": "my game", "experiment": "signal"})
    (root / "sweep.json").write_text(json.dumps(plan))
    out = tmp_path / "the report"
    assert main([str(root), "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    files = {path.name for path in out.iterdir()}
    expected = {"index.html", "runs.csv"}
    for experiment in ("ssvae", "signal"):
        expected |= {f"table-{experiment}.{kind}" for kind in ("csv", "tex", "md")}
        expected |= {f"{n}-{experiment}.{kind}" for n in FIGURES for kind in ("png", "pdf")}
    assert files == expected
    for name in files:
        if name.endswith(".png"):
            assert_drawn(out / name)
    first, *lines = output.out.splitlines()
    assert first == f"Report: {out / 'index.html'} (open it in a browser)"
    assert sorted(line.split()[0] for line in lines) == sorted(files)

    html = (out / "index.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert str(tmp_path) not in html, "no path of the machine"
    page = Page(html)
    pictures = [source for source in page.sources if not source.startswith("#")]
    assert len(pictures) == 6
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    anchors = [source[1:] for source in page.sources if source.startswith("#")]
    assert len(anchors) == 2
    assert all(html.count(f'id="{anchor}"') == 1 for anchor in anchors)
    for words in (
        "Study: study",
        "6 of 6 runs finished",
        "Semi-supervised VAE on MNIST",
        "Emergent communication on MNIST and Fashion-MNIST",
        "97.00 ± 1.00",
        "+0.13 [−2.35, +2.61]",
        "+0.00 (one seed: no interval)",
        "One seed, and so no interval: dense.",
        "90.50 ± 0.71",
        "93.37 ± 0.42 †",
        "table 1",
        "the model of the best epoch is kept, and only that one is measured on test data, once",
        "dataset mnist+fashion-mnist, not features of ImageNet",
        "The runs behind each number",
        "ssvae-mnist-sparsemax-s0, ssvae-mnist-sparsemax-s1, ssvae-mnist-sparsemax-s2",
        "my game-s0, my game-s1",
        "estimator sparsemax",
        "What it shows",
        "What to look for",
        "median over a method's seeds",
        "2.13.0",
        "6 min 20 s",
        "core-hours",
        'name = "study"',
        "sparsum sweep",
    ):
        assert words in page.text, words
    assert "could not be read" not in page.text
    assert "symboles" not in page.text

    rows = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text())))
    assert [row["run"] for row in rows][-1] == "my game-s1"
    assert rows[0]["folder"] == "runs/ssvae-mnist-sparsemax-s0"
    markdown = (out / "table-ssvae.md").read_text()
    assert "| sparsemax | 3 | 97.00 ± 1.00 | 96.87 † | +0.13 [−2.35, +2.61] |" in markdown
    assert r"97.00 $\pm$ 1.00" in (out / "table-ssvae.tex").read_text()


def test_the_same_sweep_gives_the_same_bytes(make_vae_sweep, tmp_path):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    for name in ("a", "b"):
        assert main([str(root), "--out", str(tmp_path / name)]) == 0
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_broken_and_unfinished_runs_are_named_and_the_rest_is_drawn(
    make_run, make_vae_sweep, tmp_path, capsys
):
    root = make_vae_sweep({"sparsemax": [0.96, 0.97], "dense": [0.96]}, warmup=1, epochs=2)
    runs = root / "runs"
    make_run("sweep/runs/half-s0", estimator="sfe", finished=False, epochs=4, warmup=1)
    make_run("sweep/runs/broke-s0", estimator="nvil", finished=False, epochs=4, warmup=1)
    fail(root, "broke-s0", 3, "training stopped:\nthe objective is nan")
    fail(root, "early-s0", 2, "sparsum: no data")
    fail(root, "ssvae-mnist-dense-s0", 2, "an earlier call's")
    (root / "failed" / "odd-s0.json").write_text("{")
    cut = runs / "ssvae-mnist-sparsemax-s1" / "metrics.jsonl"
    cut.write_bytes(cut.read_bytes()[:-7])
    newer = make_run("sweep/runs/newer-s0", finished=False)
    write_lines(newer / "metrics.jsonl", [{**metrics_row(1), "schema": 9}])
    other = make_run("sweep/runs/other-s0", estimator="gumbel", warmup=1, epochs=1)
    summary = json.loads((other / "summary.json").read_text())
    summary["versions"]["sparsum"] = "0.0.9"
    (other / "summary.json").write_text(json.dumps(summary))
    garbled = make_run("sweep/runs/garbled-s0", estimator="st-gumbel", warmup=1, epochs=1)
    (garbled / "summary.json").write_text('{"schema": 1, "test"')
    (garbled / "config.toml").write_text("= nonsense")
    (runs / "empty-s0").mkdir()
    (runs / "file-s0").write_text("")
    make_run("sweep/runs/stranger-s0")
    make_run("sweep/runs/elsewhere-s0", experiment="signal", warmup=1, epochs=1)
    plan = json.loads((root / "sweep.json").read_text())
    names = ["half", "broke", "early", "odd", "newer", "other", "garbled", "empty", "file"]
    for name in [*names, "elsewhere", "never", "not yet"]:
        plan["runs"].append({"name": f"{name}-s0", "label": name, "experiment": "ssvae"})
    plan["runs"] += ["text", {"name": "../x"}, {"name": 7}, {"label": "x"}, {"name": "half-s0"}]
    plan["runs"] += [{"name": "\ud800"}, {"name": "a\nb"}]
    (root / "sweep.json").write_text(json.dumps(plan))
    out = tmp_path / "report"
    assert main([str(root), "--out", str(out)]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("report: ") for line in errors)
    text = Page((out / "index.html").read_text()).text
    footer = text.split("What is missing above")[1]
    for problem in (
        "runs/half-s0: not finished: epoch 3 of 5",
        "runs/broke-s0: failed with exit code 3: training stopped: the objective is nan",
        "runs/early-s0: failed with exit code 2: sparsum: no data",
        "failed/odd-s0.json: cannot be read",
        "runs/ssvae-mnist-sparsemax-s1: metrics.jsonl: line 3 is incomplete",
        "runs/newer-s0: nothing to show: metrics.jsonl: line 1: expected schema 1, got 9",
        "runs of several versions of sparsum: 0.1.0 (4 runs), 0.0.9 (1 runs)",
        "runs/garbled-s0: summary.json: not JSON",
        "runs/garbled-s0: config.toml: not TOML",
        "runs/empty-s0: nothing to show",
        "runs/file-s0: not a folder",
        "runs/elsewhere-s0: expected the experiment ssvae, got signal",
        "2 of 15 runs have not started: never-s0, not yet-s0",
        "runs/stranger-s0: not of this sweep",
        "expected a JSON object, got str: left out",
        "expected the name of a folder, got '../x': left out",
        "expected the name of a folder, got 7: left out",
        "expected the name of a folder, got None: left out",
        "half-s0: listed twice, read once",
    ):
        assert any(problem in line for line in errors), problem
        assert problem in footer, problem
    assert not any("an earlier call's" in line for line in errors)
    assert not any("broke-s0: not finished" in line for line in errors)
    assert "Not all runs have finished" in text
    assert "3 failed" in text and "2 not started" in text
    table = (out / "table-ssvae.md").read_text()
    assert "| half | 0 of 1 | –" in table
    assert "| ssvae-mnist-sparsemax | 2 |" in table


def test_a_sweep_of_which_no_run_has_finished_is_drawn(make_run, tmp_path):
    make_run("sweep/runs/a-s0", finished=False)
    root = describe(tmp_path / "sweep", [("a-s0", "a", "ssvae"), ("a-s1", "a", "ssvae")])
    out = tmp_path / "report"
    assert main([str(root), "--out", str(out)]) == 0
    text = Page((out / "index.html").read_text()).text
    assert "No run has finished" in text
    assert_drawn(out / "learning_curves-ssvae.png")
    assert not (out / "results-ssvae.png").exists()
    assert "| a | 0 of 2 |" in (out / "table-ssvae.md").read_text()


def test_summaries_alone_give_a_table(make_vae_sweep, tmp_path):
    root = make_vae_sweep({"dense": [0.96, 0.97]}, warmup=1, epochs=1)
    for path in (root / "runs").glob("*/metrics.jsonl"):
        path.unlink()
    out = tmp_path / "report"
    assert main([str(root), "--out", str(out)]) == 0
    assert "96.50 ± 0.71" in (out / "table-ssvae.md").read_text()
    assert not (out / "learning_curves-ssvae.png").exists()


def test_extreme_numbers_names_and_unknown_experiments_do_no_harm(make_run, tmp_path):
    label = "$x^{<b>& 100 %"
    for seed in (0, 1):
        path = make_run(f"sweep/runs/{label}-s{seed}", experiment="puzzle <i>", seed=seed, epochs=3)
        rows = [metrics_row(epoch) for epoch in range(1, 8)]
        rows[2]["validation"]["accuracy"] = -1e299
        rows[3]["validation"]["elbo"] = float("nan")
        rows[5]["train"]["evaluations"] = {"mean": 0, "median": -1, "q25": 5, "q75": None}
        write_lines(path / "metrics.jsonl", rows)
        write_lines(path / "timing.jsonl", [{**timing_row(1), "seconds": None}])
        summary = json.loads((path / "summary.json").read_text())
        summary["test"] = {"fun": 1e299, "dull": -5.0, "zero": 0.0, "evaluations": {"mean": 0.0}}
        summary["threads"] = "two"
        (path / "summary.json").write_text(json.dumps(summary))
    runs = [(f"{label}-s{seed}", label, "puzzle <i>") for seed in (0, 1)]
    root = describe(tmp_path / "sweep", runs, versions=["?"], name=7)
    out = tmp_path / "report"
    assert main([str(root), "--out", str(out)]) == 0
    assert label in Page((out / "index.html").read_text()).text
    assert_drawn(out / "calls-puzzle-i.png")
    assert r"\$x\textasciicircum{}\{\textless{}b\textgreater{}\& 100 \%" in (
        out / "table-puzzle-i.tex"
    ).read_text()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "sweep.json: not JSON"),
        ("[]", "sweep.json: expected a JSON object, got list"),
        ('{"schema": 2, "runs": []}', "sweep.json: expected schema 1, got 2"),
        ('{"schema": true, "runs": []}', "sweep.json: expected schema 1, got True"),
        ('{"schema": 1}', "sweep.json: expected a list of runs, got none"),
        ('{"schema": 1, "runs": {}}', "sweep.json: expected a list of runs, got dict"),
        ('{"schema": 1, "runs": []}', "sweep.json: it lists no runs"),
        ('{"schema": 1, "runs": [3]}', "sweep.json: run 1: expected a JSON object, got int"),
    ],
)
def test_a_sweep_without_anything_to_show(tmp_path, capsys, content, problem):
    root = tmp_path / "my sweep"
    root.mkdir()
    (root / "sweep.json").write_text(content)
    assert is_sweep(root)
    with pytest.raises(SweepError):
        read_sweep(root)
    assert main([str(root), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"report: {root}: nothing to show: ")
    assert problem in line
    html = (tmp_path / "out" / "index.html").read_text()
    text = Page(html).text
    assert "Study: my sweep" in text and "There is nothing to show" in text
    assert problem in text
    assert str(tmp_path) not in html, "no path of the machine"


def test_a_sweep_that_has_not_begun(tmp_path, capsys):
    names = [("a-s0", "a", "ssvae"), ("b-s0", "b", "ssvae"), ("c-s0", "c", "ssvae")]
    root = describe(tmp_path / "sweep", names)
    fail(root, "a-s0")
    just_begun(root, "c-s0")
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 2
    output = capsys.readouterr()
    *problems, last = output.err.splitlines()
    expected = [
        "runs/a-s0: failed with exit code 3: sparsum: no such file",
        "runs/c-s0: not finished: begun, no epoch has ended",
        "1 run has not started: b-s0",
    ]
    assert problems == [f"report: {problem}" for problem in expected]
    assert last.endswith("no run of the sweep has anything to show")
    assert output.out.startswith(f"Report: {out / 'index.html'}")
    assert [path.name for path in out.iterdir()] == ["index.html"]
    text = Page((out / "index.html").read_text()).text
    planned = "These methods are planned: a b c"
    for words in (*expected, "0 of 3 runs finished", "3 methods", planned):
        assert words in text, words


def test_a_run_that_has_just_begun_is_not_called_damaged(make_vae_sweep, tmp_path, capsys):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    add_run(root, "b-s0", "b")
    just_begun(root, "b-s0")
    (entry,) = read_sweep(root).entries[1:]
    assert (entry.state, entry.run, entry.fields["estimator"]) == ("not finished", None, "nvil")
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "report: runs/b-s0: not finished: begun, no epoch has ended"
    text = Page((out / "index.html").read_text()).text
    footer = text.split("What is missing above, has not finished, or could not be read:")[1]
    assert line.removeprefix("report: ") in footer
    assert "1 not finished" in text and "unreadable" not in text
    assert "| 0 of 1 | – | 96.01 |" in (out / "table-ssvae.md").read_text()


@pytest.mark.parametrize("planned", [True, False])
def test_methods_that_have_not_begun_leave_the_settings_alone(make_vae_sweep, tmp_path, planned):
    root = make_vae_sweep({"dense": [0.96, 0.97]}, warmup=1, epochs=1)
    add_run(root, "ssvae-mnist-sfe-plus-s0", "ssvae-mnist-sfe-plus")
    if planned:
        plan_run(root, "ssvae-mnist-sfe-plus-s0", estimator="sfe-plus")
    (study,) = studies(read_sweep(root))
    assert [words for words, _ in study.settings()] == [""]
    assert [metric.key for metric in study.curves] == ["accuracy", "elbo"]
    assert [method.name for method in study] == ["dense", "sfe-plus"]
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    text = Page((out / "index.html").read_text()).text
    assert "Not begun: sfe-plus." in text
    assert "Without a published value" not in text
    assert ("96.53" in text) == planned


def test_options_of_a_plan_that_cannot_be_read(make_vae_sweep):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    add_run(root, "b-s0", "b")
    (root / "configs").mkdir()
    (root / "configs" / "b-s0.toml").write_text("= nonsense")
    first, second = read_sweep(root).problems
    assert first.startswith("configs/b-s0.toml: not TOML (")
    assert second == "1 run has not started: b-s0"


@pytest.mark.parametrize("test", [3, None, {"accuracy": None}, {"accuracy": "high"}])
def test_a_finished_run_without_a_result_is_not_counted(make_vae_sweep, tmp_path, capsys, test):
    root = make_vae_sweep({"dense": [0.96, 0.97, 0.98]}, warmup=1, epochs=1)
    path = root / "runs" / "ssvae-mnist-dense-s1" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "test": test}))
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("report: runs/ssvae-mnist-dense-s1: summary.json: test.accuracy")
    assert line.endswith("got none: the means are without")
    text = Page((out / "index.html").read_text()).text
    assert line.removeprefix("report: ") in text
    assert "| dense | 2 of 3 | 97.00 ± 1.41 |" in (out / "table-ssvae.md").read_text()
    (row,) = csv.DictReader(io.StringIO((out / "table-ssvae.csv").read_text()))
    assert (row["seeds"], row["planned"]) == ("2", "3")
    assert row["runs"] == "ssvae-mnist-dense-s0; ssvae-mnist-dense-s2"


def test_a_mean_over_fewer_seeds_says_so(make_vae_sweep, tmp_path, capsys):
    root = make_vae_sweep({"dense": [0.96, 0.97, 0.98]}, warmup=1, epochs=1)
    path = root / "runs" / "ssvae-mnist-dense-s1" / "summary.json"
    summary = json.loads(path.read_text())
    summary["test"]["elbo"] = None
    path.write_text(json.dumps(summary))
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "summary.json: test.elbo: expected a number, got none" in line
    assert "| dense | 3 | 97.00 ± 1.00 |" in (out / "table-ssvae.md").read_text()
    assert "| −98.2 ± 0.0 (n = 2) |" in (out / "table-ssvae.md").read_text()


def test_runs_are_found_where_the_description_is_damaged(make_vae_sweep):
    root = make_vae_sweep({"dense": [0.96, 0.97]}, warmup=1, epochs=1)
    (root / "sweep.json").write_text("{")
    (root / "sweep.toml").unlink()
    sweep = read_sweep(root)
    assert {entry.label for entry in sweep.entries} == {"ssvae-mnist-dense"}
    assert len(sweep.runs) == 2
    assert sweep.name == "sweep"
    assert [problem.split(":")[0] for problem in sweep.problems] == ["sweep.json"] * 2 + [
        "sweep.toml"
    ]


def test_sweeps_and_runs_are_not_mixed(make_vae_sweep, make_run, tmp_path, capsys):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    for others in ([make_run("a")], [root], [make_vae_sweep({"sfe": [0.9]}, root="other")]):
        assert main([*map(str, others), str(root), "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "expected the folder of one sweep alone, or those of runs; got 2 folders" in line
    assert not (tmp_path / "out").exists()


def test_a_report_that_cannot_be_written(make_vae_sweep, tmp_path, capsys):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    (tmp_path / "file").write_text("")
    assert main([str(root), "--out", str(tmp_path / "file" / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot write" in line


def test_gradient_quality_is_shown(make_vae_sweep, tmp_path, capsys):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    (root / "gradient_quality.json").write_text('{"schema": 1}')
    name = "ssvae-mnist-dense-s0"
    write(root / "runs" / name, quality())
    out = tmp_path / "out"
    assert main([str(root), "--out", str(out)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("report: gradient_quality.json: not as sparsum gradient-quality")
    assert_drawn(out / "gradient_quality.png")
    assert (out / "gradient_quality.pdf").read_bytes().startswith(b"%PDF")
    for suffix in ("md", "tex", "csv"):
        assert "relaxed-1" in (out / f"gradient_quality.{suffix}").read_text()
    rows = list(csv.reader(io.StringIO((out / "gradient_quality.csv").read_text())))
    assert len(set(rows[0])) == len(rows[0])
    for row in rows[1:]:
        assert len(row) == len(rows[0])
        for cell in row[3:]:
            float(cell)
    last = dict(zip(rows[0], rows[-1]))
    assert last["scores: bias"] == str(19 / 4 / 2)
    assert last["scores: bias standard error"] == "0.05"
    assert "bit-vector(5)" in (out / "index.html").read_text()


def test_without_matplotlib(make_vae_sweep, tmp_path):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    arguments = [str(root), "--out", str(tmp_path / "out")]
    code = f"from sparsum.report.__main__ import main; sys.exit(main({arguments!r}))"
    result = python(code, "matplotlib", "PIL")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "matplotlib is needed" in result.stderr


def test_the_command_from_outside(make_vae_sweep, tmp_path):
    root = make_vae_sweep({"dense": [0.96]}, warmup=1, epochs=1)
    result = run_module("sparsum.report", root, "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "out" / "index.html").is_file()
