"""Numbers that others have published, for runs that are made as theirs were."""

from __future__ import annotations

from sparsum.runs import Run

SOURCE = "Correia, Niculae, Aziz and Martins, 2020, figure 2 and appendix"

_NLL = {
    ("fashion-mnist", 32): {"sfe": 3.74, "top-k": 3.62, "sparsemap": 3.72, "budget": 3.64},
    ("fashion-mnist", 128): {"sfe": 3.77, "top-k": 3.61, "sparsemap": 3.67, "budget": 3.66},
}
"""Negative log-likelihood of the test images in bits per dimension, by data set and D; ``budget``:
SparseMAP with at most D/2 bits on."""


def published_nll(run: Run) -> float | None:
    """The published value for the run's data set, number of bits and estimator, or None."""
    fields = run.fields
    bits = fields.get("bits")
    if not isinstance(bits, int):
        return None
    values = _NLL.get((str(fields.get("dataset")), bits), {})
    method = (fields.get("estimator"), fields.get("structure"))
    if method in (("sparsemap-budget", "bits"), ("sparsemap", "budget")):
        return values.get("budget") if fields.get("budget") == bits // 2 else None
    return values.get(str(method[0])) if method[1] == "bits" else None
