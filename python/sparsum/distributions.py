"""Distributions over a structure's outcomes, and the maps that give sparse ones.

>>> import torch, sparsum
>>> scores = torch.tensor([[2.0, 1.5, -1.0]])
>>> q = sparsum.SparseDistribution.from_dense(sparsum.sparsemax(scores))
>>> q.support.indices, q.probs
(tensor([0, 1]), tensor([0.7500, 0.2500]))

Every distribution here is a :class:`torch.distributions.Distribution`, too, wherever that has a
meaning. ``batch_shape`` is [B]. Outcomes of a :class:`~sparsum.Categorical` are indices, with an
``event_shape`` of [] (as in :class:`torch.distributions.Categorical`); all others are vectors of V
indicators, with an ``event_shape`` of [V] (as a Bernoulli made :class:`~torch.distributions.
Independent`). Entropies and log-probabilities are in nats.

* *torch.func*: everything that is differentiable here is so under ``grad``, ``vjp``, ``jvp``,
  ``jacrev``, ``jacfwd`` and ``hessian``, with the same values and derivatives; the supports then
  hold indicators where they held flips, n·V bytes. ``vmap`` maps :func:`sparsemap_marginals` and
  :func:`sparsemap_loss`; it maps what a :class:`Gibbs` has without listing or drawing outcomes, too.
  What lists or draws them refuses it: make the mapped dimension part of the batch instead.
* *torch.compile*: :func:`sparsemap_marginals` and :func:`sparsemap_loss` of the built-in structures
  stand in the graph as their registered ops (structures are constants of it, made outside), as they
  do under ``torch.export`` (not with ``strict=True``). How many outcomes a support has is known
  when it is computed: distributions, the functions that return them and one's own structures break
  the graph, and run as they do outside.
* *Autocast*: the sparse maps take float16 and bfloat16 scores as float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.distributions import constraints

from . import _transforms
from ._load import _C

if TYPE_CHECKING:
    from ._C import Assignments, Structure, one_per_example
else:
    Assignments = _C.Assignments
    Structure = _C.Structure
    one_per_example = _C.one_per_example

__all__ = [
    "Assignments",
    "Distribution",
    "Gibbs",
    "SparseDistribution",
    "SparsemapResult",
    "adaptive_top_k_sparsemax",
    "one_per_example",
    "solve_sparsemap",
    "sparsemap",
    "sparsemap_loss",
    "sparsemap_marginals",
    "top_k_sparsemax",
]

_C.Assignments.__module__ = __name__

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def breaks_graph(function: F) -> F:
    """For what torch.compile is to call and not to trace."""
    reason = "sparsum: how many outcomes a support has is known when it is computed"
    return cast(F, torch.compiler.disable(function, reason=reason))


def methods_break_graph(cls: C) -> C:
    for name, member in list(vars(cls).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(member, property):
            setattr(cls, name, property(breaks_graph(cast(Any, member.fget)), doc=member.__doc__))
        elif isinstance(member, classmethod):
            setattr(cls, name, classmethod(breaks_graph(member.__func__)))
        elif callable(member):
            setattr(cls, name, breaks_graph(member))
    return cls


Encoding = Literal["one-state", "both-states"]
Algorithm = Literal["active-set", "closed-form"]
Init = Literal["map", "random"]


def _can_be_outcomes(value: Tensor, event_dim: int, parts: int) -> bool:
    """Whether dtype and last dimension are such as outcomes may have."""
    if value.is_complex():
        return False
    return event_dim == 0 or (value.dim() > 0 and value.size(-1) == parts)


def _none_of(value: Tensor, event_dim: int) -> Tensor:
    shape = value.shape[: value.dim() - event_dim] if value.dim() >= event_dim else ()
    return torch.zeros(shape, dtype=torch.bool, device=value.device)


class _Outcomes(constraints.Constraint):
    """The outcomes of a built-in structure; of another, all vectors of bits."""

    is_discrete = True

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self.event_dim = 0 if isinstance(structure, _C.Categorical) else 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        if not _can_be_outcomes(value, self.event_dim, self._structure.parts):
            return _none_of(value, self.event_dim)
        if self.event_dim == 0:
            return (value % 1 == 0) & (value >= 0) & (value < self._structure.parts)
        valid = ((value == 0) | (value == 1)).all(-1)
        if isinstance(self._structure, _C.Bits):
            on = value.sum(-1)
            valid = valid & (on >= self._structure.least) & (on <= self._structure.most)
        return valid

    def __repr__(self) -> str:
        return f"Outcomes({self._structure.name})"


class _Support(constraints.Constraint):
    """Whether values are outcomes that have a probability in their example."""

    is_discrete = True

    def __init__(self, q: Distribution) -> None:
        self._q = q
        self.event_dim = len(q.event_shape)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        if not _can_be_outcomes(value, self.event_dim, self._q.parts):
            return _none_of(value, self.event_dim)
        if self.event_dim == 0:
            outcome = (value % 1 == 0) & (value >= 0) & (value < self._q.parts)
            value = torch.where(outcome, value, 0).long()
        else:
            outcome = ((value == 0) | (value == 1)).all(-1)
            value = torch.where(outcome.unsqueeze(-1), value, 0)
        return outcome & (self._q.log_prob(value) > -math.inf)


@methods_break_graph
class Distribution(torch.distributions.Distribution):
    """A batch of B distributions over the outcomes of a structure: what
    :meth:`sparsum.Estimator.distribution` returns. Tensors are attached to the scores they came
    from unless said otherwise.

    Of :class:`torch.distributions.Distribution` it has ``batch_shape``, ``event_shape``,
    :meth:`sample`, :meth:`log_prob`, :meth:`entropy`, :meth:`perplexity`, :attr:`mean`,
    :attr:`variance`, :attr:`mode`, ``support`` and :meth:`enumerate_support`;
    :func:`torch.distributions.kl_divergence` of sparse distributions from sparse or Gibbs ones and
    of Gibbs distributions from each other, in nats, +inf where the second has no probability for an
    outcome of the first (such rows have a gradient of 0). There is no
    ``rsample`` (a draw has no gradient: that is what :func:`sparsum.expectation` and the
    estimators are for), ``expand`` or ``cdf``: these raise NotImplementedError.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    has_rsample = False
    _impl: Any

    def __init__(self, impl: Any, parts: int, hard: bool) -> None:
        self._impl = impl
        self._hard = hard
        self._parts = parts
        event = torch.Size() if hard else torch.Size((parts,))
        super().__init__(torch.Size((impl.batch_size,)), event, validate_args=False)

    @property
    def batch_size(self) -> int:
        """B."""
        return int(self._impl.batch_size)

    @property
    def parts(self) -> int:
        """V, the number of parts of the structure."""
        return self._parts

    def entropy(self) -> Tensor:
        """H(q): [B] in nats. 0·log 0 = 0, and its gradient is finite everywhere."""
        return cast(Tensor, self._impl.entropy())

    def marginals(self) -> Tensor:
        """E_q[a_z]: [B, V]; for a Categorical the probabilities of all its outcomes."""
        return cast(Tensor, self._impl.marginals())

    @property
    def mean(self) -> Tensor:
        """E_q[z]: for vectors of indicators :meth:`marginals`, [B, V]. Indices have no mean: NaN
        for a Categorical, [B], as in :class:`torch.distributions.Categorical`."""
        return self._undefined() if self._hard else self.marginals()

    @property
    def variance(self) -> Tensor:
        """Var_q[z], part by part: μ(1 − μ) for vectors of indicators, [B, V]; NaN for a
        Categorical, [B], as in :class:`torch.distributions.Categorical`."""
        if self._hard:
            return self._undefined()
        mean = self.marginals()
        return mean * (1 - mean)

    def _undefined(self) -> Tensor:
        return torch.full(self.batch_shape, math.nan, dtype=self._dtype, device=self._device)

    @property
    def mode(self) -> Tensor:
        """The most probable outcome: [B] int64, or [B, V] zeros and ones of the scores' dtype.
        Ties go to the outcome that is first in the structure's order."""
        return self._tensor(self.mode_assignments())

    def mode_assignments(self) -> Assignments:
        """:attr:`mode` as Assignments, one pair an example, for a loss."""
        return self._at_value("mode")

    def sample(
        self,
        sample_shape: int | tuple[int, ...] | torch.Size = torch.Size(),  # noqa: B008
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Independent draws: [*sample_shape, B] int64 of a Categorical, else [*sample_shape, B, V]
        zeros and ones of the scores' dtype. Not differentiable.

        generator: what is drawn from; None, as in :mod:`torch.distributions`: PyTorch's default
        generator of the device, which ``torch.manual_seed`` seeds.
        """
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        count = math.prod(shape)
        if count == 0:
            dtype = torch.int64 if self._hard else self._dtype
            return torch.empty(
                (*shape, *self.batch_shape, *self.event_shape), dtype=dtype, device=self._device
            )
        if generator is None:
            generator = _default_generator(self._device)
        drawn = self._tensor(self._at_value("sample", count, generator))
        drawn = drawn.view(self.batch_size, count, *self.event_shape).transpose(0, 1)
        return drawn.reshape(*shape, *self.batch_shape, *self.event_shape)

    def sample_assignments(self, samples: int, generator: torch.Generator) -> Assignments:
        """``samples`` independent draws per example, B·samples pairs sorted by example, for a
        loss."""
        return self._at_value("sample", samples, generator)

    def log_prob(self, value: Tensor | Assignments) -> Tensor:
        """log q(z), −inf outside the support; differentiable in the scores.

        value: a tensor shaped like a sample, [*S, B] integers or [*S, B, V] zeros and ones, each
        broadcast with the batch -> [*S, B]; or Assignments of n pairs -> [n].
        Errors: ValueError for a shape or a value that no outcome can have.
        """
        if isinstance(value, _C.Assignments):
            return cast(Tensor, self._impl.log_prob(value))
        z, shape = self._pairs(value)
        log_prob = cast(Tensor, self._impl.log_prob(z))
        return log_prob.view(self.batch_size, -1).t().reshape(shape)

    def _pairs(self, value: Tensor) -> tuple[Assignments, torch.Size]:
        """A tensor of outcomes as Assignments, and the shape of their log-probabilities."""
        if not isinstance(value, Tensor):
            raise TypeError(
                "log_prob(): argument 'value' (position 1) must be Tensor or Assignments, not "
                f"{type(value).__name__}"
            )
        if self._hard:
            if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
                raise ValueError(
                    f"log_prob: expected value to hold indices (int64), got {value.dtype}"
                )
            shape = self._broadcast(value, value.shape)
            legal = (value >= 0) & (value < self._parts)
            requirement = f"an index in 0 ... {self._parts - 1}"
        else:
            if value.dim() == 0 or value.size(-1) != self._parts:
                raise ValueError(
                    f"log_prob: expected value to be [..., V] with V = {self._parts}, got "
                    f"{list(value.shape)}"
                )
            shape = self._broadcast(value, value.shape[:-1])
            legal = (value == 0) | (value == 1)
            requirement = "indicators 0 or 1"
        if not bool(legal.all()):
            wrong = value[~legal].reshape(-1)[0].item()
            raise ValueError(f"log_prob: expected value to be {requirement}, got {wrong}")
        event = self.event_shape
        value = value.long() if self._hard else value.to(torch.uint8)
        listed = value.expand(*shape, *event).reshape(-1, self.batch_size, *event)
        outcomes = listed.transpose(0, 1).reshape(-1, *event)
        return _C._regular_assignments(outcomes, self.batch_size, self._parts), shape

    def _broadcast(self, value: Tensor, shape: torch.Size) -> torch.Size:
        try:
            joined = torch.broadcast_shapes(shape, self.batch_shape)
        except RuntimeError:
            joined = torch.Size()
        if joined[-1:] != self.batch_shape:
            raise ValueError(
                f"log_prob: expected value to be broadcastable with B = {self.batch_size} "
                f"examples, got {list(value.shape)}"
            )
        return joined

    def enumerate(self, limit: int = 65536) -> SparseDistribution:
        """The outcomes of non-zero probability, listed. Raises, naming the size, if a dense
        distribution has more than ``limit`` outcomes an example; those that a score of −inf
        forbids are left out."""
        return SparseDistribution._of(self._impl.enumerate(limit))

    def _at_value(self, method: str, *args: Any) -> Assignments:
        """What a method of the compiled core says, of no derivative."""
        return cast(Assignments, getattr(self._impl, method)(*args))

    def _tensor(self, z: Assignments) -> Tensor:
        return cast(Tensor, z.indices) if self._hard else z.values(self._dtype)

    @property
    def support_constraint(self) -> constraints.Constraint:
        """A constraint of :mod:`torch.distributions` whose ``check`` says, value by value, whether
        it has a probability in its example."""
        return _Support(self)

    @property
    def _dtype(self) -> torch.dtype:
        raise NotImplementedError

    @property
    def _device(self) -> torch.device:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.batch_size}, parts={self._parts})"


@methods_break_graph
class Gibbs(Distribution):
    """The Gibbs distribution π(z) ∝ exp⟨a_z, t⟩ of a structure, by the structure's own oracles;
    for a Categorical, softmax; for a BitVector, independent Bernoullis.

    scores t: [B, V], floating point, finite or −inf. Differentiable in them.
    """

    def __init__(self, structure: Structure, scores: Tensor) -> None:
        self._set(_C.Gibbs(_structure("Gibbs", structure), scores), structure, scores)

    def _set(self, impl: Any, structure: Structure, scores: Tensor) -> None:
        self.structure = structure
        self.scores = scores
        Distribution.__init__(self, impl, structure.parts, isinstance(structure, _C.Categorical))

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """The structure's outcomes, as a constraint of :mod:`torch.distributions`: those that a
        score of −inf forbids, too. :attr:`support_constraint` leaves them out."""
        return _Outcomes(self.structure)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self.structure.size is not None

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All of Z in the structure's order: [|Z|, B] or [|Z|, B, V]; with ``expand=False``
        [|Z|, 1] or [|Z|, 1, V]. At most 65,536 outcomes."""
        listed = self._tensor(self.structure.enumerate(1, self._device))
        listed = listed.view(-1, 1, *self.event_shape)
        return listed.expand(-1, self.batch_size, *self.event_shape) if expand else listed

    def log_prob(self, value: Tensor | Assignments) -> Tensor:
        log_prob = super().log_prob(value)
        bits = self.structure
        if isinstance(bits, _C.Bits) and not bits.free:
            if isinstance(value, Tensor):
                outside = ~self.support.check(value)
            else:
                ones = torch.ones_like(self.scores, dtype=torch.double, requires_grad=False)
                on = bits.score(ones, value)
                outside = (on < bits.least) | (on > bits.most)
            log_prob = log_prob.masked_fill(outside, -math.inf)
        return log_prob

    log_prob.__doc__ = Distribution.log_prob.__doc__

    def enumerate(self, limit: int = 65536) -> SparseDistribution:
        if not _transforms.transformed():
            return super().enumerate(limit)
        value = _transforms.value_of("Gibbs.enumerate", self.scores)
        with _transforms.outside_transforms():
            listed = _C.Gibbs(self.structure, value).enumerate(limit)
            z = _with_indicators(listed.support)
            rows = self.structure.score(value, z)
            best = rows.new_full((z.batch_size,), -math.inf).scatter_reduce(0, z.rows, rows, "amax")
        weights = (self.structure.score(self.scores, z) - z.gather(best)).exp()
        probs = weights / z.gather(z.sum_per_example(weights))
        return SparseDistribution._of(_C.SparseDistribution(z, probs, listed.exact))

    enumerate.__doc__ = Distribution.enumerate.__doc__

    def _at_value(self, method: str, *args: Any) -> Assignments:
        if not _transforms.transformed():
            return super()._at_value(method, *args)
        value = _transforms.value_of(f"Gibbs.{method}", self.scores)
        with _transforms.outside_transforms():
            found = getattr(_C.Gibbs(self.structure, value), method)(*args)
            return _with_indicators(found)

    @property
    def _dtype(self) -> torch.dtype:
        return self.scores.dtype

    @property
    def _device(self) -> torch.device:
        return self.scores.device

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.structure, self.scores)


