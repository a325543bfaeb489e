"""scripts/extract_features.py: a tiny exported network on tiny images."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PYTHON_ROOT

SCRIPT = PYTHON_ROOT.parent / "scripts" / "extract_features.py"

spec = importlib.util.spec_from_file_location("extract_features", SCRIPT)
assert spec is not None and spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def extract(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The script's main(), in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = script.main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def extract_in_a_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False
    )


def blocked(package: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same where a package is not installed."""
    code = (
        f"import runpy, sys\nsys.modules[{package!r}] = None\n"
        f"sys.argv = {[str(SCRIPT), *map(str, arguments)]!r}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("package", ["h5py", "torch"])
def test_a_missing_package_is_named(tmp_path, package):
    if package == "torch":
        pytest.importorskip("h5py", reason="h5py is not installed")
    result = blocked(package, tmp_path, tmp_path / "out.h5", "--program", "n.pt2")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"needs {package}: install it with `pip install {package}`" in result.stderr
    assert not list(tmp_path.iterdir())


def test_options_are_checked(tmp_path):
    for more, told in (
        ([], "one of the arguments --model --program is required"),
        (["--program", "n.pt2", "--layer", "fc"], "--layer and --weights go with --model"),
        (["--program", "n.pt2", "--std", "0"], "--mean and --std: expected one number or 3"),
        (["--program", "n.pt2", "--resize", "8"], "--resize: expected at least --size 224, got 8"),
        (["--program", "n.pt2", "--dtype", "int8"], "argument --dtype: invalid choice: 'int8'"),
    ):
        result = extract(tmp_path, tmp_path / "out.h5", *more)
        assert result.returncode == 2
        assert told in result.stderr
    result = extract(tmp_path, tmp_path / "out.npy", "--program", "n.pt2")
    assert result.returncode == 2
    assert f"expected a file name that ends in .h5 or .hdf5, got '{tmp_path / 'out.npy'}'" in result.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """Channel sums over the left and the right half, [n, 2, 3], for batches of four."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Halves(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x[:, :, :, :4].sum((2, 3)), x[:, :, :, 4:].sum((2, 3))], 1)

    path = tmp_path_factory.mktemp("program") / "halves.pt2"
    torch.export.save(torch.export.export(Halves(), (torch.zeros(4, 3, 8, 8),)), path)
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    """dog/ has five images, cat/ two: in image k the left half has red k + 1, the right half green 10."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    root = tmp_path / "images"
    for k, name in enumerate(["cat/a.png", "cat/b.png", *(f"dog/{i}.png" for i in range(5))]):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[:, :4, 0] = k + 1
        pixels[:, 4:, 1] = 10
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(root / name)
    return root


COMMON = ["--size", 8, "--resize", 8, "--mean", 0, "--std", 1, "--batch-size", 4]


def expected(k: int) -> list[float]:
    return [32 * (k + 1) / 255, 0, 0, 0, 32 * 10 / 255, 0]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_and_labels_are_written(tmp_path, program, images, dtype):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    out = tmp_path / "out.h5"
    result = extract(images, out, "--program", program, "--dtype", dtype, *COMMON)
    assert result.returncode == 0, result.stderr
    assert (result.stdout, result.stderr) == (f"wrote {out}\nwrote {tmp_path / 'out.labels.json'}\n", "")
    with h5py.File(out) as file:
        assert list(file) == ["features"]
        assert file["features"].dtype == dtype
        np.testing.assert_allclose(file["features"][()], [expected(k) for k in range(7)], rtol=1e-3)
    assert json.loads((tmp_path / "out.labels.json").read_text()) == ["cat"] * 2 + ["dog"] * 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out.h5", "out.labels.json"]


def test_folders_of_other_concepts_do_not_share_labels(tmp_path, program, images):
    """Numbers that each call gives by itself would call cat in the one what is dog in the other."""
    pytest.importorskip("h5py", reason="h5py is not installed")
    other = tmp_path / "other"
    (other / "eel").mkdir(parents=True)
    (other / "dog").mkdir()
    for folder in ("dog", "eel"):
        (other / folder / "a.png").write_bytes((images / "dog" / "0.png").read_bytes())
    labels = {}
    for part, root in (("train", images), ("test", other)):
        (tmp_path / part).mkdir()
        result = extract(root, tmp_path / part / "features.h5", "--program", program, *COMMON)
        assert result.returncode == 0, result.stderr
        # What the program looks for in a folder: one file of features, one of labels.
        assert sorted(p.name for p in (tmp_path / part).iterdir()) == ["features.h5", "features.labels.json"]
        labels[part] = json.loads((tmp_path / part / "features.labels.json").read_text())
    assert labels == {"train": ["cat"] * 2 + ["dog"] * 5, "test": ["dog", "eel"]}


def test_a_folder_must_have_a_name_in_unicode(tmp_path, program, images):
    pytest.importorskip("h5py", reason="h5py is not installed")
    try:
        (images / "cat").rename(images / "cat\udce9")
    except OSError:
        pytest.skip("the file system takes names in UTF-8 alone")
    result = extract(images, tmp_path / "out.h5", "--program", program, *COMMON)
    assert result.returncode == 2
    assert rf"{images}: expected sub-folders with names in UTF-8, got 'cat\udce9'" in result.stderr


def test_labels_may_be_a_list(tmp_path, program, images):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    labels = tmp_path / "labels.tsv"
    labels.write_text("dog/3.png\t70\ncat/a.png\t-1\n")
    result = extract(images, tmp_path / "out.h5", "--program", program, "--labels", labels, *COMMON)
    assert result.returncode == 0, result.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["features"][()], [expected(5), expected(0)], rtol=1e-6)
    assert json.loads((tmp_path / "out.labels.json").read_text()) == [70, -1]
    labels.write_text("dog/3.png\t70\ncat/a.png 1\n")
    result = extract(images, tmp_path / "out.h5", "--program", program, "--labels", labels, *COMMON)
    assert result.returncode == 2
    assert f"{labels}:2: expected a path, a tab and an integer, got 'cat/a.png 1'" in result.stderr


