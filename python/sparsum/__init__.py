"""Sparsum: exact training with discrete and structured latent variables, in Python.

Importing this package loads nothing heavy: torch and the compiled core are loaded when one of
their names is first used.

* ``python -m sparsum.report RUN... --out DIR`` draws a report of training runs;
* ``python -m sparsum.tensorboard RUN`` shows a run in TensorBoard while it trains;
* :mod:`sparsum.runs` reads the run folders that ``sparsum train`` writes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives; loaded when it is first asked for.
_EXPORTS: dict[str, tuple[str, ...]] = {}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

if TYPE_CHECKING:
    pass

__all__ = ["__version__", *sorted(_HOME)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sparsum' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sparsum.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
