"""The ops under opcheck, torch.compile, torch.export, torch.func and autocast."""

from __future__ import annotations

import warnings

import numpy
import pytest
import torch

import sparsum
from sparsum import nn, ops
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

registered = torch.ops.sparsum


def randn(*sizes, seed=0, dtype=torch.double):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*sizes, generator=generator, dtype=dtype)


ALPHA = torch.tensor([[1.3], [1.5], [2.0], [2.5]], dtype=torch.double)
TARGET = torch.tensor([0, 4, -100, 2])

FUNCTIONS = {
    "sparsemax": sparsum.sparsemax,
    "sparsemax_dim_0": lambda s: sparsum.sparsemax(s, 0),
    "entmax15": sparsum.entmax15,
    "entmax_3": lambda s: sparsum.entmax(s, 3.0),
    "entmax_tensor": lambda s: sparsum.entmax(s, ALPHA),
    "top_k_sparsemax": lambda s: sparsum.top_k_sparsemax(s, 2)[0],
    "entmax_loss": lambda s: sparsum.entmax_loss(s, TARGET, 1.4),
    "entmax_loss_none": lambda s: sparsum.entmax_loss(s, TARGET, reduction="none"),
    "entmax_loss_dense": lambda s: sparsum.entmax_loss(s, torch.full_like(s, 0.2)),
    "sparsemax_loss": lambda s: sparsum.sparsemax_loss(s, TARGET, reduction="sum"),
}


@pytest.fixture(params=FUNCTIONS)
def function(request):
    return FUNCTIONS[request.param]


# --- opcheck -------------------------------------------------------------------------------------


def cases():
    """(name, op, arguments) of every registered op."""
    scores = lambda: randn(4, 5).requires_grad_()  # noqa: E731
    probs = sparsum.entmax15(randn(4, 5))
    target = TARGET.clone()
    bits = randn(3, 4, seed=3)
    marginals, tight = registered.sparsemap_marginals(bits, 1, 2, False)
    found = registered.sparsemap_active_set(bits, 1, 2)
    splits, configurations, weights = found[:3]
    lce = (randn(3, 6, 2), randn(4, 2), randn(4), torch.zeros(2, 6).long(), torch.tensor([0, 1, 1]))
    e, u, w = randn(2, 3), randn(4), randn(4)
    _, outer, slopes = registered.scalar_perceptron_forward(e, u, w, True)
    tracked = lambda *ts: tuple(t.clone().requires_grad_() for t in ts)  # noqa: E731
    return {
        "sparsemax": (scores(), -1),
        "sparsemax_backward": (scores(), probs, 1),
        "top_k_sparsemax": (scores(), 2, 0),
        "entmax": (scores(), 1.5, -1),
        "entmax.Tensor": (scores(), ALPHA.clone().requires_grad_(), -1),
        "entmax_backward": (scores(), probs.clone().requires_grad_(), 1.5, -1),
        "entmax_backward.Tensor": (scores(), probs.clone().requires_grad_(), ALPHA, -1),
        "entmax_backward_alpha": (randn(4, 5), probs, ALPHA, -1),
        "normmax": (scores(), ALPHA, -1),
        "normmax_backward": (scores(), probs.clone().requires_grad_(), ALPHA, -1),
        "budget_sparsemax": (scores(), ALPHA.clone().requires_grad_(), -1),
        "budget_sparsemax_backward": (scores(), probs, -1),
        "entmax_loss_forward": (scores(), target, 1.5, -1, -100),
        "entmax_loss_backward": (randn(4), probs, target, -1, -100),
        "entmax_loss": (scores(), target, 1.5, -1, -100, 1),
        "sparsemax_loss": (scores(), target, -1, -100, 2),
        "linear_cross_entropy": (*tracked(*lce[:3]), *lce[3:]),
        "linear_cross_entropy_forward": (*lce, 3),
        "linear_cross_entropy_backward": (randn(3), *lce),
        "scalar_perceptron": tracked(e, u, w),
        "scalar_perceptron_forward": (e, u, w, True),
        "scalar_perceptron_backward": (randn(2, 3), e, u, w, outer, slopes, True),
        "k_best_bits": (bits, 1, 2, 3, False),
        "sparsemap_active_set": (bits, 1, 2),
        "sparsemap_weights": (bits.clone().requires_grad_(), weights, splits, configurations, 4),
        "sparsemap_vjp": (randn(*weights.shape), splits, configurations, 4),
        "sparsemap_vjp_transpose": (randn(3, 4), splits, configurations, 4),
        "sparsemap_marginals": (bits.clone().requires_grad_(), 1, 2, False),
        "sparsemap_marginals_backward": (randn(3, 4), marginals, tight, False),
        "sparsemap_configurations": (marginals, tight, 1, 2),
        "sparsemap_configurations_backward": configurations_backward(marginals, tight),
        "support": (probs,),
    }  # fmt: skip


def configurations_backward(marginals, tight):
    splits, *_, probs, upper, lower = registered.sparsemap_configurations(marginals, tight, 1, 2)
    return randn(*probs.shape).requires_grad_(), marginals, splits, upper, lower, True


