from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import sparsum
import torch
from neighbours import NoNeighbours, WithLists

INF = math.inf


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sparsemax(scores: torch.Tensor) -> torch.Tensor:
    """By sorting, in the last dimension: an independent reference."""
    ordered = scores.sort(descending=True).values
    sums = ordered.cumsum(-1) - 1
    places = torch.arange(1, scores.size(-1) + 1, dtype=scores.dtype)
    size = (ordered * places > sums).sum(-1, keepdim=True)
    return (scores - sums.gather(-1, size - 1) / size).clamp_min(0)


def bits(width: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((0, 1), repeat=width)), dtype=torch.float64)


# SparseDistribution.


def test_from_dense_and_back() -> None:
    scores = normal(4, 6).requires_grad_()
    probs = sparsemax(scores)
    q = sparsum.SparseDistribution.from_dense(probs)
    assert q.support.count == int((probs > 0).sum())
    torch.testing.assert_close(q.to_dense(), probs)
    torch.testing.assert_close(q.marginals(), probs)
    assert q.evaluations().tolist() == (probs > 0).sum(1).tolist()
    entropy = -torch.special.xlogy(probs, probs).sum(1)
    torch.testing.assert_close(q.entropy(), entropy)
    assert torch.autograd.gradcheck(
        lambda s: sparsum.SparseDistribution.from_dense(sparsemax(s)).entropy(), scores
    )
    assert q.exact is None and q.batch_size == 4 and q.parts == 6
    assert repr(q) == f"SparseDistribution(batch_size=4, parts=6, pairs={q.support.count})"


def test_a_categorical_as_a_torch_distribution() -> None:
    probs = torch.tensor([[0.5, 0.0, 0.5], [0.2, 0.8, 0.0]], dtype=torch.float64)
    q = sparsum.SparseDistribution.from_dense(probs)
    reference = torch.distributions.Categorical(probs)
    assert isinstance(q, torch.distributions.Distribution)
    assert q.batch_shape == reference.batch_shape and q.event_shape == reference.event_shape
    torch.testing.assert_close(q.entropy(), reference.entropy())
    torch.testing.assert_close(q.perplexity(), reference.perplexity())
    assert torch.equal(q.mode, torch.tensor([0, 1]))
    assert q.mean.isnan().all() and q.variance.isnan().all()
    assert q.mean.shape == reference.mean.shape
    assert torch.equal(q.enumerate_support(), reference.enumerate_support())
    assert torch.equal(q.enumerate_support(False), reference.enumerate_support(False))
    value = torch.tensor([[0, 1], [2, 0], [1, 2]])
    ours = q.log_prob(value)
    inside = ours > -INF
    assert inside.tolist() == [[True, True], [True, True], [False, False]]
    torch.testing.assert_close(ours[inside], reference.log_prob(value)[inside])
    torch.testing.assert_close(q.log_prob(torch.tensor(0)), probs[:, 0].log())
    assert q.support_constraint.check(value).tolist() == inside.tolist()
    with pytest.raises(NotImplementedError):
        q.rsample()
    with pytest.raises(NotImplementedError):
        q.expand((3,))


