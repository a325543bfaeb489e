from __future__ import annotations

import copy
import itertools
import math
import pickle
import threading
import time
import traceback
from typing import Any

import numpy
import pytest
import sparsum
import torch
from neighbours import NoNeighbours, WithLists

BUILT_IN = [
    sparsum.Categorical(5),
    sparsum.BitVector(5),
    sparsum.Budget(5, 2),
    sparsum.Subset(5, 2),
]


def outcomes(structure: sparsum.Structure) -> torch.Tensor:
    """All of Z, independently of the library: [|Z|, V] float64."""
    width = structure.parts
    if isinstance(structure, sparsum.Categorical):
        return torch.eye(width, dtype=torch.float64)
    vectors = torch.tensor(list(itertools.product((0, 1), repeat=width)), dtype=torch.float64)
    on = vectors.sum(1)
    return vectors[(on >= structure.least) & (on <= structure.most)]


@pytest.mark.parametrize("structure", BUILT_IN, ids=repr)
def test_oracles_agree_with_enumeration(
    structure: sparsum.Structure, generator: torch.Generator
) -> None:
    scores = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    listed = outcomes(structure)
    totals = scores @ listed.T
    assert structure.size == len(listed)
    assert structure.log_size == pytest.approx(math.log(len(listed)))
    assert structure.parts == structure.variables == 5

    everything = structure.enumerate(3)
    assert everything.count == 3 * len(listed)
    ours = {tuple(z) for z in everything.values(torch.int64)[: len(listed)].tolist()}
    assert ours == {tuple(z) for z in listed.long().tolist()}

    best = structure.map(scores)
    torch.testing.assert_close(structure.score(scores, best), totals.amax(1))
    k_best = structure.score(scores, structure.k_best(scores, 4)).view(3, 4)
    torch.testing.assert_close(k_best, totals.topk(4).values)

    torch.testing.assert_close(structure.log_partition(scores), totals.logsumexp(1))
    probs = totals.softmax(1)
    torch.testing.assert_close(structure.marginals(scores), probs @ listed)
    entropy = -(probs * totals.log_softmax(1)).sum(1)
    torch.testing.assert_close(structure.entropy(scores), entropy)
    (ours_grad,) = torch.autograd.grad(structure.entropy(scores).sum(), scores, retain_graph=True)
    (grad,) = torch.autograd.grad(entropy.sum(), scores)
    torch.testing.assert_close(ours_grad, grad)

    draws = structure.sample(scores, 4000, generator)
    frequencies = draws.values(torch.float64).view(3, 4000, 5).mean(1)
    torch.testing.assert_close(frequencies, (probs @ listed).detach(), atol=0.05, rtol=0)


def test_assignments(generator: torch.Generator) -> None:
    structure = sparsum.Budget(4, 2)
    scores = torch.randn(3, 4, generator=generator)
    z = structure.k_best(scores, 3)
    assert (len(z), z.count, z.batch_size, z.parts) == (9, 9, 3, 4)
    assert z.indices is None
    assert z.base is not None and z.flips is not None  # told by what differs from the best
    assert z.evaluations().tolist() == [3, 3, 3]
    assert z.rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    table = torch.randn(4, 7, generator=generator)
    torch.testing.assert_close(z.embed(table), z.values() @ table)
    torch.testing.assert_close(z.gather(scores), scores[z.rows])
    torch.testing.assert_close(z.sum_per_example(torch.ones(9)), torch.full((3,), 3.0))
    part = z.slice(2, 5)
    torch.testing.assert_close(part.values(), z.values()[2:5])
    assert part.batch_size == 3
    with pytest.raises(IndexError, match=r"slice: expected 0 <= begin <= end <= n = 9, got 5 and"):
        z.slice(5, 12)
    again = pickle.loads(pickle.dumps(z))
    assert torch.equal(again.values(), z.values()) and torch.equal(again.rows, z.rows)
    assert repr(z) == "Assignments(count=9, batch_size=3, parts=4, flips)"
    one = sparsum.one_per_example(torch.tensor([2, 0]), 4)
    assert one.indices.tolist() == [2, 0]


