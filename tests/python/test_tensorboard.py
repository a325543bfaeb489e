"""The bridge to TensorBoard, its event files read back by TensorBoard's own accumulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import PYTHON_ROOT, metrics_row, png_bytes, run_module, timing_row, write_lines
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparsum.tensorboard import Bridge, EventFile, main


def read_back(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


def scalars(folder, tag):
    accumulator = read_back(folder)
    if tag not in accumulator.Tags()["scalars"]:
        return []
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def append(path, row):
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


@pytest.fixture
def following(make_run, tmp_path):
    """A run of three epochs, a bridge that has sent them, and its log folder."""
    run, logdir = make_run(finished=False), tmp_path / "log"
    write_lines(run / "metrics.jsonl", [metrics_row(epoch) for epoch in (1, 2, 3)])
    write_lines(run / "timing.jsonl", [timing_row(epoch) for epoch in (1, 2, 3)])
    sink = EventFile(logdir)
    bridge = Bridge(run, sink)
    assert bridge.poll() == []
    yield run, bridge, logdir
    sink.close()


def test_once_converts_a_run(make_run, capsys):
    run = make_run()
    assert main([str(run), "--once"]) == 0
    output = capsys.readouterr().out
    assert f"tensorboard --logdir {run / 'tensorboard'}" in output
    assert "10 epochs" in output
    accumulator = read_back(run / "tensorboard")
    tags = accumulator.Tags()
    for tag in (
        "train/objective",
        "train/accuracy",
        "validation/elbo",
        "validation/evaluations/q75",
        "time/seconds",
        "time/steps_per_second",
        "test/accuracy",
    ):
        assert tag in tags["scalars"], tag
    assert tags["images"] == ["images/reconstructions", "images/samples"]
    expected = [metrics_row(epoch)["validation"]["elbo"] for epoch in range(1, 11)]
    events = accumulator.Scalars("validation/elbo")
    assert [event.step for event in events] == list(range(1, 11))
    assert [event.value for event in events] == pytest.approx(expected, rel=1e-6)
    assert [e.step for e in accumulator.Scalars("train/unlabelled")] == [5, 6, 7, 8, 9, 10]
    assert [(e.step, round(e.value, 4)) for e in accumulator.Scalars("test/accuracy")] == [
        (10, 0.9687)
    ]
    image = accumulator.Images("images/samples")[0]
    assert image.encoded_image_string == png_bytes()
    assert (image.width, image.height, image.step) == (6, 4, 10)


def test_once_converts_a_bit_vector_run(make_bit_run):
    run = make_bit_run()
    assert main([str(run), "--once"]) == 0
    accumulator = read_back(run / "tensorboard")
    tags = accumulator.Tags()
    for tag in (
        "train/objective",
        "train/rate",
        "validation/distortion",
        "validation/exact",
        "validation/evaluations/q25",
        "time/seconds",
        "test/elbo",
        "test/nll/bits_per_dimension",
        "test/nll/standard_error",
    ):
        assert tag in tags["scalars"], tag
    assert not any("accuracy" in tag for tag in tags["scalars"])
    assert tags["images"] == ["images/reconstructions", "images/samples", "images/walk"]
    events = accumulator.Scalars("validation/rate")
    assert [(e.step, e.value) for e in events][:2] == [(1, 16.0), (2, 19.0)]
    nll = accumulator.Scalars("test/nll/bits_per_dimension")
    assert [(e.step, round(e.value, 5)) for e in nll] == [(6, 3.74215)]


def test_once_again_replaces_its_own_events_and_no_others(make_run, tmp_path):
    run = make_run()
    log = tmp_path / "log"
    log.mkdir()
    (log / "events.out.tfevents.1.somebody").write_bytes(b"")
    assert main([str(run), "--once", "--logdir", str(log)]) == 0
    assert main([str(run), "--once", "--logdir", str(log)]) == 0
    names = [path.name for path in log.iterdir()]
    assert len(names) == 2
    assert "events.out.tfevents.1.somebody" in names
    assert len(scalars(log, "validation/accuracy")) == 10


def test_new_rows_are_sent_once_and_incomplete_ones_later(following):
    run, bridge, logdir = following
    text = json.dumps(metrics_row(4)) + "\n"
    with (run / "metrics.jsonl").open("a") as file:
        file.write(text[:30])
        file.flush()
        assert bridge.poll() == []
        assert [step for step, _ in scalars(logdir, "validation/elbo")] == [1, 2, 3]
        file.write(text[30:])
        file.flush()
    bridge.poll()
    bridge.poll()
    assert [step for step, _ in scalars(logdir, "validation/elbo")] == [1, 2, 3, 4]


@pytest.mark.parametrize("seen_while_short", [True, False])
def test_a_resume_that_cuts_the_file_back_starts_the_line_again(following, seen_while_short):
    run, bridge, logdir = following
    write_lines(run / "metrics.jsonl", [metrics_row(1)])
    write_lines(run / "timing.jsonl", [timing_row(1)])
    if seen_while_short:
        bridge.poll()
        assert [step for step, _ in scalars(logdir, "validation/elbo")] == [1]
    for epoch in (2, 3, 4):
        row = metrics_row(epoch)
        row["validation"]["elbo"] = -1000.0 - epoch
        append(run / "metrics.jsonl", row)
        append(run / "timing.jsonl", timing_row(epoch))
    bridge.poll()
    assert scalars(logdir, "validation/elbo") == [(1, -180.0), (2, -1002), (3, -1003), (4, -1004)]
    assert [step for step, _ in scalars(logdir, "time/seconds")] == [1, 2, 3, 4]
    images = read_back(logdir).Images("images/samples")
    assert len(images) == 1, "the picture is sent again with the line"


def test_a_resume_that_repeats_the_same_rows_changes_nothing(following):
    run, bridge, logdir = following
    before = next(logdir.iterdir()).stat().st_size
    content = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(content)
    bridge.poll()
    assert next(logdir.iterdir()).stat().st_size == before


def test_pictures_are_sent_again_when_they_change(following):
    run, bridge, logdir = following
    append(run / "metrics.jsonl", metrics_row(4))
    (run / "images" / "samples.png").write_bytes(png_bytes(9, 7))
    bridge.poll()
    sizes = [(i.step, i.width, i.height) for i in read_back(logdir).Images("images/samples")]
    assert sizes == [(3, 6, 4), (4, 9, 7)]
    assert len(read_back(logdir).Images("images/reconstructions")) == 1


def test_problems_are_told_once_and_stop_nothing(following):
    run, bridge, logdir = following
    with (run / "metrics.jsonl").open("a") as file:
        file.write("{nonsense\n")
    append(run / "metrics.jsonl", {**metrics_row(4), "schema": 7})
    append(run / "metrics.jsonl", metrics_row(5))
    (run / "images" / "odd.png").write_bytes(b"no picture")
    (run / "summary.json").write_text("{")
    problems = bridge.poll()
    assert len(problems) == 4
    assert "line 4: not JSON" in problems[0]
    assert "line 5: expected schema 1, got 7" in problems[1]
    assert "summary.json: not JSON" in problems[2]
    assert "odd.png: not a PNG file" in problems[3]
    assert bridge.poll() == []
    assert [step for step, _ in scalars(logdir, "validation/elbo")] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere", "--once"], "nowhere: no such folder"),
        (["file"], "file: not a folder"),
        (["empty", "--once"], "metrics.jsonl: missing"),
        (["run", "--once", "--logdir", "file/log"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_2(make_run, tmp_path, monkeypatch, capsys, arguments, problem):
    make_run()
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert problem in error


@pytest.mark.parametrize("text", ["0", "-1", "nan", "soon", "1e9"])
def test_interval_is_checked(make_run, text):
    result = run_module("sparsum.tensorboard", make_run(), "--interval", text)
    assert result.returncode == 2
    assert "--interval" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_ends_with_one_line(make_run, tmp_path):
    code = (
        "import resource, sys\n"
        "from sparsum.tensorboard import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (500, {2**40}))\n"
        f"sys.exit(main([{str(make_run())!r}, '--once', '--logdir', {str(tmp_path / 'log')!r}]))"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": str(PYTHON_ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "cannot write (File too large)" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_cleanly_with_everything_written(make_run, number):
    run = make_run(finished=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsum.tensorboard", str(run), "--interval", "0.1"],
        env={**os.environ, "PYTHONPATH": str(PYTHON_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "tensorboard --logdir" in process.stdout.readline()
        assert "Ctrl-C" in process.stdout.readline()
        append(run / "metrics.jsonl", metrics_row(8))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (run / "tensorboard").is_dir():
                sent = scalars(run / "tensorboard", "validation/elbo")
                if [step for step, _ in sent][-1:] == [8]:
                    break
            time.sleep(0.1)
        process.send_signal(number)
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (8, pytest.approx(-110.0)) in scalars(run / "tensorboard", "validation/elbo")
    assert process.returncode == 0
    assert error == ""
    assert f"8 epochs of {run}" in output
