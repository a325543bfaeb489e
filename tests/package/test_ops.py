"""sparsum.ops and sparsum.nn: values, derivatives, what is refused, threads and memory.

The cases are those of tests/ops in C++, through Python.
"""

from __future__ import annotations

import copy
import pickle
import resource
import threading

import pytest
import torch

import sparsum
from sparsum import nn, ops

INF = float("inf")
NAN = float("nan")

MAPS = {
    "sparsemax": sparsum.sparsemax,
    "top_2_sparsemax": lambda s, dim=-1: sparsum.top_k_sparsemax(s, 2, dim)[0],
    "softmax": lambda s, dim=-1: sparsum.entmax(s, 1, dim),
    "entmax_1_2": lambda s, dim=-1: sparsum.entmax(s, 1.2, dim),
    "entmax_1_5": sparsum.entmax15,
    "entmax_2": lambda s, dim=-1: sparsum.entmax(s, 2.0, dim),
    "entmax_3": lambda s, dim=-1: sparsum.entmax(s, 3.0, dim),
}


@pytest.fixture(params=MAPS)
def simplex_map(request):
    return MAPS[request.param]


@pytest.fixture
def randn():
    generator = torch.Generator().manual_seed(7)

    def draw(*sizes, dtype=torch.double):
        return torch.randn(*sizes, generator=generator, dtype=dtype)

    return draw


# --- maps ----------------------------------------------------------------------------------------


def test_by_hand():
    probs = sparsum.sparsemax(torch.tensor([1.0, 0.5, -1.0]))
    torch.testing.assert_close(probs, torch.tensor([0.75, 0.25, 0.0]), rtol=0, atol=1e-7)
    # α = 1.5: p = (s/2 − τ)²; for scores (0, 1), (½ − τ)² + τ² = 1.
    probs = sparsum.entmax15(torch.tensor([0.0, 1.0], dtype=torch.double))
    tau = (1 - 7**0.5) / 4
    expected = torch.tensor([tau**2, (0.5 - tau) ** 2], dtype=torch.double)
    torch.testing.assert_close(probs, expected, rtol=0, atol=1e-14)


def test_holds_on_the_simplex_and_keeps_the_order(simplex_map, randn):
    scores = 2 * randn(200, 30)
    probs = simplex_map(scores)
    assert (probs >= 0).all()
    assert (probs.sum(-1) - 1).abs().max() < 1e-13
    assert (probs.gather(-1, scores.argsort(-1)).diff() >= 0).all()


def test_solves_its_equation(randn):
    """p^{α−1} = (α − 1)s − τ on the support, and the rest is not above τ."""
    scores = randn(50, 20)
    for alpha in (1.2, 1.5, 2.0, 3.0):
        probs = sparsum.entmax(scores, alpha)
        on = probs > 0
        tau = torch.where(on, (alpha - 1) * scores - probs ** (alpha - 1), NAN)
        centre = tau.nanmean(-1, keepdim=True)
        assert torch.where(on, tau - centre, 0.0).abs().max() < 1e-10
        assert torch.where(on, -INF, (alpha - 1) * scores - centre).max() < 1e-10
    torch.testing.assert_close(sparsum.entmax(scores, 1), scores.softmax(-1))
    assert torch.equal(sparsum.entmax(scores, 2.0), sparsum.sparsemax(scores))


def test_any_dim_and_stride(simplex_map, randn):
    scores = randn(4, 7, 5)
    for dim in range(-3, 3):
        expected = simplex_map(scores.transpose(dim, -1).contiguous()).transpose(dim, -1)
        assert torch.equal(simplex_map(scores, dim), expected)
    strided = randn(6, 20)[:, ::2]
    assert torch.equal(simplex_map(strided), simplex_map(strided.contiguous()))
    expanded = randn(1, 12).expand(3, 12)
    assert torch.equal(simplex_map(expanded), simplex_map(expanded.contiguous()))


def test_first_and_second_gradients(simplex_map, randn):
    scores = (0.7 * randn(4, 5)).requires_grad_()
    assert torch.autograd.gradcheck(simplex_map, (scores,))
    assert torch.autograd.gradgradcheck(simplex_map, (scores,), atol=2e-5)


