"""The ops under torch.func, autocast and shape propagation.

Outside torch.func an op's derivatives are the library's own, in C++. Inside, where PyTorch takes no
autograd function written in C++, the Functions below do the same with the same two registered ops,
forward and backward; each can be differentiated again, forward (``jvp``) and backward, and mapped.

Importing this module registers with PyTorch:

* how each op works on a batch of its inputs (``torch.vmap``), or, for those that list outcomes,
  that it does not: the examples' lists differ in length,
* that autocast runs it in float32, as it does softmax and cross-entropy,
* the shapes of what it returns, for the ops that have no such kernel in C++.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import Function

from . import _load as _load

_ops = torch.ops.sparsum

_SECOND_IN_ALPHA = (
    "entmax: second derivatives in alpha are not implemented; detach alpha where the first "
    "derivative is differentiated"
)

_NONE_IN_TARGET = "entmax_loss: there is no derivative in the target; detach it"


def transformed() -> bool:
    return bool(torch._C._are_functorch_transforms_active())


def ragged(caller: str) -> str:
    """What is said where vmap maps a function that lists or draws outcomes."""
    return (
        f"{caller}: vmap is not available: outcomes are listed and drawn for one batch of scores; "
        "make the mapped dimension part of the batch instead, [S, B, V] -> [S*B, V]"
    )


def value_of(caller: str, tensor: Tensor) -> Tensor:
    """A tensor without torch.func's levels of grad, vjp and jvp, detached."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor):
            raise RuntimeError(ragged(caller))
        tensor = functorch.get_unwrapped(tensor)
    return tensor.detach()


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """Where tensors are plain ones, for what reads their values. The results are constants."""
    with temporarily_clear_interpreter_stack(), torch.no_grad():
        yield


# --- derivatives under torch.func ----------------------------------------------------------------


