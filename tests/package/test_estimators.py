from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import sparsum
import torch
from neighbours import NoNeighbours, WithLists

EXACT = ["dense", "sparsemax", "entmax", "top-k", "top-k-adaptive", "sparsemap", "sparsemap-budget"]
OPTIONS: dict[str, dict[str, Any]] = {
    "nvil": {"context": 3, "baseline_layers": 1, "baseline_hidden": 8},
    "relax": {"context": 3, "parts": 4, "baseline_layers": 1, "baseline_hidden": 8},
}
BITS_ONLY = {"arm", "disarm", "sparsemap-budget"}
UNBIASED = ["sfe", "sfe-plus", "sfe-loo", "nvil", "sum-and-sample", "unordered-set", "rebar",
            "relax", "arm", "disarm", "muprop"]  # fmt: skip


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def make(name: str, **options: Any) -> sparsum.Estimator:
    return sparsum.make_estimator(name, seeded(1), **{**OPTIONS.get(name, {}), **options})


def structure_for(name: str) -> sparsum.Structure:
    return sparsum.BitVector(4) if name in BITS_ONLY else sparsum.Categorical(4)


class Problem:
    """A loss with parameters, an input that is shared, and a context."""

    def __init__(self, batch: int = 3, seed: int = 0) -> None:
        self.scores = normal(batch, 4, seed=seed).requires_grad_()
        self.table = normal(4, 1, seed=seed + 1).requires_grad_()
        self.x = normal(batch, seed=seed + 2).requires_grad_()
        self.context = normal(batch, 3, seed=seed + 3)

    def loss(self, z: sparsum.Assignments, x: torch.Tensor) -> torch.Tensor:
        own = z.embed(self.table).squeeze(1)
        return (own * z.gather(x)).sin() + 0.3 * own.square()

    def estimate(self, estimator: sparsum.Estimator, **options: Any) -> sparsum.Estimate:
        return estimator.estimate(
            structure_for(estimator.name), self.scores, self.loss, shared=(self.x.tanh(),),
            context=self.context, **options,
        )  # fmt: skip


def test_names() -> None:
    names = sparsum.estimator_names()
    assert names[:3] == ["dense", "sparsemax", "entmax"] and names[-1] == "imle"
    assert len(names) == len(set(names)) == 23


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("name", sparsum.estimator_names())
def test_every_estimator_forward_and_backward(name: str, chunk: int) -> None:
    problem, estimator = Problem(), make(name)
    estimator.check(structure_for(name))
    answer = problem.estimate(estimator, generator=seeded(5), max_evaluations_per_chunk=chunk)
    for tensor in (answer.objective, answer.value, answer.entropy, answer.evaluations):
        assert tensor is not None and tensor.shape == (3,) and bool(tensor.isfinite().all())
    assert answer.evaluations.dtype == torch.int64
    # With chunks imle evaluates a second time, for its gradient in relaxed indicators.
    times = 2 if name == "imle" and chunk else 1
    evaluations = estimator.evaluations(structure_for(name), problem.scores)
    assert torch.equal(answer.evaluations, times * evaluations)
    objective = answer.objective.mean()
    if answer.auxiliary is not None:
        assert answer.auxiliary.dim() == 0
        objective = objective + answer.auxiliary
    objective.backward()
    for leaf in (problem.scores, problem.table, problem.x, *estimator.parameters()):
        assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
    q = estimator.distribution(structure_for(name), problem.scores)
    assert isinstance(q, sparsum.Distribution)
    torch.testing.assert_close(q.entropy().detach(), answer.entropy)
    target = torch.tensor([0, 1, 3])
    assert estimator.supervised_loss(problem.scores, target).shape == (3,)


