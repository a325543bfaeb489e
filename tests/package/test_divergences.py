"""Kullback–Leibler divergences against sums over all outcomes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import sparsum
import torch
from neighbours import NoNeighbours
from torch.distributions import kl_divergence

INF = math.inf


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outcomes(parts: int) -> torch.Tensor:
    """All vectors of bits, each once."""
    listed = list(itertools.product((0, 1), repeat=parts))
    return torch.tensor(listed, dtype=torch.float64)


def dense(q: sparsum.Distribution) -> torch.Tensor:
    """[B, outcomes] probabilities, from what the distribution lists, a pair at a time."""
    listing = q.enumerate()
    z = listing.support
    width = q.parts if z.indices is not None else 2**q.parts
    table = torch.zeros(q.batch_size, width, dtype=listing.probs.dtype)
    powers = 2 ** torch.arange(q.parts - 1, -1, -1)
    for i in range(z.count):
        place = z.indices[i] if z.indices is not None else (z.values(torch.long)[i] * powers).sum()
        table[z.rows[i], place] += listing.probs[i].detach()
    return table


def reference(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Σ p log(p/q) over [B, outcomes], term by term."""
    divergence = torch.zeros(len(p), dtype=torch.float64)
    for b, z in itertools.product(range(p.size(0)), range(p.size(1))):
        if p[b, z] > 0:
            ratio = math.log(p[b, z] / q[b, z]) if q[b, z] > 0 else INF
            divergence[b] += p[b, z] * ratio
    return divergence


def sparse(scores: torch.Tensor) -> sparsum.SparseDistribution:
    return sparsum.SparseDistribution.from_dense(sparsum.sparsemax(scores))


BITS: list[Any] = [
    sparsum.BitVector(4),
    sparsum.Budget(4, 2),
    sparsum.Budget(4, 0),
    sparsum.Subset(4, 2),
]


def with_forbidden() -> torch.Tensor:
    scores = normal(5, 4, seed=3)
    scores[1, 2] = scores[3, 0] = scores[3, 1] = -INF
    return scores


PAIRS: dict[str, tuple[sparsum.Distribution, sparsum.Distribution]] = {
    "sparse": (sparse(normal(5, 4)), sparse(0.1 * normal(5, 4, seed=1))),
    "sparse-both-ways": (sparse(0.1 * normal(5, 4, seed=1)), sparse(normal(5, 4))),
    "sparse-gibbs": (
        sparse(normal(5, 4)),
        sparsum.Gibbs(sparsum.Categorical(4), with_forbidden()),
    ),
    "gibbs": (
        sparsum.Gibbs(sparsum.Categorical(4), normal(5, 4)),
        sparsum.Gibbs(sparsum.Categorical(4), normal(5, 4, seed=1)),
    ),
    "gibbs-forbidden": (
        sparsum.Gibbs(sparsum.Categorical(4), normal(5, 4)),
        sparsum.Gibbs(sparsum.Categorical(4), with_forbidden()),
    ),
    "gibbs-both-forbidden": (
        sparsum.Gibbs(sparsum.Categorical(4), with_forbidden()),
        sparsum.Gibbs(sparsum.Categorical(4), with_forbidden().roll(1, 0)),
    ),
}
for first, second in itertools.product(BITS, BITS):
    name = f"{first!r}-{second!r}"
    scores = with_forbidden()
    PAIRS[f"gibbs-{name}"] = (
        sparsum.Gibbs(first, scores),
        sparsum.Gibbs(second, normal(5, 4, seed=4)),
    )
    PAIRS[f"sparse-gibbs-{name}"] = (
        sparsum.sparsemap(first, scores),
        sparsum.Gibbs(second, normal(5, 4, seed=4)),
    )
    PAIRS[f"sparse-{name}"] = (
        sparsum.top_k_sparsemax(first, scores, 3),
        sparsum.adaptive_top_k_sparsemax(second, 0.2 * scores, 1, 16),
    )


@pytest.mark.parametrize("name", PAIRS)
def test_against_the_sum_over_all_outcomes(name: str) -> None:
    p, q = PAIRS[name]
    divergence = kl_divergence(p, q)
    assert divergence.shape == (5,) and divergence.dtype == torch.float64
    expected = reference(dense(p), dense(q))
    torch.testing.assert_close(divergence, expected, atol=1e-9, rtol=1e-9)


def test_some_are_infinite_and_some_are_not() -> None:
    finite = {name: kl_divergence(*pair).isfinite() for name, pair in PAIRS.items()}
    for kind in ("sparse", "sparse-gibbs", "gibbs"):
        of_kind = torch.stack(
            [f for name, f in finite.items() if name.rsplit("-", 2)[0] == kind or name == kind]
        )
        assert bool(of_kind.any())
        assert not bool(of_kind.all())