@methods_break_graph
class SparseDistribution(Distribution):
    """A batch of B distributions, each given by the few outcomes it supports: pair i is outcome
    ``support.indices[i]`` (or the indicators ``support.values()[i]``) of example
    ``support.rows[i]``, with probability ``probs[i]``. Each example's probabilities sum to 1.

    support: the outcomes. probs: [n], attached to the scores. exact: [B] bool, or None.
    Errors: probs of another shape than [n]; exact that is not [B] bool.
    """

    def __init__(self, support: Assignments, probs: Tensor, exact: Tensor | None = None) -> None:
        if not isinstance(support, _C.Assignments):
            raise TypeError(
                "SparseDistribution(): argument 'support' (position 1) must be Assignments, not "
                f"{type(support).__name__}"
            )
        self._set(_C.SparseDistribution(support, probs, exact))

    @classmethod
    def _of(cls, impl: Any) -> SparseDistribution:
        self = cls.__new__(cls)
        self._set(impl)
        return self

    def _set(self, impl: Any) -> None:
        support = impl.support
        self._support = support
        Distribution.__init__(self, impl, support.parts, support.indices is not None)

    @classmethod
    def from_dense(cls, probs: Tensor, exact: Tensor | None = None) -> SparseDistribution:
        """The non-zero entries of probs [B, K], over a Categorical's outcomes; differentiable in
        ``probs``. exact: [B] bool, or None."""
        if _transforms.transformed():
            return cls._of(_from_dense("SparseDistribution.from_dense", probs, exact))
        return cls._of(_C.SparseDistribution.from_dense(probs, exact))

    @property
    def support(self) -> Assignments:  # type: ignore[override]
        """The outcomes of non-zero probability. Where :mod:`torch.distributions` wants a
        constraint, :attr:`support_constraint` says the same."""
        return self._support

    @property
    def probs(self) -> Tensor:
        """[n], each pair's probability."""
        return cast(Tensor, self._impl.probs)

    @property
    def exact(self) -> Tensor | None:
        """[B] bool: whether this is the solution over all of Z (a certificate); None where the map
        gives none."""
        return cast("Tensor | None", self._impl.exact)

    def evaluations(self) -> Tensor:
        """The loss evaluations that an expectation costs, the size of each support: [B] int64."""
        return cast(Tensor, self._impl.evaluations())

    def to_dense(self) -> Tensor:
        """[B, K] probabilities of a Categorical's outcomes; raises for other outcomes."""
        return cast(Tensor, self._impl.to_dense())

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return self._hard

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All outcomes of a Categorical, those of probability 0 too: [K, B], or [K, 1] with
        ``expand=False``. Of other structures see :attr:`support`: its examples differ in size."""
        if not self._hard:
            raise NotImplementedError(
                "SparseDistribution: enumerate_support is for outcomes of a Categorical; "
                "`support` lists those of non-zero probability"
            )
        listed = torch.arange(self._parts, device=self._device).unsqueeze(1)
        return listed.expand(-1, self.batch_size) if expand else listed

    @property
    def _dtype(self) -> torch.dtype:
        return self.probs.dtype

    @property
    def _device(self) -> torch.device:
        return self.probs.device

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.support, self.probs, self.exact)

    def __repr__(self) -> str:
        return (
            f"SparseDistribution(batch_size={self.batch_size}, parts={self._parts}, "
            f"pairs={self.support.count})"
        )


def _wrap(impl: Any, structure: Structure, scores: Tensor) -> Distribution:
    """The Python class of a compiled distribution over a structure."""
    if isinstance(impl, _C.SparseDistribution):
        return SparseDistribution._of(impl)
    q = Gibbs.__new__(Gibbs)
    q._set(impl, structure, scores)
    return q


def _structure(caller: str, value: Any) -> Any:
    if not isinstance(value, _C.Structure):
        raise TypeError(
            f"{caller}(): argument 'structure' (position 1) must be Structure, not "
            f"{type(value).__name__}"
        )
    return value


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device)
    index = module.current_device() if device.index is None else device.index
    return cast(torch.Generator, module.default_generators[index])


class SparsemapResult(NamedTuple):
    """SparseMAP's solution and how it was found, per example. Everything but the distribution and
    the marginals is detached."""

    distribution: SparseDistribution
    marginals: Tensor
    """[B, V] E[a_z], differentiable in the scores by itself."""
    objective: Tensor
    """[B] ½‖A_u ξ − t_u‖² − ⟨A_v ξ, t_v⟩, float64."""
    gap: Tensor
    """[B] duality gap: an upper bound on what is missing, float64."""
    iterations: Tensor
    """[B] int64; 0 for the closed form."""
    oracle_calls: Tensor
    """[B] int64: calls of the structure's map."""
    converged: Tensor
    """[B] bool: the gap is within the tolerance. Also ``distribution.exact``."""