@pytest.mark.parametrize("name", EXACT)
def test_exact_estimators_are_the_expectation(name: str) -> None:
    problem, estimator = Problem(), make(name)
    answer = problem.estimate(estimator, entropy_weight=0.5)
    q = estimator.distribution(structure_for(name), problem.scores)
    q = q if isinstance(q, sparsum.SparseDistribution) else q.enumerate()
    value = sparsum.expectation(q, problem.loss, (problem.x.tanh(),))
    reference = value - 0.5 * q.entropy()
    torch.testing.assert_close(answer.objective, reference)
    torch.testing.assert_close(answer.value, value.detach())
    leaves = (problem.scores, problem.table, problem.x)
    for ours, other in zip(
        torch.autograd.grad(answer.objective.sum(), leaves),
        torch.autograd.grad(reference.sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, other)


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased_estimators_agree_with_dense_on_average(name: str) -> None:
    # One example, many times over: the batch is the sample.
    batch = 4000
    problem = Problem(1)
    structure = structure_for(name)
    estimator = make(name, **({"baseline": "none"} if name == "sfe" else {}))

    def gradient(which: sparsum.Estimator, copies: int) -> torch.Tensor:
        scores = problem.scores.detach().expand(copies, 4).clone().requires_grad_()
        answer = which.estimate(
            structure, scores, problem.loss, shared=(problem.x.tanh().expand(copies),),
            context=problem.context.expand(copies, 3), generator=seeded(11),
        )  # fmt: skip
        return torch.autograd.grad(answer.objective.sum(), scores)[0]

    exact = gradient(sparsum.make_estimator("dense"), 1)[0]
    draws = gradient(estimator, batch)
    error = draws.std(0) / batch**0.5
    # Four standard errors: a right estimator fails in about 1 of 4,000 such tests of 4 numbers.
    assert bool(((draws.mean(0) - exact).abs() <= 4 * error + 1e-5).all())


@pytest.mark.parametrize("name", [n for n in sparsum.estimator_names() if n not in EXACT])
def test_seeds_repeat_and_a_generator_is_required(name: str) -> None:
    def run(seed: int) -> torch.Tensor:
        problem = Problem(64)
        answer = problem.estimate(make(name), generator=seeded(seed))
        return torch.autograd.grad(answer.objective.sum(), problem.scores)[0]

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))
    with pytest.raises(RuntimeError, match=f"estimator '{name}': expected a generator"):
        Problem().estimate(make(name))


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("sparsmax", {}, RuntimeError, "unknown estimator 'sparsmax'; did you mean 'sparsemax'"),
        (3, {}, TypeError, r"argument 'name' \(position 1\) must be str, not int"),
        ("sfe", {"sample": 2}, TypeError, "unknown option 'sample'; did you mean 'samples'"),
        ("sfe", {"base-line": "x"}, TypeError, "did you mean 'baseline'"),
        ("sfe", {"samples": "2"}, TypeError, "option 'samples' must be int, not str"),
        ("sfe", {"samples": 2.0}, TypeError, "option 'samples' must be int, not float"),
        ("sfe", {"samples": True}, TypeError, "option 'samples' must be int, not bool"),
        ("entmax", {"alpha": "x"}, TypeError, "option 'alpha' must be float, not str"),
        ("sfe", {"baseline": 3}, TypeError, "option 'baseline' must be str, not int"),
        ("relax", {"embed_loss": 1}, TypeError, "option 'embed_loss' must be bool, not int"),
        ("sfe", {"samples": -1}, RuntimeError, "estimator 'sfe': expected samples >= 1, got -1"),
        ("entmax", {"alpha": 0.5}, RuntimeError, "alpha"),
        ("nvil", {}, RuntimeError, "estimator 'nvil': expected context >= 1, got 0"),
        ("nvil", {"context": 3}, RuntimeError, "generator"),
    ],
)
def test_errors_of_make_estimator(
    name: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sparsum.make_estimator(name, **options)


def test_a_structure_it_is_not_defined_for() -> None:
    with pytest.raises(RuntimeError, match="arm.*categorical"):
        make("arm").check(sparsum.Categorical(4))
    with pytest.raises(TypeError, match="'structure' .* must be Structure, not int"):
        make("sfe").check(4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"estimate\(\): argument 'scores' .* not list"):
        make("sfe").estimate(sparsum.Categorical(2), [[1.0, 2.0]], lambda z: z)  # type: ignore


def test_it_is_a_module() -> None:
    estimator = make("nvil")
    assert isinstance(estimator, torch.nn.Module)
    parameters = dict(estimator.named_parameters())
    assert parameters and all(isinstance(p, torch.nn.Parameter) for p in parameters.values())
    assert all(path.startswith("baseline.") for path in parameters)
    assert "nvil" in repr(estimator) and "context=3" in repr(estimator)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Linear(3, 4)
            self.estimator = estimator

    model = Model()
    assert "estimator.baseline.0.weight" in model.state_dict() or any(
        path.startswith("estimator.baseline.") for path in model.state_dict()
    )
    assert model.training and estimator.training
    model.eval()
    assert not estimator.training
    optimiser = torch.optim.Adam(estimator.parameters(), lr=0.1)
    before = [p.detach().clone() for p in estimator.parameters()]
    for _ in range(3):
        problem = Problem()
        answer = problem.estimate(estimator, generator=seeded(1))
        assert answer.auxiliary is not None
        optimiser.zero_grad()
        answer.auxiliary.backward()
        optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, estimator.parameters(), strict=True))


