"""sparsum.train, Run and load: the program's experiments from Python."""

from __future__ import annotations

import doctest
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import sparsum
import torch
from small_data import make_images, write_data
from sparsum import experiments

PROGRAM = Path(
    os.environ.get("SPARSUM_BIN", Path(__file__).resolve().parents[2] / "build/release/sparsum")
)

BITVECTOR = dict(
    dataset="mnist",
    bits=6,
    epochs=2,
    steps_per_epoch=5,
    batch_size=16,
    validation=60,
    threads=1,
    importance_images=8,
    importance_samples=32,
)
SSVAE = dict(
    dataset="mnist",
    labelled=40,
    unlabelled=96,
    validation=60,
    batch_size=16,
    warmup_epochs=2,
    epochs=3,
    threads=1,
)
SIGNAL = dict(
    symbols=12,
    candidates=4,
    hidden=16,
    embedding=8,
    epochs=1,
    steps_per_epoch=3,
    batch_size=8,
    validation_games=40,
    test_games=40,
    threads=1,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), "mnist", "fashion-mnist")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, sparsum.Run]:
    """A short run of every experiment."""
    root = tmp_path_factory.mktemp("runs")
    return {
        name: sparsum.train(name, out=root / name, data=data, progress=False, **small)
        for name, small in (("bitvector", BITVECTOR), ("ssvae", SSVAE), ("signal", SIGNAL))
    }


