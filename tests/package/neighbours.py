"""A structure in Python, and its outcomes by brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy
import sparsum


class NoNeighbours(sparsum.Structure):
    """Vectors of bits without two neighbouring bits on, by dynamic programming."""

    def __init__(self, bits: int) -> None:
        self.parts = bits
        self.calls = 0

    @property
    def name(self) -> str:
        return f"no-neighbours({self.parts})"

    def best(self, scores: Any) -> Any:
        self.calls += 1
        off, on = (0.0, []), (-numpy.inf, [])
        for i, score in enumerate(scores):
            best = off if off[0] >= on[0] else on
            off, on = best, (off[0] + score, [*off[1], i])
        outcome = numpy.zeros(self.parts, dtype=numpy.uint8)
        outcome[(off if off[0] >= on[0] else on)[1]] = 1
        return outcome

    def outcomes(self) -> list[tuple[int, ...]]:
        return [
            z
            for z in itertools.product((0, 1), repeat=self.parts)
            if not any(a and b for a, b in itertools.pairwise(z))
        ]


class WithLists(NoNeighbours):
    """The same with the k best outcomes, and a known size."""

    @property
    def size(self) -> int:  # type: ignore[override]
        return len(self.outcomes())

    def k_best_one(self, scores: Any, k: int) -> Any:
        def total(z: tuple[int, ...]) -> float:
            return sum(float(s) for s, on in zip(scores, z, strict=True) if on)

        allowed = [z for z in self.outcomes() if total(z) > -numpy.inf]
        return sorted(allowed, key=total, reverse=True)[:k]