def test_alpha_tensor_is_broadcast_and_differentiated(randn):
    scores = randn(3, 2, 5).requires_grad_()
    alpha = torch.tensor([[1.3], [2.2]], dtype=torch.double, requires_grad=True)
    probs = sparsum.entmax(scores, alpha)
    for head, value in enumerate((1.3, 2.2)):
        torch.testing.assert_close(probs[:, head], sparsum.entmax(scores[:, head], value))
    assert torch.autograd.gradcheck(sparsum.entmax, (scores, alpha))
    scalar = torch.tensor(1.5, dtype=torch.double, requires_grad=True)
    (sparsum.entmax(scores, scalar) ** 2).sum().backward()
    assert scalar.grad is not None and scalar.grad != 0
    one = torch.tensor([1.5], dtype=torch.double, requires_grad=True)
    (sparsum.entmax(scores.detach(), one) ** 2).sum().backward()
    torch.testing.assert_close(one.grad.squeeze(), scalar.grad)


def test_second_derivatives_in_alpha_are_refused(randn):
    alpha = torch.tensor(1.5, dtype=torch.double, requires_grad=True)
    (grad,) = torch.autograd.grad(
        (sparsum.entmax(randn(3), alpha) ** 2).sum(), alpha, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="second derivatives in alpha"):
        grad.backward()


def test_forbidden_scores_get_zero_and_no_gradient(simplex_map, randn):
    scores = randn(3, 8)
    scores[:, 2] = -INF
    scores.requires_grad_()
    probs = simplex_map(scores)
    assert (probs[:, 2] == 0).all()
    (probs * randn(3, 8)).sum().backward()
    assert (scores.grad[:, 2] == 0).all() and scores.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_types_are_float32_rounded(simplex_map, randn, dtype):
    scores = (20 * randn(30, 40)).to(dtype)
    probs = simplex_map(scores)
    assert probs.dtype == dtype and probs.isfinite().all()
    assert torch.equal(probs, simplex_map(scores.float()).to(dtype))


def test_empty_batches_stay_empty(simplex_map):
    assert simplex_map(torch.empty(0, 5)).shape == (0, 5)
    assert simplex_map(torch.empty(2, 0, 3)).shape == (2, 0, 3)


def test_meta_tensors_get_the_shape(simplex_map):
    probs = simplex_map(torch.empty(3, 4, device="meta"))
    assert probs.device.type == "meta" and probs.shape == (3, 4)


def test_top_k_ties_and_certificate():
    probs, exact = sparsum.top_k_sparsemax(torch.tensor([[1.0, 1.0, 1.0], [3.0, 0.0, 0.0]]), 2)
    assert probs.tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    assert exact.tolist() == [False, True]
    probs, exact = sparsum.top_k_sparsemax(scores=torch.zeros(3, 2), k=5, dim=0)
    torch.testing.assert_close(probs, torch.full((3, 2), 1 / 3))
    assert exact.tolist() == [True, True]


def test_top_k_of_a_structure(randn):
    from sparsum.structures import BitVector

    scores = randn(2, 4)
    for found in (
        sparsum.top_k_sparsemax(BitVector(4), scores, 3),
        sparsum.top_k_sparsemax(structure=BitVector(4), scores=scores, k=3),
    ):
        assert isinstance(found, sparsum.SparseDistribution)


