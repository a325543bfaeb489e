"""Loads the compiled core; its library registers the ops as ``torch.ops.sparsum``."""

from __future__ import annotations

import torch

try:
    from . import _build_info
except ImportError as error:
    raise ImportError(
        "sparsum: the compiled part is missing from this copy of the package: install it with "
        "`pip install .` in the project's folder, or put build/release/python on PYTHONPATH"
    ) from error

_running = torch.__version__.split("+")[0]
if _running != _build_info.TORCH_VERSION:
    raise ImportError(
        f"sparsum {_build_info.VERSION} was built against torch {_build_info.TORCH_VERSION}, but "
        f"torch {torch.__version__} is installed: install that torch, or build sparsum again with "
        "`pip install --force-reinstall --no-deps .` in the project's folder"
    )

_cuda = torch.version.cuda is not None
if _cuda != _build_info.CUDA:
    _kinds = ("a CPU build", "a CUDA build")
    raise ImportError(
        f"sparsum {_build_info.VERSION} was built against {_kinds[_build_info.CUDA]} of torch, but "
        f"torch {torch.__version__} is {_kinds[_cuda]}: install that kind of torch, or build sparsum "
        "again with `pip install --force-reinstall --no-deps .` in the project's folder"
    )

from . import _C, _ops  # noqa: E402

__all__ = ["_C", "_ops"]