NAMES = sorted(
    name.removeprefix("sparsum::")
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("sparsum::")
)


def test_every_op_has_a_case():
    assert sorted(cases()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name):
    packet, _, overload = name.partition(".")
    op = getattr(getattr(registered, packet), overload or "default")
    torch.library.opcheck(op, cases()[name])


# --- torch.compile and torch.export --------------------------------------------------------------


def test_compiled_is_eager(function):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    scores = [randn(4, 5).requires_grad_() for _ in range(2)]
    results = [f(s) for f, s in zip((function, compiled), scores)]
    assert torch.equal(*results)
    for result in results:
        (result**2).sum().backward()
    assert torch.equal(scores[0].grad, scores[1].grad)
    torch._dynamo.reset()


def test_compiled_for_any_size():
    compiled = torch.compile(sparsum.entmax15, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows, cols in ((2, 3), (5, 7), (4, 30)):
        scores = randn(rows, cols)
        assert torch.equal(compiled(scores), sparsum.entmax15(scores))
    torch._dynamo.reset()


def test_compiled_ragged_outputs():
    def count(scores):
        splits, rows, indices = sparsum.support(sparsum.sparsemax(scores))
        return splits, rows + indices

    compiled = torch.compile(count, fullgraph=True, backend="aot_eager")
    for scores in (randn(4, 5), randn(4, 5, seed=1)):
        for got, expected in zip(compiled(scores), count(scores)):
            assert torch.equal(got, expected)
    torch._dynamo.reset()


def test_compiled_learned_alpha():
    layer = nn.Entmax(1.5, learnable=True).double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    scores = randn(4, 5)
    (compiled(scores) ** 2).sum().backward()
    by_compiled, layer.raw_alpha.grad = layer.raw_alpha.grad, None
    (layer(scores) ** 2).sum().backward()
    torch.testing.assert_close(layer.raw_alpha.grad, by_compiled)
    assert by_compiled != 0
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_with_inductor_slow():
    def step(scores):
        return sparsum.entmax15(scores * 2).square().sum() + sparsum.sparsemax(scores).max()

    compiled = torch.compile(step, fullgraph=True)
    scores = [randn(4, 5).requires_grad_() for _ in range(2)]
    results = [f(s) for f, s in zip((step, compiled), scores)]
    torch.testing.assert_close(*results)
    for result in results:
        result.backward()
    torch.testing.assert_close(scores[0].grad, scores[1].grad)
    torch._dynamo.reset()


@pytest.mark.parametrize("module", [nn.Sparsemax(0), nn.Entmax(1.3), nn.TopKSparsemax(2)], ids=repr)
def test_exported_is_eager(module):
    batch = torch.export.Dim("batch")
    exported = torch.export.export(module, (randn(4, 5),), dynamic_shapes=({0: batch},))
    targets = [str(node.target) for node in exported.graph.nodes]
    assert any(target.startswith("sparsum.") for target in targets)
    scores = randn(7, 5)
    assert torch.equal(exported.module()(scores), module(scores))


# --- torch.func ----------------------------------------------------------------------------------


def test_grad_is_autograds(function):
    scores = randn(4, 5)
    objective = lambda s: (function(s) ** 2).sum()  # noqa: E731
    tracked = scores.clone().requires_grad_()
    (expected,) = torch.autograd.grad(objective(tracked), tracked)
    torch.testing.assert_close(grad(objective)(scores), expected)


def test_jacobians(function):
    scores = randn(4, 5)
    expected = torch.autograd.functional.jacobian(function, scores)
    torch.testing.assert_close(jacrev(function)(scores), expected)
    torch.testing.assert_close(jacfwd(function)(scores), expected)


def test_hessians(function):
    scores = 0.7 * randn(4, 5)
    objective = lambda s: (function(s) ** 2).sum()  # noqa: E731
    expected = torch.autograd.functional.hessian(objective, scores)
    torch.testing.assert_close(hessian(objective)(scores), expected)
    torch.testing.assert_close(jacrev(jacrev(objective))(scores), expected)


def test_vmap_is_a_loop(function):
    scores = randn(3, 4, 5)
    expected = torch.stack([function(s) for s in scores])
    torch.testing.assert_close(vmap(function)(scores), expected)
    last = scores.movedim(0, -1)
    torch.testing.assert_close(vmap(function, in_dims=-1)(last), expected)
    per_example = vmap(grad(lambda s: (function(s) ** 2).sum()))(scores)
    looped = torch.stack([grad(lambda s: (function(s) ** 2).sum())(s) for s in scores])
    torch.testing.assert_close(per_example, looped)
    tracked = scores.clone().requires_grad_()
    (vmap(function)(tracked) ** 2).sum().backward()
    torch.testing.assert_close(tracked.grad, looped)


def test_vmap_over_alpha_and_targets():
    scores, alpha = randn(4, 5), ALPHA.squeeze(1)
    expected = torch.stack([sparsum.entmax(scores[0], a.item()) for a in alpha])
    torch.testing.assert_close(vmap(lambda a: sparsum.entmax(scores[0], a))(alpha), expected)
    by_alpha = vmap(grad(lambda a, s: (sparsum.entmax(s, a) ** 2).sum()))(alpha, scores)
    tracked = alpha.clone().requires_grad_()
    (sparsum.entmax(scores, tracked.unsqueeze(1)) ** 2).sum().backward()
    torch.testing.assert_close(by_alpha, tracked.grad)
    losses = vmap(lambda s, y: sparsum.entmax_loss(s, y, reduction="none"))(scores, TARGET)
    expected = sparsum.entmax_loss(scores, TARGET, reduction="none")
    torch.testing.assert_close(losses, expected)


def test_vmap_of_the_registered_ops():
    scores, upstream = randn(3, 4, 5), randn(3, 4, 5, seed=1)
    probs = registered.entmax(scores, 1.5, -1)
    torch.testing.assert_close(vmap(registered.entmax.default)(scores), probs)
    backward = vmap(lambda g, p: registered.entmax_backward(g, p, 1.5, -1))
    torch.testing.assert_close(
        backward(upstream, probs), registered.entmax_backward(upstream, probs, 1.5, -1)
    )
    with pytest.raises(IndexError, match=r"expected dim in \[-1, 0\], got 1"):
        vmap(lambda s: sparsum.sparsemax(s, 1))(scores[0])
    with pytest.raises(RuntimeError, match="got a scalar"):
        vmap(sparsum.sparsemax)(scores[0, 0])


def test_forward_mode_and_what_is_refused():
    scores, tangent = randn(4, 5), randn(4, 5, seed=1)
    _, moved = jvp(sparsum.entmax15, (scores,), (tangent,))
    torch.testing.assert_close(
        moved, torch.autograd.functional.jvp(sparsum.entmax15, scores, tangent)[1]
    )
    with pytest.raises(NotImplementedError, match="forward-mode differentiation in alpha"):
        jvp(lambda a: sparsum.entmax(scores, a), (ALPHA,), (ALPHA,))
    with pytest.raises(NotImplementedError, match="second derivatives in alpha"):
        jacrev(jacrev(lambda a: (sparsum.entmax(scores, a) ** 2).sum()))(ALPHA)


def test_fused_losses_under_func():
    features, weight, bias = randn(3, 6, 2), randn(4, 2), randn(4)
    targets, rows = torch.zeros(2, 6).long(), torch.tensor([0, 1, 1])

    def objective(w):
        return sparsum.linear_cross_entropy(features, w, bias, targets, rows).sum()

    tracked = weight.clone().requires_grad_()
    objective(tracked).backward()
    torch.testing.assert_close(grad(objective)(weight), tracked.grad)
    e, u, w = randn(2, 3), randn(4), randn(4)
    perceptron = lambda e, u, w: sparsum.scalar_perceptron(e, u, w).square().sum()  # noqa: E731
    inputs = [t.clone().requires_grad_() for t in (e, u, w)]
    perceptron(*inputs).backward()
    got = grad(perceptron, argnums=(0, 1, 2))(e, u, w)
    for ours, tensor in zip(got, inputs):
        torch.testing.assert_close(ours, tensor.grad)
    torch.testing.assert_close(
        hessian(perceptron, argnums=1)(e, u, w),
        torch.autograd.functional.hessian(lambda x: perceptron(e, x, w), u),
    )


@pytest.mark.parametrize("mapped", ["features", "features, targets", "rows", "weight", "all"])
def test_linear_cross_entropy_under_vmap(mapped):
    inputs = {
        "features": randn(5, 3, 6, 2),
        "weight": randn(5, 4, 2, seed=1),
        "bias": randn(5, 4, seed=2),
        "targets": torch.randint(4, (5, 2, 6), generator=torch.Generator().manual_seed(3)),
        "rows": torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]]),
    }
    names = list(inputs) if mapped == "all" else mapped.split(", ")
    in_dims = tuple(0 if name in names else None for name in inputs)
    args = [t if d == 0 else t[0] for t, d in zip(inputs.values(), in_dims)]
    each = [[t[i] if d == 0 else t for t, d in zip(args, in_dims)] for i in range(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a rule of its own, not PyTorch's fallback
        losses = vmap(sparsum.linear_cross_entropy, in_dims)(*args)
        gradients = vmap(
            grad(lambda *a: sparsum.linear_cross_entropy(*a).sum(), argnums=(0, 1, 2)), in_dims
        )(*args)
    torch.testing.assert_close(
        losses, torch.stack([sparsum.linear_cross_entropy(*a) for a in each])
    )
    for i, own in enumerate(each):
        tracked = [t.clone().requires_grad_() for t in own[:3]]
        sparsum.linear_cross_entropy(*tracked, *own[3:]).sum().backward()
        for got, tensor in zip(gradients, tracked):
            torch.testing.assert_close(got[i], tensor.grad)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (torch.tensor([[0, 1], [-1, 0]]), IndexError, "rows in 0 … 1, got -1"),
        (torch.tensor([[0, 2], [1, 0]]), IndexError, "rows in 0 … 1, got 2"),
        (torch.tensor([[0, 1], [1, 0]], dtype=torch.int32), TypeError, "rows to be int64"),
    ],
)
def test_linear_cross_entropy_checks_mapped_rows(rows, error, message):
    targets = torch.zeros(2, 2, 3, dtype=torch.long)
    with pytest.raises(error, match=message):
        vmap(sparsum.linear_cross_entropy, (0, None, None, 0, 0))(
            randn(2, 2, 3, 4), randn(5, 4), randn(5), targets, rows
        )