def test_a_learned_baseline_learns() -> None:
    estimator = make("nvil")
    optimiser = torch.optim.Adam(estimator.parameters(), lr=0.02)
    context = normal(64, 3)
    losses = []
    for step in range(60):
        answer = estimator.estimate(
            sparsum.Categorical(4), torch.zeros(64, 4), lambda z: z.gather(context[:, 0]),
            context=context, generator=seeded(step),
        )  # fmt: skip
        assert answer.auxiliary is not None
        optimiser.zero_grad()
        answer.auxiliary.backward()
        optimiser.step()
        losses.append(answer.auxiliary.item())
    assert losses[-1] < 0.5 * losses[0]


def test_training_and_evaluation_mode() -> None:
    estimator = make("sfe")
    problem = Problem()

    def average() -> float:
        return estimator.state_dict()["baseline.average"].item()

    assert average() == 0
    estimator.eval()
    problem.estimate(estimator, generator=seeded(1))
    assert average() == 0
    estimator.train()
    problem.estimate(estimator, generator=seeded(1))
    assert average() != 0


def test_state_dicts_round_trip() -> None:
    for name in ("sfe", "nvil", "relax", "rebar", "gumbel"):
        first, second = make(name), sparsum.make_estimator(name, seeded(9), **OPTIONS.get(name, {}))
        Problem().estimate(first, generator=seeded(2))
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        assert first.state_dict()
        second.load_state_dict(torch.load(file))
        for (path, ours), other in zip(
            first.state_dict().items(), second.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, other), path
        # The compiled module itself has them, not only the dictionary.
        answers = [
            Problem(seed=4).estimate(e, generator=seeded(3)).objective for e in (first, second)
        ]
        assert torch.equal(*answers)


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("name", ["sparsemax", "sfe", "nvil", "gumbel"])
def test_copies_are_equal_and_apart(name: str, how: Any) -> None:
    first = make(name).eval()
    first.train()
    Problem().estimate(first, generator=seeded(2))
    for parameter in first.parameters():
        parameter.requires_grad_(False)
    second = how(first)
    assert second.name == name and second.options == first.options and second.training
    assert not any(p.requires_grad for p in second.parameters())
    answers = [Problem(seed=4).estimate(e, generator=seeded(3)).objective for e in (first, second)]
    assert torch.equal(*answers)
    state = {path: tensor.clone() for path, tensor in first.state_dict().items()}
    with torch.no_grad():
        for tensor in (*second.parameters(), *second.buffers()):
            tensor.add_(1)
    assert all(torch.equal(state[path], tensor) for path, tensor in first.state_dict().items())


def test_to_another_dtype() -> None:
    estimator = make("nvil").double()
    assert all(p.dtype == torch.float64 for p in estimator.parameters())
    problem = Problem()
    answer = estimator.estimate(
        sparsum.Categorical(4), problem.scores.double(), lambda z: z.values(torch.float64).sum(1),
        context=problem.context.double(), generator=seeded(1),
    )  # fmt: skip
    assert answer.objective.dtype == torch.float64
    assert copy.deepcopy(estimator).state_dict().keys() == estimator.state_dict().keys()
    assert all(p.dtype == torch.float64 for p in copy.deepcopy(estimator).parameters())


def test_a_structure_written_in_python() -> None:
    table = normal(4, 1)
    for name, structure in (("sparsemap", NoNeighbours(4)), ("top-k", WithLists(4))):
        scores = (0.3 * normal(5, 4)).requires_grad_()
        estimator = make(name)
        answer = estimator.estimate(
            structure, scores, lambda z: z.embed(table).squeeze(1), entropy_weight=0
        )
        answer.objective.sum().backward()
        assert scores.grad is not None and float(scores.grad.abs().sum()) > 0
        assert isinstance(estimator.distribution(structure, scores), sparsum.SparseDistribution)
    with pytest.raises(RuntimeError, match=r"no-neighbours\(4\)"):
        make("sfe").estimate(
            NoNeighbours(4), normal(5, 4), lambda z: z.embed(table).squeeze(1), generator=seeded(1)
        )


def test_an_exception_in_the_loss_arrives_as_itself() -> None:
    class Mine(Exception):
        pass

    def loss(z: sparsum.Assignments) -> torch.Tensor:
        raise Mine

    for name in ("sparsemax", "sfe", "rebar"):
        with pytest.raises(Mine):
            make(name).estimate(
                sparsum.Categorical(4), normal(2, 4), loss, generator=seeded(1)
            )