def test_enumerate_refuses_what_is_too_large() -> None:
    with pytest.raises(RuntimeError, match="1048576"):
        sparsum.BitVector(20).enumerate(1)


@pytest.mark.parametrize("structure", BUILT_IN, ids=repr)
def test_structures_copy_pickle_and_compare(structure: sparsum.Structure) -> None:
    for other in (pickle.loads(pickle.dumps(structure)), copy.deepcopy(structure)):
        assert type(other) is type(structure) and other == structure
        assert hash(other) == hash(structure)
    assert isinstance(structure, sparsum.Structure)
    assert structure != sparsum.BitVector(9) and structure != 5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sparsum.Categorical(0), RuntimeError, "Categorical: expected at least 1 value"),
        (
            lambda: sparsum.Categorical(2.5),
            TypeError,
            r"Categorical\(\): argument 'values' \(position 1\) must be int, not float",
        ),
        (lambda: sparsum.Budget(3, 4), RuntimeError, "Budget: expected 0 <= B <= D = 3"),
        (lambda: sparsum.Subset(3, -1), RuntimeError, "Subset: expected 0 <= B <= D = 3"),
        (lambda: sparsum.Structure(), TypeError, "Structure is to be derived from"),
    ],
)
def test_arguments_of_structures(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([[1.0, 2.0, 3.0]], TypeError, r"'scores' \(position 1\) must be Tensor, not list"),
        (numpy.zeros((2, 3)), TypeError, "must be Tensor, not numpy.ndarray"),
        (None, TypeError, "must be Tensor, not NoneType"),
        (torch.zeros(2, 3, dtype=torch.int64), RuntimeError, "floating point, got Long"),
        (torch.zeros(2, 3, dtype=torch.complex64), RuntimeError, "floating point, got Complex"),
        (torch.zeros(2, 4), RuntimeError, r"with V = 3 for bit-vector\(3\), got \[2, 4\]"),
        (torch.zeros(3), RuntimeError, r"got \[3\]"),
    ],
)
def test_bad_scores_are_refused_by_name(
    scores: Any, error: type[Exception], message: str
) -> None:
    structure = sparsum.BitVector(3)
    for method in ("map", "log_partition", "marginals", "entropy"):
        with pytest.raises(error, match=message) as caught:
            getattr(structure, method)(scores)
        assert method in str(caught.value)
        assert "Exception raised from" not in str(caught.value)


def test_score_wants_assignments() -> None:
    with pytest.raises(TypeError, match=r"score\(\): argument 'z' .* must be Assignments, not int"):
        sparsum.BitVector(3).score(torch.zeros(1, 3), 3)  # type: ignore[arg-type]


def test_a_row_that_cannot_be_is_named() -> None:
    scores = torch.zeros(3, 4)
    scores[1] = -math.inf
    with pytest.raises((RuntimeError, ValueError), match="row 1"):
        sparsum.Categorical(4).map(scores)


@pytest.mark.parametrize("structure", BUILT_IN, ids=repr)
def test_built_in_structures_are_final(structure: Any) -> None:
    for bases in ((type(structure),), (sparsum.Structure, type(structure))):
        with pytest.raises(TypeError) as caught:
            type("Mine", bases, {"map": lambda self, scores: None})
        assert str(caught.value) == (
            f"Mine: expected a class derived from sparsum.Structure, got one derived from "
            f"{type(structure).__name__}, whose methods are compiled and call no others"
        )


@pytest.mark.parametrize("structure", BUILT_IN, ids=repr)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_scores_that_are_no_scores_are_refused(
    structure: Any, value: float, dtype: torch.dtype, generator: torch.Generator
) -> None:
    scores = torch.zeros(3, structure.parts, dtype=dtype)
    scores[1, 2] = value
    word = r"\+?inf" if value == math.inf else "(?i:nan)"
    for call in (
        lambda: structure.map(scores),
        lambda: structure.k_best(scores, 2),
        lambda: structure.sample(scores, 2, generator),
    ):
        with pytest.raises((RuntimeError, ValueError), match=f"row 1.*{word}|{word}.*row 1"):
            call()
    for oracle in (structure.log_partition, structure.marginals, structure.entropy):
        try:
            answer = oracle(scores)
        except ValueError as error:
            assert "row 1" in str(error)  # noqa: PT017
        else:  # passed on, as softmax does
            spread = not bool(answer[1].isfinite().all())
            assert spread or (value == math.inf and oracle == structure.marginals)