@pytest.mark.parametrize("in_dims", [(0, None, None), (1, None, None), (None, 0, 0), (0, 0, None)])
def test_scalar_perceptron_under_vmap(in_dims):
    e = randn(3, 2) if in_dims[0] is None else randn(5, 3, 2).movedim(0, in_dims[0])
    u, w = (randn(*(() if d is None else (5,)), 4, seed=1) for d in in_dims[1:])
    each = [
        [t if d is None else t.select(d, i) for t, d in zip((e, u, w), in_dims)] for i in range(5)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        got = vmap(sparsum.scalar_perceptron, in_dims)(e, u, w)
        slopes = vmap(grad(lambda *a: sparsum.scalar_perceptron(*a).sum(), (0, 1, 2)), in_dims)
        gradients = slopes(e, u, w)
    by_hand = [torch.sigmoid(torch.sigmoid(e.unsqueeze(-1) * u) @ w) for e, u, w in each]
    torch.testing.assert_close(got, torch.stack(by_hand))
    for i, own in enumerate(each):
        tracked = [t.clone().requires_grad_() for t in own]
        sparsum.scalar_perceptron(*tracked).sum().backward()
        for slope, tensor in zip(gradients, tracked):
            torch.testing.assert_close(slope[i], tensor.grad)


# --- structures under torch.func -----------------------------------------------------------------


class Pairs(sparsum.Structure):
    """At most one of the first four parts; the fifth, no variable, only with the first."""

    parts = 5
    variables = 4
    outcomes = numpy.eye(5, dtype=bool)[[0, 1, 2, 3, 0, 0]]
    outcomes[4, 4] = True
    outcomes[5] = False

    def k_best_one(self, scores, k):
        return list(self.outcomes[numpy.argsort(-(self.outcomes * scores).sum(1))][:k])

    def best(self, scores):
        return self.k_best_one(scores, 1)[0]


BITS = {
    "bit_vector": sparsum.BitVector(5),
    "budget": sparsum.Budget(5, 2),
    "subset": sparsum.Subset(5, 2),
}
STRUCTURES = {**BITS, "categorical": sparsum.Categorical(5), "own": Pairs()}
POINT = 0.7 * randn(3, 5, seed=1)
# An outcome of each structure for each example.
TARGETS = {
    name: z.map(randn(3, 5, seed=7)).values(torch.double) for name, z in STRUCTURES.items()
}
WEIGHTS = torch.arange(1.0, 6.0, dtype=torch.double)


def dense_functions():
    """Functions of scores [B, V] whose results are dense, by name."""
    for name, z in STRUCTURES.items():
        yield f"marginals_{name}", lambda s, z=z: sparsum.sparsemap_marginals(z, s)
        yield f"loss_{name}", lambda s, z=z, y=TARGETS[name]: sparsum.sparsemap_loss(z, s, y)
    for name, z in BITS.items():
        both = {"encoding": "both-states"}
        yield f"marginals_{name}_both", lambda s, z=z: sparsum.sparsemap_marginals(z, s, **both)
        yield (
            f"loss_{name}_both",
            lambda s, z=z, y=TARGETS[name]: sparsum.sparsemap_loss(z, s, y, **both),
        )


def listed_functions():
    """Functions of scores [B, V] that list supports, by name."""
    for name, z in STRUCTURES.items():
        listed = {
            "sparsemap": lambda s, z=z: sparsum.sparsemap(z, s),
            "solved": lambda s, z=z: sparsum.solve_sparsemap(z, s).distribution,
            "top_k": lambda s, z=z: sparsum.top_k_sparsemax(z, s, 3),
            "adaptive": lambda s, z=z: sparsum.adaptive_top_k_sparsemax(z, s, 2, 6),
        }
        if name != "own":
            closed = {"algorithm": "closed-form"}
            listed["closed"] = lambda s, z=z: sparsum.sparsemap(z, s, **closed)
        if name in BITS:
            both = {"encoding": "both-states"}
            listed["both"] = lambda s, z=z: sparsum.sparsemap(z, s, **both)
        for kind, q in listed.items():
            yield f"{kind}_{name}_probs", lambda s, q=q: q(s).probs
            yield f"{kind}_{name}_marginals", lambda s, q=q: q(s).marginals()
            yield f"{kind}_{name}_entropy", lambda s, q=q: q(s).entropy()
        yield f"solved_{name}", lambda s, z=z: sparsum.solve_sparsemap(z, s).marginals
        yield f"log_prob_{name}", lambda s, z=z: log_prob_of_the_support(z, s)
        yield f"expectation_{name}", lambda s, z=z: expected(sparsum.sparsemap(z, s), s)


def log_prob_of_the_support(structure, scores):
    return sparsum.sparsemap(structure, scores).log_prob(
        sparsum.sparsemap(structure, POINT).support
    )


def expected(q, scores):
    def loss(z):
        return (z.values(torch.double) @ WEIGHTS) ** 2 * z.gather(scores.exp()).sum(1)

    return sparsum.expectation(q, loss)


DENSE, LISTED = dict(dense_functions()), dict(listed_functions())


@pytest.mark.parametrize("name", [*DENSE, *LISTED])
def test_derivatives_of_structures(name):
    function = {**DENSE, **LISTED}[name]
    value, pull_back = vjp(function, POINT)
    assert torch.equal(value, function(POINT))
    expected = torch.autograd.functional.jacobian(function, POINT)
    torch.testing.assert_close(jacrev(function)(POINT), expected)
    torch.testing.assert_close(jacfwd(function)(POINT), expected)
    upstream = randn(*value.shape, seed=4)
    torch.testing.assert_close(
        pull_back(upstream)[0], torch.tensordot(upstream, expected, value.dim())
    )
    objective = lambda s: (function(s) ** 2).sum()  # noqa: E731
    expected = torch.autograd.functional.hessian(objective, POINT)
    torch.testing.assert_close(hessian(objective)(POINT), expected)
    torch.testing.assert_close(jacrev(jacrev(objective))(POINT), expected)


@pytest.mark.parametrize("name", DENSE)
def test_gradients_of_structures_are_finite_differences(name):
    function, step = DENSE[name], 1e-6
    for direction in (randn(3, 5, seed=5), randn(3, 5, seed=6)):
        above, below = (function(POINT + sign * step * direction) for sign in (1, -1))
        _, moved = jvp(function, (POINT,), (direction,))
        torch.testing.assert_close(moved, (above - below) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DENSE)
def test_structures_under_vmap(name):
    function = DENSE[name]
    objective = lambda s: (function(s) ** 2).sum()  # noqa: E731
    scores = 0.7 * randn(4, 3, 5, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        expected = torch.stack([function(s) for s in scores])
        torch.testing.assert_close(vmap(function)(scores), expected)
        last = scores.movedim(0, -1)
        torch.testing.assert_close(vmap(function, in_dims=-1)(last), expected)
        torch.testing.assert_close(vmap(vmap(function))(scores[None]), expected[None])
        looped = torch.stack([grad(objective)(s) for s in scores])
        torch.testing.assert_close(vmap(grad(objective))(scores), looped)
        summed = grad(lambda s: (vmap(function)(s) ** 2).sum())
        torch.testing.assert_close(summed(scores), looped)
        tracked = scores.clone().requires_grad_()
        (vmap(function)(tracked) ** 2).sum().backward()
        torch.testing.assert_close(tracked.grad, looped)
        for derivative in (jacrev, jacfwd):
            each = torch.stack([derivative(function)(s) for s in scores])
            torch.testing.assert_close(vmap(derivative(function))(scores), each)
        seconds = torch.stack([hessian(objective)(s) for s in scores])
        torch.testing.assert_close(vmap(hessian(objective))(scores), seconds)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float])
