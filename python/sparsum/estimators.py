"""Expectations of a loss over a discrete latent variable, and estimators of their gradients.

>>> import torch, sparsum
>>> scores = torch.tensor([[2.0, 1.5, -1.0]], requires_grad=True)
>>> costs = torch.tensor([[4.0], [0.0], [8.0]])
>>> q = sparsum.SparseDistribution.from_dense(sparsum.sparsemax(scores))
>>> sparsum.expectation(q, lambda z: z.embed(costs).squeeze(1)).detach()
tensor([3.])

The loss is called with the outcomes of non-zero probability only: here 2 of 3, and 1 when the model
is sure. It gets the GIL for its calls, which the rest of the library does without; Ctrl-C is looked
for at each call, and an exception that it raises arrives at the caller as itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ._load import _C
from ._transforms import transformed
from .distributions import Distribution, SparseDistribution, _structure, _wrap, breaks_graph

if TYPE_CHECKING:
    from ._C import Structure
else:
    Structure = _C.Structure

__all__ = ["Estimate", "Estimator", "Loss", "estimator_names", "expectation", "make_estimator"]


class Loss(NamedTuple):
    """What a loss says of n pairs, if it makes a random choice of its own."""

    value: Tensor
    """[n], without log q(z)."""
    log_prob: Tensor | None = None
    """[n] or None: the log-probability of the loss's own random choice (say, a receiver's sampled
    pick), if it makes one and ``value`` depends on it without a gradient."""


LossFunction = Callable[..., "Tensor | Loss"]
"""loss(z, *shared) -> [n], or Loss(value [n], log_prob [n])."""


def _refuse_transforms(what: str) -> None:
    if transformed():
        raise RuntimeError(
            f"{what} is not available under torch.func (grad, vmap, …), whose tensors the compiled "
            "code cannot read; use backward(), or torch.autograd.grad"
        )


@breaks_graph
def expectation(
    q: SparseDistribution,
    loss: LossFunction,
    shared: Sequence[Tensor] = (),
    *,
    max_evaluations_per_chunk: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The exact expectation of a loss under sparse distributions, evaluated on their supports only:

        E_q[ℓ(z)] = Σ_{z : q(z) > 0} q(z) ℓ(z), per example.

    loss: ``loss(z, *shared)`` with the pairs z (:class:`~sparsum.Assignments`) -> [n], or
        :class:`Loss`. Called once, or chunk by chunk, with exactly the pairs in the support.
    shared: tensors with a history that the loss reads, e.g. an embedding of the input. Needed with
        chunks only: reading such a tensor directly is then detected and refused.
    max_evaluations_per_chunk: 0: one call with all n pairs. Otherwise at most so many a call, each
        chunk's activations dropped and recomputed in the backward pass, so that memory does not
        grow with n. Then use ``backward()`` without ``inputs``, not ``torch.autograd.grad``.
    generator: what the loss draws from, if it does; with chunks its state is replayed in the
        backward pass.
    Returns: [B], differentiable in ``q.probs`` (∂/∂q(z) = ℓ(z)), in ``shared`` and in the
        parameters that the loss reads; with a ``log_prob`` the gradient of the choice,
        Σ_z q(z) ℓ(z) ∇log_prob, is included.
    Cost: n evaluations of the loss; with chunks 2n forward.
    Errors: a loss of another shape than [n]; with chunks: a captured tensor with a history, double
        backward, and a loss whose values are others when it is recomputed. Whatever the loss
        raises arrives as itself.
    """
    if not isinstance(q, SparseDistribution):
        hint = " (enumerate() lists a dense one)" if isinstance(q, Distribution) else ""
        raise TypeError(
            "expectation(): argument 'q' (position 1) must be SparseDistribution, not "
            f"{type(q).__name__}{hint}"
        )
    if max_evaluations_per_chunk > 0:
        _refuse_transforms("expectation: max_evaluations_per_chunk > 0")
    return cast(Tensor, _C.expectation(q._impl, loss, shared, max_evaluations_per_chunk, generator))


