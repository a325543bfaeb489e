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
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import constraints

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

Encoding = Literal["one-state", "both-states"]
Algorithm = Literal["active-set", "closed-form"]
Init = Literal["map", "random"]


class _Outcomes(constraints.Constraint):
    """The outcomes of a built-in structure; of another, all vectors of bits."""

    is_discrete = True

    def __init__(self, structure: Structure) -> None:
        self._structure = structure
        self.event_dim = 0 if isinstance(structure, _C.Categorical) else 1
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
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
    """Whether values are among an example's listed outcomes."""

    is_discrete = True

    def __init__(self, q: SparseDistribution) -> None:
        self._q = q
        self.event_dim = len(q.event_shape)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return self._q.log_prob(value) > -math.inf


class Distribution(torch.distributions.Distribution):
    """A batch of B distributions over the outcomes of a structure: what
    :meth:`sparsum.Estimator.distribution` returns. Tensors are attached to the scores they came
    from unless said otherwise.

    Of :class:`torch.distributions.Distribution` it has ``batch_shape``, ``event_shape``,
    :meth:`sample`, :meth:`log_prob`, :meth:`entropy`, :meth:`perplexity`, :attr:`mean`,
    :attr:`variance`, :attr:`mode`, ``support`` and :meth:`enumerate_support`. There is no
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
        return self._impl.mode()

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
        drawn = self._tensor(self._impl.sample(count, generator))
        drawn = drawn.view(self.batch_size, count, *self.event_shape).transpose(0, 1)
        return drawn.reshape(*shape, *self.batch_shape, *self.event_shape)

    def sample_assignments(self, samples: int, generator: torch.Generator) -> Assignments:
        """``samples`` independent draws per example, B·samples pairs sorted by example, for a
        loss."""
        return self._impl.sample(samples, generator)

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
            shape = torch.broadcast_shapes(value.shape, self.batch_shape)
            legal = (value >= 0) & (value < self._parts)
            requirement = f"an index in 0 ... {self._parts - 1}"
        else:
            if value.dim() == 0 or value.size(-1) != self._parts:
                raise ValueError(
                    f"log_prob: expected value to be [..., V] with V = {self._parts}, got "
                    f"{list(value.shape)}"
                )
            shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
            legal = (value == 0) | (value == 1)
            requirement = "indicators 0 or 1"
        if shape[-1:] != self.batch_shape:
            raise ValueError(
                f"log_prob: expected value to be broadcastable with B = {self.batch_size} "
                f"examples, got {list(value.shape)}"
            )
        if not bool(legal.all()):
            wrong = value[~legal].reshape(-1)[0].item()
            raise ValueError(f"log_prob: expected value to be {requirement}, got {wrong}")
        event = self.event_shape
        value = value.long() if self._hard else value.to(torch.uint8)
        listed = value.expand(*shape, *event).reshape(-1, self.batch_size, *event)
        outcomes = listed.transpose(0, 1).reshape(-1, *event)
        return _C._regular_assignments(outcomes, self.batch_size, self._parts), shape

    def enumerate(self, limit: int = 65536) -> SparseDistribution:
        """The outcomes of non-zero probability, listed. Raises, naming the size, if a dense
        distribution has more than ``limit`` outcomes an example; those that a score of −inf
        forbids are left out."""
        return SparseDistribution._of(self._impl.enumerate(limit))

    def _tensor(self, z: Assignments) -> Tensor:
        return cast(Tensor, z.indices) if self._hard else z.values(self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        raise NotImplementedError

    @property
    def _device(self) -> torch.device:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.batch_size}, parts={self._parts})"


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
        """The structure's outcomes, as a constraint of :mod:`torch.distributions`."""
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
        if isinstance(value, Tensor) and isinstance(bits, _C.Bits) and not bits.free:
            log_prob = log_prob.masked_fill(~self.support.check(value), -math.inf)
        return log_prob

    log_prob.__doc__ = Distribution.log_prob.__doc__

    @property
    def _dtype(self) -> torch.dtype:
        return self.scores.dtype

    @property
    def _device(self) -> torch.device:
        return self.scores.device

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.structure, self.scores)


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
        return cls._of(_C.SparseDistribution.from_dense(probs, exact))

    @property
    def support(self) -> Assignments:  # type: ignore[override]
        """The outcomes of non-zero probability. Where :mod:`torch.distributions` wants a
        constraint, :attr:`support_constraint` says the same."""
        return self._support

    @property
    def support_constraint(self) -> constraints.Constraint:
        """A constraint of :mod:`torch.distributions` whose ``check`` says, value by value, whether
        it is in the support of its example."""
        return _Support(self)

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
    return SparseDistribution._of(
        _C.sparsemap(
            _structure("sparsemap", structure), scores, encoding, algorithm, init, tolerance,
            max_iterations, generator, _warm("sparsemap", warm_start),
        )
    )  # fmt: skip


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
    distribution, *numbers = _C.solve_sparsemap(
        _structure("solve_sparsemap", structure), scores, encoding, algorithm, init, tolerance,
        max_iterations, generator, _warm("solve_sparsemap", warm_start),
    )  # fmt: skip
    return SparsemapResult(SparseDistribution._of(distribution), *numbers)


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
    return cast(
        Tensor,
        _C.sparsemap_marginals(
            _structure("sparsemap_marginals", structure), scores, encoding, "active-set", "map",
            tolerance, max_iterations, None, None,
        ),
    )  # fmt: skip


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
    return cast(
        Tensor,
        _C.sparsemap_loss(
            _structure("sparsemap_loss", structure), scores, target, encoding, tolerance,
            max_iterations,
        ),
    )  # fmt: skip


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
    return SparseDistribution._of(
        _C.top_k_sparsemax(_structure("top_k_sparsemax", structure), scores, k)
    )


def adaptive_top_k_sparsemax(
    structure: Structure, scores: Tensor, k: int, max_k: int
) -> SparseDistribution:
    """Sparsemax over all of Z by growing k until the certificate holds: exact wherever no more than
    ``max_k`` outcomes have mass, which ``exact`` says per example; elsewhere the same as
    :func:`top_k_sparsemax` with k = max_k.

    k: where structures with k_best start, which double it from there; bits and a Categorical ignore
    it (but for the errors). Errors: those of top_k_sparsemax; max_k < k.
    """
    return SparseDistribution._of(
        _C.adaptive_top_k_sparsemax(
            _structure("adaptive_top_k_sparsemax", structure), scores, k, max_k
        )
    )