def _warm(caller: str, warm_start: SparseDistribution | None) -> Any:
    if warm_start is None or isinstance(warm_start, SparseDistribution):
        return None if warm_start is None else warm_start._impl
    raise TypeError(
        f"{caller}(): argument 'warm_start' must be SparseDistribution, not "
        f"{type(warm_start).__name__}"
    )


@breaks_graph
def sparsemap(
    structure: Structure,
    scores: Tensor,
    *,
    encoding: Encoding = "one-state",
    algorithm: Algorithm = "active-set",
    init: Init = "map",
    tolerance: float = 1e-9,
    max_iterations: int = 0,
    generator: torch.Generator | None = None,
    warm_start: SparseDistribution | None = None,
) -> SparseDistribution:
    """SparseMAP: a sparse distribution over a structure's outcomes whose marginals are the scores'
    projection onto the convex hull of the outcomes,

        ξ ∈ argmin over ξ in Δ^|Z| of ½‖A_u ξ − t_u‖² − ⟨A_v ξ, t_v⟩,

    u the structure's variables and v its other parts.

    structure: bits (BitVector, Budget, Subset), a Categorical (where it is sparsemax), or a
        :class:`~sparsum.Structure` of one's own. The closed form and ``"both-states"`` are for
        bits.
    scores t: [B, V], floating point; −inf forbids its part.
    encoding: which indicators of a bit are regularised: that it is on (marginals clip(t, 0, 1)), or
        both that it is on and that it is off (clip((t + 1)/2, 0, 1)).
    algorithm: both give the same marginals. ``"active-set"``: few outcomes, weights that decay.
        ``"closed-form"``: the whole face, as many outcomes as fractional marginals, plus one.
    init: where the active set starts, the best outcome of the scores or (from ``generator``) of
        random ones. warm_start: an earlier solution over the same structure and batch size, to
        start from instead.
    tolerance: the duality gap at which the active set stops, in units of max(1, max |t_i|); > 0.
    max_iterations: of the active set, of each example; 0 is 1000 + 20·V. Stopping there is no
        error: ``exact`` (and :func:`solve_sparsemap`'s ``converged``) says so.
    Returns: the distribution, at most U + 1 outcomes an example, differentiable in the scores: its
        weights with the support held fixed (active set) or the closed form's.
    Cost: active set: about one oracle call and O(n² + V·n) an outcome, n the size of the support;
        closed form: O(V log V). float64 inside.
    Errors: a structure without a solver; an option out of range; a row with NaN, +inf or no
        outcome; a user's oracle that returns a worse outcome than it did before, named.
    Source: Niculae, Martins, Blondel and Cardie, 2018; Correia et al., 2020, §4.2.
    """
    structure, scores = _structure("sparsemap", structure), _float32_under_autocast(scores)
    options = (
        encoding, algorithm, init, tolerance, max_iterations, generator,
        _warm("sparsemap", warm_start),
    )  # fmt: skip
    if not _transforms.transformed():
        return SparseDistribution._of(_C.sparsemap(structure, scores, *options))
    value = _transforms.value_of("sparsemap", scores)
    with _transforms.outside_transforms():
        found = _C.sparsemap(structure, value, *options)
    return SparseDistribution._of(_attached(structure, scores, found, encoding, algorithm))


