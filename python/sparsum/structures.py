"""Sets of outcomes, described by parts: a categorical variable, vectors of bits, one's own.

A structure is a finite set Z. Outcome z has the indicator vector ``a_z`` in {0, 1}^V, and scores t
in R^V give it the score ⟨a_z, t⟩. Batched methods (the oracles) take scores [B, V], floating point,
finite or −inf (which forbids every outcome with that part), and are deterministic: ties go to the
outcome that is first in the structure's order. NaN and +inf are errors that name the row; where
reading the values would make a device wait, and in ``log_partition``, ``marginals`` and ``entropy``
of a Categorical and a BitVector, NaN spreads, as in a softmax, and +inf is not looked for.

>>> import torch
>>> from sparsum.structures import Subset
>>> best = Subset(4, 2).map(torch.tensor([[0.1, 3.0, -1.0, 2.0]]))
>>> best.values(torch.int64)
tensor([[0, 1, 0, 1]])

Objects are immutable and may be used from several threads at once. The built-in classes are final:
a structure of one's own derives from :class:`Structure`. The GIL is released in every method.
Ctrl-C is looked for wherever Python code is called back; methods that never leave the compiled core
(every method of the built-in structures) return before it takes effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ._load import _C

if TYPE_CHECKING:
    import numpy
    import torch

    from ._C import Assignments, BitVector, Budget, Categorical, Subset

    Outcome = Sequence[int] | numpy.ndarray[Any, Any] | torch.Tensor
else:
    Assignments = _C.Assignments
    Categorical = _C.Categorical
    BitVector = _C.BitVector
    Budget = _C.Budget
    Subset = _C.Subset

__all__ = ["BitVector", "Budget", "Categorical", "Structure", "Subset"]

for _built_in in (_C.Categorical, _C.Bits, _C.BitVector, _C.Budget, _C.Subset):
    _built_in.__module__ = __name__


def _refuse_to_be_derived_from(cls: type, **_: Any) -> None:
    base = next(base for base in cls.__mro__[1:] if issubclass(base, (_C.Categorical, _C.Bits)))
    raise TypeError(
        f"{cls.__name__}: expected a class derived from sparsum.Structure, got one derived from "
        f"{base.__name__}, whose methods are compiled and call no others"
    )


for _built_in in (_C.Categorical, _C.Bits):
    _built_in.__init_subclass__ = classmethod(_refuse_to_be_derived_from)


class _Default:
    """An attribute that a subclass may define in any way: in the class, in the object, as a
    property."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, structure: Any, owner: type) -> Any:
        if structure is None:
            return self
        if self._name == "name":
            return type(structure).__name__
        if self._name == "variables":
            return structure.parts
        if self._name == "log_size":
            if structure.size is not None:
                return math.log(structure.size)
            raise NotImplementedError(f"{structure.name}: log_size is not available")
        raise NotImplementedError(
            f"{structure.name}: expected an attribute or property `parts`, the width of the scores"
        )


class _StructureType(type(_C.Structure)):  # type: ignore[misc]
    """Makes the built-in structures instances of :class:`Structure`, as they are in C++."""

    def __instancecheck__(cls, instance: object) -> bool:
        if cls is Structure:
            return isinstance(instance, _C.Structure)
        return type.__instancecheck__(cls, instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        if cls is Structure:
            return issubclass(subclass, _C.Structure)
        return type.__subclasscheck__(cls, subclass)


class Structure(_C.Structure, metaclass=_StructureType):
    """A structure of one's own: derive, say how many parts there are and which outcome is best for
    one example. Batches, top-k sparsemax, SparseMAP and gradients come from the library.

    A subclass defines ``parts`` (V ≥ 1: an attribute of the class or the object, or a property)
    and :meth:`best`; :meth:`k_best_one` too for :func:`sparsum.top_k_sparsemax`. Optional are
    ``variables`` (U ≤ V, the parts that SparseMAP regularises; all), ``name`` (the class's name),
    ``size`` (\\|Z\\|, None where unknown), ``log_size``; and, for estimators that sample or list
    outcomes, the batched oracles ``enumerate``, ``sample``, ``log_partition``, ``marginals`` and
    ``entropy`` with the signatures that the built-in structures have. ``parts`` and ``variables``
    are read once: structures do not change.

    >>> import numpy, torch, sparsum
    >>> class AtMostOne(sparsum.Structure):
    ...     parts = 3
    ...     def best(self, scores):
    ...         outcome = numpy.zeros(3, dtype=bool)
    ...         outcome[scores.argmax()] = scores.max() > 0
    ...         return outcome
    >>> q = sparsum.sparsemap(AtMostOne(), torch.tensor([[0.6, 0.3, -1.0]]))
    >>> q.marginals()
    tensor([[0.6000, 0.3000, 0.0000]])

    What an oracle returns is checked, and what is wrong an error that names the structure: an
    outcome that is no vector of V zeros and ones, that uses a part whose score is −inf, that is
    worse than one returned before; a list that is out of order or holds an outcome twice. An
    exception that an oracle raises arrives at the caller as itself, with its traceback. Oracles
    may be called on other threads than the caller's, one at a time (they share the GIL); Ctrl-C
    ends a call at the next oracle that runs on the main thread.
    """

    scores_type: ClassVar[Literal["numpy", "tensor"]] = "numpy"
    """What :meth:`best` and :meth:`k_best_one` are given: a float64 NumPy array, or a tensor."""

    if TYPE_CHECKING:
        name: str
        parts: int
        variables: int
        size: int | None
        log_size: float
    else:
        name = _Default("For messages; the class's name if it is not defined.")
        parts = _Default("V, the number of parts.")
        variables = _Default("U ≤ V, the parts that SparseMAP regularises; all of them.")
        log_size = _Default("log |Z| in nats, from ``size`` where that is known.")
        size = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Structure:
        if cls is Structure:
            raise TypeError("Structure is to be derived from: define `parts` and `best`")
        self = super().__new__(cls)
        # Here, so that a subclass's __init__ need not call this one's.
        _C.Structure.__init__(self)
        return self

    def __init__(self) -> None:
        pass

    def best(self, scores: Any) -> Outcome:
        """The indicators of an outcome that maximises ⟨a_z, scores⟩, for one example.

        scores: V numbers, finite or −inf (no outcome that uses such a part may be returned), a
        copy: a float64 NumPy array, or a tensor if ``scores_type`` is ``"tensor"``.
        Returns: V zeros and ones: an array or tensor of any real dtype, or a sequence.
        """
        raise NotImplementedError(f"{self.name}: best is not available")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__.copy())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _rebuild(cls: type[Structure], state: dict[str, Any]) -> Structure:
    structure = cls.__new__(cls)
    structure.__dict__.update(state)
    return structure
