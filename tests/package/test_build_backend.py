"""The build backend: which PyTorch it builds against, and that it says so and why."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TORCH = Path(torch.__file__).parent
VERSION = torch.__version__.split("+")[0]
KIND = "a CPU build" if torch.version.cuda is None else "a CUDA build"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("scikit_build_core")
    monkeypatch.delenv("SPARSUM_TORCH_ROOT", raising=False)
    path = ROOT / "python" / "packaging" / "sparsum_build.py"
    spec = importlib.util.spec_from_file_location("sparsum_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def built(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What scikit-build-core is asked for, instead of building."""
    asked: list[Any] = []
    for name in ("build_wheel", "build_editable"):
        monkeypatch.setattr(
            backend._backend, name, lambda folder, settings, metadata: asked.append(settings)
        )
    for name in ("get_requires_for_build_wheel", "get_requires_for_build_editable"):
        monkeypatch.setattr(backend._backend, name, lambda settings=None: ["ninja>=1.5"])
    return asked


def hide(monkeypatch: pytest.MonkeyPatch, purelib: Path) -> None:
    """As in an environment made for the build, with its site-packages in ``purelib``."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    monkeypatch.setattr(sysconfig, "get_path", lambda scheme: str(purelib))


def test_named(
    backend: ModuleType, built: list[Any], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    hide(monkeypatch, tmp_path)
    monkeypatch.setenv("SPARSUM_TORCH_ROOT", str(TORCH))
    assert backend.get_requires_for_build_wheel() == ["ninja>=1.5"]
    assert backend.dynamic_metadata("dependencies")[0] == f"torch=={VERSION}"
    capfd.readouterr()
    backend.build_wheel("wheels", {"cmake.define.SPARSUM_WERROR": "ON"})
    assert built == [
        {"cmake.define.SPARSUM_WERROR": "ON", "cmake.define.SPARSUM_TORCH_ROOT": str(TORCH)}
    ]
    said = capfd.readouterr().err
    assert said == (
        f"sparsum: building against PyTorch {VERSION} ({KIND}) in {TORCH}, which "
        "SPARSUM_TORCH_ROOT names\n"
    )


def test_importable(
    backend: ModuleType, built: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert backend.get_requires_for_build_wheel() == ["ninja>=1.5"]
    capfd.readouterr()
    backend.build_editable("wheels")
    assert built == [{"cmake.define.SPARSUM_TORCH_ROOT": str(TORCH)}]
    assert capfd.readouterr().err == (
        f"sparsum: building against PyTorch {VERSION} ({KIND}) in {TORCH}, which the Python that "
        f"builds imports ({sys.executable})\n"
    )


def test_in_the_environment_that_is_installed_into(
    backend: ModuleType, built: list[Any], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hide(monkeypatch, TORCH.parent)
    assert backend.get_requires_for_build_wheel() == ["ninja>=1.5"]
    capfd.readouterr()
    backend.build_wheel("wheels")
    assert capfd.readouterr().err == (
        f"sparsum: building against PyTorch {VERSION} ({KIND}) in {TORCH}, which is installed in "
        f"the environment of {sys.executable}\n"
    )


def test_none_in_sight(
    backend: ModuleType, built: list[Any], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    hide(monkeypatch, tmp_path)
    default = backend._default_torch()
    for hook in (backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable):
        assert hook() == ["ninja>=1.5", f"torch=={default}"]
        assert capfd.readouterr().err == (
            f"sparsum: no PyTorch in sight of this build, whose Python is {sys.executable}: asking "
            f"for torch=={default}, the version of [tool.sparsum] in pyproject.toml, to build "
            "against. To build against the one of your environment, set SPARSUM_TORCH_ROOT to its "
            "folder, or build without isolation\n"
        )
    assert backend.dynamic_metadata("dependencies") == [f"torch=={default}", "numpy>=1.26"]
    with pytest.raises(RuntimeError, match="no PyTorch found to build against: install one first"):
        backend.build_wheel("wheels")
    assert not built


def test_what_is_no_pytorch(
    backend: ModuleType, built: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPARSUM_TORCH_ROOT", str(tmp_path))
    message = r"expected a PyTorch 2\.11 or newer with its headers .* found none of that kind in"
    with pytest.raises(RuntimeError, match=message):
        backend.build_wheel("wheels")
    with pytest.raises(RuntimeError, match=message):
        backend.get_requires_for_build_wheel()
    header = tmp_path / "include" / "torch" / "headeronly" / "version.h"
    header.parent.mkdir(parents=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_python.so").touch()
    parts = (("MAJOR", 2), ("MINOR", 10), ("PATCH", 1))
    header.write_text("".join(f"#define TORCH_VERSION_{p} {n}\n" for p, n in parts))
    with pytest.raises(RuntimeError, match=r"needs PyTorch 2\.11 or newer, found 2\.10\.1 in"):
        backend.build_wheel("wheels")
    assert not built


def test_cuda_builds_are_told_apart(
    backend: ModuleType, built: list[Any], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "include").symlink_to(TORCH / "include")
    (tmp_path / "lib").mkdir()
    for name in ("libtorch_python.so", "libtorch_cuda.so"):
        (tmp_path / "lib" / name).touch()
    monkeypatch.setenv("SPARSUM_TORCH_ROOT", str(tmp_path))
    backend.build_wheel("wheels")
    assert f"PyTorch {VERSION} (a CUDA build) in {tmp_path}," in capfd.readouterr().err