# Structures written in Python.


@pytest.mark.parametrize("kind", ["numpy", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_python_structure_against_brute_force(
    kind: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    structure = WithLists(6)
    structure.scores_type = kind  # type: ignore[assignment]
    scores = torch.randn(5, 6, generator=generator, dtype=dtype)
    listed = torch.tensor(structure.outcomes(), dtype=dtype)
    totals = scores @ listed.T
    torch.testing.assert_close(
        structure.score(scores, structure.map(scores)), totals.amax(1)
    )
    k_best = structure.k_best(scores, 4)
    torch.testing.assert_close(
        structure.score(scores, k_best).view(5, 4), totals.topk(4).values
    )
    assert structure.log_size == pytest.approx(math.log(21))

    # SparseMAP's marginals are the projection onto the hull: no outcome improves on them.
    result = sparsum.solve_sparsemap(structure, scores)
    assert bool(result.converged.all())
    residual = (scores - result.marginals).double()
    towards = residual @ listed.double().T
    at = (residual * result.marginals).sum(1, keepdim=True)
    assert float((towards - at).max()) < (1e-5 if dtype == torch.float32 else 1e-8)
    support = {tuple(z) for z in result.distribution.support.values(torch.int64).tolist()}
    assert support <= set(structure.outcomes())


@pytest.mark.parametrize("form", ["uint8", "bool", "float", "list", "tensor", "tuple"])
def test_what_an_oracle_may_return(form: str) -> None:
    class Positive(sparsum.Structure):
        parts = 3

        def best(self, scores: Any) -> Any:
            on = [int(s > 0) for s in scores]
            array = numpy.array(on)
            forms = {"uint8": array.astype("uint8"), "bool": array.astype(bool)}
            forms |= {"float": array.astype("float32"), "list": on, "tuple": tuple(on)}
            return {**forms, "tensor": torch.tensor(on)}[form]

    best = Positive().map(torch.tensor([[0.5, -1.0, 2.0]]))
    assert best.values(torch.int64).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ([1, 0], RuntimeError, "Odd: best: expected an outcome of V = 3 indicators, got 2"),
        ([1, 0, 2], ValueError, "Odd: best: expected indicators 0 or 1, got 2.* for part 2"),
        (numpy.array([0.5, 0, 0]), ValueError, "expected indicators 0 or 1, got 0.5.* for part 0"),
        (torch.zeros(1, 3), TypeError, "Odd: best: expected a vector .* a Tensor of 2 dimensions"),
        (None, TypeError, "Odd: best: expected a vector of zeros and ones .*, got NoneType"),
        ("101", TypeError, "got str"),
        (["a", "b", "c"], TypeError, "got an element of type str"),
    ],
)
def test_wrong_answers_of_an_oracle(answer: Any, error: type[Exception], message: str) -> None:
    class Odd(sparsum.Structure):
        parts = 3

        def best(self, scores: Any) -> Any:
            return answer

    for call in (lambda: Odd().map(torch.ones(1, 3)), lambda: _sparsemap(Odd())):
        with pytest.raises(error, match=message):
            call()


def _sparsemap(structure: sparsum.Structure) -> Any:
    return sparsum.sparsemap(structure, torch.ones(2, structure.parts))


def test_an_oracle_that_is_missing() -> None:
    class Nothing(sparsum.Structure):
        pass

    with pytest.raises(NotImplementedError, match="Nothing: expected an attribute or property `pa"):
        Nothing().map(torch.ones(1, 3))
    with pytest.raises(NotImplementedError, match="Nothing: expected an attribute or property `pa"):
        _ = Nothing().parts

    class NoBest(sparsum.Structure):
        parts = 3

    with pytest.raises(NotImplementedError, match="NoBest: best is not available"):
        NoBest().map(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match=r"no-neighbours\(4\): k_best is not available"):
        NoNeighbours(4).k_best(torch.ones(1, 4), 2)
    with pytest.raises(RuntimeError, match=r"no-neighbours\(4\): sample is not available"):
        NoNeighbours(4).sample(torch.ones(1, 4), 2, torch.Generator())

    class Float(sparsum.Structure):
        parts = 2.5

    with pytest.raises(TypeError, match="Float: expected parts to be an int .*, got float"):
        Float().map(torch.ones(1, 3))


def test_batched_oracles_in_python() -> None:
    class Independent(sparsum.Structure):
        """Bits with a partition function of its own."""

        parts = 4

        def best(self, scores: Any) -> Any:
            return scores > 0

        def log_partition(self, scores: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.softplus(scores).sum(1)

        def marginals(self, scores: torch.Tensor) -> torch.Tensor:
            return scores.sigmoid()

        def sample(
            self, scores: torch.Tensor, samples: int, generator: torch.Generator
        ) -> sparsum.Assignments:
            return sparsum.BitVector(4).sample(scores, samples, generator)

    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    q = sparsum.Gibbs(Independent(), scores)
    reference = sparsum.Gibbs(sparsum.BitVector(4), scores)
    torch.testing.assert_close(q.entropy(), reference.entropy())
    draws = q.sample((5,), torch.Generator().manual_seed(1))
    assert torch.equal(draws, reference.sample((5,), torch.Generator().manual_seed(1)))
    torch.testing.assert_close(q.log_prob(draws), reference.log_prob(draws))


class Mine(Exception):
    pass


class Failing(NoNeighbours):
    """Raises in the examples whose first score is negative."""

    def best(self, scores: Any) -> Any:
        if scores[0] < 0:
            raise Mine(f"in thread {threading.current_thread().ident}")
        return super().best(scores)


@pytest.mark.parametrize("function", [sparsum.sparsemap, lambda s, t: s.map(t)])
def test_an_oracles_exception_arrives_as_itself(function: Any) -> None:
    # The last examples are another thread's wherever there is more than one.
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for batch in (1, 8):
            scores = torch.ones(batch, 4)
            scores[-1, 0] = -1
            with pytest.raises(Mine) as caught:
                function(Failing(4), scores)
            frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
            assert frames[-1] == "best"
    finally:
        torch.set_num_threads(before)


def test_an_exception_stops_the_other_threads() -> None:
    class Slow(NoNeighbours):
        def best(self, scores: Any) -> Any:
            if scores[0] < 0:
                raise Mine
            time.sleep(0.02)
            return super().best(scores)

    scores = torch.ones(400, 4)
    scores[0, 0] = -1
    begin = time.monotonic()
    with pytest.raises(Mine):
        Slow(4).map(scores)
    assert time.monotonic() - begin < 2


def test_a_python_structure_copies_and_pickles() -> None:
    structure = NoNeighbours(5)
    structure.calls = 3
    for other in (pickle.loads(pickle.dumps(structure)), copy.deepcopy(structure)):
        assert other.parts == 5 and other.calls == 3 and other.name == "no-neighbours(5)"
        assert other.map(torch.ones(1, 5)).values().sum() == 3


def test_scores_are_a_copy() -> None:
    kept = []

    class Keeps(NoNeighbours):
        def best(self, scores: Any) -> Any:
            kept.append(scores)
            outcome = super().best(scores)
            scores[:] = numpy.nan
            return outcome

    q = sparsum.sparsemap(Keeps(4), torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    torch.testing.assert_close(q.marginals(), torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    assert all(k.shape == (4,) for k in kept)


def test_two_python_threads_at_once(generator: torch.Generator) -> None:
    scores = torch.randn(30, 6, generator=generator)
    expected = sparsum.sparsemap(NoNeighbours(6), scores).marginals()
    answers: list[torch.Tensor] = []

    def work() -> None:
        for _ in range(5):
            answers.append(sparsum.sparsemap(NoNeighbours(6), scores).marginals())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 10
    assert all(torch.equal(answer, expected) for answer in answers)
