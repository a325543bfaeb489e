"""What PyPI's ``entmax`` (1.3) offers, under its names and with its defaults.

::

    import sparsum.compat.entmax as entmax   # was: import entmax

Results agree to within 10⁻⁶, gradients included. What is different is what was wrong or slow:

* float16 and bfloat16 are computed in float32 and give no NaN.
* A row without a finite score, or with NaN or +inf, is an error that names the row (on the CPU),
  not NaN or a crash further on.
* α = 1 is softmax, and α < 1 an error; the derivative in α is right near 1.
* Losses of scores that are −inf are finite, or +inf where the target's score is −inf; never NaN.
* Scores of integers, and α = 1 for ``normmax_bisect``, are errors.
* Losses have second derivatives, and entmax's one in α.

Names, order and defaults of all arguments are the originals'. What they mean differs here:

======================= ============================== =====================================
argument                entmax 1.3                     here
======================= ============================== =====================================
``k``                   hint for partial sorting       None or ≥ 1; no effect
``n_iter``              steps of bisection             None or ≥ 1; no effect: exact to the
                                                       dtype's precision
``ensure_sum_one``      divide by the sum              no effect: the sum is one
``return_support_size`` none                           last of ``sparsemax`` and ``entmax15``
``alpha`` of losses     a number, or one for all rows; also one a row, [n, 1]; with a gradient
                        no gradient                    (``normmax_bisect_loss``: without)
``target``              int64                          any integers, checked
``ignore_index``        honoured if it is a class; a   honoured whatever it is: −100, or a
                        target of −100 is an error     padding index beyond the classes, too
``reduction``           ``"elementwise_mean"``,        the same, and ``"mean"`` for the first
                        ``"sum"``, ``"none"``
======================= ============================== =====================================

Modules have the originals' attributes (``dim``, ``k``, ``alpha``, ``budget``, ``n_iter``, …) and no
parameters of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsum import _transforms, ops
from sparsum._named import named

__all__ = [
    "BudgetBisect",
    "Entmax15",
    "Entmax15Loss",
    "EntmaxBisect",
    "EntmaxBisectLoss",
    "NormmaxBisect",
    "NormmaxBisectLoss",
    "Sparsemax",
    "SparsemaxBisect",
    "SparsemaxBisectLoss",
    "SparsemaxLoss",
    "budget_bisect",
    "entmax15",
    "entmax15_loss",
    "entmax_bisect",
    "entmax_bisect_loss",
    "normmax_bisect",
    "normmax_bisect_loss",
    "sparsemax",
    "sparsemax_bisect",
    "sparsemax_bisect_loss",
    "sparsemax_loss",
]

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_NO_INDEX = -(2**63)
"""An ignore_index that no class has: single losses ignore nothing."""

_registered = torch.ops.sparsum


# --- maps ----------------------------------------------------------------------------------------


def sparsemax(
    X: Tensor, dim: int = -1, k: int | None = None, return_support_size: bool = False
) -> Any:
    """:func:`sparsum.sparsemax`; ``k`` has no effect.

    Returns:
        The probabilities P; with ``return_support_size`` the pair (P, support size), the number of
        non-zeros, int64, the shape of X with size 1 along ``dim``.

    >>> sparsemax(torch.tensor([[1.0, 0.5, -1.0]]), return_support_size=True)
    (tensor([[0.7500, 0.2500, 0.0000]]), tensor([[2]]))
    """
    _check_tensor("sparsemax", X)
    _check_hint("sparsemax", "k", k)
    return _with_support_size(ops.sparsemax(X, dim), dim, return_support_size)


def entmax15(
    X: Tensor, dim: int = -1, k: int | None = None, return_support_size: bool = False
) -> Any:
    """:func:`sparsum.entmax15`; ``k`` has no effect. Returns as :func:`sparsemax`.

    >>> entmax15(torch.tensor([1.0, 0.0, -2.0]))
    tensor([0.8307, 0.1693, 0.0000])
    """
    _check_tensor("entmax15", X)
    _check_hint("entmax15", "k", k)
    return _with_support_size(named("entmax15", ops.entmax15, X, dim), dim, return_support_size)


def sparsemax_bisect(
    X: Tensor, dim: int = -1, n_iter: int | None = 50, ensure_sum_one: bool = True
) -> Tensor:
    """:func:`sparsum.sparsemax`; ``n_iter`` and ``ensure_sum_one`` have no effect."""
    _check_tensor("sparsemax_bisect", X)
    _check_hint("sparsemax_bisect", "n_iter", n_iter)
    return named("sparsemax_bisect", ops.sparsemax, X, dim)


def entmax_bisect(
    X: Tensor,
    alpha: float | Tensor = 1.5,
    dim: int = -1,
    n_iter: int | None = 50,
    ensure_sum_one: bool = True,
) -> Tensor:
    """:func:`sparsum.entmax`; ``n_iter`` and ``ensure_sum_one`` have no effect.

    Args:
        X: The scores.
        alpha: α ≥ 1; a number or a tensor that broadcasts against X with size 1 along ``dim``,
            which gets a gradient.
        dim: The dimension that becomes a distribution.
        n_iter: Accepted.
        ensure_sum_one: Accepted.

    >>> entmax_bisect(torch.tensor([1.0, 0.0, -2.0]), alpha=2.0)
    tensor([1., 0., 0.])
    """
    _check_tensor("entmax_bisect", X)
    _check_hint("entmax_bisect", "n_iter", n_iter)
    return named("entmax_bisect", ops.entmax, X, _floating(alpha, X), dim)


def normmax_bisect(
    X: Tensor, alpha: float | Tensor = 2, dim: int = -1, n_iter: int | None = 50
) -> Tensor:
    """α-normmax: ``argmax_{p in Δ} ⟨p, x⟩ − ‖p‖_α``; ``n_iter`` has no effect.

    Args:
        X: The scores, as for :func:`sparsum.sparsemax`.
        alpha: α > 1; a number or a tensor that broadcasts against X with size 1 along ``dim``. It
            has no gradient: one that requires it is an error.
        dim: The dimension that becomes a distribution.
        n_iter: Accepted.

    >>> normmax_bisect(torch.tensor([1.0, 1.0, -2.0]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    _check_tensor("normmax_bisect", X)
    _check_hint("normmax_bisect", "n_iter", n_iter)
    return named("normmax_bisect", _normmax, X, _number(alpha, X), dim)


def _normmax(X: Tensor, alpha: Tensor, dim: int) -> Tensor:
    if not torch.compiler.is_dynamo_compiling() and _transforms.transformed():
        return _transforms.Normmax.apply(X, alpha, dim)
    return _registered.normmax(X, alpha, dim)


def budget_bisect(
    X: Tensor, budget: float | Tensor = 2, dim: int = -1, n_iter: int | None = 50
) -> Tensor:
    """``argmax ⟨p, x⟩ − ½‖p‖²`` over 0 ≤ p ≤ 1 with Σp = budget; ``n_iter`` has no effect.

    Args:
        X: The scores, as for :func:`sparsum.sparsemax`.
        budget: At least 0; a number or a tensor that broadcasts against X with size 1 along
            ``dim``, which gets a gradient. One beyond the number of scores gives ones; with scores
            of −inf, it must be at most the number of the others.
        dim: The dimension along which the sum is the budget.
        n_iter: Accepted.

    >>> budget_bisect(torch.tensor([1.0, 0.5, 0.5, -2.0]), budget=2)
    tensor([1.0000, 0.5000, 0.5000, 0.0000])
    """
    _check_tensor("budget_bisect", X)
    _check_hint("budget_bisect", "n_iter", n_iter)
    total = _number(budget, X).clamp(max=X.size(dim) if X.dim() > 0 else 1)
    return named("budget_bisect", _budget_sparsemax, X, total, dim)


def _budget_sparsemax(X: Tensor, budget: Tensor, dim: int) -> Tensor:
    if not torch.compiler.is_dynamo_compiling() and _transforms.transformed():
        return _transforms.BudgetSparsemax.apply(X, budget, dim)
    return _registered.budget_sparsemax(X, budget, dim)


def _with_support_size(probs: Tensor, dim: int, wanted: bool) -> Any:
    return (probs, (probs > 0).sum(dim, keepdim=True)) if wanted else probs


def _check_hint(op: str, name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{op}: expected {name} to be None or >= 1, got {value}")


def _check_tensor(op: str, X: Any) -> None:
    if not isinstance(X, Tensor) and not hasattr(type(X), "__torch_function__"):
        raise TypeError(f"{op}(): argument 'X' must be Tensor, not {type(X).__name__}")


def _floating(value: float | Tensor, like: Tensor) -> float | Tensor:
    """α as the ops take it: integers too are numbers here."""
    if isinstance(value, Tensor) and not value.is_floating_point():
        return value.to(like.dtype)
    return value


def _number(value: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.to(torch.double)
    return torch.full((), float(value), dtype=torch.double, device=like.device)


# --- losses of single samples --------------------------------------------------------------------


def sparsemax_loss(X: Tensor, target: Tensor, k: int | None = None) -> Tensor:
    """The sparsemax loss of each sample; ``k`` has no effect.

    Args:
        X: [n, classes].
        target: [n], int64.
        k: Accepted.

    Returns:
        Losses [n]: ``H(p) + ⟨p − e_y, x⟩`` with ``H(p) = (1 − Σp²)/2``.

    >>> sparsemax_loss(torch.tensor([[1.0, 0.5, -1.0]]), torch.tensor([0]))
    tensor([0.0625])
    """
    _check_hint("sparsemax_loss", "k", k)
    return _sample_losses("sparsemax_loss", X, target, 2.0)


def sparsemax_bisect_loss(X: Tensor, target: Tensor, n_iter: int | None = 50) -> Tensor:
    """:func:`sparsemax_loss`; ``n_iter`` has no effect."""
    _check_hint("sparsemax_bisect_loss", "n_iter", n_iter)
    return _sample_losses("sparsemax_bisect_loss", X, target, 2.0)


def entmax15_loss(X: Tensor, target: Tensor, k: int | None = None) -> Tensor:
    """The loss of 1.5-entmax of each sample; arguments as :func:`sparsemax_loss`."""
    _check_hint("entmax15_loss", "k", k)
    return _sample_losses("entmax15_loss", X, target, 1.5)


def entmax_bisect_loss(
    X: Tensor, target: Tensor, alpha: float | Tensor = 1.5, n_iter: int | None = 50
) -> Tensor:
    """The loss of α-entmax of each sample: ``H_α(p) + ⟨p − e_y, x⟩``.

    Args:
        X: [n, classes].
        target: [n], int64.
        alpha: α ≥ 1; a number, or a tensor of one element or [n, 1], which gets a gradient.
        n_iter: Accepted.

    Returns:
        Losses [n].
    """
    op = "entmax_bisect_loss"
    _check_hint(op, "n_iter", n_iter)
    if not isinstance(alpha, Tensor):
        return _sample_losses(op, X, target, alpha)
    target = _check_sample(op, X, target)
    alpha = alpha.to(X.dtype)
    probs = named(op, ops.entmax, X, alpha, -1)
    # p maximises H + ⟨p, x⟩, whose derivative in p is therefore constant on the support: what
    # autograd sends through p adds up to nothing, and the derivative in x is p − e_y.
    entropy = _tsallis_entropy(probs, alpha.expand(X.shape[0], 1))
    return entropy + _score_gap(op, probs, X, target)


def normmax_bisect_loss(
    X: Tensor, target: Tensor, alpha: float | Tensor = 2, n_iter: int | None = 50
) -> Tensor:
    """The loss of α-normmax of each sample: ``1 − ‖p‖_α + ⟨p − e_y, x⟩``.

    Args:
        X: [n, classes].
        target: [n], int64.
        alpha: α > 1; a number, or a tensor of one element or [n, 1], without a gradient.
        n_iter: Accepted.

    Returns:
        Losses [n].
    """
    op = "normmax_bisect_loss"
    _check_hint(op, "n_iter", n_iter)
    target = _check_sample(op, X, target)
    exponent = _number(alpha, X)
    probs = named(op, _normmax, X, exponent, -1)
    exponent = exponent.to(X.dtype if X.dtype == torch.double else torch.float)
    p = probs.to(exponent.dtype)
    norm = (p**exponent).sum(1, keepdim=True) ** (1 / exponent)
    return (1 - norm.squeeze(1)).to(X.dtype) + _score_gap(op, probs, X, target)


def _check_sample(op: str, X: Any, target: Any) -> Tensor:
    """The target as int64."""
    for name, tensor in (("X", X), ("target", target)):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{op}(): argument {name!r} must be Tensor, not {type(tensor).__name__}"
            )
    if X.dim() != 2:
        raise RuntimeError(f"{op}: expected X to be [n, classes], got {list(X.shape)}")
    if target.dtype not in _INTEGERS or target.shape != X.shape[:1]:
        raise RuntimeError(
            f"{op}: expected target to be integers [n] = [{X.shape[0]}], got {target.dtype} "
            f"{list(target.shape)}"
        )
    return target.long()


def _sample_losses(op: str, X: Tensor, target: Tensor, alpha: float) -> Tensor:
    target = _check_sample(op, X, target)
    return named(op, _losses, X, target, alpha)


def _losses(X: Tensor, target: Tensor, alpha: float) -> Tensor:
    if torch.compiler.is_dynamo_compiling():
        return ops.entmax_loss(X, target, alpha, -1, _NO_INDEX, "none")
    try:
        return ops.entmax_loss(X, target, alpha, -1, _NO_INDEX, "none")
    except IndexError as error:  # the index that ignores nothing is no one's business
        error.args = (str(error).replace(f" or ignore_index {_NO_INDEX}", ""),)
        raise


def _tsallis_entropy(probs: Tensor, alpha: Tensor) -> Tensor:
    """H_α(p) of each row; alpha [n, 1]. At α = 1 Shannon's."""
    shannon = alpha == 1
    a = torch.where(shannon, 2.0, alpha)
    tsallis = (1 - (probs**a).sum(1, keepdim=True)) / (a * (a - 1))
    return torch.where(shannon, torch.special.entr(probs).sum(1, keepdim=True), tsallis).squeeze(1)


def _score_gap(op: str, probs: Tensor, X: Tensor, target: Tensor) -> Tensor:
    """⟨p − e_y, x⟩ of each row, where 0·(−inf) is 0."""
    own = torch.where(probs > 0, probs * torch.where(probs > 0, X, 0.0), 0.0).sum(1)
    return own - _chosen(op, X, target)


def _chosen(op: str, X: Tensor, target: Tensor) -> Tensor:
    """The score of each row's class."""
    if torch.compiler.is_dynamo_compiling():
        return X.gather(1, target.unsqueeze(1)).squeeze(1)
    try:
        return X.gather(1, target.unsqueeze(1)).squeeze(1)
    except (IndexError, RuntimeError) as error:
        for row, index in enumerate(target.tolist()):
            if not 0 <= index < X.shape[1]:
                raise IndexError(
                    f"{op}: expected target in [0, {X.shape[1] - 1}], got {index} for row {row}"
                ) from error
        raise


# --- modules -------------------------------------------------------------------------------------


class _Module(nn.Module):
    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(
            f"{type(self).__name__}: torch.jit.script is not supported; use torch.export, or the "
            "modules of sparsum.nn, which can be scripted"
        )


class Sparsemax(_Module):
    """:func:`sparsemax` as a module."""

    def __init__(self, dim: int = -1, k: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.k = k

    def forward(self, X: Tensor) -> Tensor:
        return sparsemax(X, dim=self.dim, k=self.k)


class Entmax15(_Module):
    """:func:`entmax15` as a module."""

    def __init__(self, dim: int = -1, k: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.k = k

    def forward(self, X: Tensor) -> Tensor:
        return entmax15(X, dim=self.dim, k=self.k)


class SparsemaxBisect(_Module):
    """:func:`sparsemax_bisect` as a module."""

    def __init__(self, dim: int = -1, n_iter: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        self.n_iter = n_iter

    def forward(self, X: Tensor) -> Tensor:
        return sparsemax_bisect(X, dim=self.dim, n_iter=self.n_iter)


class EntmaxBisect(_Module):
    """:func:`entmax_bisect` as a module."""

    def __init__(
        self, alpha: float | Tensor = 1.5, dim: int = -1, n_iter: int | None = 50
    ) -> None:
        super().__init__()
        self.dim = dim
        self.n_iter = n_iter
        self.alpha = alpha

    def forward(self, X: Tensor) -> Tensor:
        return entmax_bisect(X, alpha=self.alpha, dim=self.dim, n_iter=self.n_iter)


class NormmaxBisect(_Module):
    """:func:`normmax_bisect` as a module."""

    def __init__(self, alpha: float | Tensor = 2, dim: int = -1, n_iter: int | None = 50) -> None:
        super().__init__()
        self.dim = dim
        self.n_iter = n_iter
        self.alpha = alpha

    def forward(self, X: Tensor) -> Tensor:
        return normmax_bisect(X, alpha=self.alpha, dim=self.dim, n_iter=self.n_iter)


class BudgetBisect(_Module):
    """:func:`budget_bisect` as a module."""

    def __init__(self, budget: float | Tensor = 2, dim: int = -1, n_iter: int | None = 50) -> None:
        super().__init__()
        self.dim = dim
        self.n_iter = n_iter
        self.budget = budget

    def forward(self, X: Tensor) -> Tensor:
        return budget_bisect(X, budget=self.budget, dim=self.dim, n_iter=self.n_iter)


class _Loss(_Module):
    """A reduction of single samples' losses.

    Args:
        ignore_index: Samples with this target, which may be negative, count as nothing.
        reduction: ``"elementwise_mean"`` (over samples that are not ignored; NaN if all are),
            ``"sum"`` or ``"none"`` (0 for ignored ones). ``"mean"`` is the first.
    """

    def __init__(self, ignore_index: int = -100, reduction: str = "elementwise_mean") -> None:
        super().__init__()
        if reduction not in ("elementwise_mean", "mean", "sum", "none"):
            raise ValueError(
                f"{type(self).__name__}: expected reduction to be 'elementwise_mean', 'sum' or "
                f"'none', got {reduction!r}"
            )
        self.reduction = reduction
        self.ignore_index = ignore_index

    def loss(self, X: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, X: Tensor, target: Tensor) -> Tensor:
        ignored = target == self.ignore_index
        loss = self.loss(X, torch.where(ignored, 0, target))
        loss = torch.where(ignored, 0.0, loss)
        if self.reduction == "none":
            return loss
        if self.reduction == "sum":
            return loss.sum()
        return loss.sum() / (~ignored).sum()


class SparsemaxLoss(_Loss):
    """:func:`sparsemax_loss`, reduced."""

    def __init__(
        self,
        k: int | None = None,
        ignore_index: int = -100,
        reduction: str = "elementwise_mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        self.k = k

    def loss(self, X: Tensor, target: Tensor) -> Tensor:
        return sparsemax_loss(X, target, self.k)


class SparsemaxBisectLoss(_Loss):
    """:func:`sparsemax_bisect_loss`, reduced."""

    def __init__(
        self,
        n_iter: int | None = 50,
        ignore_index: int = -100,
        reduction: str = "elementwise_mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        self.n_iter = n_iter

    def loss(self, X: Tensor, target: Tensor) -> Tensor:
        return sparsemax_bisect_loss(X, target, self.n_iter)


class Entmax15Loss(_Loss):
    """:func:`entmax15_loss`, reduced."""

    def __init__(
        self,
        k: int | None = 100,
        ignore_index: int = -100,
        reduction: str = "elementwise_mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        self.k = k

    def loss(self, X: Tensor, target: Tensor) -> Tensor:
        return entmax15_loss(X, target, self.k)


class EntmaxBisectLoss(_Loss):
    """:func:`entmax_bisect_loss`, reduced."""

    def __init__(
        self,
        alpha: float | Tensor = 1.5,
        n_iter: int | None = 50,
        ignore_index: int = -100,
        reduction: str = "elementwise_mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        self.alpha = alpha
        self.n_iter = n_iter

    def loss(self, X: Tensor, target: Tensor) -> Tensor:
        return entmax_bisect_loss(X, target, self.alpha, self.n_iter)


class NormmaxBisectLoss(_Loss):
    """:func:`normmax_bisect_loss`, reduced."""

    def __init__(
        self,
        alpha: float | Tensor = 2,
        n_iter: int | None = 50,
        ignore_index: int = -100,
        reduction: str = "elementwise_mean",
    ) -> None:
        super().__init__(ignore_index, reduction)
        self.alpha = alpha
        self.n_iter = n_iter

    def loss(self, X: Tensor, target: Tensor) -> Tensor:
        return normmax_bisect_loss(X, target, self.alpha, self.n_iter)


from . import activations, losses, root_finding  # noqa: E402, F401  (attributes, as in the original)