def test_a_failure_leaves_what_was_there(tmp_path, program, images):
    pytest.importorskip("h5py", reason="h5py is not installed")
    out = tmp_path / "out.h5"
    out.write_bytes(b"what was there")
    (tmp_path / "out.labels.json").write_bytes(b"its labels")

    def refused(*arguments: object) -> str:
        result = extract(images, out, *arguments)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert out.read_bytes() == b"what was there"
        assert (tmp_path / "out.labels.json").read_bytes() == b"its labels"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out.h5", "out.labels.json"]
        return result.stderr

    (images / "dog" / "3.png").write_bytes(b"no image")
    assert f"{images / 'dog' / '3.png'}: expected an image" in refused("--program", program, *COMMON)
    # The program wants batches of four.
    told = refused("--program", program, *COMMON[:-1], 3)
    assert "the network does not take a batch of shape (3, 3, 8, 8)" in told


def test_a_folder_is_not_overwritten(tmp_path, program, images):
    pytest.importorskip("h5py", reason="h5py is not installed")
    out = tmp_path / "out.h5"
    out.mkdir()
    result = extract(images, out, "--program", program, *COMMON)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"cannot write {out}: it is a folder" in result.stderr


# Image k has (k + 1)·32/255 in the first feature, 320/255 in the fifth and 0 in the others.
@pytest.mark.parametrize(
    ("options", "image", "told"),
    [
        # 65,504 is float16's largest number.
        (["--std", 1e-5, "--dtype", "float16"], "cat/a.png", "of at most 65504, got 125490 in column 4"),
        (["--std", "1,1e-5,1", "--dtype", "float16"], "cat/a.png", "of at most 65504, got 125490 in column 4"),
        (["--std", "1.2e-5,1,1", "--dtype", "float16"], "dog/4.png", "of at most 65504, got 73202.6 in column 0"),
        # Half of its smallest is rounded to 0.
        (["--std", 1e9, "--dtype", "float16"], "cat/a.png", "that float16 does not round to 0, got 1.2549e-09 at most"),
    ],
)
def test_features_that_float16_cannot_hold_are_refused(tmp_path, program, images, options, image, told):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    options = ["--program", program, *COMMON, *options]
    result = extract(images, tmp_path / "out.h5", *options)
    assert (result.returncode, result.stdout) == (2, "")
    told = f"{images / image}: --dtype float16 expects features {told}; use --dtype float32"
    assert result.stderr == f"extract_features.py: {told}\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images"]
    # float32 takes them.
    result = extract(images, tmp_path / "out.h5", *options[:-1], "float32")
    assert result.returncode == 0, result.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.isfinite(file["features"][()]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_that_are_no_features_are_refused(dtype):
    paths = [Path("a.png"), Path("b.png")]
    for row, told in (
        ([1, np.nan], "expected finite features in float32, got nan in column 1"),
        ([-np.inf, 1e9], "expected finite features in float32, got -inf in column 0"),
        ([0, -0.0], "expected features that are not all 0, got 2 zeros"),
    ):
        with pytest.raises(script.InputError) as error:
            script.as_stored(np.array([[1, 0], row], np.float32), paths, dtype)
        assert str(error.value) == f"b.png: {told}"
    rows = np.array([[1, 0], [0, 65504]], np.float32)
    stored = script.as_stored(rows, paths, dtype)
    assert stored.dtype == dtype
    assert stored.tolist() == rows.tolist()


def test_a_device_that_is_not_there_is_named(tmp_path, program, images):
    pytest.importorskip("h5py", reason="h5py is not installed")
    import torch

    for device in (*(() if torch.cuda.is_available() else ("cuda",)), "meta", "abacus"):
        result = extract(images, tmp_path / "out.h5", "--program", program, "--device", device, *COMMON)
        assert (result.returncode, result.stdout) == (2, "")
        told = f"extract_features.py: --device: expected a device that PyTorch can use here, got '{device}' ("
        assert result.stderr.startswith(told)
        assert result.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images"]


@pytest.mark.parametrize("kind", ["text", "archive", "parameters"])
def test_a_file_that_is_no_program_is_refused_in_one_line(tmp_path, images, kind):
    pytest.importorskip("h5py", reason="h5py is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "network.pt2"
    if kind == "text":
        path.write_text("no program")
    elif kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "b")
    else:
        torch.save({"weight": torch.zeros(2)}, path)
    # In a process of its own: PyTorch's log goes to the standard error that was there when it was imported.
    result = extract_in_a_process(images, tmp_path / "out.h5", "--program", path, *COMMON)
    assert (result.returncode, result.stdout) == (2, "")
    told = f"extract_features.py: --program {path}: expected a file of torch.export.save"
    assert result.stderr.startswith(told)
    assert result.stderr.count("\n") == 1
    assert "above" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "network.pt2"]


