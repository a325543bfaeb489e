"""The report: its files, its page, its pictures, and what it says of broken runs."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import resource
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import PYTHON_ROOT, bit_metrics_row, metrics_row, run_module, write_lines
from PIL import Image

from sparsum.report.__main__ import main
from sparsum.report.files import write_atomically
from sparsum.report.labels import label_runs, slug
from sparsum.report.metrics import ACCURACY, BOUND, ELBO, EXACT, NLL, duration_text
from sparsum.report.published import published_nll
from sparsum.runs import read_run


class Page(HTMLParser):
    """Tags, attributes that could fetch something, and visible text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def assert_drawn(path):
    """A picture of some size in which several colours appear."""
    with Image.open(path) as image:
        assert image.width >= 1600
        assert image.height >= 300
        colours = image.convert("RGB").getcolors(1 << 24)
    assert len(colours) > 20
    assert max(count for count, _ in colours) < 0.98 * image.width * image.height


def test_report_of_one_run(make_run, tmp_path, capsys):
    out = tmp_path / "a" / "report"
    assert main([str(make_run()), "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    files = sorted(path.name for path in out.iterdir())
    assert files == [
        "evaluations.png",
        "index.html",
        "learning_curves.png",
        "objective.png",
        "reconstructions.png",
        "samples.png",
        "table.csv",
        "table.md",
    ]
    first, *lines = output.out.splitlines()
    assert first == f"Report: {out / 'index.html'} (open it in a browser)"
    assert sorted(line.split()[0] for line in lines) == files
    assert all(len(line.split()) > 3 for line in lines), "each line says what the file shows"
    for name in ("learning_curves.png", "evaluations.png", "objective.png"):
        assert_drawn(out / name)
    assert (out / "samples.png").read_bytes() == (
        tmp_path / "run" / "images" / "samples.png"
    ).read_bytes()


def test_page_is_self_contained_and_has_the_numbers(make_run, tmp_path):
    out = tmp_path / "report"
    assert main([str(make_run()), "--out", str(out)]) == 0
    html = (out / "index.html").read_text()
    page = Page(html)
    assert len(page.sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    for number in ("96.87", "94.71", "−98.2", "−140.1", "1.01", "1 (1–2)", "1 min 03 s", "512,345"):
        assert number in page.text, number
    for word in ("What it shows", "Units", "What to look for", "nats", "Semi-supervised VAE"):
        assert word in page.text, word
    assert "could not be read" not in page.text


def test_tables_in_markdown_and_csv(make_run, tmp_path):
    runs = [make_run("a"), make_run("b", estimator="dense", accuracy=0.9693)]
    out = tmp_path / "report"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    lines = (out / "table.md").read_text().splitlines()
    assert lines[0].startswith("| run | test accuracy (%) | … at warm start | test ELBO (nats) |")
    assert lines[2].startswith("| sparsemax | 96.87 | 94.71 | −98.2 | −140.1 | 1.01 | 1 (1–2) |")
    assert lines[3].startswith("| dense | 96.93 | ")
    assert len({line.count("|") for line in lines}) == 1
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [row["run"] for row in rows] == ["sparsemax", "dense"]
    assert float(rows[1]["test.accuracy"]) == 0.9693
    assert rows[0]["folder"] == str(runs[0])
    assert rows[0]["lr"] == "0.0005"
    assert rows[0]["status"] == "finished"


def test_several_runs_are_compared_side_by_side(make_run, tmp_path):
    runs = [make_run(name, estimator=name) for name in ("sparsemax", "dense", "sfe")]
    out = tmp_path / "report"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    assert_drawn(out / "results.png")
    assert (out / "samples-dense.png").is_file()
    text = Page((out / "index.html").read_text()).text
    assert "Test results" in text
    assert "REINFORCE" in text, "each estimator is explained"


def test_many_seeds_share_a_colour_and_are_averaged(make_run, tmp_path):
    accuracies = [0.96, 0.97, 0.98, 0.961, 0.962]
    runs = [
        make_run(f"{name}-{seed}", estimator=name, seed=seed, accuracy=accuracy)
        for name in ("sparsemax", "dense")
        for seed, accuracy in enumerate(accuracies)
    ]
    out = tmp_path / "report"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    assert_drawn(out / "learning_curves.png")
    text = Page((out / "index.html").read_text()).text
    assert "96.66 ± 0.85" in text  # by hand: mean .9666, standard deviation .008503
    assert "| sparsemax | 5 | 96.66 ± 0.85 |" in (out / "table.md").read_text()


def test_unfinished_and_broken_runs_are_reported_and_the_rest_is_drawn(make_run, tmp_path, capsys):
    going = make_run("going", finished=False)
    cut = make_run("cut", estimator="dense")
    metrics = cut / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-7])
    (tmp_path / "empty").mkdir()
    blank = make_run("blank", finished=False)
    (blank / "metrics.jsonl").write_text("")
    newer = make_run("newer", finished=False)
    write_lines(newer / "metrics.jsonl", [{**metrics_row(1), "schema": 9}])
    damaged = make_run("damaged", estimator="sfe")
    samples = damaged / "images" / "samples.png"
    samples.write_bytes(samples.read_bytes()[:45])
    names = ["going", "cut", "empty", "nowhere", "blank", "newer", "damaged", "going"]
    out = tmp_path / "report"
    assert main([*(str(tmp_path / name) for name in names), "--out", str(out)]) == 0
    errors = capsys.readouterr().err.splitlines()
    assert all(line.startswith("report: ") for line in errors)
    footer = Page((out / "index.html").read_text()).text.split("What could not be read")[1]
    for place, problem in [
        (going, "summary.json: missing: the run has not finished"),
        (cut, "metrics.jsonl: line 10 is incomplete"),
        (tmp_path / "empty", "nothing to show"),
        (tmp_path / "nowhere", "no such folder"),
        (blank, "nothing to show: metrics.jsonl: empty"),
        (newer, "expected schema 1, got 9"),
        (damaged, "images/samples.png: damaged"),
        (going, "given twice, drawn once"),
    ]:
        assert any(str(place) in line and problem in line for line in errors), problem
        assert problem in footer
    assert "epoch 7 of 10" in (out / "table.md").read_text()


def test_no_readable_run_ends_with_2_and_writes_nothing(tmp_path):
    out = tmp_path / "report"
    result = run_module("sparsum.report", tmp_path / "nowhere", "--out", out)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"report: {tmp_path / 'nowhere'}: no such folder",
        "report: none of the runs can be read: nothing is drawn",
    ]
    assert not out.exists()