@breaks_graph
def solve_sparsemap(
    structure: Structure,
    scores: Tensor,
    *,
    encoding: Encoding = "one-state",
    algorithm: Algorithm = "active-set",
    init: Init = "map",
    tolerance: float = 1e-9,
    max_iterations: int = 0,
    generator: torch.Generator | None = None,
    warm_start: SparseDistribution | None = None,
) -> SparsemapResult:
    """:func:`sparsemap` with its marginals, objective, duality gap, iterations, oracle calls and
    whether it converged. Arguments, costs and errors are :func:`sparsemap`'s."""
    structure, scores = _structure("solve_sparsemap", structure), _float32_under_autocast(scores)
    options = (
        encoding, algorithm, init, tolerance, max_iterations, generator,
        _warm("solve_sparsemap", warm_start),
    )  # fmt: skip
    if not _transforms.transformed():
        distribution, *numbers = _C.solve_sparsemap(structure, scores, *options)
        return SparsemapResult(SparseDistribution._of(distribution), *numbers)
    value = _transforms.value_of("solve_sparsemap", scores)
    with _transforms.outside_transforms():
        found, _, *numbers = _C.solve_sparsemap(structure, value, *options)
    q = SparseDistribution._of(_attached(structure, scores, found, encoding, algorithm))
    if _is_built_in(structure):
        marginals = _marginals("solve_sparsemap", structure, scores, *options[:1], *options[3:5])
    else:
        marginals = q.marginals()
    return SparsemapResult(q, marginals, *numbers)