def test_samples_have_torchs_shapes_and_come_from_the_generator() -> None:
    scores = normal(3, 5)
    for q, event in (
        (sparsum.SparseDistribution.from_dense(sparsemax(scores)), ()),
        (sparsum.sparsemap(sparsum.BitVector(5), scores), (5,)),
        (sparsum.Gibbs(sparsum.Categorical(5), scores), ()),
        (sparsum.Gibbs(sparsum.Subset(5, 2), scores), (5,)),
    ):
        dtype = torch.float64 if event else torch.int64
        for shape in ((), (4,), (2, 3), (0,)):
            draws = q.sample(shape, torch.Generator().manual_seed(5))
            assert draws.shape == (*shape, 3, *event) and draws.dtype == dtype
        again = q.sample((2, 3), torch.Generator().manual_seed(5))
        assert torch.equal(again, q.sample((2, 3), torch.Generator().manual_seed(5)))
        assert not torch.equal(again, q.sample((2, 3), torch.Generator().manual_seed(6)))
        assert q.sample(4).shape == (4, 3, *event)
        torch.manual_seed(1)
        first = q.sample((20,))
        torch.manual_seed(1)
        assert torch.equal(first, q.sample((20,)))
        assert bool((q.log_prob(first) > -INF).all())
        many = q.sample((4000,), torch.Generator().manual_seed(2))
        expected = q.marginals()
        if not event:
            many = torch.nn.functional.one_hot(many, 5)
        torch.testing.assert_close(many.double().mean(0), expected, atol=0.05, rtol=0)
        pairs = q.sample_assignments(3, torch.Generator().manual_seed(5))
        assert pairs.count == 9 and pairs.evaluations().tolist() == [3, 3, 3]
        with pytest.raises(TypeError, match="must be torch.Generator, not NoneType"):
            q.sample_assignments(3, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("structure", [sparsum.BitVector(4), sparsum.Budget(4, 2)], ids=repr)
def test_vectors_of_bits_as_a_torch_distribution(structure: Any) -> None:
    scores = normal(3, 4)
    q = sparsum.Gibbs(structure, scores)
    listed = bits(4)[(bits(4).sum(1) <= structure.most)]
    log_probs = (scores @ listed.T).log_softmax(1)
    probs = log_probs.exp()
    assert q.batch_shape == (3,) and q.event_shape == (4,)
    torch.testing.assert_close(q.mean, probs @ listed)
    torch.testing.assert_close(q.variance, probs @ listed * (1 - probs @ listed))
    torch.testing.assert_close(q.stddev, q.variance.sqrt())
    torch.testing.assert_close(q.entropy(), -(probs * log_probs).sum(1))
    assert torch.equal(q.mode, listed[probs.argmax(1)])
    ours = q.log_prob(listed.unsqueeze(1).expand(-1, 3, -1))
    torch.testing.assert_close(ours, log_probs.T)
    everything = q.enumerate_support()
    assert everything.shape == (len(listed), 3, 4)
    torch.testing.assert_close(q.log_prob(everything).exp().sum(0), torch.ones(3).double())
    assert bool(q.support.check(everything).all())
    if structure.most < 4:
        assert bool((q.log_prob(torch.ones(4)) == -INF).all())
    listing = q.enumerate()
    torch.testing.assert_close(listing.probs.view(3, -1).sum(1), torch.ones(3).double())
    torch.testing.assert_close(listing.log_prob(everything), q.log_prob(everything))
    if structure.free:
        reference = torch.distributions.Independent(torch.distributions.Bernoulli(logits=scores), 1)
        torch.testing.assert_close(q.log_prob(everything), reference.log_prob(everything))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (torch.tensor([0, 7]), ValueError, r"expected value to be an index in 0 ... 2, got 7"),
        (torch.tensor([0, -1]), ValueError, "got -1"),
        (torch.tensor([0.0, 1.0]), ValueError, "to hold indices"),
        (torch.tensor([0, 1, 2]), (RuntimeError, ValueError), "broadcast|Shape"),
        ([0, 1], TypeError, "must be Tensor or Assignments, not list"),
    ],
)
def test_values_that_no_outcome_can_have(value: Any, error: Any, message: str) -> None:
    q = sparsum.SparseDistribution.from_dense(torch.tensor([[0.5, 0.5, 0], [1.0, 0, 0]]))
    with pytest.raises(error, match=message):
        q.log_prob(value)


def test_the_arguments_of_a_sparse_distribution() -> None:
    z = sparsum.one_per_example(torch.tensor([1, 0]), 3)
    q = sparsum.SparseDistribution(z, torch.ones(2), torch.tensor([True, False]))
    assert q.exact is not None and q.exact.tolist() == [True, False]
    with pytest.raises(RuntimeError, match=r"expected probs to be \[n\] = \[2\], got \[3\]"):
        sparsum.SparseDistribution(z, torch.ones(3))
    with pytest.raises(RuntimeError, match="expected exact to be bool"):
        sparsum.SparseDistribution(z, torch.ones(2), torch.ones(2))
    with pytest.raises(TypeError, match="'support' .* must be Assignments, not Tensor"):
        sparsum.SparseDistribution(torch.ones(2), torch.ones(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be Tensor, not list"):
        sparsum.SparseDistribution.from_dense([[1.0]])  # type: ignore[arg-type]


def test_distributions_copy_and_pickle() -> None:
    scores = normal(2, 4)
    for q in (
        sparsum.sparsemap(sparsum.BitVector(4), scores),
        sparsum.Gibbs(sparsum.Budget(4, 2), scores),
    ):
        for other in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q)):
            assert type(other) is type(q)
            assert torch.equal(other.marginals(), q.marginals())