@pytest.mark.parametrize("name", PAIRS)
def test_of_a_distribution_from_itself_it_is_zero(name: str) -> None:
    for q in PAIRS[name]:
        zero = torch.zeros(5, dtype=torch.float64)
        torch.testing.assert_close(kl_divergence(q, q), zero, atol=1e-12, rtol=0)


def test_derivatives_in_both() -> None:
    near = 0.05 * normal(2, 4, seed=1)  # every outcome has mass
    cases: list[Any] = [
        (lambda s: sparse(s), lambda s: sparse(s)),
        (lambda s: sparse(s), lambda s: sparsum.Gibbs(sparsum.Categorical(4), s)),
    ]
    for structure in (sparsum.Categorical(4), *BITS):
        cases.append(
            (lambda s, z=structure: sparsum.Gibbs(z, s), lambda s, z=structure: sparsum.Gibbs(z, s))
        )
    for structure in BITS:
        cases.append(
            (
                lambda s, z=structure: sparsum.sparsemap(z, s, algorithm="closed-form"),
                lambda s, z=structure: sparsum.Gibbs(z, s),
            )
        )
    for make_p, make_q in cases:
        assert torch.autograd.gradcheck(
            lambda s, t: kl_divergence(make_p(s), make_q(t)),  # noqa: B023
            (normal(2, 4).requires_grad_(), near.clone().requires_grad_()),
        )


def test_gradients_of_infinite_rows_are_zero_and_the_others_own() -> None:
    p_scores = torch.tensor([[0.3, 0.2, -9.0], [0.3, 0.2, 0.1]], dtype=torch.float64)
    q_scores = torch.tensor([[0.1, 0.2, -9.0], [0.1, 0.2, -9.0]], dtype=torch.float64)
    for make in (sparse, lambda s: sparsum.Gibbs(sparsum.Categorical(3), s)):
        s, t = p_scores.clone().requires_grad_(), q_scores.clone().requires_grad_()
        forbidden = t.masked_fill(torch.tensor([[False] * 3, [False, False, True]]), -INF)
        divergence = kl_divergence(make(s), make(forbidden))
        assert divergence.isfinite().tolist() == [True, False]
        ours = torch.autograd.grad(divergence.sum(), (s, t))
        first = kl_divergence(make(s[:1]), make(t[:1]))
        expected = torch.autograd.grad(first.sum(), (s, t))
        for gradient, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(gradient, other)
            assert bool((gradient[1] == 0).all())


def test_listed_zeros_do_not_count() -> None:
    z = sparsum.SparseDistribution.from_dense(torch.tensor([[0.5, 0.5, 0.0]])).support
    p = sparsum.SparseDistribution(z, torch.tensor([1.0, 0.0]).requires_grad_())
    q = sparsum.SparseDistribution.from_dense(torch.tensor([[0.25, 0.0, 0.75]]))
    divergence = kl_divergence(p, q)
    torch.testing.assert_close(divergence, torch.tensor([math.log(4.0)]))
    assert p.probs.grad_fn is None
    (gradient,) = torch.autograd.grad(divergence.sum(), p.probs)
    assert bool(gradient.isfinite().all())
    listed_zero = sparsum.SparseDistribution(z, torch.tensor([1.0, 0.0]))
    both = sparsum.SparseDistribution(z, torch.tensor([0.5, 0.5]))
    assert kl_divergence(both, listed_zero).tolist() == [INF]


def test_a_mass_that_underflows_is_still_mass() -> None:
    scores = torch.tensor([[0.0, -2000.0]], dtype=torch.float64)
    forbidden = torch.tensor([[0.0, -INF]], dtype=torch.float64)
    for structure in (sparsum.Categorical(2), sparsum.BitVector(2), sparsum.Budget(2, 1)):
        p, q = sparsum.Gibbs(structure, scores), sparsum.Gibbs(structure, forbidden)
        assert kl_divergence(p, q).tolist() == [INF]
        assert kl_divergence(q, p).item() == pytest.approx(0)


def test_float32_is_kept_and_computed_with_care() -> None:
    structure = sparsum.BitVector(2000)
    scores = normal(1, 2000).float()
    moved = scores + 1e-3 * normal(1, 2000, seed=1).float()
    divergence = kl_divergence(sparsum.Gibbs(structure, scores), sparsum.Gibbs(structure, moved))
    bernoulli = [torch.distributions.Bernoulli(logits=t.double()) for t in (scores, moved)]
    expected = kl_divergence(*bernoulli).sum(1)
    assert divergence.dtype == torch.float32
    torch.testing.assert_close(divergence.double(), expected, atol=0, rtol=1e-5)


