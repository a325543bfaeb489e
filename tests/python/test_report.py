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
from conftest import PYTHON_ROOT, metrics_row, run_module, write_lines
from PIL import Image

from sparsum.report.__main__ import main
from sparsum.report.files import write_atomically
from sparsum.report.labels import label_runs, slug
from sparsum.report.metrics import ACCURACY, ELBO, duration_text
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
    assert max(count for count, _ in colours) < 0.97 * image.width * image.height


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


def test_another_experiment_with_other_metrics_is_drawn(make_run, tmp_path):
    run = make_run(experiment="bitvector", estimator="top-k")
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
    assert "Bit-vector VAE" in text
    assert "3.618" in text
    assert "test bits per dim" in text


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