@pytest.mark.parametrize("name", ["sparsemap_budget_probs", "closed_subset_probs", "loss_own"])
def test_derivatives_of_structures_in_narrow_dtypes(name, dtype):
    function, scores = {**DENSE, **LISTED}[name], POINT.to(dtype)
    got = grad(lambda s: (function(s) ** 2).sum())(scores)
    assert got.dtype == dtype
    expected = grad(lambda s: (function(s) ** 2).sum())(scores.double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got.double(), expected, rtol=8 * eps, atol=8 * eps)


def test_dense_probabilities_under_func():
    def objective(scores):
        q = sparsum.SparseDistribution.from_dense(sparsum.entmax15(scores))
        return (expected_index(q) + q.entropy() + q.marginals() @ WEIGHTS).sum()

    def expected_index(q):
        return sparsum.expectation(q, lambda z: z.indices.to(torch.double) ** 2)

    tracked = POINT.clone().requires_grad_()
    objective(tracked).backward()
    torch.testing.assert_close(grad(objective)(POINT), tracked.grad)
    torch.testing.assert_close(jacfwd(objective)(POINT), tracked.grad)


def gibbs_functions():
    for name in (*BITS, "categorical"):
        z = STRUCTURES[name]
        listed = sparsum.sparsemap(z, POINT).support
        for kind, function in {
            "entropy": lambda q: q.entropy(),
            "marginals": lambda q: q.marginals(),
            "log_prob": lambda q, z=listed: q.log_prob(z),
            "enumerate": lambda q: q.enumerate().probs,
            "mode": lambda q: q.mode.sum() * q.entropy(),
            "kl_divergence": lambda q: torch.distributions.kl_divergence(
                sparsum.sparsemap(q.structure, q.scores), q
            ),
        }.items():
            yield f"{kind}_{name}", lambda s, z=z, f=function: f(sparsum.Gibbs(z, s))


