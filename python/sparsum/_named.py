"""Errors that name the function that was called, not the one that does its work."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from torch.compiler import is_dynamo_compiling

T = TypeVar("T")

# The maps and losses behind others, as their messages begin: "entmax: …" or "entmax(): …".
_BEHIND = re.compile(r"^(sparsemax|entmax|entmax_loss|normmax|budget_sparsemax)(?=: |\(\): )")


def named(name: str, function: Callable[..., T], *args: object) -> T:
    """``function(*args)``, whose errors name ``name``."""
    if is_dynamo_compiling():
        return function(*args)
    try:
        return function(*args)
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (_BEHIND.sub(name, error.args[0]), *error.args[1:])
        raise
