"""The maps and losses of :mod:`sparsum.ops` as modules.

They hold no state, but for :class:`Entmax` with a learnable α; all can be copied, pickled,
compiled, exported and scripted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import ops
from .ops import Reduction

__all__ = [
    "Entmax",
    "Entmax15",
    "Entmax15Loss",
    "EntmaxLoss",
    "Sparsemax",
    "SparsemaxLoss",
    "TopKSparsemax",
]


class Sparsemax(nn.Module):
    """:func:`sparsum.sparsemax` along ``dim``, where ``nn.Softmax`` would stand.

    >>> Sparsemax()(torch.tensor([1.0, 0.5, -1.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, scores: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.sparsum.sparsemax(scores, self.dim)
        else:
            return ops.sparsemax(scores, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Entmax15(nn.Module):
    """:func:`sparsum.entmax15` along ``dim``.

    >>> Entmax15()(torch.tensor([1.0, 0.0, -2.0]))
    tensor([0.8307, 0.1693, 0.0000])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, scores: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.sparsum.entmax(scores, 1.5, self.dim)
        else:
            return ops.entmax15(scores, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Entmax(nn.Module):
    """:func:`sparsum.entmax` along ``dim``, with an α that is given or learned.

    Args:
        alpha: α ≥ 1; a number, or a tensor that broadcasts against the scores with size 1 along
            ``dim``, such as [heads, 1, 1] for one α a head.
        dim: The dimension that becomes a distribution.
        learnable: Learn α, starting from ``alpha``, which then must be > 1. The parameter is
            ``raw_alpha``, of the shape of ``alpha``, with α = 1 + softplus(raw_alpha): so α is
            never below 1 whatever the optimiser does, moves freely beyond 2, and near 1 moves in
            proportion to its distance from it (which rounding ends: at raw_alpha < −17 in float32
            it is 1, softmax, and stays so). Weight decay would pull α to 1 + log 2 ≈ 1.69; leave
            it off for this parameter.

    An α that is a tensor and not learned is a buffer, ``fixed_alpha``: it moves with the module
    and is saved with it.

    Raises:
        ValueError: an α below 1, or, learnable, not above 1.

    >>> layer = Entmax(alpha=1.5, learnable=True)
    >>> layer
    Entmax(alpha=1.5, dim=-1, learnable=True)
    >>> layer(torch.zeros(2, 4)).shape
    torch.Size([2, 4])
    """

    __jit_unused_properties__ = ("alpha",)

    def __init__(
        self, alpha: float | Tensor = 1.5, dim: int = -1, learnable: bool = False
    ) -> None:
        super().__init__()
        self.dim = dim
        self.learnable = learnable
        self._number: float | None = None
        values = torch.as_tensor(alpha, dtype=None if isinstance(alpha, Tensor) else torch.double)
        least = values.detach().double().min().item() if values.numel() else math.inf
        legal = least > 1 if learnable else least >= 1
        if not legal or not bool(torch.isfinite(values).all()):
            raise ValueError(
                f"Entmax: expected alpha to be finite and {'> 1' if learnable else '>= 1'}, got "
                f"{alpha if not isinstance(alpha, Tensor) else alpha.tolist()}"
            )
        if learnable:
            above = values.detach().double() - 1
            # The inverse of softplus, without overflow: log(exp(x) − 1) = x + log(1 − exp(−x)).
            raw = above + torch.log(-torch.expm1(-above))
            dtype = alpha.dtype if isinstance(alpha, Tensor) else torch.get_default_dtype()
            self.raw_alpha = nn.Parameter(raw.to(dtype))
        elif isinstance(alpha, Tensor):
            self.register_buffer("fixed_alpha", alpha.detach().clone())
        else:
            self._number = float(alpha)

    @property
    def alpha(self) -> float | Tensor:
        """α as it is used: a number, or a tensor, through which gradients flow if it is learned."""
        if self.learnable:
            return 1 + functional.softplus(self.raw_alpha)
        return self.fixed_alpha if self._number is None else self._number

    def forward(self, scores: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            # `hasattr` is decided when it is scripted: each module has one of the three.
            if hasattr(self, "raw_alpha"):
                learned = 1 + functional.softplus(self.raw_alpha)
                return torch.ops.sparsum.entmax(scores, learned, self.dim)
            elif hasattr(self, "fixed_alpha"):
                return torch.ops.sparsum.entmax(scores, self.fixed_alpha, self.dim)
            else:
                return torch.ops.sparsum.entmax(scores, self._number, self.dim)
        else:
            return ops.entmax(scores, self.alpha, self.dim)

    def extra_repr(self) -> str:
        alpha = self.alpha
        if isinstance(alpha, Tensor):
            shown = f"{alpha.item():.4g}" if alpha.dim() == 0 else f"tensor{list(alpha.shape)}"
        else:
            shown = f"{alpha:g}"
        return f"alpha={shown}, dim={self.dim}, learnable={self.learnable}"


class TopKSparsemax(nn.Module):
    """The probabilities of :func:`sparsum.top_k_sparsemax`, without their certificate.

    >>> TopKSparsemax(k=2)(torch.tensor([1.0, 0.9, 0.8]))
    tensor([0.5500, 0.4500, 0.0000])
    """

    def __init__(self, k: int, dim: int = -1) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"TopKSparsemax: expected k >= 1, got {k}")
        self.k = k
        self.dim = dim

    def forward(self, scores: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.sparsum.top_k_sparsemax(scores, self.k, self.dim)[0]
        else:
            return ops.top_k_sparsemax(scores, self.k, self.dim)[0]

    def extra_repr(self) -> str:
        return f"k={self.k}, dim={self.dim}"


class EntmaxLoss(nn.Module):
    """:func:`sparsum.entmax_loss`, where ``nn.CrossEntropyLoss`` would stand.

    Args:
        alpha: α ≥ 1.
        dim: The dimension of the classes.
        ignore_index: Rows with this class index count as nothing; any integer.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> loss = EntmaxLoss(alpha=1.5)
    >>> loss(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
    tensor(0.)
    """

    def __init__(
        self,
        alpha: float = 1.5,
        dim: int = -1,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        ops._reduction(name, reduction)
        if not (math.isfinite(alpha) and alpha >= 1):
            raise ValueError(f"{name}: expected alpha to be finite and >= 1, got {alpha}")
        self.alpha = float(alpha)
        self.dim = dim
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(scores, target)
        else:
            return ops.entmax_loss(
                scores, target, self.alpha, self.dim, self.ignore_index, self.reduction
            )

    def _scripted(self, scores: Tensor, target: Tensor) -> Tensor:
        reduction = 0 if self.reduction == "none" else (1 if self.reduction == "mean" else 2)
        return torch.ops.sparsum.entmax_loss(
            scores, target, self.alpha, self.dim, self.ignore_index, reduction
        )

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, {self._options()}"

    def _options(self) -> str:
        return f"dim={self.dim}, ignore_index={self.ignore_index}, reduction={self.reduction!r}"


class SparsemaxLoss(EntmaxLoss):
    """:func:`sparsum.sparsemax_loss` as a module; arguments as :class:`EntmaxLoss`, α = 2.

    >>> SparsemaxLoss()(torch.tensor([[1.0, 0.5, -1.0]]), torch.tensor([0]))
    tensor(0.0625)
    """

    def __init__(
        self, dim: int = -1, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(2.0, dim, ignore_index, reduction)

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(scores, target)
        else:
            return ops.sparsemax_loss(scores, target, self.dim, self.ignore_index, self.reduction)

    def extra_repr(self) -> str:
        return self._options()


class Entmax15Loss(EntmaxLoss):
    """:func:`sparsum.entmax15_loss` as a module; arguments as :class:`EntmaxLoss`, α = 1.5.

    >>> Entmax15Loss()(torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0]))
    tensor(0.)
    """

    def __init__(
        self, dim: int = -1, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(1.5, dim, ignore_index, reduction)

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(scores, target)
        else:
            return ops.entmax15_loss(scores, target, self.dim, self.ignore_index, self.reduction)

    def extra_repr(self) -> str:
        return self._options()