def sparsemap_marginals(
    structure: Structure,
    scores: Tensor,
    *,
    encoding: Encoding = "one-state",
    tolerance: float = 1e-9,
    max_iterations: int = 0,
) -> Tensor:
    """SparseMAP's marginals μ alone, the projection of the scores onto the hull: [B, V]. For bits
    by the closed form, with its exact derivative; else by the active set. Arguments and errors are
    :func:`sparsemap`'s."""
    structure = _structure("sparsemap_marginals", structure)
    options = (encoding, tolerance, max_iterations)
    if is_dynamo_compiling():
        if _is_built_in(structure):
            return _traced_marginals("sparsemap_marginals", structure, scores, *options)
        return _eager_marginals(structure, scores, *options)
    return _sparsemap_marginals(structure, scores, *options)


def sparsemap_loss(
    structure: Structure,
    scores: Tensor,
    target: Tensor,
    *,
    encoding: Encoding = "one-state",
    tolerance: float = 1e-9,
    max_iterations: int = 0,
) -> Tensor:
    """The Fenchel–Young loss of SparseMAP,

        L(t; y) = max over μ of (⟨t, μ⟩ − Ω(μ)) + Ω(y) − ⟨t, y⟩ ≥ 0,   Ω(μ) = ½‖μ_u‖²,

    zero if and only if y is the solution for t; its gradient is μ(t) − y. With ``"both-states"``
    Ω(μ) = ½‖μ‖² + ½‖1 − μ‖².

    scores t: [B, V]. target y: [B, V], the indicators of an outcome of each example, or any point
    of the hull. Returns: [B]; target mass on a score of −inf gives +inf. Other arguments and errors
    are :func:`sparsemap`'s.
    """
    structure = _structure("sparsemap_loss", structure)
    options = (encoding, tolerance, max_iterations)
    if is_dynamo_compiling():
        if _is_built_in(structure):
            return _traced_loss("sparsemap_loss", structure, scores, target, *options)
        return _eager_loss(structure, scores, target, *options)
    return _sparsemap_loss(structure, scores, target, *options)