def test_support():
    splits, rows, indices = sparsum.support(torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    assert splits.tolist() == [0, 2, 3]
    assert rows.tolist() == [0, 0, 1] and indices.tolist() == [0, 2, 1]


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sparsum.sparsemax([1.0, 2.0]), TypeError,
         r"sparsemax\(\): argument 'scores' must be Tensor, not list"),
        (lambda: sparsum.entmax(torch.zeros(2).numpy()), TypeError,
         r"entmax\(\): argument 'scores' must be Tensor, not numpy.ndarray"),
        (lambda: sparsum.entmax(torch.zeros(2), "1.5"), TypeError,
         r"entmax\(\): argument 'alpha' must be float or Tensor, not str"),
        (lambda: sparsum.sparsemax(torch.zeros(2), 0.5), TypeError,
         r"sparsemax\(\): argument 'dim' must be int, not float"),
        (lambda: sparsum.top_k_sparsemax([1.0], 1), TypeError,
         r"top_k_sparsemax\(\): argument 'scores' must be Tensor, not list"),
        (lambda: sparsum.sparsemax(torch.zeros(2, dtype=torch.long)), TypeError,
         "sparsemax: expected scores to be floating point, got Long"),
        (lambda: sparsum.entmax15(torch.zeros(2, dtype=torch.cfloat)), TypeError,
         "entmax15: expected scores to be floating point, got ComplexFloat"),
        (lambda: sparsum.sparsemax(torch.zeros(2, 3), 2), IndexError,
         r"sparsemax: expected dim in \[-2, 1\], got 2"),
        (lambda: sparsum.sparsemax(torch.tensor(1.0)), RuntimeError, "got a scalar"),
        (lambda: sparsum.sparsemax(torch.zeros(2, 0)), RuntimeError, "at least one score"),
        (lambda: sparsum.sparsemax(torch.tensor([[1.0], [NAN]])), ValueError, "nan in row 1"),
        (lambda: sparsum.entmax(torch.full((2, 2), -INF)), ValueError, "only -inf in row 0"),
        (lambda: sparsum.entmax(torch.zeros(2), 0.9), ValueError, "alpha to be finite and >= 1"),
        (lambda: sparsum.entmax(torch.zeros(2, 3), torch.ones(2, 3)), RuntimeError,
         "expected alpha to broadcast"),
        (lambda: sparsum.entmax(torch.zeros(2, 3), torch.ones(2, 1, device="meta")), RuntimeError,
         "expected all tensors to be on the same device"),
        (lambda: sparsum.top_k_sparsemax(torch.zeros(2), 0), ValueError, "expected k >= 1, got 0"),
        (lambda: sparsum.entmax_loss(torch.zeros(2, 3), [0, 1]), TypeError,
         r"entmax_loss\(\): argument 'target' must be Tensor, not list"),
        (lambda: sparsum.entmax_loss(torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2)),
         TypeError, r"entmax_loss\(\): argument 'alpha' must be float, not Tensor"),
        (lambda: sparsum.entmax_loss(torch.zeros(2, 3), torch.tensor([0, 3])), IndexError,
         "got 3 for row 1"),
        (lambda: sparsum.entmax_loss(torch.zeros(2, 3), torch.tensor([0, 1]), reduction="avg"),
         ValueError, "expected reduction to be 'none', 'mean' or 'sum', got 'avg'"),
        (lambda: sparsum.entmax_loss(torch.zeros(2, 3), torch.tensor([0, 1], device="meta")),
         RuntimeError, "scores on cpu and target on meta"),
        (lambda: nn.Entmax(0.5), ValueError, "finite and >= 1, got 0.5"),
        (lambda: nn.Entmax(1.0, learnable=True), ValueError, "finite and > 1, got 1.0"),
        (lambda: nn.TopKSparsemax(0), ValueError, "expected k >= 1, got 0"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "name",
    ["sparsemax", "entmax", "entmax15", "sparsemax_loss", "entmax_loss", "entmax15_loss"],
)
def test_errors_name_the_function_that_was_called(name):
    call = getattr(sparsum, name)
    rest = (torch.tensor([0, 1]),) if name.endswith("loss") else ()
    with pytest.raises(ValueError, match=f"^{name}: expected scores .* got nan in row 1"):
        call(torch.tensor([[0.0, 1.0], [NAN, 0.0]]), *rest)
    with pytest.raises(TypeError, match=f"^{name}: expected scores to be floating point, got Long"):
        call(torch.zeros(2, 2, dtype=torch.long), *rest)
    with pytest.raises(TypeError, match=rf"^{name}\(\): argument 'scores' must be Tensor, not list"):
        call([0.0], *rest)
    if rest:
        with pytest.raises(IndexError, match=f"^{name}: expected target in .* got 5 for row 1"):
            call(torch.zeros(2, 2), torch.tensor([0, 5]))


# --- losses --------------------------------------------------------------------------------------