def test_command_line_runs_from_the_sources(make_run, tmp_path):
    result = run_module("sparsum.report", make_run(), "--out", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    assert "learning_curves.png" in result.stdout
    result = run_module("sparsum.report")
    assert result.returncode == 2
    assert "RUN" in result.stderr


def test_a_report_that_cannot_be_written_ends_with_2(make_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(make_run()), "--out", str(tmp_path / "file")]) == 2
    assert main([str(make_run("other")), "--out", str(tmp_path / "file" / "below")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert all("cannot write" in line for line in errors)


def test_a_full_disk_leaves_no_half_written_file(make_run, tmp_path):
    out = tmp_path / "report"
    out.mkdir()
    (out / "learning_curves.png").write_bytes(b"old")
    code = (
        "import resource, sys\n"
        "from sparsum.report.__main__ import main\n"
        "import matplotlib.figure\n"  # may write its list of fonts, which is not what is limited
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (20000, {resource.RLIM_INFINITY}))\n"
        f"sys.exit(main([{str(make_run())!r}, '--out', {str(out)!r}]))"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", code],  # the limit would cut compiled modules too
        env={**os.environ, "PYTHONPATH": str(PYTHON_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert "cannot write (File too large)" in result.stderr
    assert "Traceback" not in result.stderr
    assert (out / "learning_curves.png").read_bytes() == b"old"
    assert not (out / "index.html").exists(), "the page comes last"
    assert [path.name for path in out.iterdir() if path.name.endswith(".tmp")] == []


def test_drawing_again_replaces_the_report(make_run, tmp_path):
    run, out = make_run(), tmp_path / "report"
    assert main([str(run), "--out", str(out)]) == 0
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([str(run), "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


@pytest.mark.parametrize("warmup, epochs", [(0, 1), (1, 0), (0, 5), (3, 0), (100, 2), (2, 100)])
def test_runs_of_any_length_are_drawn(make_run, tmp_path, warmup, epochs):
    out = tmp_path / "report"
    assert main([str(make_run(warmup=warmup, epochs=epochs)), "--out", str(out)]) == 0
    assert_drawn(out / "learning_curves.png")
    assert_drawn(out / "evaluations.png")


def test_a_summary_alone_gives_a_table(make_run, tmp_path):
    run = make_run()
    (run / "metrics.jsonl").unlink()
    out = tmp_path / "report"
    assert main([str(run), "--out", str(out)]) == 0
    assert "96.87" in (out / "table.md").read_text()
    assert not (out / "learning_curves.png").exists()


def test_an_unknown_experiment_with_other_metrics_is_drawn(make_run, tmp_path):
    run = make_run(experiment="puzzle", estimator="top-k")
    rows = [
        {
            "schema": 1,
            "epoch": epoch,
            "phase": "train",
            "train": {"objective": 5.0 / epoch},
            "validation": {"bits_per_dim": 4.0 / epoch, "rate": 10.0 * epoch},
        }
        for epoch in range(1, 6)
    ]
    write_lines(run / "metrics.jsonl", rows)
    (run / "summary.json").write_text(
        json.dumps({"schema": 1, "test": {"bits_per_dim": 3.618, "rate": 41.5}})
    )
    out = tmp_path / "report"
    assert main([str(run), "--out", str(out)]) == 0
    assert_drawn(out / "other_metrics.png")
    assert not (out / "learning_curves.png").exists()
    text = Page((out / "index.html").read_text()).text
    assert text.startswith("puzzle on MNIST")
    assert "3.618" in text
    assert "test bits per dim" in text
    assert "accuracy" not in text


BIT_PICTURES = ["evaluations", "learning_curves", "likelihood", "rate_distortion"]


def test_report_of_a_bit_vector_run(make_bit_run, tmp_path, capsys):
    out = tmp_path / "report"
    assert main([str(make_bit_run()), "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    images = ["reconstructions", "samples", "walk"]
    files = sorted(path.name for path in out.iterdir())
    assert files == sorted(
        ["index.html", "table.csv", "table.md", *(f"{n}.png" for n in BIT_PICTURES + images)]
    )
    for name in BIT_PICTURES:
        assert_drawn(out / f"{name}.png")
    html = (out / "index.html").read_text()
    page = Page(html)
    assert len(page.sources) == len(BIT_PICTURES + images)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    for words in (
        "Bit-vector VAE on Fashion-MNIST",
        "fashion-mnist · sparsemap · 32 bits · seed 0",
        "3.7422 ± 0.0003",
        "published: 3.72",
        "estimated on 1,000 test images by importance sampling with 1,024 draws each",
        "Correia, Niculae, Aziz and Martins, 2020, figure 2; the numbers are in the table",
        "−2033.3",
        "40 codes drawn from the prior",
        "one bit flipped",
        "What to look for",
        "bits per dimension",
    ):
        assert words in page.text, words
    for words in ("accuracy", "labelled", "class", "warm"):
        assert words not in page.text.lower(), words
    for name in ("rate_distortion", "walk"):
        line = next(text for text in output.out.splitlines() if f" {name}.png" in text)
        assert len(line.split()) > 3


def test_table_of_bit_vector_runs(make_bit_run, tmp_path):
    runs = [
        make_bit_run("a", estimator="top-k", nll=3.6181, error=0.000041),
        make_bit_run("b", estimator="sfe", nll=3.7),
        make_bit_run("c", estimator="sparsemap", nll=None),
        make_bit_run("d", estimator="dense", finished=False),
    ]
    out = tmp_path / "report"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    lines = (out / "table.md").read_text().splitlines()
    assert lines[0] == (
        "| run | status | test NLL (bits/dim) | published NLL | test ELBO (nats) | test rate (nats)"
        " | test distortion (nats) | test exact examples (%) | calls per example, mean"
        " | median (quartiles) | best epoch | time | time per epoch |"
    )
    numbers = "−2033.3 | 21.12 | 2012.2 | 99.79 | 1.15 | 1 (1–2) | 6 | 1 min 03 s | 2.5 s |"
    assert lines[2] == f"| top-k | finished | 3.6181 ± 0.00004 | 3.62 | {numbers}"
    assert lines[3].startswith("| sfe | finished | 3.7000 ± 0.0003 | 3.74 |")
    assert "| – | 1.00 | 1 (1–1) |" in lines[3], "what is drawn is not exact"
    assert lines[4].startswith("| sparsemap | finished | – | 3.72 |")
    assert lines[5].startswith("| dense | epoch 3 of 6 | – | – | – |")
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert float(rows[0]["test.nll.standard_error"]) == 0.000041
    assert rows[0]["bits"] == "32"
    assert not any("accuracy" in column for column in rows[0])


def test_bit_vector_runs_without_a_likelihood_or_an_end_are_drawn(make_bit_run, tmp_path):
    for name, options in [
        ("no-nll", {"nll": None}),
        ("going", {"finished": False}),
        ("short", {"epochs": 1}),
        ("sampled", {"estimator": "sfe"}),
    ]:
        out = tmp_path / f"report-{name}"
        assert main([str(make_bit_run(name, **options)), "--out", str(out)]) == 0
        for picture in ("rate_distortion", "learning_curves", "evaluations"):
            assert_drawn(out / f"{picture}.png")
        assert (out / "likelihood.png").exists() == (name in ("short", "sampled"))
        assert "accuracy" not in (out / "index.html").read_text()
    going = Page((tmp_path / "report-going" / "index.html").read_text()).text
    assert "−2153.3 nats validation ELBO after epoch 3" in going
    assert "| −2153.3 |" in (tmp_path / "report-going" / "table.md").read_text()
    sampled = (tmp_path / "report-sampled" / "index.html").read_text()
    assert "Last panel" not in sampled, "no share of exact examples"


def test_a_bit_vector_run_without_metrics_or_with_odd_ones_is_drawn(make_bit_run, tmp_path):
    alone = make_bit_run("alone")
    (alone / "metrics.jsonl").unlink()
    odd = make_bit_run("odd", estimator="$x^{<b>&", bits=64, nll=1e299, error=-1.0)
    rows = [bit_metrics_row(epoch) for epoch in range(1, 5)]
    rows[1]["train"]["objective"] = float("nan")
    rows[2]["validation"] = {"rate": -3.0, "elbo": 1e299, "exact": 7.0, "surprise": 1.0}
    write_lines(odd / "metrics.jsonl", rows)
    out = tmp_path / "report"
    assert main([str(alone), str(odd), "--out", str(out)]) == 0
    for name in [*BIT_PICTURES, "other_metrics"]:
        assert_drawn(out / f"{name}.png")
    assert "$x^{<b>&" in Page((out / "index.html").read_text()).text


def test_bit_vector_runs_of_several_data_sets_lengths_and_seeds(make_bit_run, tmp_path):
    runs = [
        make_bit_run(f"{data}-{bits}-{name}-{seed}", dataset=data, bits=bits, estimator=name,
                     seed=seed, nll=3.6 + 0.01 * seed, batch_size=bits // 8)
        for data, bits in (("mnist", 32), ("fashion-mnist", 32), ("fashion-mnist", 128))
        for name in ("top-k", "sfe")
        for seed in (0, 1)
    ]  # fmt: skip
    out = tmp_path / "report"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    for name in BIT_PICTURES:
        assert_drawn(out / f"{name}.png")
    text = Page((out / "index.html").read_text()).text
    assert "Each data set has its own panel" in text
    assert "fashion-mnist · top-k · 128 bits · seed 1" in text
    table = (out / "table.md").read_text()
    assert "| mnist · sfe · 32 bits · seed 0 | 3.6000 ± 0.0003 | – |" in table
    assert "| fashion-mnist · sfe · 128 bits · seed 0 | 3.6000 ± 0.0003 | 3.77 |" in table
    assert "| mnist · top-k · 32 bits | 2 | 3.6050 ± 0.0071 |" in table


def test_runs_of_both_experiments_get_a_part_each(make_run, make_bit_run, tmp_path, capsys):
    runs = [make_run("s", estimator="top-k"), make_bit_run("b"), make_bit_run("c", estimator="sfe")]
    out = tmp_path / "report"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    files = {path.name for path in out.iterdir()}
    shared = {f"{n}-{e}.png" for n in BIT_PICTURES[:2] for e in ("ssvae", "bitvector")}
    assert shared | {"likelihood-bitvector.png", "objective-ssvae.png"} <= files
    assert sum(name.startswith("walk-bitvector-") for name in files) == 2
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert sorted(listed) == sorted(files)
    for name in files:
        if name.split("-")[0] in [*BIT_PICTURES, "objective"]:
            assert_drawn(out / name)
    html = (out / "index.html").read_text()
    page = Page(html)
    first, second = html.index('<header class="part"'), html.rindex('<header class="part"')
    one, two = (
        Page(html[first:second]).text,
        Page(html[second : html.index("<section><h2>Words used")]).text,
    )
    assert one.startswith("Semi-supervised VAE on MNIST")
    assert two.startswith("Bit-vector VAE on Fashion-MNIST")
    assert "accuracy" in one and "accuracy" not in two
    assert "NLL" in two and "NLL" not in one and "distortion" not in one
    anchors = [source[1:] for source in page.sources if source.startswith("#")]
    assert len(anchors) == 2
    assert all(html.count(f'id="{anchor}"') == 1 for anchor in anchors)
    assert page.text.count("evidence lower bound") == 1, "shared words are explained once"
    assert "Estimator (Bit-vector VAE)" in page.text
    parts = (out / "table.md").read_text().split("## ")
    assert [part.splitlines()[0] for part in parts[1:]] == [
        "Semi-supervised VAE on MNIST",
        "Bit-vector VAE on Fashion-MNIST",
    ]
    assert "| 96.87 | 94.71 |" in parts[1]
    assert "accuracy" not in parts[2]
    rows = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [row["experiment"] for row in rows] == ["ssvae", "bitvector", "bitvector"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"estimator": "sfe"}, 3.74),
        ({"estimator": "top-k"}, 3.62),
        ({"estimator": "sparsemap"}, 3.72),
        ({"estimator": "sparsemap-budget", "budget": 16}, 3.64),
        ({"estimator": "sparsemap", "structure": "budget", "budget": 16}, 3.64),
        ({"estimator": "sfe", "bits": 128}, 3.77),
        ({"estimator": "top-k", "bits": 128}, 3.61),
        ({"estimator": "sparsemap", "bits": 128}, 3.67),
        ({"estimator": "sparsemap-budget", "bits": 128, "budget": 64}, 3.66),
        ({"estimator": "sparsemap-budget", "budget": 8}, None),
        ({"estimator": "top-k", "structure": "subset", "budget": 16}, None),
        ({"estimator": "dense"}, None),
        ({"estimator": "top-k-adaptive"}, None),
        ({"estimator": "top-k", "bits": 64}, None),
        ({"estimator": "top-k", "dataset": "mnist"}, None),
    ],
)
def test_published_numbers_are_of_the_same_data_and_length(make_bit_run, options, expected):
    assert published_nll(read_run(make_bit_run(**options))) == expected


def test_published_numbers_need_the_options(make_run, make_bit_run):
    assert published_nll(read_run(make_run())) is None
    path = make_bit_run()
    (path / "config.toml").unlink()
    assert read_run(path).fields["bits"] == 32
    assert published_nll(read_run(path)) is None, "the set of codes is not known"


def test_extreme_numbers_and_names_do_no_harm(make_run, tmp_path):
    run = make_run(estimator="$x^{<b>&", finished=False)
    rows = [metrics_row(epoch) for epoch in range(1, 8)]
    rows[2]["validation"]["elbo"] = -1e299
    rows[3]["validation"]["elbo"] = float("nan")
    rows[4]["train"]["objective"] = 10**400
    rows[5]["validation"]["evaluations"] = {"mean": 0, "median": -1, "q25": 5, "q75": None}
    write_lines(run / "metrics.jsonl", rows)
    out = tmp_path / "report"
    assert main([str(run), "--out", str(out)]) == 0
    page = Page((out / "index.html").read_text())
    assert "$x^{<b>&" in page.text
    assert_drawn(out / "learning_curves.png")


def test_labels_are_made_from_what_differs(make_run):
    def labels(*paths):
        return label_runs([read_run(path) for path in paths]).full

    a = make_run("a", lr=1e-3, estimator="dense")
    b = make_run("b", lr=5e-4)
    c = make_run("c", lr=5e-4, seed=1)
    assert labels(a, b) == ("dense", "sparsemax"), "lr goes with the estimator"
    assert labels(b, c) == ("seed 0", "seed 1")
    assert labels(a, b, c) == ("dense · seed 0", "sparsemax · seed 0", "sparsemax · seed 1")
    assert labels(b) == ("mnist · sparsemax · seed 0",)
    d = make_run("d", lr=5e-4)
    assert labels(b, d) == ("b", "d"), "only the folder tells them apart"
    e = make_run("deeper/d", lr=5e-4)
    assert labels(d, e) == (str(d), str(e))
    assert labels(b, d, e) == ("b", str(d), str(e))
    f = make_run("f", lr=2e-4)
    assert labels(b, f) == ("lr 0.0005", "lr 0.0002")


def test_groups_leave_the_seed_out(make_run):
    runs = [
        read_run(make_run(f"{name}{seed}", estimator=name, seed=seed))
        for name in ("dense", "sfe")
        for seed in range(2)
    ]
    assert label_runs(runs).groups == ("dense", "dense", "sfe", "sfe")
    assert label_runs(runs[:2]).groups == ("all runs", "all runs")


def test_labels_of_bit_vectors_name_their_length(make_bit_run):
    a = make_bit_run("a", batch_size=64)
    b = make_bit_run("b", batch_size=16, bits=128)
    c = make_bit_run("c", structure="budget", budget=16)
    runs = [read_run(path) for path in (a, b, c)]
    assert label_runs(runs[:2]).full == ("32 bits", "128 bits"), "and not the batch size"
    assert label_runs(runs).full == (
        "32 bits · structure bits",
        "128 bits · structure bits",
        "32 bits · structure budget",
    )


def test_curves_and_results_of_metrics(make_bit_run):
    run = read_run(make_bit_run(nll=3.5, error=0.0123))
    epochs, values = BOUND.curve(run, "train")
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert values[0] == -(16.0 + 2400.0 + 10.0), "minus the objective"
    assert BOUND.curve(run, "validation")[1][0] == -2416.0
    assert ELBO.curve(run, "train") == ([], [])
    assert EXACT.curve(run, "validation")[1][0] == 60.0
    assert NLL.result_text(run, "test") == "3.5000 ± 0.0123"
    assert NLL.result_text(run, "warmup.test") == "–"


def test_slugs_are_plain_file_names():
    assert slug("sparsemax · seed 0") == "sparsemax-seed-0"
    assert slug("../..//x") == "x"
    assert slug("···") == "run"


def test_numbers_as_text():
    assert ACCURACY.text(0.96874, unit=True) == "96.87 %"
    assert ELBO.text(-98.24) == "−98.2"
    assert ELBO.text(None) == "–"
    assert duration_text(9.14) == "9.1 s"
    assert duration_text(59.97) == "1 min 00 s"
    assert duration_text(3599.7) == "1 h 00 min"
    assert duration_text(7500) == "2 h 05 min"


def test_write_atomically_replaces_or_leaves(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    with pytest.raises(OSError):
        write_atomically(tmp_path / "no" / "file", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "folder", b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
