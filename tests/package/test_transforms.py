"""The ops under opcheck, torch.compile, torch.export, torch.func and autocast."""

from __future__ import annotations

import pytest
import torch

import sparsum
from sparsum import nn, ops
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

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
        "support": (probs,),
    }  # fmt: skip


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