def test_loss_is_the_fenchel_young_loss(randn):
    scores = randn(6, 5)
    target = torch.arange(6) % 5
    one_hot = torch.nn.functional.one_hot(target, 5).double()
    for alpha in (1.3, 1.5, 2.0, 3.0):
        p = sparsum.entmax(scores, alpha)
        entropy = (1 - (p**alpha).sum(-1)) / (alpha * (alpha - 1))
        expected = entropy + ((p - one_hot) * scores).sum(-1)
        losses = sparsum.entmax_loss(scores, target, alpha, reduction="none")
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-12)
        dense = sparsum.entmax_loss(scores, one_hot, alpha, reduction="none")
        torch.testing.assert_close(dense, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        sparsum.entmax_loss(scores, target, 1), torch.nn.functional.cross_entropy(scores, target)
    )
    assert torch.equal(
        sparsum.sparsemax_loss(scores, target), sparsum.entmax_loss(scores, target, 2)
    )
    assert torch.equal(sparsum.entmax15_loss(scores, target), sparsum.entmax_loss(scores, target))


def test_reductions_and_ignored_rows_are_cross_entropys(randn):
    scores = randn(5, 4)
    for ignore in (-100, -1, 2):
        target = torch.tensor([0, ignore, 3, 1, ignore])
        for reduction in ("none", "mean", "sum"):
            ours = sparsum.entmax_loss(
                scores, target, 1.0, ignore_index=ignore, reduction=reduction
            )
            theirs = torch.nn.functional.cross_entropy(
                scores, target, ignore_index=ignore, reduction=reduction
            )
            torch.testing.assert_close(ours, theirs)
    assert sparsum.sparsemax_loss(scores[:1], torch.tensor([-100])).isnan()


def test_loss_gradients(randn):
    scores = randn(4, 5).requires_grad_()
    target = torch.tensor([0, 4, -100, 2])
    for alpha in (1.4, 1.5, 2.0):
        loss = lambda s, a=alpha: sparsum.entmax_loss(s, target, a)  # noqa: E731
        assert torch.autograd.gradcheck(loss, (scores,))
        assert torch.autograd.gradgradcheck(loss, (scores,), atol=1e-5)


def test_loss_of_a_forbidden_target_is_infinite():
    scores = torch.tensor([[0.0, -INF], [-INF, 0.0]], requires_grad=True)
    losses = sparsum.entmax_loss(scores, torch.tensor([0, 0]), reduction="none")
    assert losses.tolist() == [0.0, INF]
    losses.sum().backward()
    assert scores.grad.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


def test_fused_losses(randn):
    features, weight, bias = randn(3, 6, 2), randn(4, 2), randn(4)
    targets, rows = torch.randint(4, (2, 6), generator=torch.Generator().manual_seed(1)), (
        torch.tensor([0, 1, 1])
    )
    scores = features @ weight.T + bias
    expected = torch.nn.functional.cross_entropy(
        scores.transpose(1, 2), targets[rows], reduction="none"
    ).sum(1)
    nll = sparsum.linear_cross_entropy(features, weight, bias, targets, rows)
    torch.testing.assert_close(nll, expected)
    e, u, w = randn(2, 3), randn(4), randn(4)
    expected = torch.sigmoid(torch.sigmoid(e.unsqueeze(-1) * u) @ w)
    torch.testing.assert_close(sparsum.scalar_perceptron(e, u, w), expected)
    inputs = [t.requires_grad_() for t in (e, u, w)]
    assert torch.autograd.gradcheck(sparsum.scalar_perceptron, inputs)
    inputs = [t.requires_grad_() for t in (features, weight, bias)]
    assert torch.autograd.gradcheck(
        lambda f, w, b: sparsum.linear_cross_entropy(f, w, b, targets, rows), inputs
    )


# --- modules -------------------------------------------------------------------------------------

MODULES = [
    nn.Sparsemax(dim=0),
    nn.Entmax(1.3),
    nn.Entmax(torch.tensor([[1.2], [2.0]])),
    nn.Entmax(1.3, learnable=True),
    nn.Entmax(torch.tensor([[1.2], [2.5]]), dim=1, learnable=True),
    nn.Entmax15(),
    nn.TopKSparsemax(2),
]
LOSSES = [
    nn.SparsemaxLoss(ignore_index=-1),
    nn.EntmaxLoss(1.3, reduction="sum"),
    nn.Entmax15Loss(reduction="none"),
]


