"""A copy of the package that does not fit its surroundings: what it says, and what still works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sparsum
import torch

PACKAGE = Path(sparsum.__file__).absolute().parent
BUILT = ("a CPU build", "a CUDA build")


def run(code: str, package: Path = PACKAGE, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(package.parent), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 1, result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_another_version_of_torch() -> None:
    line = last_line(run("import torch; torch.__version__ = '2.11.0+cpu'; import sparsum.ops"))
    assert line.startswith(f"ImportError: sparsum {sparsum.__version__} was built against torch ")
    assert "but torch 2.11.0+cpu is installed: install that torch, or build sparsum again" in line


def test_the_other_kind_of_torch() -> None:
    cuda = torch.version.cuda is not None
    other = None if cuda else "12.8"
    code = f"""
import torch, sparsum
torch.version.cuda = {other!r}
for name in ("sparsemax", "BitVector", "expectation"):
    try:
        getattr(sparsum, name)
    except ImportError as error:
        print(error)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith(
            f"sparsum {sparsum.__version__} was built against {BUILT[cuda]} of torch, but torch "
            f"{torch.__version__} is {BUILT[not cuda]}: install that kind of torch, or build"
        )


def test_a_copy_that_was_not_built(tmp_path: Path) -> None:
    copy = tmp_path / "sparsum"
    copy.mkdir()
    for path in PACKAGE.glob("*.py"):
        if path.name != "_build_info.py":
            (copy / path.name).symlink_to(path.resolve())
    line = last_line(run("import sparsum; sparsum.sparsemax", copy))
    assert line.startswith("ImportError: sparsum: the compiled part is missing from this copy")


def test_without_a_library_of_the_experiments_the_rest_works(tmp_path: Path) -> None:
    pytest.importorskip("sparsum.experiments", exc_type=ImportError)
    maps = Path("/proc/self/maps").read_text().split()
    loaded = {Path(path) for path in maps if Path(path).name.startswith("libtomlplusplus")}
    if not loaded:
        pytest.skip("toml++ is linked statically here")
    # An empty file hides the library, as if that were not installed.
    for name in {path.name for one in loaded for path in one.parent.glob("libtomlplusplus.so.*")}:
        (tmp_path / name).touch()
    code = """
import torch, sparsum
scores = torch.zeros(2, 3)
q = sparsum.sparsemap(sparsum.BitVector(3), scores + 0.5)
print(sparsum.expectation(q, lambda z: z.values().sum(1)).tolist(), sparsum.entmax15(scores).shape)
estimate = sparsum.make_estimator("sfe").distribution(sparsum.Categorical(3), scores)
try:
    sparsum.train
except ImportError as error:
    print(error)
"""
    result = run(code, LD_LIBRARY_PATH=str(tmp_path))
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == "[1.5, 1.5] torch.Size([2, 3])"
    assert second.startswith("sparsum: the experiments are missing from this copy of the package:")
    assert "libtomlplusplus" in second
