"""Reading of run folders, whole and broken."""

from __future__ import annotations

import json

import pytest
from conftest import metrics_row

from sparsum.runs import RunError, flatten, is_number, keep_latest, parse_row, read_run


def test_reads_a_finished_run(make_run):
    run = read_run(make_run(estimator="dense", seed=3))
    assert run.problems == ()
    assert run.finished
    assert run.fields["estimator"] == "dense"
    assert run.fields["seed"] == 3
    assert (run.last_epoch, run.warmup_end, run.planned_epochs) == (10, 4, 10)
    assert run.result("test.accuracy") == 0.9687
    assert run.result("warmup.test.elbo") == -140.13
    assert run.result("best.epoch") == 9
    assert run.result("test.nothing") is None
    assert run.seconds_per_epoch() == 2.5
    assert sorted(run.images) == ["reconstructions", "samples"]
    epochs, values = run.series("train.evaluations.mean")
    assert epochs == [5, 6, 7, 8, 9, 10], "nulls of the warm-up are left out"
    assert values[0] == 1.0 + 2.0 / 5


def test_a_run_that_is_still_going(make_run):
    run = read_run(make_run(finished=False))
    assert not run.finished
    assert run.problems == ("summary.json: missing: the run has not finished",)
    assert run.last_epoch == 7
    assert run.result("test.accuracy") is None


def test_truncated_last_line_is_left_out_and_reported(make_run):
    path = make_run()
    metrics = path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])
    run = read_run(path)
    assert run.last_epoch == 9
    assert len(run.problems) == 1
    assert "metrics.jsonl: line 10 is incomplete" in run.problems[0]


def test_damaged_lines_are_left_out_and_the_first_is_named(make_run):
    path = make_run()
    lines = (path / "metrics.jsonl").read_text().splitlines()
    lines[2], lines[4] = "{broken", "[1, 2]"
    lines[5] = json.dumps({**metrics_row(6), "epoch": "six"})
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(path)
    assert [row.epoch for row in run.rows] == [1, 2, 4, 7, 8, 9, 10]
    assert run.problems[0].startswith("metrics.jsonl: line 3: not JSON")
    assert run.problems[1] == "metrics.jsonl: 2 more lines left out for such reasons"


@pytest.mark.parametrize("version", [2, 0, "1", None, True])
def test_rows_and_summaries_of_another_schema_are_refused(make_run, version):
    path = make_run()
    (path / "metrics.jsonl").write_text(json.dumps({**metrics_row(1), "schema": version}) + "\n")
    run = read_run(path)
    assert run.rows == ()
    assert f"metrics.jsonl: line 1: expected schema 1, got {version!r}" in run.problems
    (path / "summary.json").write_text(json.dumps({"schema": version, "test": {"accuracy": 1}}))
    with pytest.raises(RunError, match=r"summary\.json: expected schema 1") as error:
        read_run(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("metrics.jsonl", b"", "metrics.jsonl: empty"),
        ("summary.json", b"", "summary.json: empty"),
        ("summary.json", b'{"schema": 1', "summary.json: not JSON"),
        ("summary.json", b"3", "summary.json: expected a JSON object, got int"),
        ("summary.json", b"[" * 100_000, "summary.json: not JSON"),
        ("config.toml", b"seed = ", "config.toml: not TOML"),
        ("config.toml", b"\xff\xfe", "config.toml: not TOML"),
        ("metrics.jsonl", b"\xff\xfe\n", "metrics.jsonl: line 1: not JSON"),
        ("images/samples.png", b"GIF89a", "images/samples.png: not a PNG file"),
    ],
)
def test_damaged_files_are_reported_and_the_rest_is_read(make_run, name, content, problem):
    path = make_run()
    (path / name).write_bytes(content)
    run = read_run(path)
    assert len(run.problems) == 1
    assert run.problems[0].startswith(problem)
    assert "\n" not in run.problems[0]


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl"])
def test_missing_files_are_reported(make_run, name):
    path = make_run()
    (path / name).unlink()
    assert read_run(path).problems == (f"{name}: missing",)


def test_a_folder_in_place_of_a_file_is_reported(make_run):
    path = make_run()
    (path / "metrics.jsonl").unlink()
    (path / "metrics.jsonl").mkdir()
    assert "metrics.jsonl: cannot be read" in read_run(path).problems[0]


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="not a folder"):
        read_run(tmp_path / "file")
    with pytest.raises(RunError, match="nothing to show") as error:
        read_run(tmp_path)
    assert "\n" not in str(error.value)


def test_fields_come_from_the_summary_where_the_config_is_missing(make_run):
    path = make_run(estimator="sfe", seed=7)
    (path / "config.toml").unlink()
    fields = read_run(path).fields
    assert (fields["estimator"], fields["seed"], fields["warmup-epochs"]) == ("sfe", 7, 4)


def test_reads_a_bit_vector_run(make_bit_run):
    run = read_run(make_bit_run(epochs=4))
    assert run.problems == ()
    assert (run.last_epoch, run.warmup_end, run.planned_epochs) == (4, 0, 4)
    assert run.result("test.nll.bits_per_dimension") == 3.74215
    assert run.series("validation.exact")[1][0] == 0.6
    assert run.fields["bits"] == 32
    assert sorted(run.images) == ["reconstructions", "samples", "walk"]


def test_numbers_that_are_none_are_left_out():
    row = parse_row('{"epoch": 1, "a": NaN, "b": Infinity, "c": null, "d": true, "e": {"f": 2}}')
    assert row.values == {"e.f": 2.0}
    assert is_number(-1) and is_number(0.5)
    assert not any(map(is_number, [True, "1", None, float("nan"), float("inf"), 10**400, 1e305]))


@pytest.mark.parametrize("epoch", [-1, 1.5, True, None, 10**400])
def test_epochs_must_be_whole_numbers(epoch):
    with pytest.raises(ValueError, match="expected epoch to be a whole number"):
        parse_row(json.dumps({"epoch": epoch}))


def test_rows_that_later_rows_go_back_over_are_dropped():
    rows = [parse_row(json.dumps({"epoch": e, "v": i})) for i, e in enumerate([1, 2, 3, 2, 3, 4])]
    kept, dropped = keep_latest(rows)
    assert [(row.epoch, row.values["v"]) for row in kept] == [(1, 0), (2, 3), (3, 4), (4, 5)]
    assert dropped == 2


def test_flatten_joins_names_with_dots():
    assert dict(flatten({"a": {"b": {"c": 1}}, "d": [1, 2]})) == {"a.b.c": 1, "d": [1, 2]}
