"""Kullback–Leibler divergences of :mod:`sparsum.distributions`.

Importing this module registers them with :func:`torch.distributions.kl_divergence`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import register_kl

from ._load import _C
from .distributions import Assignments, Distribution, Gibbs, SparseDistribution


def _check(p: Distribution, q: Distribution) -> None:
    for of_p, of_q, what in (
        (p.batch_size, q.batch_size, "examples"),
        (p.parts, q.parts, "parts"),
    ):
        if of_p != of_q:
            raise ValueError(
                f"kl_divergence: expected two distributions of as many {what}, got {of_p} and "
                f"{of_q} {what}"
            )
    if p.event_shape != q.event_shape:
        form = ("indicators", "indices")
        raise ValueError(
            "kl_divergence: expected two distributions over the same outcomes, got "
            f"{form[p.event_shape == ()]} and {form[q.event_shape == ()]}"
        )


@register_kl(SparseDistribution, SparseDistribution)
def _sparse_sparse(p: SparseDistribution, q: SparseDistribution) -> Tensor:
    _check(p, q)
    mass = _mass(q, p.support)
    # The logarithm of 0 is kept out: its derivative would make 0/0 of a gradient of 0.
    return _divergence(p, torch.where(mass > 0, mass, 1).log(), mass <= 0)


@register_kl(SparseDistribution, Gibbs)
def _sparse_gibbs(p: SparseDistribution, q: Gibbs) -> Tensor:
    """A structure of one's own cannot be asked whether an outcome is one of its own: those of p are
    taken to be."""
    _check(p, q)
    log_prob = q.log_prob(p.support)
    lacks = log_prob == -math.inf
    return _divergence(p, log_prob.masked_fill(lacks, 0), lacks)


@register_kl(Gibbs, Gibbs)
def _gibbs_gibbs(p: Gibbs, q: Gibbs) -> Tensor:
    """⟨E_p[a_z], t − u⟩ − log Z_p(t) + log Z_q(u): a sum over no more than the parts."""
    _check(p, q)
    dtype = torch.promote_types(p.scores.dtype, q.scores.dtype)
    t, u = p.scores, q.scores
    built_in = isinstance(p.structure, (_C.Categorical, _C.Bits))
    if built_in:  # in float64, for the sake of the difference; one's own oracles get what they know
        t, u = t.double(), u.double()
    marginals = p.structure.marginals(t)
    # Where mass underflows, the scores still tell which parts some outcome with mass has.
    on = (t > -math.inf) if built_in else (marginals > 0)
    lacks = torch.zeros(p.batch_size, dtype=torch.bool, device=t.device)
    if isinstance(p.structure, _C.Bits) and isinstance(q.structure, _C.Bits):
        most = on.sum(1).clamp(max=p.structure.most)
        lacks = (most > q.structure.most) | (p.structure.least < q.structure.least)
        on = on & (p.structure.most > 0)
    elif p.structure != q.structure:
        raise ValueError(
            "kl_divergence: expected two Gibbs distributions over the same structure, got "
            f"{p.structure.name} and {q.structure.name}"
        )
    lacks = lacks | (on & (u == -math.inf)).any(1)
    difference = t.masked_fill(t == -math.inf, 0) - u.masked_fill(u == -math.inf, 0)
    expected = (marginals * torch.where(on, difference, 0)).sum(1)
    divergence = expected - p.structure.log_partition(t) + q.structure.log_partition(u)
    return divergence.masked_fill(lacks, math.inf).to(dtype)


def _divergence(p: SparseDistribution, log_prob: Tensor, lacks: Tensor) -> Tensor:
    """−H(p) − Σ_z p(z) log q(z), +inf where q lacks an outcome that p has; log_prob [n] is finite
    there."""
    cross = p.support.sum_per_example(p.probs * log_prob)
    lacking = p.support.sum_per_example((lacks & (p.probs > 0)).to(p.probs.dtype)) > 0
    return (-p.entropy() - cross).masked_fill(lacking, math.inf)


def _mass(q: SparseDistribution, z: Assignments) -> Tensor:
    """q(z) of each pair: [n], 0 outside the support."""
    own = q.support
    indices: Any = z.indices
    if indices is not None and own.indices is not None:
        return q.to_dense().reshape(-1)[z.rows * q.parts + indices]
    # Equal pairs, of either list, get one number: O((n + m) V) memory, and the time of a sort.
    listed = torch.cat([_bytes(own), _bytes(z)])
    _, numbers = torch.unique(listed, dim=0, return_inverse=True)
    mass = q.probs.new_zeros(len(listed)).index_add(0, numbers[: own.count], q.probs)
    return mass[numbers[own.count :]]


def _bytes(z: Assignments) -> Tensor:
    """A row of bytes for each pair: its example's number, then its indicators."""
    return torch.cat([z.rows.unsqueeze(1).view(torch.uint8), z.values(torch.uint8)], 1)
