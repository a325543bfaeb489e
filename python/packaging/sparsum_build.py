"""The build backend: scikit-build-core, told which PyTorch to build against.

A compiled extension fits exactly the PyTorch it was compiled with. pip builds in an environment of
its own, in which the packages of the environment that it installs into are out of sight; so this
module looks there itself:

1. ``SPARSUM_TORCH_ROOT``, if it is set: the folder with ``include/`` and ``lib/``;
2. the torch that the building Python can import (``pip install --no-build-isolation .``);
3. the torch in the site-packages of the environment that pip runs in;
4. none of these: the version of ``[tool.sparsum]`` in pyproject.toml, asked of pip for the build,
   and required by the wheel.
"""

from __future__ import annotations

import importlib.util
import os
import re
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


def _torch_root() -> Path | None:
    """The folder of the PyTorch to build against, or None if there is none yet."""
    named = os.environ.get("SPARSUM_TORCH_ROOT")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    for scheme in ("purelib", "platlib"):
        root = Path(sysconfig.get_path(scheme)) / "torch"
        if (root / "version.py").is_file():
            return root
    return None


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
    root = _torch_root()
    return [f"torch=={_torch_version(root) if root else _default_torch()}", "numpy>=1.26"]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    requires = list(_backend.get_requires_for_build_wheel(config_settings))
    if _torch_root() is None:
        requires.append(f"torch=={_default_torch()}")
    return requires


def _with_torch(settings: dict[str, Any] | None) -> dict[str, Any]:
    root = _torch_root()
    if root is None:
        raise RuntimeError(
            "sparsum: no PyTorch found to build against: install one first, e.g. "
            f"`pip install torch=={_default_torch()}`"
        )
    _torch_version(root)
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


get_requires_for_build_editable = get_requires_for_build_wheel


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