def test_gibbs_refuses_what_has_no_structure() -> None:
    with pytest.raises(TypeError, match="'structure' .* must be Structure, not int"):
        sparsum.Gibbs(5, torch.zeros(1, 5))  # type: ignore[arg-type]


def test_a_distribution_keeps_its_structure_alive() -> None:
    q = sparsum.Gibbs(sparsum.Budget(5, 2), normal(2, 5))
    estimator = sparsum.make_estimator("sfe")
    of_estimator = estimator.distribution(sparsum.Budget(5, 2), normal(2, 5))
    trash = [sparsum.Budget(5, 4) for _ in range(100)]
    assert len(trash) == 100
    torch.testing.assert_close(of_estimator.marginals(), q.marginals())
    assert isinstance(of_estimator, sparsum.Gibbs)


# SparseMAP.


@pytest.mark.parametrize("algorithm", ["active-set", "closed-form"])
@pytest.mark.parametrize("encoding", ["one-state", "both-states"])
def test_sparsemap_of_bits(algorithm: Any, encoding: Any) -> None:
    scores = normal(6, 5).requires_grad_()
    expected = (scores if encoding == "one-state" else (scores + 1) / 2).clamp(0, 1)
    structure = sparsum.BitVector(5)
    result = sparsum.solve_sparsemap(structure, scores, algorithm=algorithm, encoding=encoding)
    torch.testing.assert_close(result.marginals, expected)
    torch.testing.assert_close(result.distribution.marginals(), expected)
    assert result.distribution.exact is not None and bool(result.distribution.exact.all())
    assert float(result.gap.max()) < 1e-8
    assert (int(result.iterations.max()) > 0) == (algorithm == "active-set")
    own = result.distribution.support.sum_per_example(result.distribution.probs)
    torch.testing.assert_close(own, torch.ones(6, dtype=torch.float64))
    direct = sparsum.sparsemap_marginals(structure, scores, encoding=encoding)
    torch.testing.assert_close(direct, expected)
    weight = normal(6, 5, seed=9)
    (ours,) = torch.autograd.grad((direct * weight).sum(), scores, retain_graph=True)
    (reference,) = torch.autograd.grad((expected * weight).sum(), scores)
    torch.testing.assert_close(ours, reference)


def test_sparsemap_of_a_categorical_is_sparsemax() -> None:
    scores = normal(4, 6)
    q = sparsum.sparsemap(sparsum.Categorical(6), scores)
    torch.testing.assert_close(q.to_dense(), sparsemax(scores))


