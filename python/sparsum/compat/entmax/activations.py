"""The maps in closed form, as ``entmax.activations`` has them."""

from __future__ import annotations

from . import (
    Entmax15,
    Sparsemax,
    entmax15,
    sparsemax,
)

__all__ = [
    "Entmax15",
    "Sparsemax",
    "entmax15",
    "sparsemax",
]