class Estimate(NamedTuple):
    """An estimator's answer, per example."""

    objective: Tensor
    """[B], attached: it and its gradient estimate E[loss] − entropy_weight·H(q) and the gradient
    thereof."""
    auxiliary: Tensor | None
    """Scalar or None: a loss over the estimator's own parameters alone; add it unscaled."""
    value: Tensor
    """[B], detached: estimates E[loss]."""
    entropy: Tensor | None
    """[B], detached: H(q), in nats; None if nobody can compute it (imle over some structures)."""
    evaluations: Tensor
    """[B] int64: loss evaluations that this example cost."""


class _Part(nn.Module):
    """A part of a compiled module: its tensors are the compiled module's own, always."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Part:
        if recurse:
            for child in self.children():
                child._apply(fn)
        for tensor in (*self._parameters.values(), *self._buffers.values()):
            if tensor is None:
                continue
            with torch.no_grad():
                tensor.data = fn(tensor.data)
                if tensor.grad is not None:
                    tensor.grad.data = fn(tensor.grad.data)
        return self


class Estimator(_Part):
    """A way to differentiate an expectation over a discrete variable, by its name: one interface
    for all, so that a model's code does not change with the method. Made by
    :func:`make_estimator`.

    It is a :class:`torch.nn.Module`: learned baselines are in ``parameters()``, moving averages
    and schedules are buffers, both are in ``state_dict()``; ``to``, ``train`` and ``eval``,
    ``copy.deepcopy`` and ``pickle`` work as for other modules. (The tensors are the compiled
    module's own: ``torch.func.functional_call``, which swaps them, has no effect.)
    """

    def __init__(self, name: str, impl: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.name = name
        """As :func:`make_estimator` knows it."""
        self.options = options
        """The options that were given."""
        self._impl = impl
        for path, tensor in impl.named_parameters():
            tensor._is_param = True  # isinstance(tensor, nn.Parameter) holds
            *folders, leaf = path.split(".")
            self._at(folders)._parameters[leaf] = tensor
        for path, tensor in impl.named_buffers():
            *folders, leaf = path.split(".")
            self._at(folders).register_buffer(leaf, tensor)

    def _at(self, folders: list[str]) -> nn.Module:
        part: nn.Module = self
        for folder in folders:
            if folder not in part._modules:
                part.add_module(folder, _Part())
            part = cast(nn.Module, part._modules[folder])
        return part

    @breaks_graph
    def estimate(
        self,
        structure: Structure,
        scores: Tensor,
        loss: LossFunction,
        *,
        shared: Sequence[Tensor] = (),
        context: Tensor | None = None,
        entropy_weight: float = 1.0,
        max_evaluations_per_chunk: int = 0,
        generator: torch.Generator | None = None,
    ) -> Estimate:
        """Estimates E_q[ℓ(z)] − entropy_weight·H(q), q what :meth:`distribution` says, and its
        gradient.

        scores: [B, V]. loss: as :func:`expectation`'s, ``loss(z, *shared)``; called once or more.
        shared: tensors with gradient that the loss reads and that are not parameters.
        context: [B, …] or None: what learned baselines read; detached inside.
        max_evaluations_per_chunk: as :func:`expectation`'s.
        generator: where estimators that sample draw from, and the loss if it draws; exact ones
            need none. In training mode running averages may be updated, after their use.
        Errors: a structure that the estimator is not defined for (:meth:`check`); no generator
            where one is needed; those of :func:`expectation`.
        """
        _refuse_transforms("Estimator.estimate")
        return Estimate(
            *self._impl.estimate(
                _structure("estimate", structure), scores, loss, shared, context, entropy_weight,
                max_evaluations_per_chunk, generator,
            )
        )  # fmt: skip

    forward = estimate

    @breaks_graph
    def distribution(self, structure: Structure, scores: Tensor) -> Distribution:
        """The distribution that the estimator takes scores [B, V] to mean, for evaluation: a
        :class:`~sparsum.SparseDistribution` or a :class:`~sparsum.Gibbs`."""
        structure = _structure("distribution", structure)
        _refuse_transforms("Estimator.distribution")
        return _wrap(self._impl.distribution(structure, scores), structure, scores)

    @breaks_graph
    def evaluations(self, structure: Structure, scores: Tensor) -> Tensor:
        """The loss evaluations that :meth:`estimate` makes, per example: [B] int64."""
        structure = _structure("evaluations", structure)
        _refuse_transforms("Estimator.evaluations")
        return cast(Tensor, self._impl.evaluations(structure, scores))

    @breaks_graph
    def supervised_loss(self, scores: Tensor, target: Tensor) -> Tensor:
        """The loss that trains a classifier under this estimator's own map: cross-entropy for
        softmax, the sparsemax loss for sparsemax. scores: [B, K], target: [B] int64 -> [B]."""
        _refuse_transforms("Estimator.supervised_loss")
        return cast(Tensor, self._impl.supervised_loss(scores, target))

    def check(self, structure: Structure) -> None:
        """Raises, naming the structures that it is defined for, if this is not one."""
        self._impl.check(_structure("check", structure))

    def train(self, mode: bool = True) -> Estimator:
        super().train(mode)
        self._impl.train(mode)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        state = {path: tensor.detach() for path, tensor in self._tensors()}
        fixed = [path for path, tensor in self.named_parameters() if not tensor.requires_grad]
        return _rebuild, (self.name, self.options, state, fixed, self.training)

    def __deepcopy__(self, memo: dict[int, Any]) -> Estimator:
        rebuild, arguments = self.__reduce__()
        copied = rebuild(*arguments)
        memo[id(self)] = copied
        return cast(Estimator, copied)

    def __copy__(self) -> Estimator:
        return self.__deepcopy__({})

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.named_parameters(), *self.named_buffers()]

    def extra_repr(self) -> str:
        return ", ".join([repr(self.name), *(f"{k}={v!r}" for k, v in self.options.items())])


def _rebuild(
    name: str, options: dict[str, Any], state: dict[str, Tensor], fixed: list[str], training: bool
) -> Estimator:
    # What the generator initialises is overwritten.
    estimator = make_estimator(name, torch.Generator().manual_seed(0), **options)
    for path, tensor in estimator._tensors():
        tensor.data = state[path].clone()
        if path in fixed:
            tensor.requires_grad_(False)
    return estimator.train(training)


def estimator_names() -> list[str]:
    """The estimators' names, in the order of the documentation ("Choosing an estimator")."""
    return cast("list[str]", _C.estimator_names())


def make_estimator(
    name: str, generator: torch.Generator | None = None, **options: float | int | bool | str
) -> Estimator:
    """Makes the estimator called ``name``.

    generator: where the initial parameters of learned baselines (nvil, relax) are drawn from; the
        others need none.
    options: by keyword, those of C++'s EstimatorOptions: ``alpha``, ``k``, ``max_k``, ``encoding``,
        ``algorithm``, ``init``, ``tolerance``, ``max_iterations``, ``budget``, ``max_outcomes``,
        ``samples``, ``baseline``, ``baseline_decay``, ``context``, ``parts``, ``baseline_layers``,
        ``baseline_hidden``, ``control_scale``, ``embed_loss``, ``adapt_temperature``,
        ``temperature``, ``temperature_decay``, ``temperature_min``, ``temperature_every``,
        ``noise``, ``noise_temperature``, ``gamma_size``, ``gamma_terms``, ``target_step``.
        Meanings, defaults and who reads which: "Choosing an estimator"; an estimator ignores what
        it does not read.
    Errors: an unknown name or option, with the nearest spelling and the known ones; an option of
        another type or out of range, named.
    """
    if not isinstance(name, str):
        raise TypeError(
            "make_estimator(): argument 'name' (position 1) must be str, not "
            f"{type(name).__name__}"
        )
    known = list(_C.estimator_options())
    for option in options:
        if option not in known:
            nearest = difflib.get_close_matches(option, known, n=1, cutoff=0.0)[0]
            raise TypeError(
                f"make_estimator(): unknown option '{option}'; did you mean '{nearest}'? Known "
                f"are: {', '.join(known)}"
            )
    return Estimator(name, _C.make_estimator(name, generator, options), dict(options))