def test_sparsemap_starts_where_it_is_told() -> None:
    scores = normal(8, 6)
    structure = sparsum.Budget(6, 3)
    expected = sparsum.sparsemap_marginals(structure, scores)
    random = sparsum.sparsemap(
        structure, scores, init="random", generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(random.marginals(), expected)
    first = sparsum.solve_sparsemap(structure, scores)
    again = sparsum.solve_sparsemap(structure, scores, warm_start=first.distribution)
    torch.testing.assert_close(again.marginals, expected)
    assert int(again.iterations.sum()) <= int(first.iterations.sum())
    short = sparsum.solve_sparsemap(structure, scores * 0.1, max_iterations=1)
    assert not bool(short.converged.all())


@pytest.mark.parametrize("structure", [sparsum.Budget(5, 2), NoNeighbours(5)], ids=["bits", "own"])
def test_sparsemap_loss(structure: Any) -> None:
    scores = (0.7 * normal(4, 5)).requires_grad_()
    target = structure.map(normal(4, 5, seed=1)).values(torch.float64)
    loss = sparsum.sparsemap_loss(structure, scores, target)
    assert bool((loss >= 0).all())
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    marginals = sparsum.sparsemap_marginals(structure, scores)
    torch.testing.assert_close(gradient, (marginals - target).detach(), atol=1e-7, rtol=1e-6)
    zero = sparsum.sparsemap_loss(structure, scores, marginals.detach())
    torch.testing.assert_close(zero, torch.zeros(4, dtype=torch.float64), atol=1e-8, rtol=0)


def test_sparsemap_of_a_python_structure_has_gradients() -> None:
    structure = NoNeighbours(5)
    scores = (0.5 * normal(2, 5, seed=4)).requires_grad_()
    weight = normal(5, seed=5)

    def cost(s: torch.Tensor) -> torch.Tensor:
        q = sparsum.sparsemap(structure, s)
        return sparsum.expectation(q, lambda z: z.values(torch.float64) @ weight)

    assert torch.autograd.gradcheck(cost, scores)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"encoding": "two"}, ValueError, "encoding to be 'one-state' or 'both-states', got 'two'"),
        ({"algorithm": "x"}, ValueError, "algorithm to be 'active-set' or 'closed-form', got 'x'"),
        ({"init": "x"}, ValueError, "init to be 'map' or 'random', got 'x'"),
        ({"init": "random"}, RuntimeError, "expected a generator"),
        ({"tolerance": 0}, ValueError, "expected a finite tolerance > 0, got 0"),
        ({"max_iterations": -1}, ValueError, "expected max_iterations >= 0, got -1"),
        ({"max_iterations": 1.5}, TypeError, "must be int, not float"),
        ({"warm_start": 3}, TypeError, "'warm_start' must be SparseDistribution, not int"),
    ],
)
def test_options_of_sparsemap(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sparsum.sparsemap(sparsum.BitVector(3), torch.zeros(1, 3), **options)


def test_both_states_and_the_closed_form_are_for_bits() -> None:
    for options in ({"encoding": "both-states"}, {"algorithm": "closed-form"}):
        with pytest.raises(RuntimeError, match=r"for bits, got no-neighbours\(3\)"):
            sparsum.sparsemap(NoNeighbours(3), torch.zeros(1, 3), **options)  # type: ignore


# Top-k.


@pytest.mark.parametrize("structure", [sparsum.BitVector(5), WithLists(5)], ids=["bits", "own"])
def test_structured_top_k(structure: Any) -> None:
    top_k = sparsum.distributions.top_k_sparsemax
    scores = (0.5 * normal(4, 5)).requires_grad_()
    listed = bits(5)
    if not isinstance(structure, sparsum.BitVector):
        listed = torch.tensor(structure.outcomes(), dtype=torch.float64)
    totals = scores @ listed.T
    full = sparsemax(totals)
    for k in (1, 3, 8):
        q = top_k(structure, scores, k)
        kept = totals.topk(k)
        expected = torch.zeros_like(full).scatter(1, kept.indices, sparsemax(kept.values))
        torch.testing.assert_close(q.marginals(), expected @ listed)
        assert q.exact is not None
        exact = torch.isclose(full.sort(1).values, expected.sort(1).values).all(1)
        assert q.exact.tolist() == exact.tolist()
    adaptive = sparsum.adaptive_top_k_sparsemax(structure, scores, 2, len(listed))
    assert adaptive.exact is not None and bool(adaptive.exact.all())
    torch.testing.assert_close(adaptive.marginals(), full @ listed)
    with pytest.raises((RuntimeError, ValueError), match="k >= 1"):
        top_k(structure, scores, 0)


def test_top_k_sparsemax_takes_a_structure_too() -> None:
    scores = normal(3, 4)
    q = sparsum.top_k_sparsemax(sparsum.BitVector(4), scores, 2)
    assert isinstance(q, sparsum.SparseDistribution)
    same = sparsum.distributions.top_k_sparsemax(sparsum.BitVector(4), scores, 2)
    assert torch.equal(q.probs, same.probs)


def test_repeatability() -> None:
    scores = normal(50, 8, dtype=torch.float32)
    first = sparsum.sparsemap(sparsum.Budget(8, 3), scores)
    second = sparsum.sparsemap(sparsum.Budget(8, 3), scores)
    assert torch.equal(first.probs, second.probs)
    assert torch.equal(first.support.values(), second.support.values())


@pytest.mark.parametrize("row", [[math.nan, 1.0], [0.5, 0.6], [-0.5, 1.5], [0.0, 0.0]])
def test_from_dense_refuses_rows_that_are_no_distributions(row):
    probs = torch.tensor([[0.5, 0.5], row])
    with pytest.raises(ValueError, match="expected each row of probs to be a distribution, got row 1"):
        sparsum.SparseDistribution.from_dense(probs)
