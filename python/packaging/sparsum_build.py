"""The build backend: scikit-build-core, told which PyTorch to build against.

A compiled extension fits exactly the PyTorch it was compiled with. pip builds in an environment of
its own, in which the packages of the environment that it installs into are out of sight; so this
module looks there itself:

1. ``SPARSUM_TORCH_ROOT``, if it is set: the folder with ``include/`` and ``lib/``;
2. the torch that the building Python can import (``pip install --no-build-isolation .``);
3. the torch in the site-packages of the environment that pip runs in;
4. none of these: the version of ``[tool.sparsum]`` in pyproject.toml, asked for as a requirement of
   the build, and required by the wheel.

pip's isolation leaves the environment's Python in charge, so that 3 finds its packages. uv and
``python -m build`` build with another Python, from which they cannot be seen: there 1 or
``--no-build-isolation`` leads to the environment's PyTorch, and else it is 4. Which one it was, and
why, is printed on stderr.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from scikit_build_core import build as _backend
from scikit_build_core.build import (  # noqa: F401  (hooks of the build interface)
    build_sdist,
    get_requires_for_build_sdist,
)

_OLDEST = (2, 11)
_PROJECT = Path(__file__).resolve().parents[2]


def _find_torch() -> tuple[Path, str] | None:
    """The folder of the PyTorch to build against and why it is this one, or None if there is none
    yet."""
    named = os.environ.get("SPARSUM_TORCH_ROOT")
    if named:
        return Path(named), "which SPARSUM_TORCH_ROOT names"
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        return root, f"which the Python that builds imports ({sys.executable})"
    for scheme in ("purelib", "platlib"):
        root = Path(sysconfig.get_path(scheme)) / "torch"
        if (root / "version.py").is_file():
            return root, f"which is installed in the environment of {sys.executable}"
    return None


def _say(text: str) -> None:
    print(f"sparsum: {text}", file=sys.stderr, flush=True)


def _torch_version(root: Path) -> str:
    """``"2.13.0"`` of a PyTorch folder; raises with one sentence if it is unsuited."""
    header = root / "include" / "torch" / "headeronly" / "version.h"
    if not header.is_file() or not (root / "lib" / "libtorch_python.so").is_file():
        raise RuntimeError(
            f"sparsum: expected a PyTorch {_OLDEST[0]}.{_OLDEST[1]} or newer with its headers and "
            f"lib/libtorch_python.so, found none of that kind in {root}"
        )
    text = header.read_text()
    numbers = [
        int(re.search(rf"#define TORCH_VERSION_{part} (\d+)", text)[1])
        for part in ("MAJOR", "MINOR", "PATCH")
    ]
    version = ".".join(map(str, numbers))
    if tuple(numbers[:2]) < _OLDEST:
        raise RuntimeError(
            f"sparsum: needs PyTorch {_OLDEST[0]}.{_OLDEST[1]} or newer, found {version} in {root}"
        )
    return version


def _default_torch() -> str:
    with (_PROJECT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["tool"]["sparsum"]["torch"]


def dynamic_metadata(field: str, settings: dict[str, Any] | None = None) -> list[str]:
    """The wheel's requirements: the very PyTorch that it is built against."""
    if field != "dependencies":
        raise RuntimeError(f"sparsum_build: no metadata of its own for {field}")
    found = _find_torch()
    return [f"torch=={_torch_version(found[0]) if found else _default_torch()}", "numpy>=1.26"]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _with_requirement(_backend.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _with_requirement(_backend.get_requires_for_build_editable(config_settings))


def _with_requirement(requires: list[str]) -> list[str]:
    found = _find_torch()
    if found is not None:
        _torch_version(found[0])
        return list(requires)
    needed = f"torch=={_default_torch()}"
    _say(
        f"no PyTorch in sight of this build, whose Python is {sys.executable}: asking for {needed}, "
        "the version of [tool.sparsum] in pyproject.toml, to build against. To build against the "
        "one of your environment, set SPARSUM_TORCH_ROOT to its folder, or build without isolation"
    )
    return [*requires, needed]


def _with_torch(settings: dict[str, Any] | None) -> dict[str, Any]:
    found = _find_torch()
    if found is None:
        raise RuntimeError(
            "sparsum: no PyTorch found to build against: install one first, e.g. "
            f"`pip install torch=={_default_torch()}`"
        )
    root, why = found
    version = _torch_version(root)
    kind = "CUDA" if (root / "lib" / "libtorch_cuda.so").is_file() else "CPU"
    _say(f"building against PyTorch {version} (a {kind} build) in {root}, {why}")
    return {**(settings or {}), "cmake.define.SPARSUM_TORCH_ROOT": str(root)}


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    return _backend.build_wheel(wheel_directory, _with_torch(config_settings), metadata_directory)


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: dict[str, Any] | None = None
) -> str:
    return _backend.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    return _backend.build_editable(wheel_directory, _with_torch(config_settings), metadata_directory)


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: dict[str, Any] | None = None
) -> str:
    return _backend.prepare_metadata_for_build_editable(metadata_directory, config_settings)