@breaks_graph
def top_k_sparsemax(structure: Structure, scores: Tensor, k: int) -> SparseDistribution:
    """The distribution over the k best outcomes of a structure: top-k sparsemax of the scores of
    all outcomes, s_z = ⟨a_z, t⟩, of which only k + 1 are looked at.

    structure: a Categorical, bits, or any with k_best. scores t: [B, V]. k ≥ 1.
    Returns: the outcomes with mass, differentiable in the scores; ``exact``: the certificate that
        this is sparsemax over all of Z, true if and only if the (k+1)-th best outcome's score is at
        most the threshold τ, or there are no more than k.
    Ties at the k-th place: as the structure's k_best orders them.
    Vector-Jacobian product: Σ_z w_z a_z, w sparsemax's own, on the support.
    Cost: the structure's k_best of k + 1, and sparsemax of B·(k + 1) scores.
    Source: Correia et al., 2020, §4.1.
    """
    structure = _structure("top_k_sparsemax", structure)
    return _top_k("top_k_sparsemax", _C.top_k_sparsemax, structure, scores, k)


@breaks_graph
def adaptive_top_k_sparsemax(
    structure: Structure, scores: Tensor, k: int, max_k: int
) -> SparseDistribution:
    """Sparsemax over all of Z by growing k until the certificate holds: exact wherever no more than
    ``max_k`` outcomes have mass, which ``exact`` says per example; elsewhere the same as
    :func:`top_k_sparsemax` with k = max_k.

    k: where structures with k_best start, which double it from there; bits and a Categorical ignore
    it (but for the errors). Errors: those of top_k_sparsemax; max_k < k.
    """
    name = "adaptive_top_k_sparsemax"
    structure = _structure(name, structure)
    return _top_k(name, _C.adaptive_top_k_sparsemax, structure, scores, k, max_k)