class Sparsemax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, dim: int) -> Tensor:
        return _ops.sparsemax(scores, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.dim = inputs[1]
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return sparsemax_backward(grad, ctx.saved_tensors[0], ctx.dim), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return sparsemax_backward(tangent, ctx.saved_tensors[0], ctx.dim)


def sparsemax(scores: Tensor, dim: int) -> Tensor:
    return Sparsemax.apply(scores, dim) if transformed() else _ops.sparsemax(scores, dim)


class SparsemaxBackward(Function):
    """v = J(p) g: linear in g, with the symmetric J; p's support does not change in small steps."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, probs: Tensor, dim: int) -> Tensor:
        return _ops.sparsemax_backward(grad, probs, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.dim = inputs[2]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return sparsemax_backward(grad, ctx.saved_tensors[0], ctx.dim), None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Tensor | None, probs_tangent: Any, _: Any) -> Tensor:
        (probs,) = ctx.saved_tensors
        if grad_tangent is None:
            return torch.zeros_like(probs)
        return sparsemax_backward(grad_tangent, probs, ctx.dim)


def sparsemax_backward(grad: Tensor, probs: Tensor, dim: int) -> Tensor:
    if transformed():
        return SparsemaxBackward.apply(grad, probs, dim)
    return _ops.sparsemax_backward(grad, probs, dim)


class TopKSparsemax(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
        return _ops.top_k_sparsemax(scores, k, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.dim = inputs[2]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[0])
        ctx.save_for_forward(output[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        return sparsemax_backward(grad, ctx.saved_tensors[0], ctx.dim), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        return sparsemax_backward(tangent, ctx.saved_tensors[0], ctx.dim), None


def _entmax_weights(probs: Tensor, alpha: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(p on the support and 1 elsewhere, u = p^{2 − α} on the support and 0 elsewhere, support)."""
    on = probs > 0
    p = torch.where(on, probs, 1.0)
    return p, torch.where(on, p ** (2 - alpha), 0.0), on


def _centred(grad: Tensor, u: Tensor, on: Tensor, dim: int) -> Tensor:
    """g − ⟨u, g⟩/Σu on the support, 0 elsewhere."""
    g = torch.where(on, grad, 0.0)
    mean = (u * g).sum(dim, keepdim=True) / u.sum(dim, keepdim=True)
    return torch.where(on, g - mean, 0.0)


def _entmax_second_derivative(
    cotangent: Tensor, grad: Tensor, probs: Tensor, alpha: Any, dim: int
) -> Tensor:
    """The derivative in p of ⟨c, v⟩, v = u ⊙ (g − ⟨u, g⟩/Σu)."""
    p, u, on = _entmax_weights(probs, alpha)
    both = _centred(grad, u, on, dim) * _centred(cotangent, u, on, dim)
    return torch.where(on, (2 - alpha) * p ** (1 - alpha) * both, 0.0)


def _entmax_backward_jvp(
    tangent: Tensor, grad: Tensor, probs: Tensor, alpha: Any, dim: int
) -> Tensor:
    """The derivative of v = u ⊙ (g − ⟨u, g⟩/Σu) where p moves along ``tangent``."""
    p, u, on = _entmax_weights(probs, alpha)
    moved = torch.where(on, (2 - alpha) * p ** (1 - alpha) * tangent, 0.0)
    moved = moved * _centred(grad, u, on, dim)
    return moved - u * (moved.sum(dim, keepdim=True) / u.sum(dim, keepdim=True))


# The overload is chosen here: left to itself, PyTorch would make a number of an α with one element,
# and no gradient would reach it.
def registered_entmax(scores: Tensor, alpha: Any, dim: int) -> Tensor:
    op = _ops.entmax.Tensor if isinstance(alpha, Tensor) else _ops.entmax.default
    return op(scores, alpha, dim)


def _registered_entmax_backward(grad: Tensor, probs: Tensor, alpha: Any, dim: int) -> Tensor:
    op = _ops.entmax_backward.Tensor if isinstance(alpha, Tensor) else _ops.entmax_backward.default
    return op(grad, probs, alpha, dim)


class Entmax(Function):
    """``alpha`` is a number, or a tensor that broadcasts."""

    generate_vmap_rule = True

    @staticmethod
    def forward(scores: Tensor, alpha: Any, dim: int) -> Tensor:
        return registered_entmax(scores, alpha, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.set_materialize_grads(False)  # which inputs have tangents is asked below
        _, ctx.alpha, ctx.dim = inputs
        saved = (output,)
        if isinstance(ctx.alpha, Tensor):
            saved, ctx.alpha = (output, ctx.alpha), None
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        probs = ctx.saved_tensors[0]
        if ctx.alpha is not None:
            return entmax_backward(grad, probs, ctx.alpha, ctx.dim), None, None
        alpha = ctx.saved_tensors[1]
        by_scores = by_alpha = None
        if ctx.needs_input_grad[0]:
            by_scores = entmax_backward(grad, probs, alpha, ctx.dim)
        if ctx.needs_input_grad[1]:
            by_alpha = entmax_backward_alpha(grad, probs, alpha, ctx.dim)
        return by_scores, by_alpha, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, alpha_tangent: Tensor | None, _: Any) -> Tensor:
        if alpha_tangent is not None:
            raise NotImplementedError(
                "entmax: forward-mode differentiation in alpha is not implemented; use reverse mode"
            )
        alpha = ctx.saved_tensors[1] if ctx.alpha is None else ctx.alpha
        return entmax_backward(tangent, ctx.saved_tensors[0], alpha, ctx.dim)


class EntmaxBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, probs: Tensor, alpha: Any, dim: int) -> Tensor:
        return _registered_entmax_backward(grad, probs, alpha, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        grad, probs, ctx.alpha, ctx.dim = inputs
        saved = (grad, probs)
        if isinstance(ctx.alpha, Tensor):
            saved, ctx.alpha = (grad, probs, ctx.alpha), None
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> Any:
        if cotangent is None:
            return None, None, None, None
        grad, probs = ctx.saved_tensors[:2]
        alpha = ctx.alpha
        if alpha is None:
            if ctx.needs_input_grad[2]:
                raise NotImplementedError(_SECOND_IN_ALPHA)
            alpha = ctx.saved_tensors[2]
        by_probs = None
        if ctx.needs_input_grad[1]:
            by_probs = _entmax_second_derivative(cotangent, grad, probs, alpha, ctx.dim)
        return entmax_backward(cotangent, probs, alpha, ctx.dim), by_probs, None, None

    @staticmethod
    def jvp(
        ctx: Any,
        grad_tangent: Tensor | None,
        probs_tangent: Tensor | None,
        alpha_tangent: Tensor | None,
        _: Any,
    ) -> Tensor:
        if alpha_tangent is not None:
            raise NotImplementedError(_SECOND_IN_ALPHA)
        grad, probs = ctx.saved_tensors[:2]
        alpha = ctx.saved_tensors[2] if ctx.alpha is None else ctx.alpha
        result = torch.zeros_like(probs)
        if grad_tangent is not None:
            result = result + entmax_backward(grad_tangent, probs, alpha, ctx.dim)
        if probs_tangent is not None:
            result = result + _entmax_backward_jvp(probs_tangent, grad, probs, alpha, ctx.dim)
        return result


def entmax_backward(grad: Tensor, probs: Tensor, alpha: Any, dim: int) -> Tensor:
    if transformed():
        return EntmaxBackward.apply(grad, probs, alpha, dim)
    return _registered_entmax_backward(grad, probs, alpha, dim)


class EntmaxBackwardAlpha(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, probs: Tensor, alpha: Tensor, dim: int) -> Tensor:
        return _ops.entmax_backward_alpha(grad, probs, alpha, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        raise NotImplementedError(_SECOND_IN_ALPHA)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(_SECOND_IN_ALPHA)


def entmax_backward_alpha(grad: Tensor, probs: Tensor, alpha: Tensor, dim: int) -> Tensor:
    if transformed():
        return EntmaxBackwardAlpha.apply(grad, probs, alpha, dim)
    return _ops.entmax_backward_alpha(grad, probs, alpha, dim)


class EntmaxLoss(Function):
    """(losses, probs) of single rows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        scores: Tensor, target: Tensor, alpha: float, dim: int, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        return _ops.entmax_loss_forward(scores, target, alpha, dim, ignore_index)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        _, target, ctx.alpha, ctx.dim, ctx.ignore_index = inputs
        ctx.save_for_backward(output[1], target)
        ctx.save_for_forward(output[1], target)

    @staticmethod
    def _residual(ctx: Any) -> Tensor:
        """p − y, 0 in rows that are ignored."""
        probs, target = ctx.saved_tensors
        if target.dtype != torch.long:
            return probs - target
        ignored = (target == ctx.ignore_index).unsqueeze(ctx.dim)
        classes = torch.where(ignored, 0, target.unsqueeze(ctx.dim))
        minus = torch.full_like(classes, -1, dtype=probs.dtype)
        return torch.where(ignored, 0.0, probs.scatter_add(ctx.dim, classes, minus))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, probs_grad: Tensor | None) -> Any:
        if ctx.needs_input_grad[1]:
            raise RuntimeError(_NONE_IN_TARGET)
        by_scores = None
        if grad is not None:
            by_scores = grad.unsqueeze(ctx.dim) * EntmaxLoss._residual(ctx)
        if probs_grad is not None:
            through = entmax_backward(probs_grad, ctx.saved_tensors[0], ctx.alpha, ctx.dim)
            by_scores = through if by_scores is None else by_scores + through
        return by_scores, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, target_tangent: Tensor | None, *_: Any) -> Any:
        if target_tangent is not None:
            raise RuntimeError(_NONE_IN_TARGET)
        losses = (EntmaxLoss._residual(ctx) * tangent).sum(ctx.dim)
        return losses, entmax_backward(tangent, ctx.saved_tensors[0], ctx.alpha, ctx.dim)


class LinearCrossEntropy(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, rows: Tensor
    ) -> Tensor:
        return _ops.linear_cross_entropy(features, weight, bias, targets, rows)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (*LinearCrossEntropyBackward.apply(grad, *ctx.saved_tensors), None, None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "linear_cross_entropy: forward-mode differentiation is not implemented; use reverse "
            "mode"
        )


class LinearCrossEntropyBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _ops.linear_cross_entropy_backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError("linear_cross_entropy: double backward is not implemented")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("linear_cross_entropy: double backward is not implemented")


class ScalarPerceptron(Function):
    """Its derivatives are PyTorch's own operations, which hold a few tensors of n·H numbers."""

    generate_vmap_rule = True

    @staticmethod
    def forward(e: Tensor, u: Tensor, w: Tensor) -> Tensor:
        return _ops.scalar_perceptron(e, u, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def _parts(ctx: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        e, u, w = ctx.saved_tensors
        inner = torch.sigmoid(e.unsqueeze(-1) * u)
        outer = torch.sigmoid(inner @ w)
        return e, u, w, inner, inner * (1 - inner), outer * (1 - outer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        e, u, w, inner, slope, outer = ScalarPerceptron._parts(ctx)
        c = grad * outer
        over = tuple(range(e.dim()))
        by_u = w * slope * (c * e).unsqueeze(-1)
        by_w = inner * c.unsqueeze(-1)
        return c * (slope @ (u * w)), by_u.sum(over) if over else by_u, (
            by_w.sum(over) if over else by_w
        )

    @staticmethod
    def jvp(ctx: Any, by_e: Tensor | None, by_u: Tensor | None, by_w: Tensor | None) -> Tensor:
        e, u, w, inner, slope, outer = ScalarPerceptron._parts(ctx)
        tangent = torch.zeros_like(e)
        if by_e is not None:
            tangent = tangent + by_e * (slope @ (u * w))
        if by_u is not None:
            tangent = tangent + e * (slope @ (w * by_u))
        if by_w is not None:
            tangent = tangent + inner @ by_w
        return outer * tangent


def normmax_backward(grad: Tensor, probs: Tensor, alpha: Tensor, dim: int) -> Tensor:
    """The op's own formula in operations that torch.func transforms one by one."""
    if not transformed():
        return _ops.normmax_backward(grad, probs, alpha, dim)
    p, b, on = _entmax_weights(probs.double(), alpha)
    a, g = torch.where(on, p, 0.0), torch.where(on, grad, 0.0)
    by_a, by_b = ((x * g).sum(dim, keepdim=True) for x in (a, b))
    norm = torch.where(on, p**alpha, 0.0).sum(dim, keepdim=True)
    scale = norm ** ((alpha - 1) / alpha) / (alpha - 1)
    moved = b * (g - by_a) + a * (by_a * b.sum(dim, keepdim=True) - by_b)
    return (scale * moved).to(probs.dtype)


class Normmax(Function):
    """α has no derivative."""

    @staticmethod
    def forward(scores: Tensor, alpha: Tensor, dim: int) -> Tensor:
        return _ops.normmax(scores, alpha, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        _, alpha, ctx.dim = inputs
        ctx.save_for_backward(output, alpha)
        ctx.save_for_forward(output, alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        if ctx.needs_input_grad[1]:
            raise NotImplementedError("normmax: there is no derivative in alpha; detach it")
        probs, alpha = ctx.saved_tensors
        return normmax_backward(grad, probs, alpha, ctx.dim), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, alpha_tangent: Any, _: Any) -> Tensor:
        if alpha_tangent is not None:
            raise NotImplementedError("normmax: there is no derivative in alpha; detach it")
        probs, alpha = ctx.saved_tensors
        return normmax_backward(tangent, probs, alpha, ctx.dim)

    @staticmethod
    def vmap(info: Any, in_dims: Any, scores: Tensor, alpha: Tensor, dim: int) -> Any:
        x = _front(scores, in_dims[0], info.batch_size)
        a = _front_alpha(alpha, in_dims[1], info.batch_size, x.dim())
        return Normmax.apply(x, a, _behind("normmax", x, dim)), 0


class BudgetSparsemax(Function):
    @staticmethod
    def forward(scores: Tensor, budget: Tensor, dim: int) -> Tensor:
        return _ops.budget_sparsemax(scores, budget, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        _, budget, ctx.dim = inputs
        ctx.save_for_backward(output, budget)
        ctx.save_for_forward(output, budget)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        if grad is None:
            return None, None, None
        probs, budget = ctx.saved_tensors
        probs = probs.detach()  # its support does not change in small steps
        inside = (probs > 0) & (probs < 1)
        count = inside.sum(ctx.dim, keepdim=True).clamp(min=1)
        mean = torch.where(inside, grad, 0.0).sum(ctx.dim, keepdim=True) / count
        by_budget = mean.sum_to_size(budget.shape).to(budget.dtype)
        return torch.where(inside, grad - mean, 0.0), by_budget, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor | None, budget_tangent: Tensor | None, _: Any) -> Tensor:
        probs, _budget = ctx.saved_tensors
        inside = (probs > 0) & (probs < 1)
        count = inside.sum(ctx.dim, keepdim=True).clamp(min=1)
        moved = torch.zeros_like(probs)
        if tangent is not None:
            mean = torch.where(inside, tangent, 0.0).sum(ctx.dim, keepdim=True) / count
            moved = torch.where(inside, tangent - mean, 0.0)
        if budget_tangent is not None:
            moved = moved + torch.where(inside, (budget_tangent / count).to(probs.dtype), 0.0)
        return moved

    @staticmethod
    def vmap(info: Any, in_dims: Any, scores: Tensor, budget: Tensor, dim: int) -> Any:
        x = _front(scores, in_dims[0], info.batch_size)
        b = _front_alpha(budget, in_dims[1], info.batch_size, x.dim())
        return BudgetSparsemax.apply(x, b, _behind("budget_sparsemax", x, dim)), 0


class SparsemapMarginals(Function):
    """(marginals, tight) of vectors of bits, by the closed form."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        scores: Tensor, least: int, most: int, both_states: bool
    ) -> tuple[Tensor, Tensor]:
        return _ops.sparsemap_marginals(scores, least, most, both_states)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.both_states = inputs[3]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)
        ctx.save_for_forward(*output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> Any:
        return (
            sparsemap_marginals_backward(grad, *ctx.saved_tensors, ctx.both_states),
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        return sparsemap_marginals_backward(tangent, *ctx.saved_tensors, ctx.both_states), None


class SparsemapMarginalsBackward(Function):
    """v = J(μ) g: linear in g, with the symmetric J, constant in μ between its corners."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad: Tensor, marginals: Tensor, tight: Tensor, both_states: bool) -> Tensor:
        return _ops.sparsemap_marginals_backward(grad, marginals, tight, both_states)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, marginals, tight, ctx.both_states = inputs
        ctx.save_for_backward(marginals, tight)
        ctx.save_for_forward(marginals, tight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        back = sparsemap_marginals_backward(grad, *ctx.saved_tensors, ctx.both_states)
        return back, None, None, None

    @staticmethod
    def jvp(ctx: Any, grad_tangent: Tensor | None, *_: Any) -> Tensor:
        if grad_tangent is None:
            return torch.zeros_like(ctx.saved_tensors[0])
        return sparsemap_marginals_backward(grad_tangent, *ctx.saved_tensors, ctx.both_states)


def sparsemap_marginals(
    scores: Tensor, least: int, most: int, both_states: bool
) -> tuple[Tensor, Tensor]:
    if transformed():
        return SparsemapMarginals.apply(scores, least, most, both_states)
    return _ops.sparsemap_marginals(scores, least, most, both_states)


def sparsemap_marginals_backward(
    grad: Tensor, marginals: Tensor, tight: Tensor, both_states: bool
) -> Tensor:
    if transformed():
        return SparsemapMarginalsBackward.apply(grad, marginals, tight, both_states)
    return _ops.sparsemap_marginals_backward(grad, marginals, tight, both_states)


class SparsemapWeights(Function):
    """The weights that a solver found, as a function of the scores while the support is fixed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        scores: Tensor,
        probs: Tensor,
        row_splits: Tensor,
        configurations: Tensor,
        variables: int,
        slope: float,
    ) -> Tensor:
        return _ops.sparsemap_weights(scores, probs, row_splits, configurations, variables, slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, _, row_splits, configurations, ctx.variables, ctx.slope = inputs
        ctx.save_for_backward(row_splits, configurations)
        ctx.save_for_forward(row_splits, configurations)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        by_scores = SparsemapVjp.apply(grad, *ctx.saved_tensors, ctx.variables, False)
        return ctx.slope * by_scores, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return ctx.slope * SparsemapVjp.apply(tangent, *ctx.saved_tensors, ctx.variables, True)


class SparsemapVjp(Function):
    """Jᵀ g, pairs to scores, or ``transposed`` J h, scores to pairs: linear, each the other's
    transpose."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        argument: Tensor,
        row_splits: Tensor,
        configurations: Tensor,
        variables: int,
        transposed: bool,
    ) -> Tensor:
        op = _ops.sparsemap_vjp_transpose if transposed else _ops.sparsemap_vjp
        return op(argument, row_splits, configurations, variables)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, row_splits, configurations, ctx.variables, ctx.transposed = inputs
        ctx.save_for_backward(row_splits, configurations)
        ctx.save_for_forward(row_splits, configurations)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        back = SparsemapVjp.apply(grad, *ctx.saved_tensors, ctx.variables, not ctx.transposed)
        return back, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return SparsemapVjp.apply(tangent, *ctx.saved_tensors, ctx.variables, ctx.transposed)


class ActiveSetMarginals(Function):
    """(marginals [B, V], counts [B], configurations [B, m, V]) of the active set. The supports,
    m the size of the largest, are padded, so that they can be mapped; ``solve`` lists them."""

    @staticmethod
    def forward(
        scores: Tensor, solve: Callable[[Tensor], Any], variables: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        q = solve(scores)
        z = q.support
        counts = z.evaluations()
        width = int(counts.max()) if counts.numel() else 0
        own = _listed(counts, width)
        configurations = torch.zeros(
            (*own.shape, scores.shape[1]), dtype=torch.uint8, device=scores.device
        )
        configurations[own] = z.values(torch.uint8)
        return q.marginals(), counts, configurations

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.variables = inputs[2]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.save_for_forward(*output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        by_scores = ActiveSetMarginalsVjp.apply(grad, *ctx.saved_tensors, ctx.variables, False)
        return by_scores, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:
        moved = ActiveSetMarginalsVjp.apply(tangent, *ctx.saved_tensors, ctx.variables, True)
        return moved, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, scores: Tensor, solve: Callable[[Tensor], Any], variables: int
    ) -> Any:
        x = _front(scores, in_dims[0], info.batch_size)
        found = ActiveSetMarginals.apply(x.flatten(0, 1), solve, variables)
        return tuple(t.unflatten(0, x.shape[:2]) for t in found), (0, 0, 0)


class ActiveSetMarginalsVjp(Function):
    """Jᵀ A g, or ``transposed`` Aᵀ J h, A the configurations: each the other's transpose."""

    @staticmethod
    def forward(
        argument: Tensor, counts: Tensor, configurations: Tensor, variables: int, transposed: bool
    ) -> Tensor:
        z = configurations[_listed(counts, configurations.shape[1])]
        splits = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        rows = torch.repeat_interleave(counts)
        x = argument.double()
        if transposed:
            moved = _ops.sparsemap_vjp_transpose(x, splits, z, variables)
            result = torch.zeros_like(x).index_add(0, rows, moved.unsqueeze(1) * z)
        else:
            result = _ops.sparsemap_vjp((z * x[rows]).sum(1), splits, z, variables)
        return result.to(argument.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, counts, configurations, ctx.variables, ctx.transposed = inputs
        ctx.save_for_backward(counts, configurations)
        ctx.save_for_forward(counts, configurations)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        saved = ctx.saved_tensors
        back = ActiveSetMarginalsVjp.apply(grad, *saved, ctx.variables, not ctx.transposed)
        return back, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        saved = ctx.saved_tensors
        return ActiveSetMarginalsVjp.apply(tangent, *saved, ctx.variables, ctx.transposed)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Any,
        argument: Tensor,
        counts: Tensor,
        configurations: Tensor,
        variables: int,
        transposed: bool,
    ) -> Any:
        tensors = (argument, counts, configurations)
        x, n, z = (_front(t, d, info.batch_size).flatten(0, 1) for t, d in zip(tensors, in_dims))
        result = ActiveSetMarginalsVjp.apply(x, n, z, variables, transposed)
        return result.unflatten(0, (info.batch_size, result.shape[0] // info.batch_size)), 0


def _listed(counts: Tensor, width: int) -> Tensor:
    """[B, width] bool: which places of padded lists are taken."""
    return torch.arange(width, device=counts.device) < counts.unsqueeze(1)


# --- batches -------------------------------------------------------------------------------------


def _front(tensor: Tensor, batch_dim: int | None, size: int) -> Tensor:
    """``tensor`` with its batch first; expanded to one if it has none."""
    if batch_dim is None:
        return tensor.expand(size, *tensor.shape)
    return tensor.movedim(batch_dim, 0)


def _behind(op: str, tensor: Tensor, dim: int) -> int:
    """``dim`` of an example as a dim of the batch ``tensor``; errors are those of the op."""
    dims = tensor.dim() - 1
    if dims == 0:
        raise RuntimeError(f"{op}: expected scores to have at least one dimension, got a scalar")
    if not -dims <= dim < dims:
        raise IndexError(f"{op}: expected dim in [{-dims}, {dims - 1}], got {dim}")
    return dim if dim < 0 else dim + 1


def _front_alpha(alpha: Tensor, batch_dim: int | None, size: int, dims: int) -> Tensor:
    """α of a batch, with as many dims as the batch, so that the batch is first in both."""
    alpha = _front(alpha, batch_dim, size)
    missing = dims - alpha.dim()
    return alpha.reshape(size, *[1] * missing, *alpha.shape[1:])


def _map_sparsemax(info: Any, in_dims: Any, scores: Tensor, dim: int = -1) -> Any:
    x = _front(scores, in_dims[0], info.batch_size)
    return _ops.sparsemax(x, _behind("sparsemax", x, dim)), 0


def _map_sparsemax_backward(
    info: Any, in_dims: Any, grad: Tensor, probs: Tensor, dim: int = -1
) -> Any:
    g, p = (_front(t, d, info.batch_size) for t, d in zip((grad, probs), in_dims))
    return _ops.sparsemax_backward(g, p, _behind("sparsemax_backward", p, dim)), 0


def _map_top_k_sparsemax(info: Any, in_dims: Any, scores: Tensor, k: int, dim: int = -1) -> Any:
    x = _front(scores, in_dims[0], info.batch_size)
    return _ops.top_k_sparsemax(x, k, _behind("top_k_sparsemax", x, dim)), (0, 0)


def _map_entmax(info: Any, in_dims: Any, scores: Tensor, alpha: float = 1.5, dim: int = -1) -> Any:
    x = _front(scores, in_dims[0], info.batch_size)
    return _ops.entmax.default(x, alpha, _behind("entmax", x, dim)), 0


def _map_entmax_tensor(
    info: Any, in_dims: Any, scores: Tensor, alpha: Tensor, dim: int = -1
) -> Any:
    x = _front(scores, in_dims[0], info.batch_size)
    a = _front_alpha(alpha, in_dims[1], info.batch_size, x.dim())
    return _ops.entmax.Tensor(x, a, _behind("entmax", x, dim)), 0


def _map_entmax_backward(
    info: Any, in_dims: Any, grad: Tensor, probs: Tensor, alpha: float, dim: int
) -> Any:
    g, p = (_front(t, d, info.batch_size) for t, d in zip((grad, probs), in_dims))
    return _ops.entmax_backward.default(g, p, alpha, _behind("entmax_backward", p, dim)), 0


def _map_entmax_backward_tensor(
    info: Any, in_dims: Any, grad: Tensor, probs: Tensor, alpha: Tensor, dim: int
) -> Any:
    g, p = (_front(t, d, info.batch_size) for t, d in zip((grad, probs), in_dims))
    a = _front_alpha(alpha, in_dims[2], info.batch_size, p.dim())
    return _ops.entmax_backward.Tensor(g, p, a, _behind("entmax_backward", p, dim)), 0


def _map_entmax_backward_alpha(
    info: Any, in_dims: Any, grad: Tensor, probs: Tensor, alpha: Tensor, dim: int
) -> Any:
    g, p = (_front(t, d, info.batch_size) for t, d in zip((grad, probs), in_dims))
    own = alpha.movedim(in_dims[2], 0).shape[1:] if in_dims[2] is not None else alpha.shape
    a = _front_alpha(alpha, in_dims[2], info.batch_size, p.dim())
    result = _ops.entmax_backward_alpha(g, p, a, _behind("entmax_backward_alpha", p, dim))
    return result.reshape(info.batch_size, *own), 0


def _map_entmax_loss_forward(
    info: Any,
    in_dims: Any,
    scores: Tensor,
    target: Tensor,
    alpha: float,
    dim: int,
    ignore_index: int,
) -> Any:
    x, y = (_front(t, d, info.batch_size) for t, d in zip((scores, target), in_dims))
    dim = _behind("entmax_loss", x, dim)
    return _ops.entmax_loss_forward(x, y, alpha, dim, ignore_index), (0, 0)


def _map_entmax_loss_backward(
    info: Any,
    in_dims: Any,
    grad: Tensor,
    probs: Tensor,
    target: Tensor,
    dim: int,
    ignore_index: int,
) -> Any:
    g, p, y = (_front(t, d, info.batch_size) for t, d in zip((grad, probs, target), in_dims))
    dim = _behind("entmax_loss_backward", p, dim)
    return _ops.entmax_loss_backward(g, p, y, dim, ignore_index), 0


def _map_linear_cross_entropy(
    info: Any,
    in_dims: Any,
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    rows: Tensor,
) -> Any:
    """The mapped dim joins that of the pairs; a loop where the linear map itself is mapped."""
    op, size = _ops.linear_cross_entropy, info.batch_size
    if in_dims[1] is not None or in_dims[2] is not None:
        return _loop(op)(info, in_dims, features, weight, bias, targets, rows)
    x = _front(features, in_dims[0], size)
    r = _front(rows, in_dims[4], size)
    if in_dims[3] is not None:
        y = targets.movedim(in_dims[3], 0)
        _check_rows(r, y.shape[1])
        r = r + y.shape[1] * torch.arange(size, device=r.device).unsqueeze(1)
        targets = y.flatten(0, 1)
    nll = op(x.flatten(0, 1), weight, bias, targets, r.flatten())
    return nll.unflatten(0, (size, x.shape[1])), 0


def _check_rows(rows: Tensor, end: int) -> None:
    """The op's own check of ``rows``, which it cannot make of rows of joined batches."""
    if rows.dtype != torch.int64:
        raise TypeError(f"linear_cross_entropy: expected rows to be int64, got {rows.dtype}")
    if rows.device.type != "cpu" or rows.numel() == 0:
        return  # reading values would synchronise
    low, high = (int(bound) for bound in torch.aminmax(rows))
    if low < 0 or high >= end:
        raise IndexError(
            f"linear_cross_entropy: expected rows in 0 … {end - 1}, got {low if low < 0 else high}"
        )


def _map_scalar_perceptron(info: Any, in_dims: Any, e: Tensor, u: Tensor, w: Tensor) -> Any:
    """Number by number; a loop where the perceptron itself is mapped."""
    if in_dims[1] is not None or in_dims[2] is not None:
        return _loop(_ops.scalar_perceptron)(info, in_dims, e, u, w)
    return _ops.scalar_perceptron(_front(e, in_dims[0], info.batch_size), u, w), 0


def _map_sparsemap_marginals(
    info: Any, in_dims: Any, scores: Tensor, least: int, most: int, both_states: bool = False
) -> Any:
    x = _front(scores, in_dims[0], info.batch_size)
    _check_bits("sparsemap_marginals", x)
    found = _ops.sparsemap_marginals(x.flatten(0, 1), least, most, both_states)
    return tuple(t.unflatten(0, x.shape[:2]) for t in found), (0, 0)


def _map_sparsemap_marginals_backward(
    info: Any, in_dims: Any, grad: Tensor, marginals: Tensor, tight: Tensor, both_states: bool
) -> Any:
    g, mu, on = (_front(t, d, info.batch_size) for t, d in zip((grad, marginals, tight), in_dims))
    _check_bits("sparsemap_marginals_backward", mu)
    inputs = (t.flatten(0, 1) for t in (g, mu, on))
    result = _ops.sparsemap_marginals_backward(*inputs, both_states)
    return result.unflatten(0, mu.shape[:2]), 0


def _check_bits(op: str, batch: Tensor) -> None:
    if batch.dim() != 3:
        raise RuntimeError(f"{op}: expected scores to be [B, D], got {list(batch.shape[1:])}")


def _map_support_op(name: str) -> Callable[..., Any]:
    """An op of a fixed support, for each of many gradients or tangents."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        for argument, dim in zip(args, in_dims):
            if dim is not None and not argument.is_floating_point():
                raise RuntimeError(ragged(name))
        return _loop(getattr(_ops, name))(info, in_dims, *args)

    return rule


def _loop(op: Callable[..., Any]) -> Callable[..., Any]:
    """The rule that calls ``op`` for one example after the other."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        def example(i: int) -> Any:
            return op(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims)))

        results = [example(i) for i in range(info.batch_size)]
        if not results:
            raise RuntimeError(f"{op}: vmap: expected at least one example, got a dimension of 0")
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(r) for r in zip(*results)), (0,) * len(results[0])

    return rule


def _refuse(name: str) -> Callable[..., Any]:
    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        raise RuntimeError(ragged(name))

    return rule


_BATCHED: dict[str, Callable[..., Any]] = {
    "sparsemax": _map_sparsemax,
    "sparsemax_backward": _map_sparsemax_backward,
    "top_k_sparsemax": _map_top_k_sparsemax,
    "entmax": _map_entmax,
    "entmax.Tensor": _map_entmax_tensor,
    "entmax_backward": _map_entmax_backward,
    "entmax_backward.Tensor": _map_entmax_backward_tensor,
    "entmax_backward_alpha": _map_entmax_backward_alpha,
    "entmax_loss_forward": _map_entmax_loss_forward,
    "entmax_loss_backward": _map_entmax_loss_backward,
    "linear_cross_entropy": _map_linear_cross_entropy,
    "linear_cross_entropy_backward": _loop(_ops.linear_cross_entropy_backward),
    "scalar_perceptron": _map_scalar_perceptron,
    "scalar_perceptron_backward": _loop(_ops.scalar_perceptron_backward),
    "sparsemap_marginals": _map_sparsemap_marginals,
    "sparsemap_marginals_backward": _map_sparsemap_marginals_backward,
    "sparsemap_weights": _map_support_op("sparsemap_weights"),
    "sparsemap_vjp": _map_support_op("sparsemap_vjp"),
    "sparsemap_vjp_transpose": _map_support_op("sparsemap_vjp_transpose"),
    "sparsemap_configurations_backward": _map_support_op("sparsemap_configurations_backward"),
    **{
        name: _refuse(name)
        for name in ("support", "k_best_bits", "sparsemap_active_set", "sparsemap_configurations")
    },
}


# --- shapes --------------------------------------------------------------------------------------


def _integers(like: Tensor, *sizes: Any) -> Tensor:
    return like.new_empty(sizes, dtype=torch.long)


def _support_shape(probs: Tensor) -> tuple[Tensor, ...]:
    n = torch.library.get_ctx().new_dynamic_size()
    return _integers(probs, probs.shape[0] + 1), _integers(probs, n), _integers(probs, n)


def _k_best_bits_shape(
    scores: Tensor, least: int, most: int, k: int, until_exact: bool = False
) -> tuple[Tensor, ...]:
    ctx = torch.library.get_ctx()
    n, flips = ctx.new_dynamic_size(), ctx.new_dynamic_size()
    return (
        _integers(scores, scores.shape[0] + 1),
        _integers(scores, n),
        scores.new_empty(scores.shape, dtype=torch.uint8),
        _integers(scores, n + 1),
        _integers(scores, flips),
    )


def _sparsemap_active_set_shape(
    scores: Tensor,
    least: int,
    most: int,
    both_states: bool = False,
    tolerance: float = 1e-9,
    max_iterations: int = 0,
    initial: Tensor | None = None,
    warm_row_splits: Tensor | None = None,
    warm_configurations: Tensor | None = None,
    warm_probs: Tensor | None = None,
) -> tuple[Tensor, ...]:
    n = torch.library.get_ctx().new_dynamic_size()
    batch, parts = scores.shape
    return (
        _integers(scores, batch + 1),
        scores.new_empty((n, parts), dtype=torch.uint8),
        scores.new_empty((n,)),
        scores.new_empty((batch,), dtype=torch.double),
        scores.new_empty((batch,), dtype=torch.double),
        _integers(scores, batch),
        _integers(scores, batch),
        scores.new_empty((batch,), dtype=torch.bool),
    )


def _sparsemap_weights_shape(
    scores: Tensor,
    probs: Tensor,
    row_splits: Tensor,
    configurations: Tensor,
    variables: int,
    slope: float = 1.0,
) -> Tensor:
    return torch.empty_like(probs)


def _sparsemap_configurations_shape(
    marginals: Tensor, tight: Tensor, least: int, most: int
) -> tuple[Tensor, ...]:
    ctx = torch.library.get_ctx()
    n, flips = ctx.new_dynamic_size(), ctx.new_dynamic_size()
    return (
        _integers(marginals, marginals.shape[0] + 1),
        _integers(marginals, n),
        marginals.new_empty(marginals.shape, dtype=torch.uint8),
        _integers(marginals, n + 1),
        _integers(marginals, flips),
        marginals.new_empty((n,)),
        _integers(marginals, n),
        _integers(marginals, n),
    )


_SHAPES: dict[str, Callable[..., Any]] = {
    "support": _support_shape,
    "k_best_bits": _k_best_bits_shape,
    "sparsemap_active_set": _sparsemap_active_set_shape,
    "sparsemap_weights": _sparsemap_weights_shape,
    "sparsemap_configurations": _sparsemap_configurations_shape,
}

# --- registration --------------------------------------------------------------------------------

_FLOAT32_UNDER_AUTOCAST = (
    "sparsemax",
    "top_k_sparsemax",
    "entmax",
    "entmax.Tensor",
    "entmax_loss_forward",
    "linear_cross_entropy",
    "scalar_perceptron",
    "normmax",
    "budget_sparsemax",
    "sparsemap_active_set",
    "sparsemap_weights",
    "sparsemap_marginals",
)


def _register() -> None:
    for name, rule in _BATCHED.items():
        torch.library.register_vmap(f"sparsum::{name}", rule)
    for name, shape in _SHAPES.items():
        torch.library.register_fake(f"sparsum::{name}", shape)
    for name in _FLOAT32_UNDER_AUTOCAST:
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"sparsum::{name}", device, torch.float32)


_register()