GIBBS = dict(gibbs_functions())


@pytest.mark.parametrize("name", GIBBS)
def test_derivatives_of_gibbs_distributions(name):
    function = GIBBS[name]
    torch.testing.assert_close(vjp(function, POINT)[0], function(POINT))
    expected = torch.autograd.functional.jacobian(function, POINT)
    torch.testing.assert_close(jacrev(function)(POINT), expected)
    torch.testing.assert_close(jacfwd(function)(POINT), expected)
    objective = lambda s: (function(s) ** 2).sum()  # noqa: E731
    expected = torch.autograd.functional.hessian(objective, POINT)
    torch.testing.assert_close(hessian(objective)(POINT), expected)


@pytest.mark.parametrize("name", [*BITS, "categorical"])
def test_draws_under_func_are_those_outside(name):
    q = sparsum.Gibbs(STRUCTURES[name], POINT)
    outside = q.sample(3, torch.Generator().manual_seed(1))

    def objective(scores):
        drawn = sparsum.Gibbs(STRUCTURES[name], scores).sample(3, torch.Generator().manual_seed(1))
        assert torch.equal(drawn, outside)
        return (drawn * scores.sum()).sum()

    torch.testing.assert_close(grad(objective)(POINT), torch.full_like(POINT, outside.sum()))