class WithMarginals(NoNeighbours):
    """Small enough to sum over."""

    def _outcomes(self) -> torch.Tensor:
        listed = outcomes(self.parts)
        return listed[(listed[:, 1:] * listed[:, :-1]).sum(1) == 0]

    def log_partition(self, scores: torch.Tensor) -> torch.Tensor:
        return (scores @ self._outcomes().T).logsumexp(1)

    def marginals(self, scores: torch.Tensor) -> torch.Tensor:
        return (scores @ self._outcomes().T).softmax(1) @ self._outcomes()


def test_a_structure_of_ones_own() -> None:
    structure = WithMarginals(4)
    listed = structure._outcomes()
    t, u = normal(3, 4), normal(3, 4, seed=1)
    p, q = ((x @ listed.T).softmax(1) for x in (t, u))
    ours = kl_divergence(sparsum.Gibbs(structure, t), sparsum.Gibbs(structure, u))
    torch.testing.assert_close(ours, reference(p, q))
    chosen = sparsum.sparsemap(structure, t)
    cross = -chosen.support.sum_per_example(
        chosen.probs * sparsum.Gibbs(structure, u).log_prob(chosen.support)
    )
    ours = kl_divergence(chosen, sparsum.Gibbs(structure, u))
    torch.testing.assert_close(ours, cross - chosen.entropy())
    with pytest.raises(ValueError, match=r"over the same structure, got no-neighbours\(4\) and bi"):
        kl_divergence(sparsum.Gibbs(structure, t), sparsum.Gibbs(sparsum.BitVector(4), u))
    with pytest.raises(ValueError, match="over the same structure"):
        kl_divergence(sparsum.Gibbs(structure, t), sparsum.Gibbs(WithMarginals(4), u))


def test_what_cannot_be_compared() -> None:
    p = sparse(normal(3, 4))
    for q, message in (
        (sparse(normal(2, 4)), "got 3 and 2 examples"),
        (sparse(normal(3, 5)), "got 4 and 5 parts"),
        (sparsum.Gibbs(sparsum.Categorical(5), normal(3, 5)), "got 4 and 5 parts"),
        (sparsum.sparsemap(sparsum.BitVector(4), normal(3, 4)), "got indices and indicators"),
    ):
        with pytest.raises(ValueError, match=f"kl_divergence: expected .*{message}"):
            kl_divergence(p, q)
    with pytest.raises(NotImplementedError):
        kl_divergence(sparsum.Gibbs(sparsum.Categorical(4), normal(3, 4)), p)


# Supports as constraints.


def test_the_support_of_a_gibbs_distribution_as_a_constraint() -> None:
    scores = torch.tensor([[0.5, 0.1, -INF], [0.0, -INF, 1.0]])
    q = sparsum.Gibbs(sparsum.Categorical(3), scores)
    every = q.enumerate_support()
    with_mass = q.support_constraint.check(every)
    assert with_mass.tolist() == [[True, True], [True, False], [False, True]]
    assert bool(q.support.check(every).all())
    assert q.support_constraint.event_dim == 0 and q.support_constraint.is_discrete
    bits = sparsum.Gibbs(sparsum.Budget(3, 1), scores)
    value = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]]).unsqueeze(1)
    assert bits.support_constraint.event_dim == 1
    assert bits.support_constraint.check(value.expand(5, 2, 3)).tolist() == [
        [True, True], [True, False], [False, True], [True, True], [False, False],
    ]  # fmt: skip


def test_a_constraint_says_no_to_what_is_no_outcome() -> None:
    scores = torch.zeros(2, 3)
    for q in (
        sparse(scores),
        sparsum.Gibbs(sparsum.Categorical(3), scores),
    ):
        value = torch.tensor([[0, 3], [-1, 2]])
        assert q.support_constraint.check(value).tolist() == [[True, False], [False, True]]
        halves = torch.tensor([[0.0, 0.5], [math.nan, 2.0]])
        assert q.support_constraint.check(halves).tolist() == [[True, False], [False, True]]
    for q in (
        sparsum.sparsemap(sparsum.BitVector(3), scores + 0.5),
        sparsum.Gibbs(sparsum.BitVector(3), scores),
    ):
        value = torch.tensor([[1.0, 1, 1], [1, 0.5, 1]])
        assert q.support_constraint.check(value).tolist() == [True, False]


def test_log_prob_of_assignments_outside_a_gibbs_distributions_structure() -> None:
    q = sparsum.Gibbs(sparsum.Budget(4, 2), normal(3, 4))
    for z in (
        sparsum.BitVector(4).enumerate(3),
        sparsum.BitVector(4).k_best(normal(3, 4, seed=2), 16),
    ):
        allowed = z.values().sum(1) <= 2
        assert torch.equal(q.log_prob(z) > -INF, allowed)
        total = z.sum_per_example(q.log_prob(z).exp())
        torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64))