# --- under autocast, torch.func and torch.compile ------------------------------------------------
#
# Under torch.func the compiled core solves for the scores' values, and what it found is attached to
# the scores here. Supports then list indicators, not flips.


def _float32_under_autocast(scores: Tensor) -> Tensor:
    if (
        isinstance(scores, Tensor)
        and scores.dtype in (torch.half, torch.bfloat16)
        and torch.is_autocast_enabled(scores.device.type)
    ):
        return scores.float()
    return scores


def _is_built_in(structure: Structure) -> bool:
    return isinstance(structure, (_C.Categorical, _C.Bits))


def _from_dense(caller: str, probs: Tensor, exact: Tensor | None) -> Any:
    value = _transforms.value_of(caller, probs)
    if exact is not None:
        exact = _transforms.value_of(caller, exact)
    with _transforms.outside_transforms():
        q = _C.SparseDistribution.from_dense(value, exact)
    z = q.support
    own = probs.reshape(-1)
    if not z.full_grid:
        own = own[z.rows * z.parts + z.indices]
    return _C.SparseDistribution(z, own, q.exact)


def _with_indicators(z: Assignments) -> Assignments:
    """The same pairs, by their indicators where they are flips."""
    if z.base is None:
        return z
    return _assignments(z.rows, z.row_splits, z.values(torch.uint8))


def _assignments(rows: Tensor, row_splits: Tensor, indicators: Tensor) -> Assignments:
    z = Assignments.__new__(Assignments)
    state = (rows, row_splits, indicators.shape[1], None, indicators, None, None, None)
    z.__setstate__((*state, False, False))  # type: ignore[attr-defined]
    return z


def _attached(
    structure: Any, scores: Tensor, found: Any, encoding: Encoding, algorithm: Algorithm
) -> Any:
    """The distribution that SparseMAP found for the scores' values, as a function of the scores."""
    if isinstance(structure, _C.Categorical):
        probs = _transforms.sparsemax(scores, 1)
        return _from_dense("sparsemap", probs, found.exact)
    both_states = encoding == "both-states"
    with _transforms.outside_transforms():
        z = _with_indicators(found.support)
    if algorithm == "closed-form":
        return _closed_form(structure, scores, z, found, both_states)
    probs = _transforms.SparsemapWeights.apply(
        scores, found.probs, z.row_splits, z.indicators, structure.variables,
        0.5 if both_states else 1.0,
    )  # fmt: skip
    return _C.SparseDistribution(z, probs, found.exact)


def _closed_form(structure: Any, scores: Tensor, z: Assignments, found: Any, both: bool) -> Any:
    """A weight is the distance between two of the places that the marginals cut [0, 1] at."""
    bits = (structure.least, structure.most)
    marginals, tight = _transforms.sparsemap_marginals(scores.double(), *bits, both)
    value, tight = (_transforms.value_of("sparsemap", t) for t in (marginals, tight))
    with _transforms.outside_transforms():
        *_, probs, upper, lower = torch.ops.sparsum.sparsemap_configurations(value, tight, *bits)
        if found.probs.numel() < probs.numel():  # what a narrow dtype rounds to 0 is not listed
            kept = probs.to(scores.dtype) > 0
            upper, lower = upper[kept], lower[kept]
        inside = (value > 0) & (value < 1)
    cuts = marginals
    if structure.least > 0 or structure.most < structure.parts:
        cuts = torch.where(inside, marginals, 0).cumsum(1)
    cuts = torch.nn.functional.pad(cuts.flatten(), (1, 0))
    weights = cuts[upper + 1] - cuts[lower + 1]
    return _C.SparseDistribution(z, _moving(found.probs, weights), found.exact)


def _moving(value: Tensor, along: Tensor) -> Tensor:
    """The value, with the derivatives of ``along``."""
    return value + (along - along.detach()).to(value.dtype)


def _top_k(caller: str, call: Any, structure: Any, scores: Tensor, *ks: int) -> SparseDistribution:
    scores = _float32_under_autocast(scores)
    if not _transforms.transformed():
        return SparseDistribution._of(call(structure, scores, *ks))
    value = _transforms.value_of(caller, scores)
    with _transforms.outside_transforms():
        found = call(structure, value, *ks)
        z = _with_indicators(found.support)
    if isinstance(structure, _C.Categorical):
        probs, _ = _transforms.TopKSparsemax.apply(scores, ks[-1], 1)
        return SparseDistribution._of(_from_dense(caller, probs, found.exact))
    wide = scores if scores.dtype == torch.double else scores.float()
    outcomes = structure.score(wide, z)
    centred = outcomes - z.gather(z.sum_per_example(outcomes) / z.evaluations())
    probs = _moving(found.probs, centred)
    return SparseDistribution._of(_C.SparseDistribution(z, probs, found.exact))