def test_forbidden_outcomes_under_func():
    scores = POINT.masked_fill(torch.eye(3, 5, dtype=torch.bool), -torch.inf)
    for name in (*BITS, "categorical"):
        for q in (
            lambda s, z=STRUCTURES[name]: sparsum.Gibbs(z, s).enumerate(),
            lambda s, z=STRUCTURES[name]: sparsum.sparsemap(z, s),
            lambda s, z=STRUCTURES[name]: sparsum.top_k_sparsemax(z, s, 3),
        ):
            objective = lambda s, q=q: (q(s).marginals() @ WEIGHTS).square().sum()  # noqa: E731
            tracked = scores.clone().requires_grad_()
            objective(tracked).backward()
            assert tracked.grad.isfinite().all()
            torch.testing.assert_close(grad(objective)(scores), tracked.grad)


def test_supports_are_not_mapped():
    scores = POINT.expand(2, 3, 5)
    what = r"{}: vmap is not available: .* part of the batch instead, \[S, B, V\] -> \[S\*B, V\]"
    for caller, call in {
        "sparsemap": lambda s: sparsum.sparsemap(Pairs(), s).probs,
        "solve_sparsemap": lambda s: sparsum.solve_sparsemap(BITS["budget"], s).marginals,
        "top_k_sparsemax": lambda s: sparsum.top_k_sparsemax(BITS["budget"], s, 2).marginals(),
        "adaptive_top_k_sparsemax": lambda s: sparsum.adaptive_top_k_sparsemax(
            BITS["subset"], s, 1, 2
        ).probs,
        "SparseDistribution.from_dense": lambda s: sparsum.SparseDistribution.from_dense(
            sparsum.sparsemax(s)
        ).probs,
        "support": lambda s: sparsum.support(sparsum.sparsemax(s)),
        "k_best_bits": lambda s: registered.k_best_bits(s, 0, 2, 2),
    }.items():
        with pytest.raises(RuntimeError, match=what.format(caller)):
            vmap(call)(scores)


def test_what_structures_refuse_under_func():
    def marginals(z, scores, **options):
        return vjp(lambda s: sparsum.sparsemap_marginals(z, s, **options), scores)

    with pytest.raises(RuntimeError, match=r"scores to be \[B, V\] with V = 5 .* got \[5\]"):
        marginals(BITS["budget"], POINT[0])
    with pytest.raises(RuntimeError, match="'both-states' is for bits, got Pairs"):
        marginals(Pairs(), POINT, encoding="both-states")
    with pytest.raises(ValueError, match="'one-state' or 'both-states', got 'none'"):
        marginals(BITS["budget"], POINT, encoding="none")
    with pytest.raises(ValueError, match="expected a finite tolerance > 0, got 0"):
        marginals(BITS["budget"], POINT, tolerance=0.0)
    with pytest.raises(ValueError, match="expected max_iterations >= 0, got -1"):
        marginals(BITS["budget"], POINT, max_iterations=-1)
    with pytest.raises(RuntimeError, match=r"target to be \[B, V\] = \[3, 5\], got \[1, 5\]"):
        vjp(lambda s: sparsum.sparsemap_loss(BITS["budget"], s, s[:1]), POINT)


# --- structures under torch.compile --------------------------------------------------------------


BUILT_IN = [name for name in DENSE if "own" not in name]