def test_torchvision_or_a_word_about_it(tmp_path, images):
    pytest.importorskip("h5py", reason="h5py is not installed")
    result = blocked("torchvision", images, tmp_path / "out.h5", "--model", "vgg16", *COMMON)
    assert result.returncode == 2
    assert "--model needs torchvision: install it with `pip install torchvision`" in result.stderr
    assert not (tmp_path / "out.h5").exists()


def test_a_torchvision_network_gives_its_last_but_one_layer(tmp_path, images):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    try:
        from torchvision.models import resnet18
    except Exception as error:  # not an ImportError where it was built for another torch
        pytest.skip(f"torchvision is not installed, or not for this torch ({type(error).__name__})")

    torch.manual_seed(0)
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "weights.pt")
    options = ["--model", "resnet18", "--weights", tmp_path / "weights.pt", "--size", 32, "--batch-size", 4]
    for name, more, width in (("a", [], 512), ("b", ["--layer", "fc"], 1000)):
        result = extract(images, tmp_path / f"{name}.h5", *options, *more)
        assert result.returncode == 0, result.stderr
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert file["features"].shape == (7, width)
    result = extract(images, tmp_path / "c.h5", *options, "--layer", "fx")
    assert result.returncode == 2
    assert "--layer: expected a module of resnet18, got 'fx'" in result.stderr