def program(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


def flags(options: dict[str, object]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return words


# --- what there is --------------------------------------------------------------------------------


def test_experiments_and_options_are_data() -> None:
    assert list(sparsum.experiments.experiments()) == ["ssvae", "bitvector", "signal"]
    options = experiments.options("bitvector")
    assert "experiment" not in options
    assert options["bits"].type is int
    assert (options["bits"].default, options["bits"].minimum) == (32, 1)
    assert options["dataset"].choices == ("mnist", "fashion-mnist")
    assert options["epochs"].unit == "epochs"
    assert options["epochs"].maximum is None
    assert options["lr"].type is float and "published" in options["lr"].default_text
    with pytest.raises(sparsum.InputError, match="unknown experiment 'vae'; known are: ssvae"):
        experiments.options("vae")


def test_examples_in_docstrings() -> None:
    failed, tried = doctest.testmod(experiments)
    assert tried >= 2 and failed == 0


# --- training -------------------------------------------------------------------------------------


def test_a_run_is_read_back(runs: dict[str, sparsum.Run]) -> None:
    run = runs["ssvae"]
    assert run.finished and not run.problems
    assert run.config["batch-size"] == 16
    assert [row["phase"] for row in run.metrics] == ["warmup"] * 2 + ["train"] * 3
    assert run.metrics[-1]["epoch"] == 5
    assert 0 <= run.metrics[-1]["validation.accuracy"] <= 1
    assert set(run.images) == {"samples", "reconstructions"}
    assert run.summary is not None and "test.accuracy" in run.summary.values


def test_metrics_as_a_frame(runs: dict[str, sparsum.Run]) -> None:
    frame = runs["ssvae"].frame()
    assert list(frame.columns[:2]) == ["epoch", "phase"]
    assert list(frame["epoch"]) == [1, 2, 3, 4, 5]
    assert frame["validation.elbo"].notna().all()
    assert list(frame["train.unlabelled"].isna()) == [True, True, False, False, False]
    with pytest.raises(ValueError, match="frame: expected kind 'pandas' or 'polars', got 'arrow'"):
        runs["ssvae"].frame("arrow")


def test_a_missing_frame_library_is_one_sentence(
    runs: dict[str, sparsum.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match="frame: expected the package polars to be installed"):
        runs["ssvae"].frame("polars")


def test_polars_frame(runs: dict[str, sparsum.Run]) -> None:
    pytest.importorskip("polars", reason="the package polars is not installed")
    frame = runs["ssvae"].frame("polars")
    assert frame["epoch"].to_list() == [1, 2, 3, 4, 5]
    assert frame["train.unlabelled"].null_count() == 2


@pytest.mark.parametrize(("name", "small"), [("bitvector", BITVECTOR), ("ssvae", SSVAE)])
def test_the_program_writes_the_same_bytes(
    runs: dict[str, sparsum.Run], data: Path, tmp_path: Path, name: str, small: dict[str, object]
) -> None:
    program("train", name, *flags({**small, "data": data}), "--out", "run", cwd=tmp_path)
    for file in ("metrics.jsonl", "config.toml"):
        assert (runs[name].path / file).read_bytes() == (tmp_path / "run" / file).read_bytes()
    theirs = json.loads((tmp_path / "run" / "summary.json").read_text())
    ours = json.loads((runs[name].path / "summary.json").read_text())
    assert ours["test"] == theirs["test"]


def test_neither_modes_nor_threads_of_the_caller_matter(
    runs: dict[str, sparsum.Run], data: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            run = sparsum.train(
                "bitvector", out=tmp_path / "run", data=data, progress=False, **BITVECTOR
            )
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    expected = (runs["bitvector"].path / "metrics.jsonl").read_bytes()
    assert (run.path / "metrics.jsonl").read_bytes() == expected


def test_a_config_is_a_file_or_a_mapping_and_options_win(
    runs: dict[str, sparsum.Run], tmp_path: Path
) -> None:
    run = runs["bitvector"]
    for number, config in enumerate((run.path / "config.toml", run.config)):
        again = sparsum.train(
            "bitvector",
            config=config,
            out=tmp_path / str(number),
            epochs=np.int64(1),
            progress=False,
        )
        assert again.config == {**run.config, "epochs": 1}
        assert again.metrics == run.metrics[:1]


def test_progress_is_called(data: Path, tmp_path: Path) -> None:
    seen: list[experiments.Progress] = []
    sparsum.train("ssvae", out=tmp_path / "r", data=data, progress=seen.append, **SSVAE)
    epochs = [progress for progress in seen if progress.metrics is not None]
    assert [progress.epoch for progress in epochs] == [1, 2, 1, 2, 3]
    last = epochs[-1]
    assert (last.phase, last.epochs, last.steps_done) == ("train", 3, last.steps_total)
    assert last.metrics is not None and last.metrics["validation"]["accuracy"] >= 0
    assert last.timing is not None and last.timing["seconds"] > 0


def test_progress_is_printed_a_line_an_epoch(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sparsum.train("bitvector", out=tmp_path / "r", data=data, **BITVECTOR)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split("  ")[0] for line in err.splitlines()] == ["train 1/2", "train 2/2"]
    assert "validation: elbo -" in err


def test_what_progress_raises_stops_training_and_resuming_gives_the_same_bytes(
    runs: dict[str, sparsum.Run], data: Path, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(progress: experiments.Progress) -> None:
        if progress.metrics is not None:
            raise Enough

    out = tmp_path / "run"
    with pytest.raises(Enough):
        sparsum.train("bitvector", out=out, data=data, progress=stop, **BITVECTOR)
    assert not sparsum.read_run(out).finished
    assert len(sparsum.read_run(out).metrics) == 1
    run = sparsum.train("bitvector", out=out, resume=True, progress=False)
    assert run.finished
    expected = (runs["bitvector"].path / "metrics.jsonl").read_bytes()
    assert (out / "metrics.jsonl").read_bytes() == expected
    with pytest.raises(sparsum.InputError, match="option --bits: expected '6', with which the run"):
        sparsum.train("bitvector", out=out, resume=True, bits=7)


def test_two_threads_train_at_once(
    runs: dict[str, sparsum.Run], data: Path, tmp_path: Path
) -> None:
    def work(name: str) -> None:
        sparsum.train("bitvector", out=tmp_path / name, data=data, progress=False, **BITVECTOR)

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = (runs["bitvector"].path / "metrics.jsonl").read_bytes()
    for name in "ab":
        assert (tmp_path / name / "metrics.jsonl").read_bytes() == expected


def test_ctrl_c_saves_the_state(data: Path, tmp_path: Path) -> None:
    long = {**BITVECTOR, "data": str(data), "epochs": 500, "importance_samples": 0}
    code = f"import sparsum\nsparsum.train('bitvector', out='run', progress=False, **{long!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(sparsum.__file__).absolute().parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.splitlines()[-1] == (
        "KeyboardInterrupt: sparsum: stopped, and the state is saved; go on with: "
        "sparsum.train(\"bitvector\", out='run', resume=True)"
    )
    assert not (tmp_path / "run" / "summary.json").exists()
    done = len(sparsum.read_run(tmp_path / "run").metrics)
    run = sparsum.train(
        "bitvector", out=tmp_path / "run", resume=True, epochs=done + 1, progress=False
    )
    assert run.finished and len(run.metrics) == done + 1


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("vae", {}, ValueError, "unknown experiment 'vae'; known are: ssvae, bitvector, signal"),
        ("ssvae", {"epoch": 3}, ValueError, r"option.*epoch.*did you mean.*epochs"),
        ("ssvae", {"epochs": -1}, ValueError, r"option --epochs: expected .* at least 0.*'-1'"),
        ("ssvae", {"epochs": 1.5}, ValueError, r"option --epochs: .*'1\.5'"),
        ("ssvae", {"epochs": None}, TypeError, r"expected option epochs to be a bool, .*NoneType"),
        ("ssvae", {"device": "tpu"}, ValueError, r"option --device: expected cpu, cuda .*'tpu'"),
        ("bitvector", {"estimator": "sfe", "k": 3}, ValueError, r"estimator 'sfe' does not read"),
    ],
)
def test_bad_options(
    tmp_path: Path, name: str, options: dict[str, object], error: type, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        sparsum.train(name, out=tmp_path / "run", data=tmp_path, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_errors_can_be_pickled(tmp_path: Path) -> None:
    with pytest.raises(sparsum.InputError, match="mnist") as caught:
        sparsum.train("bitvector", dataset="mnist", data=tmp_path, out=tmp_path / "run")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is sparsum.InputError and str(again) == str(caught.value)


def test_divergence_has_its_own_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(sparsum.TrainingDiverged, match="step"):
        sparsum.train(
            "bitvector",
            **{**BITVECTOR, "lr": 1e30, "epochs": 5},
            out=tmp_path / "run",
            data=data,
            progress=False,
        )
    assert issubclass(sparsum.TrainingDiverged, ArithmeticError)


# --- what was trained -----------------------------------------------------------------------------


def test_bitvector_encodes_and_decodes_as_the_program(
    runs: dict[str, sparsum.Run], tmp_path: Path
) -> None:
    run = runs["bitvector"]
    images, _ = make_images(130, seed=3)
    np.save(tmp_path / "images.npy", images)
    program(
        *("encode", run.path, "images.npy", "-o", "codes.npy", "--support", "support.npz"),
        cwd=tmp_path,
    )
    codes = np.load(tmp_path / "codes.npy")
    program("decode", run.path, "codes.npy", "-o", "decoded.npy", cwd=tmp_path)

    model = sparsum.load(run)
    assert isinstance(model, experiments.BitvectorModel)
    assert model.config["bits"] == 6 and model.checkpoint.stem == "best"
    assert torch.equal(model.mode(images), torch.from_numpy(codes))
    decoded = model.decode(codes)
    assert decoded.shape == (130, 28, 28) and decoded.dtype == torch.float32
    assert np.array_equal(
        decoded.mul(255).round().to(torch.uint8).numpy(), np.load(tmp_path / "decoded.npy")
    )
    support = np.load(tmp_path / "support.npz")
    q = model.encode(images)
    assert np.array_equal(q.support.row_splits.numpy(), support["row_splits"])
    assert np.array_equal(q.support.values(torch.uint8).numpy(), support["codes"])
    assert np.allclose(q.probs.numpy(), support["probs"], atol=1e-6)
    assert torch.allclose(model.decode(codes[0]), decoded[:1], atol=1e-6)


def test_evaluate_repeats_the_summary(runs: dict[str, sparsum.Run]) -> None:
    for name in ("bitvector", "ssvae", "signal"):
        summary = json.loads((runs[name].path / "summary.json").read_text())
        assert sparsum.load(runs[name].path).evaluate() == summary["test"]
    with pytest.raises(ValueError, match="expected split 'test' or 'validation', got 'train'"):
        sparsum.load(runs["ssvae"]).evaluate("train")


def test_evaluate_on_more_than_the_run(runs: dict[str, sparsum.Run]) -> None:
    found = sparsum.load(runs["bitvector"]).evaluate(importance_images=3, importance_samples=5)
    assert (found["nll"]["images"], found["nll"]["samples"]) == (3, 5)
    with pytest.raises(sparsum.InputError, match="--bits: a trained model keeps it; others may be"):
        sparsum.load(runs["bitvector"]).evaluate(bits=4)
    with pytest.raises(TypeError, match="evaluate: expected option importance-images to be"):
        sparsum.load(runs["bitvector"]).evaluate(importance_images=[3])


def test_ssvae_gives_classes_and_draws_images(runs: dict[str, sparsum.Run]) -> None:
    model = sparsum.load(runs["ssvae"])
    assert isinstance(model, experiments.SsvaeModel)
    images, labels = make_images(20, seed=5)
    q = model.encode(images)
    assert q.to_dense().shape == (20, 10)
    assert torch.allclose(q.to_dense().sum(1), torch.ones(20))
    classes = model.mode(images)
    assert torch.equal(classes, q.mode)
    mean, deviation = model.latents(images, labels)
    assert mean.shape == deviation.shape == (20, 8) and (deviation > 0).all()
    drawn = model.decode(classes, mean)
    assert drawn.shape == (20, 28, 28) and (0 <= drawn).all() and (drawn <= 1).all()
    assert model.decode([0, 9]).shape == (2, 28, 28)
    as_floats = model.encode(torch.from_numpy(images) / 255)
    assert torch.equal(as_floats.to_dense(), q.to_dense())


def test_signal_sends_and_receives(runs: dict[str, sparsum.Run]) -> None:
    model = sparsum.load(runs["signal"])
    assert isinstance(model, experiments.SignalModel)
    images = torch.from_numpy(make_images(12, seed=6)[0])
    q = model.encode(images)
    assert q.to_dense().shape == (12, 12)
    symbols = model.mode(images)
    choice = model.receive(symbols, images.view(1, 12, 28, 28).expand(12, 12, 28, 28)[:, :4])
    assert choice.shape == (12, 4)
    assert torch.allclose(choice.sum(1), torch.ones(12))
    # Scaling an image changes nothing: features have unit norm.
    brighter = images.flatten(1).float() * 3
    assert torch.allclose(model.encode(brighter).to_dense(), q.to_dense(), atol=1e-6)


def test_parameters_are_the_models_own(runs: dict[str, sparsum.Run]) -> None:
    model = sparsum.load(runs["ssvae"])
    parameters = model.parameters
    assert all(isinstance(value, torch.Tensor) for value in parameters.values())
    images, _ = make_images(3)
    before = model.mode(images)
    with torch.no_grad():
        next(value for name, value in parameters.items() if "classifier" in name).zero_()
    q = model.encode(images)
    assert before.shape == (3,)
    assert torch.equal(q.to_dense()[0], q.to_dense()[1]), "the encoder still sees the image"


def test_a_q_that_cannot_be_listed_is_the_gibbs_distribution(data: Path, tmp_path: Path) -> None:
    run = sparsum.train(
        "bitvector",
        out=tmp_path / "run",
        data=data,
        progress=False,
        **{**BITVECTOR, "estimator": "sfe", "bits": 20, "epochs": 1},
    )
    q = sparsum.load(run).encode(make_images(2)[0])
    assert type(q).__name__ == "Gibbs"
    assert q.marginals().shape == (2, 20)


@pytest.mark.parametrize(
    ("name", "call", "error", "message"),
    [
        ("bitvector", lambda m: m.encode(torch.zeros(1, 28, 28)), TypeError, "uint8, got Float"),
        (
            "bitvector",
            lambda m: m.encode(torch.zeros(1, 32, 32, dtype=torch.uint8)),
            ValueError,
            r"encode: expected images of 28 x 28 pixels, \[N, 28, 28\], got \[1, 32, 32\]",
        ),
        ("bitvector", lambda m: m.decode([[0, 1]]), ValueError, r"codes of 6 bits.*got \[1, 2\]"),
        (
            "bitvector",
            lambda m: m.decode([[0, 1, 2, 0, 0, 0]]),
            ValueError,
            "expected codes of 0 and 1, got 2 in row 0, column 2",
        ),
        ("ssvae", lambda m: m.decode([10]), ValueError, "expected classes from 0 to 9, got 10"),
        ("ssvae", lambda m: m.decode([1], [[0.0]]), ValueError, r"latents .*\[1, 8\], got .*1, 1"),
        ("ssvae", lambda m: m.encode(torch.full((1, 784), 2.0)), ValueError, r"in \[0, 1\], got 2"),
        ("signal", lambda m: m.encode(torch.zeros(1, 784)), ValueError, "not all zero.*in row 0"),
        ("signal", lambda m: m.receive([12], [[[1.0] * 784]]), ValueError, "from 0 to 11, got 12"),
        ("signal", lambda m: m.receive([1], [[1.0] * 784]), ValueError, r"expected candidates \["),
    ],
)
def test_bad_tensors_are_named(runs: dict[str, sparsum.Run], name, call, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        call(sparsum.load(runs[name]))
    assert "\n" not in str(caught.value)


def test_bad_runs_are_named(tmp_path: Path, runs: dict[str, sparsum.Run]) -> None:
    with pytest.raises(sparsum.InputError, match="config.toml"):
        sparsum.load(tmp_path)
    with pytest.raises(sparsum.InputError, match="none.safetensors"):
        sparsum.load(runs["ssvae"], checkpoint="none")
    with pytest.raises(sparsum.InputError, match="option --device: expected cpu, cuda"):
        sparsum.load(runs["ssvae"], device="tpu")