@pytest.mark.parametrize("name", BUILT_IN)
def test_compiled_marginals_and_losses_are_eager(name):
    function = DENSE[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    scores = [POINT.clone().requires_grad_() for _ in range(2)]
    results = [f(s) for f, s in zip((function, compiled), scores)]
    torch.testing.assert_close(*results)
    for result in results:
        (result**2).sum().backward()
    torch.testing.assert_close(scores[0].grad, scores[1].grad)
    torch._dynamo.reset()


def test_compiled_for_another_structure():
    compiled = torch.compile(sparsum.sparsemap_marginals, fullgraph=True, backend="aot_eager")
    for structure in (*BITS.values(), sparsum.Budget(5, 1), sparsum.Budget(5, 2)):
        assert torch.equal(
            compiled(structure, POINT), sparsum.sparsemap_marginals(structure, POINT)
        )
    torch._dynamo.reset()


def test_exported_marginals_and_loss():
    class Step(torch.nn.Module):
        def forward(self, scores):
            z = BITS["budget"]
            loss = sparsum.sparsemap_loss(z, scores, torch.zeros_like(scores))
            return sparsum.sparsemap_marginals(z, scores), loss

    batch = torch.export.Dim("batch")
    exported = torch.export.export(Step(), (POINT,), dynamic_shapes=({0: batch},))
    scores = randn(7, 5)
    for got, expected in zip(exported.module()(scores), Step()(scores)):
        assert torch.equal(got, expected)


FUNCS = {"grad": None, "jacrev": jacrev, "jacfwd": jacfwd, "hessian": hessian, "vmap": None}


@pytest.mark.parametrize("transform", FUNCS)
@pytest.mark.parametrize(
    "name", [*FUNCTIONS, "marginals_budget", "loss_bit_vector_both", "marginals_categorical"]
)
def test_compiled_torch_func(name, transform):
    function = FUNCTIONS[name] if name in FUNCTIONS else DENSE[name]
    scores = 0.7 * randn(4, 5) if name in FUNCTIONS else POINT
    objective = lambda s: (function(s) ** 2).sum()  # noqa: E731
    if transform == "grad":
        derivative = grad(objective)
    elif transform == "vmap":
        derivative, scores = vmap(grad(objective)), torch.stack([scores, 2 * scores])
    else:
        derivative = FUNCS[transform](function if transform != "hessian" else objective)
    compiled = torch.compile(derivative, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(scores), derivative(scores))
    if transform == "grad":  # and what is compiled is differentiated
        tracked = [scores.clone().requires_grad_() for _ in range(2)]
        for call, s in zip((derivative, compiled), tracked):
            (call(s) ** 2).sum().backward()
        torch.testing.assert_close(tracked[0].grad, tracked[1].grad)
    torch._dynamo.reset()


def test_compiled_torch_func_of_learned_alpha_and_fused_losses():
    lce = (randn(3, 6, 2), randn(4, 2), randn(4), torch.zeros(2, 6).long(), torch.tensor([0, 1, 1]))
    for derivative, args in (
        (grad(lambda a, s: (sparsum.entmax(s, a) ** 2).sum()), (ALPHA, randn(4, 5))),
        (grad(lambda w, f: sparsum.linear_cross_entropy(f, w, *lce[2:]).sum()), (lce[1], lce[0])),
        (jacrev(sparsum.scalar_perceptron), (randn(3), randn(4), randn(4, seed=1))),
    ):
        compiled = torch.compile(derivative, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*args), derivative(*args))
        torch._dynamo.reset()


def of_dense(scores):
    q = sparsum.SparseDistribution.from_dense(sparsum.sparsemax(2 * scores))
    loss = sparsum.expectation(q, lambda z: z.indices.to(scores.dtype) ** 2)
    return (loss + q.entropy()).sum() + (q.probs**2).sum()


def of_bits(scores):
    q = sparsum.sparsemap(BITS["budget"], 2 * scores)
    return (q.marginals() @ WEIGHTS).sum() + q.log_prob(q.support).sum()


def of_best(scores):
    return (sparsum.top_k_sparsemax(BITS["subset"], 2 * scores, 3).marginals() @ WEIGHTS).sum()


def of_own(scores):
    return (sparsum.sparsemap_marginals(STRUCTURES["own"], 2 * scores) @ WEIGHTS).sum()


def of_gibbs(scores):
    return sparsum.Gibbs(BITS["budget"], 2 * scores).entropy().sum()


@pytest.mark.parametrize("function", [of_dense, of_bits, of_best, of_own, of_gibbs])
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_distributions_break_the_graph_and_nothing_else(function):
    torch._dynamo.reset()
    scores = [POINT.clone().requires_grad_() for _ in range(2)]
    compiled = torch.compile(function, backend="aot_eager")
    results = [f(s) for f, s in zip((function, compiled), scores)]
    torch.testing.assert_close(*results)
    for result in results:
        result.backward()
    torch.testing.assert_close(scores[0].grad, scores[1].grad)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="torch.compiler.disable"):
        torch.compile(function, backend="aot_eager", fullgraph=True)(POINT)
    torch._dynamo.reset()


