"""Sparse maps from scores to probabilities, and their losses, as functions of tensors.

Every function here calls the compiled library; what it computes, and its derivatives, are the same
as in C++. All of them work under ``torch.compile``, ``torch.export``, ``torch.func`` and autocast,
release the interpreter's lock, and may be called from several threads at once.

The registered ops themselves, those behind structures and solvers included, are
``torch.ops.sparsum``.

* *Autocast* runs the maps and losses in float32, as it does softmax and cross-entropy. Without it,
  float16 and bfloat16 tensors are computed in float32 and rounded to their own dtype.
* *Determinism*: every op gives the same result for any number of threads, and honours
  ``torch.use_deterministic_algorithms(True)``.
* *Forward-mode differentiation* is ``torch.func.jvp``'s; outside torch.func it raises.
* *vmap* maps every function here but :func:`support`, whose results differ in size. Where it maps
  the weights of :func:`linear_cross_entropy` or :func:`scalar_perceptron`, or a gradient in them,
  these are called once for each mapped example; otherwise all mapped examples are one call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function

from . import _transforms
from ._load import _ops
from ._named import named

if TYPE_CHECKING:
    from .distributions import SparseDistribution
    from .structures import Structure

__all__ = [
    "entmax",
    "entmax15",
    "entmax15_loss",
    "entmax_loss",
    "linear_cross_entropy",
    "scalar_perceptron",
    "sparsemax",
    "sparsemax_loss",
    "support",
    "top_k_sparsemax",
]

Reduction = Literal["none", "mean", "sum"]

_registered = torch.ops.sparsum
_call_sparsemax = _ops.sparsemax
_call_entmax = _ops.entmax
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}
_REDUCTION_NAMES: tuple[Reduction, ...] = ("none", "mean", "sum")


# --- maps ----------------------------------------------------------------------------------------


def sparsemax(scores: Tensor, dim: int = -1) -> Tensor:
    """The Euclidean projection of scores onto the probability simplex along ``dim``.

    ``p = argmin_{p in Δ} ‖p − s‖² = max(s − τ, 0)``, with τ such that Σp = 1: unlike softmax's,
    most of its probabilities are exactly 0.

    Args:
        scores: Any shape with K ≥ 1 entries along ``dim``; float32, float64, or float16 and
            bfloat16 (computed in float32). −inf means "forbidden" and gets exactly 0. Batches may be empty;
            any strides.
        dim: The dimension that becomes a distribution.

    Returns:
        The shape and dtype of ``scores``; on the simplex along ``dim``. Equal scores get equal
        probabilities.

    Raises:
        TypeError: scores that are no tensor, or not floating point.
        IndexError: ``dim`` out of range.
        ValueError: on the CPU, a row that holds NaN or +inf, or no finite score, named by its index
            (on CUDA that check would synchronise: there NaN spreads).

    Gradients: with S = {p > 0}, ``g − mean_S(g)`` on S and exactly 0 elsewhere; the second
    derivative is 0 wherever the support does not change.

    Cost: O(K) expected, no sort. Source: Martins and Astudillo, 2016.

    >>> sparsemax(torch.tensor([1.0, 0.5, -1.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_sparsemax(scores, dim)
        return _registered.sparsemax(scores, dim)
    return _call_sparsemax(scores, dim)


def entmax(scores: Tensor, alpha: float | Tensor = 1.5, dim: int = -1) -> Tensor:
    """α-entmax along ``dim``: softmax at α = 1, sparsemax at α = 2, sparse for every α > 1.

    ``p = argmax_{p in Δ} ⟨p, s⟩ + H_α(p) = [((α − 1)s − τ)_+]^{1/(α − 1)}`` with Tsallis's entropy
    ``H_α(p) = (1 − Σ p^α) / (α(α − 1))``. 1.5 and 2 are solved in closed form on the support, every
    other α > 1 by a bracketed Newton iteration to the dtype's precision.

    Args:
        scores: As for :func:`sparsemax`.
        alpha: α ≥ 1; a number, or a tensor that broadcasts against ``scores`` with size 1 along
            ``dim`` (one α, one per head, one per row), which gets a gradient.
        dim: The dimension that becomes a distribution.

    Returns:
        The shape and dtype of ``scores``; on the simplex along ``dim``.

    Raises:
        ValueError: α < 1, infinite or NaN; otherwise the errors of :func:`sparsemax`.

    Gradients: with ``u = p^{2−α}`` on the support and 0 elsewhere, ``u ⊙ (g − ⟨u, g⟩ / Σu)``; in α
    its true derivative, also near α = 1. Second derivatives in the scores are defined; those in α
    are refused.

    Cost: O(K) plus a few passes over the candidates {s > max − 1/(α − 1)}; no sort. Source: Peters,
    Niculae and Martins, 2019; Correia, Niculae and Martins, 2019 (the derivative in α).

    >>> entmax(torch.tensor([1.0, 0.0, -2.0]), alpha=1.5)
    tensor([0.8307, 0.1693, 0.0000])
    >>> entmax(torch.zeros(2, 4), alpha=torch.tensor([[1.0], [2.0]])).shape
    torch.Size([2, 4])
    """
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_entmax(scores, alpha, dim)
        return _transforms.registered_entmax(scores, alpha, dim)
    return _call_entmax(scores, alpha, dim)


def entmax15(scores: Tensor, dim: int = -1) -> Tensor:
    """:func:`entmax` at α = 1.5, the middle between softmax and sparsemax.

    >>> entmax15(torch.tensor([1.0, 0.0, -2.0]))
    tensor([0.8307, 0.1693, 0.0000])
    """
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_entmax(scores, 1.5, dim)
        return _registered.entmax.default(scores, 1.5, dim)
    return named("entmax15", _call_entmax, scores, 1.5, dim)


@overload
def top_k_sparsemax(scores: Tensor, k: int, dim: int = -1) -> tuple[Tensor, Tensor]: ...


@overload
def top_k_sparsemax(structure: Structure, scores: Tensor, k: int) -> SparseDistribution: ...


def top_k_sparsemax(*args: Any, **kwargs: Any) -> Any:
    """Sparsemax with at most k non-zeros: of a tensor's rows, or of a structure's outcomes.

    ``top_k_sparsemax(scores, k, dim=-1)`` is ``argmin_{p in Δ, ‖p‖₀ ≤ k} ‖p − s‖²`` along ``dim``:
    sparsemax of the k largest scores, the rest exactly 0.

    Args:
        scores: As for :func:`sparsemax`.
        k: At least 1; K or more gives sparsemax.
        dim: The dimension that becomes a distribution.

    Returns:
        ``(probs, exact)``. probs: the shape and dtype of ``scores``. exact: bool, the shape of
        ``scores`` without ``dim``: the certificate that this row is sparsemax's own solution, true
        if and only if the (k+1)-th largest score is ≤ τ, or k ≥ K. At the k-th place, of equal
        scores the lower index wins.

    Raises:
        ValueError: k < 1; otherwise the errors of :func:`sparsemax`.

    Gradients: sparsemax's, on the support of ``probs``. Cost: O(K); no sort. Source: Kyrillidis et
    al., 2013; Correia et al., 2020.

    ``top_k_sparsemax(structure, scores, k)`` is the distribution over the k best outcomes of a
    structure, of whose scores ⟨a_z, t⟩ only k + 1 are looked at: see
    :func:`sparsum.distributions.top_k_sparsemax`.

    >>> probs, exact = top_k_sparsemax(torch.tensor([1.0, 0.9, 0.8]), 2)
    >>> probs, exact
    (tensor([0.5500, 0.4500, 0.0000]), tensor(False))
    """
    if "structure" in kwargs or (
        args and not isinstance(args[0], Tensor) and _is_structure(args[0])
    ):
        from .distributions import top_k_sparsemax as of_structure

        return of_structure(*args, **kwargs)
    return _top_k_sparsemax(*args, **kwargs)


def _is_structure(argument: object) -> bool:
    """Whether it is a Structure. Does not load them: who has one has them loaded."""
    return any(
        cls.__name__ == "Structure" and cls.__module__.split(".")[0] == "sparsum"
        for cls in type(argument).__mro__
    )


def _top_k_sparsemax(scores: Tensor, k: int, dim: int = -1) -> tuple[Tensor, Tensor]:
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_top_k_sparsemax(scores, k, dim)
        return _registered.top_k_sparsemax(scores, k, dim)
    return _ops.top_k_sparsemax(scores, k, dim)


def support(probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a batch of distributions is non-zero.

    Args:
        probs: [B, K], any floating dtype.

    Returns:
        ``(row_splits [B + 1], rows [n], indices [n])``, all int64: the entries
        {(b, j) : probs[b, j] > 0} in row-major order. Row b owns positions row_splits[b] … row_splits[b + 1] − 1; rows[i]
        is the b and indices[i] the j of position i. Not differentiable.

    Cost: O(BK).

    >>> support(torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    (tensor([0, 2, 3]), tensor([0, 0, 1]), tensor([0, 2, 1]))
    """
    return _registered.support(probs)


# --- losses --------------------------------------------------------------------------------------


def entmax_loss(
    scores: Tensor,
    target: Tensor,
    alpha: float = 1.5,
    dim: int = -1,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """The Fenchel–Young loss of α-entmax, which is cross-entropy (in nats) at α = 1.

    ``L(s; y) = H_α(p) − H_α(y) + ⟨p − y, s⟩ ≥ 0`` with ``p = entmax(s, α)``; zero if and only if
    y = p, which a score that is ahead of all others by enough reaches exactly when α > 1.

    Args:
        scores: As for :func:`entmax`, K classes along ``dim``.
        target: Class indices, int64, the shape of ``scores`` without ``dim``; or distributions over
            the classes, the dtype and shape of ``scores``, each on the simplex.
        alpha: α ≥ 1.
        dim: The dimension of the classes (the last, where ``cross_entropy`` has the second).
        ignore_index: Rows with this class index count as nothing; any integer.
        reduction: ``"none"``: one loss a row, 0 for ignored rows. ``"mean"``: over the rows that
            are not ignored (NaN if all are, as cross_entropy). ``"sum"``.

    Returns:
        The shape of ``scores`` without ``dim``, or a scalar; the dtype of ``scores``. Target mass
        on a score of −inf gives +inf, never NaN.

    Raises:
        IndexError: a class index out of range that is not ``ignore_index``, named by its row.
        ValueError: a target row that is not a distribution; a reduction that is none; otherwise the
            errors of :func:`entmax`.

    Gradients: ``g (p − y)`` in the scores; none in the target. Second derivatives as entmax's
    first.

    Cost: entmax's, plus O(K) for distributions. Source: Blondel, Martins and Niculae, 2020.

    >>> scores = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    >>> entmax_loss(scores, torch.tensor([0, 1]), reduction="none")
    tensor([0.0000, 0.2801])
    """
    code = _reduction("entmax_loss", reduction)
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_entmax_loss(scores, target, alpha, dim, ignore_index, code)
        return _registered.entmax_loss(scores, target, alpha, dim, ignore_index, code)
    return _ops.entmax_loss(scores, target, alpha, dim, ignore_index, code)


def sparsemax_loss(
    scores: Tensor,
    target: Tensor,
    dim: int = -1,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """:func:`entmax_loss` at α = 2, the loss whose gradient is ``sparsemax(scores) − y``.

    Source: Martins and Astudillo, 2016.

    >>> sparsemax_loss(torch.tensor([[1.0, 0.5, -1.0]]), torch.tensor([0]))
    tensor(0.0625)
    """
    code = _reduction("sparsemax_loss", reduction)
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_entmax_loss(scores, target, 2.0, dim, ignore_index, code)
        return _registered.entmax_loss(scores, target, 2.0, dim, ignore_index, code)
    return named(
        "sparsemax_loss", _ops.entmax_loss, scores, target, 2.0, dim, ignore_index, code
    )


def entmax15_loss(
    scores: Tensor,
    target: Tensor,
    dim: int = -1,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """:func:`entmax_loss` at α = 1.5.

    >>> entmax15_loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
    tensor(0.)
    """
    code = _reduction("entmax15_loss", reduction)
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_entmax_loss(scores, target, 1.5, dim, ignore_index, code)
        return _registered.entmax_loss(scores, target, 1.5, dim, ignore_index, code)
    return named(
        "entmax15_loss", _ops.entmax_loss, scores, target, 1.5, dim, ignore_index, code
    )


def linear_cross_entropy(
    features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, rows: Tensor
) -> Tensor:
    """A linear map and the cross-entropy of its softmax, fused, for many problems that share it.

    Pair i has features x_p at P positions and a class to predict at each:
    ``nll_i = Σ_p (log Σ_c exp(l_c) − l_{y_p})``, ``l_c = b_c + ⟨W_c, x_p⟩``,
    ``y_p = targets[rows_i, p]``. The n·P·C scores are never held.

    Args:
        features: [n, P, F].
        weight: [C, F], and bias: [C], of the features' dtype (half types are computed in float32).
        bias: [C].
        targets: [B, P], integers in 0 … C − 1.
        rows: [n] int64, the row of ``targets`` of each pair.

    Returns:
        nll [n], in nats, of the features' dtype.

    Raises:
        IndexError: a target or a row out of range, named (on the CPU).
        NotImplementedError: where it is differentiated twice.

    Gradients: in features, weight and bias. Cost: n·P·C exponentials.

    >>> nll = linear_cross_entropy(
    ...     torch.zeros(1, 2, 3), torch.zeros(4, 3), torch.zeros(4),
    ...     torch.tensor([[0, 1]]), torch.tensor([0]))
    >>> nll  # 2 log 4
    tensor([2.7726])
    """
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_linear_cross_entropy(features, weight, bias, targets, rows)
        return _registered.linear_cross_entropy(features, weight, bias, targets, rows)
    return _ops.linear_cross_entropy(features, weight, bias, targets, rows)


def scalar_perceptron(e: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """The same small perceptron applied to every number of a tensor.

    ``y = σ(Σ_j w_j σ(u_j e))``, ``σ(x) = 1/(1 + exp(−x))``, j = 1 … H.

    Args:
        e: Any shape, n numbers.
        u: [H], H ≥ 1, of the dtype of ``e`` (half types are computed in float32).
        w: [H], likewise.

    Returns:
        y, of the shape and dtype of ``e``.

    Gradients: in e, u and w, of any order. Cost: n·H exponentials, or far fewer where n is large:
    in float32 the function is tabulated to below rounding. Memory: never n·H (second derivatives,
    and derivatives under torch.func, hold a few tensors of n·H numbers).

    >>> scalar_perceptron(torch.zeros(2), torch.ones(3), torch.zeros(3))
    tensor([0.5000, 0.5000])
    """
    if is_dynamo_compiling():
        if _transforms.transformed():
            return _traced_scalar_perceptron(e, u, w)
        return _registered.scalar_perceptron(e, u, w)
    return _ops.scalar_perceptron(e, u, w)


def _reduction(op: str, reduction: str) -> int:
    code = _REDUCTIONS.get(reduction)
    if code is None:
        raise ValueError(
            f"{op}(): expected reduction to be 'none', 'mean' or 'sum', got {reduction!r}"
        )
    return code


# --- what is not a plain tensor's ----------------------------------------------------------------
#
# The compiled functions hand over here where a class or a mode overrides functions, or torch.func
# transforms the call. Arguments come by position, all of them.


def _check_tensors(op: str, **tensors: Any) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{op}(): argument {name!r} must be Tensor, not {type(tensor).__name__}"
            )


def _sparsemax_overridden(scores: Tensor, dim: int) -> Tensor:
    if has_torch_function((scores,)):
        return handle_torch_function(sparsemax, (scores,), scores, dim)
    _check_tensors("sparsemax", scores=scores)
    if _transforms.transformed():
        return _transforms.Sparsemax.apply(scores, dim)
    return _registered.sparsemax(scores, dim)


def _entmax_overridden(scores: Tensor, alpha: float | Tensor, dim: int) -> Tensor:
    if has_torch_function((scores, alpha)):
        return handle_torch_function(entmax, (scores, alpha), scores, alpha, dim)
    _check_tensors("entmax", scores=scores)
    if _transforms.transformed():
        return _transforms.Entmax.apply(scores, alpha, dim)
    return _transforms.registered_entmax(scores, alpha, dim)


def _top_k_sparsemax_overridden(scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
    if has_torch_function((scores,)):
        return handle_torch_function(top_k_sparsemax, (scores,), scores, k, dim)
    _check_tensors("top_k_sparsemax", scores=scores)
    if _transforms.transformed():
        return _transforms.TopKSparsemax.apply(scores, k, dim)
    return _registered.top_k_sparsemax(scores, k, dim)


def _entmax_loss_overridden(
    scores: Tensor, target: Tensor, alpha: float, dim: int, ignore_index: int, reduction: int
) -> Tensor:
    if has_torch_function((scores, target)):
        name = _REDUCTION_NAMES[reduction]
        tensors = (scores, target)
        return handle_torch_function(
            entmax_loss, tensors, scores, target, alpha, dim, ignore_index, name
        )
    _check_tensors("entmax_loss", scores=scores, target=target)
    if not _transforms.transformed():
        return _registered.entmax_loss(scores, target, alpha, dim, ignore_index, reduction)
    return _transformed_entmax_loss(scores, target, alpha, dim, ignore_index, reduction)


def _transformed_entmax_loss(
    scores: Tensor, target: Tensor, alpha: float, dim: int, ignore_index: int, reduction: int
) -> Tensor:
    losses, _ = _transforms.EntmaxLoss.apply(scores, target, alpha, dim, ignore_index)
    if reduction == 0:
        return losses
    if reduction == 2:
        return losses.sum()
    if target.dtype != torch.long:
        return losses.mean()
    return losses.sum() / (target != ignore_index).sum()


def _linear_cross_entropy_overridden(*args: Tensor) -> Tensor:
    if has_torch_function(args):
        return handle_torch_function(linear_cross_entropy, args, *args)
    names = ("features", "weight", "bias", "targets", "rows")
    _check_tensors("linear_cross_entropy", **dict(zip(names, args)))
    if _transforms.transformed():
        return _transforms.LinearCrossEntropy.apply(*args)
    return _registered.linear_cross_entropy(*args)


def _scalar_perceptron_overridden(*args: Tensor) -> Tensor:
    if has_torch_function(args):
        return handle_torch_function(scalar_perceptron, args, *args)
    _check_tensors("scalar_perceptron", **dict(zip(("e", "u", "w"), args)))
    if _transforms.transformed():
        return _transforms.ScalarPerceptron.apply(*args)
    return _registered.scalar_perceptron(*args)


# --- torch.func inside torch.compile -------------------------------------------------------------
#
# torch.compile cannot look into an autograd function with rules of its own: these calls stand in
# its graph as they are, and are traced, down to the registered ops, where the graph is
# differentiated.


def _traced(function: Any) -> Any:
    def call(*args: Any) -> Any:
        return function(*args)

    return torch.compiler.allow_in_graph(call)


_traced_sparsemax = _traced(_transforms.Sparsemax.apply)
_traced_entmax = _traced(_transforms.Entmax.apply)
_traced_top_k_sparsemax = _traced(_transforms.TopKSparsemax.apply)
_traced_entmax_loss = _traced(_transformed_entmax_loss)
_traced_linear_cross_entropy = _traced(_transforms.LinearCrossEntropy.apply)
_traced_scalar_perceptron = _traced(_transforms.ScalarPerceptron.apply)

_ops.set_fallback("sparsemax", _sparsemax_overridden)
_ops.set_fallback("entmax", _entmax_overridden)
_ops.set_fallback("top_k_sparsemax", _top_k_sparsemax_overridden)
_ops.set_fallback("entmax_loss", _entmax_loss_overridden)
_ops.set_fallback("linear_cross_entropy", _linear_cross_entropy_overridden)
_ops.set_fallback("scalar_perceptron", _scalar_perceptron_overridden)
