"""scripts/extract_features.py: a tiny exported network on tiny images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PYTHON_ROOT

SCRIPT = PYTHON_ROOT.parent / "scripts" / "extract_features.py"


def extract(*arguments: object) -> subprocess.CompletedProcess[str]:
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
    ):
        result = extract(tmp_path, tmp_path / "out.h5", *more)
        assert result.returncode == 2
        assert told in result.stderr


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
    out, concepts = tmp_path / "out.h5", tmp_path / "concepts.json"
    result = extract(images, out, "--program", program, "--concepts", concepts, "--dtype", dtype, *COMMON)
    assert result.returncode == 0, result.stderr
    with h5py.File(out) as file:
        assert file["features"].dtype == dtype
        np.testing.assert_allclose(file["features"][()], [expected(k) for k in range(7)], rtol=1e-3)
        assert file["labels"][()].tolist() == [0, 0, 1, 1, 1, 1, 1]
        assert file["labels"].attrs["concepts"].tolist() == ["cat", "dog"]
    assert json.loads(concepts.read_text()) == ["cat", "dog"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["concepts.json", "images", "out.h5"]


def test_numbers_are_taken_from_the_list_of_concepts(tmp_path, program, images):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    concepts = tmp_path / "concepts.json"
    concepts.write_text('["dog", "eel", "cat"]')
    result = extract(images, tmp_path / "out.h5", "--program", program, "--concepts", concepts, *COMMON)
    assert result.returncode == 0, result.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["labels"][()].tolist() == [2, 2, 0, 0, 0, 0, 0]
    concepts.write_text('["dog"]')
    result = extract(images, tmp_path / "other.h5", "--program", program, "--concepts", concepts, *COMMON)
    assert result.returncode == 2
    assert f"{images / 'cat'}: expected a concept of {concepts}" in result.stderr


def test_labels_may_be_a_list(tmp_path, program, images):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    labels = tmp_path / "labels.tsv"
    labels.write_text("dog/3.png\t70\ncat/a.png\t-1\n")
    result = extract(images, tmp_path / "out.h5", "--program", program, "--labels", labels, *COMMON)
    assert result.returncode == 0, result.stderr
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["features"][()], [expected(5), expected(0)], rtol=1e-6)
        assert file["labels"][()].tolist() == [70, -1]
    labels.write_text("dog/3.png\t70\ncat/a.png 1\n")
    result = extract(images, tmp_path / "out.h5", "--program", program, "--labels", labels, *COMMON)
    assert result.returncode == 2
    assert f"{labels}:2: expected a path, a tab and an integer, got 'cat/a.png 1'" in result.stderr


def test_a_failure_leaves_nothing_behind(tmp_path, program, images):
    pytest.importorskip("h5py", reason="h5py is not installed")
    out = tmp_path / "out.h5"
    out.write_bytes(b"what was there")
    (images / "dog" / "3.png").write_bytes(b"no image")
    (images / "cat" / "a.png").rename(images / "cat" / "b.png")
    result = extract(images, out, "--program", program, *COMMON)
    assert result.returncode == 2
    assert f"{images / 'dog' / '3.png'}: expected an image" in result.stderr
    assert out.read_bytes() == b"what was there"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out.h5"]
    # The program wants batches of four.
    result = extract(images, out, "--program", program, *COMMON[:-1], 3)
    assert result.returncode == 2
    assert "the network does not take a batch of shape (3, 3, 8, 8)" in result.stderr
    result = extract(images, out, "--program", images / "dog" / "1.png", *COMMON)
    assert result.returncode == 2
    assert "expected a file of torch.export.save" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "out.h5"]


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