@pytest.mark.parametrize("module", MODULES + LOSSES, ids=repr)
def test_modules_are_copied_pickled_and_loaded(module, randn):
    scores = randn(2, 4, dtype=torch.float)
    inputs = (scores, torch.tensor([1, 3])) if module in LOSSES else (scores,)
    expected = module(*inputs)
    others = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    other = copy.deepcopy(module)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    other.load_state_dict(module.state_dict())
    for other in [*others, other]:
        assert repr(other) == repr(module)
        assert torch.equal(other(*inputs), expected)


def test_module_values_and_text(randn):
    scores = randn(2, 4)
    assert torch.equal(nn.Sparsemax(0)(scores), sparsum.sparsemax(scores, 0))
    assert torch.equal(nn.Entmax(1.3)(scores), sparsum.entmax(scores, 1.3))
    learned = nn.Entmax(1.3, learnable=True)
    torch.testing.assert_close(learned(scores), sparsum.entmax(scores, 1.3), rtol=0, atol=1e-6)
    assert repr(learned) == "Entmax(alpha=1.3, dim=-1, learnable=True)"
    assert repr(nn.Entmax15Loss()) == "Entmax15Loss(dim=-1, ignore_index=-100, reduction='mean')"
    assert repr(nn.EntmaxLoss()) == (
        "EntmaxLoss(alpha=1.5, dim=-1, ignore_index=-100, reduction='mean')"
    )


def test_learned_alpha_stays_above_one():
    layer = nn.Entmax(1.5, learnable=True).double()
    scores = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.double)
    target = torch.softmax(scores, -1)
    optimiser = torch.optim.SGD(layer.parameters(), lr=50.0)
    first = None
    for _ in range(100):
        loss = (layer(scores) - target).square().sum()
        first = loss.item() if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert layer.alpha >= 1 and torch.isfinite(layer.raw_alpha).all()
    assert loss < first / 10


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_scripted_modules(randn):
    scores = randn(2, 4)
    for module in (nn.Sparsemax(0), nn.Entmax15(), nn.TopKSparsemax(2)):
        for other in (torch.jit.script(module), torch.jit.trace(module, scores)):
            assert torch.equal(other(scores + 1), module(scores + 1))


# --- threads, memory, determinism ----------------------------------------------------------------


def test_two_threads_at_once(randn):
    scores = randn(64, 300)
    expected = [sparsum.sparsemax(scores), sparsum.entmax(scores, 1.3)]
    failures = []

    def work():
        for _ in range(20):
            got = [sparsum.sparsemax(scores), sparsum.entmax(scores, 1.3)]
            if not all(map(torch.equal, got, expected)):
                failures.append(got)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_memory_stays_where_it_is(randn):
    scores = randn(8, 64, dtype=torch.float).requires_grad_()
    alpha = torch.tensor(1.5, requires_grad=True)

    def work(count):
        for _ in range(count):
            sparsum.sparsemax(scores).backward(scores.detach())
            sparsum.entmax(scores, alpha)
            try:
                sparsum.sparsemax(None)
            except TypeError:
                pass
            scores.grad = None

    work(500)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work(10_000)
    # One tensor kept a call would be 20 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6_000


def test_deterministic_algorithms(randn):
    scores, target = randn(10, 20).requires_grad_(), torch.arange(10)
    torch.use_deterministic_algorithms(True)
    try:
        for _, apply in MAPS.items():
            first, second = ((apply(scores) ** 2).sum() for _ in range(2))
            grads = [torch.autograd.grad(f, scores)[0] for f in (first, second)]
            assert torch.equal(*grads)
        sparsum.entmax_loss(scores, target).backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_subclasses_and_modes_override(randn):
    seen = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    scores = randn(2, 3)
    result = ops.sparsemax(scores.as_subclass(Logged))
    assert seen[0] is ops.sparsemax and type(result) is Logged
    assert torch.equal(result.as_subclass(torch.Tensor), ops.sparsemax(scores))

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Mode():
        ops.entmax_loss(scores, torch.tensor([0, 1]), reduction="sum")
    assert ops.entmax_loss in seen
    assert nn.Sparsemax()(torch.nn.Parameter(scores)).requires_grad