# --- shapes without values -----------------------------------------------------------------------


def test_make_fx_and_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    scores = randn(4, 5)
    graph = make_fx(lambda s: sparsum.sparsemax(s))(scores)
    assert "sparsum.sparsemax" in graph.code
    assert torch.equal(graph(scores + 1), sparsum.sparsemax(scores + 1))
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(scores)
        assert ops.entmax15(fake, 0).shape == (4, 5)


# --- autocast ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_autocast_runs_in_float32(dtype):
    scores = randn(4, 5, dtype=torch.float).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probs = sparsum.entmax15(scores)
        per_row = sparsum.entmax(scores, ALPHA.to(dtype))
        loss = sparsum.sparsemax_loss(scores, TARGET)
        assert sparsum.sparsemax(scores.double()).dtype == torch.double
        compiled = torch.compile(sparsum.entmax15, fullgraph=True, backend="aot_eager")
        assert compiled(scores).dtype == torch.float
    assert probs.dtype == per_row.dtype == loss.dtype == torch.float
    torch.testing.assert_close(probs, sparsum.entmax15(scores.float()))
    (probs.square().sum() + loss).backward()
    assert scores.grad.dtype == dtype and scores.grad.isfinite().all()
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("name", [n for n in (*DENSE, *LISTED) if not n.startswith(("expectation", "log_prob"))])
def test_autocast_runs_structures_in_float32(name, dtype):
    function, scores = {**DENSE, **LISTED}[name], POINT.to(dtype)
    narrow, wide = scores.clone().requires_grad_(), scores.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = function(narrow)
        double = function(POINT)
    expected = function(wide)
    assert result.dtype == torch.float
    torch.testing.assert_close(result, expected)
    assert double.dtype == torch.double
    for r in (result, expected):
        (r**2).sum().backward()
    assert narrow.grad.dtype == dtype
    torch.testing.assert_close(narrow.grad, wide.grad.to(dtype))


def test_what_reads_values_is_refused_under_torch_func() -> None:
    scores = torch.randn(2, 3, dtype=torch.double)
    estimator = sparsum.make_estimator("sparsemax")
    structure = sparsum.structures.Categorical(3)

    def cost(z: sparsum.Assignments) -> torch.Tensor:
        return z.indices.to(torch.double)

    def chunked(s: torch.Tensor) -> torch.Tensor:
        q = sparsum.SparseDistribution.from_dense(sparsum.sparsemax(s))
        return sparsum.expectation(q, cost, max_evaluations_per_chunk=1).sum()

    for name, function in {
        "expectation: max_evaluations_per_chunk > 0": chunked,
        "Estimator.estimate": lambda s: estimator.estimate(structure, s, cost).objective.sum(),
        "Estimator.supervised_loss": lambda s: estimator.supervised_loss(
            s, torch.tensor([0, 1])
        ).sum(),
        "Estimator.distribution": lambda s: estimator.distribution(structure, s).entropy().sum(),
    }.items():
        with pytest.raises(RuntimeError, match=f"^{name} is not available under torch.func"):
            torch.func.grad(function)(scores)


@pytest.mark.parametrize(
    "structure", [sparsum.BitVector(5), sparsum.Budget(5, 2), sparsum.Categorical(5)]
)
def test_vmap_of_gibbs_distributions(structure) -> None:
    scores = torch.randn(3, 2, 5, dtype=torch.double)

    def both(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        q = sparsum.Gibbs(structure, s)
        return q.entropy(), q.marginals()

    entropy, marginals = vmap(both)(scores)
    for i in range(3):
        expected = both(scores[i])
        torch.testing.assert_close(entropy[i], expected[0])
        torch.testing.assert_close(marginals[i], expected[1])
    for drawn in (lambda s: sparsum.Gibbs(structure, s).sample(),
                  lambda s: sparsum.Gibbs(structure, s).mode):  # fmt: skip
        with pytest.raises(RuntimeError, match="vmap is not available: outcomes are listed and"):
            vmap(drawn)(scores)


def test_expectations_and_estimators_break_the_graph_and_say_so(
    recwarn: pytest.WarningsRecorder,
) -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 3, dtype=torch.double)
    costs = torch.randn(3, 1, dtype=torch.double)
    estimator = sparsum.make_estimator("sparsemax")
    structure = sparsum.structures.Categorical(3)

    def both(s: torch.Tensor) -> torch.Tensor:
        q = sparsum.SparseDistribution.from_dense(sparsum.sparsemax(2 * s))
        value = sparsum.expectation(q, lambda z: z.embed(costs).squeeze(1))
        estimate = estimator.estimate(structure, s, lambda z: z.embed(costs).squeeze(1))
        return (3 * value + estimate.objective).sum()

    gradients = []
    for function in (both, torch.compile(both)):
        s = scores.clone().requires_grad_()
        function(s).backward()
        gradients.append(s.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not [w for w in recwarn if "unsupported" in str(w.message).lower()], recwarn.list