def _check_sparsemap(
    caller: str,
    structure: Structure,
    scores: Tensor,
    encoding: str,
    tolerance: float,
    max_iterations: int,
) -> None:
    if not isinstance(scores, Tensor):
        raise TypeError(
            f"{caller}(): argument 'scores' (position 2) must be Tensor, not "
            f"{type(scores).__name__}"
        )
    if not scores.is_floating_point():
        raise RuntimeError(f"{caller}: expected scores to be floating point, got {scores.dtype}")
    if scores.dim() != 2 or scores.shape[1] != structure.parts:
        raise RuntimeError(
            f"{caller}: expected scores to be [B, V] with V = {structure.parts} for "
            f"{structure.name}, got {list(scores.shape)}"
        )
    if encoding not in ("one-state", "both-states"):
        raise ValueError(
            f"{caller}: expected encoding to be 'one-state' or 'both-states', got '{encoding}'"
        )
    if encoding == "both-states" and not isinstance(structure, _C.Bits):
        raise RuntimeError(f"{caller}: encoding 'both-states' is for bits, got {structure.name}")
    if not 0 < tolerance < math.inf:
        raise ValueError(f"{caller}: expected a finite tolerance > 0, got {tolerance}")
    if max_iterations < 0:
        raise ValueError(f"{caller}: expected max_iterations >= 0, got {max_iterations}")


def _marginals(
    caller: str,
    structure: Any,
    scores: Tensor,
    encoding: Encoding,
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    """SparseMAP's marginals in operations that torch.func and torch.compile know."""
    scores = _float32_under_autocast(scores)
    _check_sparsemap(caller, structure, scores, encoding, tolerance, max_iterations)
    if isinstance(structure, _C.Bits):
        both_states = encoding == "both-states"
        bits = (structure.least, structure.most)
        return _transforms.sparsemap_marginals(scores, *bits, both_states)[0]
    if isinstance(structure, _C.Categorical):
        return _transforms.sparsemax(scores, 1)

    def solve(value: Tensor) -> Any:
        options = (encoding, "active-set", "map", tolerance, max_iterations, None, None)
        return _C.sparsemap(structure, value, *options)

    found = _transforms.ActiveSetMarginals.apply(scores, solve, structure.variables)
    return cast(Tensor, found[0])


def _sparsemap_marginals(
    structure: Any, scores: Tensor, encoding: Encoding, tolerance: float, max_iterations: int
) -> Tensor:
    if _transforms.transformed() or (is_compiling() and _is_built_in(structure)):
        options = (encoding, tolerance, max_iterations)
        return _marginals("sparsemap_marginals", structure, scores, *options)
    scores = _float32_under_autocast(scores)
    options = (encoding, "active-set", "map", tolerance, max_iterations, None, None)
    return cast(Tensor, _C.sparsemap_marginals(structure, scores, *options))


def _sparsemap_loss(
    structure: Any,
    scores: Tensor,
    target: Tensor,
    encoding: Encoding,
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    options = (encoding, tolerance, max_iterations)
    if _transforms.transformed() or (is_compiling() and _is_built_in(structure)):
        return _loss("sparsemap_loss", structure, scores, target, *options)
    scores = _float32_under_autocast(scores)
    return cast(Tensor, _C.sparsemap_loss(structure, scores, target, *options))


def _loss(
    caller: str,
    structure: Any,
    scores: Tensor,
    target: Tensor,
    encoding: Encoding,
    tolerance: float,
    max_iterations: int,
) -> Tensor:
    """SparseMAP's loss in operations that torch.func and torch.compile know."""
    if not isinstance(target, Tensor):
        raise TypeError(
            f"{caller}(): argument 'target' (position 3) must be Tensor, not "
            f"{type(target).__name__}"
        )
    scores = _float32_under_autocast(scores)
    marginals = _marginals(caller, structure, scores, encoding, tolerance, max_iterations)
    if target.shape != scores.shape:
        raise RuntimeError(
            f"{caller}: expected target to be [B, V] = {list(scores.shape)}, got "
            f"{list(target.shape)}"
        )
    y = target.to(scores.dtype)

    def omega(point: Tensor) -> Tensor:
        u = point[:, : structure.variables]
        squares = u.square().sum(1)
        if encoding == "both-states":
            squares = squares + (1 - u).square().sum(1)
        return squares / 2

    forbidden = scores == -math.inf
    finite = scores.masked_fill(forbidden, 0)
    loss = omega(y) - omega(marginals) + (finite * (marginals - y)).sum(1)
    illegal = (forbidden & (y > 0)).any(1)
    # The clamp is of the value alone: at a loss of 0 the gradient is as right as elsewhere.
    return (loss - loss.detach().clamp(max=0)).masked_fill(illegal, math.inf)


# A built-in structure is a constant of the graph, which holds for structures that equal it.
for _built_in in (_C.Categorical, _C.BitVector, _C.Budget, _C.Subset):
    torch.utils._pytree.register_constant(_built_in)
_traced_marginals = torch._dynamo.nonstrict_trace(_marginals)
_traced_loss = torch._dynamo.nonstrict_trace(_loss)

_eager_marginals = breaks_graph(_sparsemap_marginals)
_eager_loss = breaks_graph(_sparsemap_loss)


from . import _divergences  # noqa: E402, F401  (registers them)
