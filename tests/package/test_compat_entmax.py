"""sparsum.compat.entmax: the originals' results where those are right, and right ones elsewhere."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import pytest
import torch

from sparsum.compat import entmax as ours
from torch.func import jacfwd, jacrev, vmap

INF = float("inf")

NAMES = [name for name in ours.__all__]


@pytest.fixture
def theirs():
    return pytest.importorskip("entmax", reason="the package entmax is not installed")


def draw(generator, dtype=torch.double):
    """Scores of a random shape and scale, and a dim of them."""

    def integers(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    shape = [integers(2, 8) for _ in range(integers(1, 4))]
    scale = [0.1, 1.0, 4.0][integers(0, 3)]
    scores = scale * torch.randn(shape, generator=generator, dtype=dtype)
    return scores, integers(-len(shape), len(shape))


def over_rows(original):
    """``original`` along any dim: its own handling of others than the last is wrong in places."""

    def apply(scores, *args, dim=-1, **kwargs):
        moved = scores.movedim(dim, -1)
        result = original(moved.reshape(-1, moved.shape[-1]), *args, dim=-1, **kwargs)
        return result.reshape(moved.shape).movedim(-1, dim)

    return apply


def both(function, original, scores, *args, **kwargs):
    """Values of both and gradients of a random weighting of them, compared within 10⁻⁶."""
    results = []
    for call in (function, original):
        tracked = scores.clone().requires_grad_()
        value = call(tracked, *args, **kwargs)
        weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)
        (gradient,) = torch.autograd.grad((value * weights).sum(), tracked)
        results.append((value.detach(), gradient))
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_names_signatures_and_defaults(theirs):
    for name in NAMES:
        a, b = getattr(ours, name), getattr(theirs, name)
        original = list(inspect.signature(b).parameters.values())
        here = list(inspect.signature(a).parameters.values())[: len(original)]
        assert [(p.name, p.default) for p in here] == [(p.name, p.default) for p in original], name
    public = [n for n in vars(theirs) if callable(getattr(theirs, n)) and not n.startswith("_")]
    assert set(public) <= set(NAMES)


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_maps_over_a_random_sweep(theirs, dtype):
    generator = torch.Generator().manual_seed(11)
    for _ in range(25):
        scores, dim = draw(generator, torch.double)
        # In float32 the original's bisection is 10⁻⁶ off itself: it runs in float64.
        ours_in = lambda f: (lambda x, *a, **k: f(x.to(dtype), *a, **k).double())  # noqa: E731
        if dtype == torch.float:
            scores = scores.float().double()
        for name in ("sparsemax", "entmax15"):
            original = over_rows(getattr(theirs, name))
            both(ours_in(getattr(ours, name)), original, scores, dim=dim)
            both(ours_in(getattr(ours, name)), original, scores, dim=dim, k=2)
        both(ours_in(ours.sparsemax_bisect), over_rows(theirs.sparsemax_bisect), scores, dim=dim)
        for alpha in (1.2, 1.5, 2.0, 2.7):
            original = over_rows(theirs.entmax_bisect)
            both(ours_in(ours.entmax_bisect), original, scores, alpha=alpha, dim=dim)


def test_normmax_and_budget_over_a_random_sweep(theirs):
    generator = torch.Generator().manual_seed(12)
    for _ in range(25):
        scores, dim = draw(generator)
        for alpha in (1.3, 2, 3.5):
            original = over_rows(theirs.normmax_bisect)
            both(ours.normmax_bisect, original, scores, alpha=alpha, dim=dim)
        for budget in (1, 1.5, 2):
            original = over_rows(theirs.budget_bisect)
            both(ours.budget_bisect, original, scores, budget=budget, dim=dim)


def test_tensors_of_alphas_and_budgets(theirs):
    generator = torch.Generator().manual_seed(13)
    scores = torch.randn(4, 3, 6, generator=generator, dtype=torch.double)
    heads = torch.tensor([1.3, 1.7, 2.4], dtype=torch.double).reshape(1, 3, 1)
    both(ours.entmax_bisect, theirs.entmax_bisect, scores, heads)
    both(ours.normmax_bisect, theirs.normmax_bisect, scores, heads)
    both(ours.budget_bisect, theirs.budget_bisect, scores, heads)
    grads = []
    for module in (ours, theirs):
        alpha = heads.clone().requires_grad_()
        (module.entmax_bisect(scores, alpha) ** 2).sum().backward()
        grads.append(alpha.grad)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_losses_over_a_random_sweep(theirs):
    generator = torch.Generator().manual_seed(14)
    for _ in range(10):
        rows, classes = torch.randint(2, 9, (2,), generator=generator).tolist()
        scores = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.double)
        target = torch.randint(classes, (rows,), generator=generator)
        for name in ("sparsemax_loss", "sparsemax_bisect_loss", "entmax15_loss"):
            both(getattr(ours, name), getattr(theirs, name), scores, target)
        for alpha in (1.3, 1.5, 2.0):
            both(ours.entmax_bisect_loss, theirs.entmax_bisect_loss, scores, target, alpha)
            both(ours.normmax_bisect_loss, theirs.normmax_bisect_loss, scores, target, alpha)


@pytest.mark.parametrize("reduction", ["elementwise_mean", "sum", "none"])
def test_loss_modules(theirs, reduction):
    generator = torch.Generator().manual_seed(15)
    scores = torch.randn(6, 5, generator=generator, dtype=torch.double)
    target = torch.tensor([0, 1, 2, 3, 4, 1])
    for name in [n for n in NAMES if n.endswith("Loss")]:
        for ignore in (-100, 1):
            options = {"ignore_index": ignore, "reduction": reduction}
            modules = [getattr(package, name)(**options) for package in (ours, theirs)]
            both(*(lambda s, m=m: m(s, target) for m in modules), scores)


def test_modules(theirs):
    scores = torch.randn(4, 5, generator=torch.Generator().manual_seed(16), dtype=torch.double)
    for name in ("Sparsemax", "Entmax15", "EntmaxBisect", "NormmaxBisect", "BudgetBisect"):
        modules = [getattr(m, name)(dim=0) for m in (ours, theirs)]
        both(*modules, scores)
        for other in (copy.deepcopy(modules[0]), pickle.loads(pickle.dumps(modules[0]))):
            assert torch.equal(other(scores), modules[0](scores))
    assert torch.equal(ours.SparsemaxBisect()(scores), ours.sparsemax(scores))


# --- where the original is wrong -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_has_no_nan(dtype):
    scores = (30 * torch.randn(20, 50, generator=torch.Generator().manual_seed(1))).to(dtype)
    for name in ("sparsemax", "entmax15", "entmax_bisect", "normmax_bisect", "budget_bisect"):
        result = getattr(ours, name)(scores)
        assert result.dtype == dtype and result.isfinite().all(), name


def test_masked_rows_are_named():
    scores = torch.zeros(3, 4)
    scores[1] = -INF
    for name in ("sparsemax", "entmax15", "entmax_bisect", "normmax_bisect", "budget_bisect"):
        with pytest.raises(ValueError, match="row 1"):
            getattr(ours, name)(scores)


def test_losses_of_forbidden_scores_are_no_nan():
    scores = torch.tensor([[0.5, -INF, 0.2], [-INF, 1.0, 0.0]], requires_grad=True)
    target = torch.tensor([0, 0])
    alpha = torch.tensor([[1.3], [1.5]])
    for losses in (
        ours.sparsemax_loss(scores, target),
        ours.entmax15_loss(scores, target),
        ours.entmax_bisect_loss(scores, target),
        ours.entmax_bisect_loss(scores, target, alpha),
        ours.normmax_bisect_loss(scores, target),
    ):
        assert losses[0].isfinite() and losses[1] == INF
        (gradient,) = torch.autograd.grad(losses.sum(), scores)
        assert gradient.isfinite().all()


def test_alpha_of_one_and_below():
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    torch.testing.assert_close(ours.entmax_bisect(scores, 1), scores.softmax(-1))
    with pytest.raises(ValueError, match="alpha to be finite and >= 1, got 0.5"):
        ours.entmax_bisect(scores, 0.5)
    with pytest.raises(ValueError, match="alpha to be finite and > 1, got 1"):
        ours.normmax_bisect(scores, 1)


def test_negative_ignore_index_and_one_alpha_a_row():
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    target = torch.tensor([1, -100, 2])
    kept = torch.tensor([0, 2])
    loss = ours.Entmax15Loss()(scores, target)
    torch.testing.assert_close(loss, ours.entmax15_loss(scores[kept], target[kept]).mean())
    alpha = torch.tensor([[1.3], [2.0], [1.0]], dtype=torch.double)
    target = torch.tensor([1, 0, 2])
    for losses, single in (
        (ours.entmax_bisect_loss(scores, target, alpha), ours.entmax_bisect_loss),
        (ours.normmax_bisect_loss(scores, target, alpha + 1), ours.normmax_bisect_loss),
    ):
        shift = 0 if single is ours.entmax_bisect_loss else 1
        for row in range(3):
            one = single(scores[row : row + 1], target[row : row + 1], alpha[row].item() + shift)
            torch.testing.assert_close(losses[row], one[0])


def test_support_size():
    scores = torch.tensor([[1.0, 0.5, -1.0], [0.0, 0.0, 0.0]])
    probs, size = ours.sparsemax(scores, return_support_size=True)
    assert size.tolist() == [[2], [3]] and size.dtype == torch.long
    assert torch.equal(probs, ours.sparsemax(scores))
    _, size = ours.entmax15(scores, dim=0, return_support_size=True)
    assert size.tolist() == [[2, 2, 2]]


# --- normmax and budgets -------------------------------------------------------------------------


def test_normmax_solves_its_problem():
    scores = 2 * torch.randn(20, 30, generator=torch.Generator().manual_seed(4), dtype=torch.double)
    for alpha in (1.05, 1.5, 2.0, 5.0):
        probs = ours.normmax_bisect(scores, alpha)
        assert (probs >= 0).all() and (probs.sum(-1) - 1).abs().max() < 1e-12
        # The gradient of ⟨p, x⟩ − ‖p‖_α is the same wherever there is mass, and not larger
        # elsewhere.
        norm = probs.pow(alpha).sum(-1, keepdim=True).pow(1 / alpha)
        slope = scores - (probs / norm) ** (alpha - 1)
        on = probs > 0
        level = torch.where(on, slope, 0.0).sum(-1, keepdim=True) / on.sum(-1, keepdim=True)
        assert torch.where(on, slope - level, 0.0).abs().max() < 1e-9
        assert torch.where(on, -INF, slope - level).max() < 1e-9
    assert ours.normmax_bisect(torch.zeros(2, 5)).tolist() == [[pytest.approx(0.2)] * 5] * 2


def test_budgets_add_up():
    generator = torch.Generator().manual_seed(5)
    scores = 3 * torch.randn(20, 9, generator=generator, dtype=torch.double)
    scores[:, 4] = -INF
    for budget in (0, 0.5, 1, 2.7, 5, 8):
        result = ours.budget_bisect(scores, budget)
        assert (result >= 0).all() and (result <= 1).all() and (result[:, 4] == 0).all()
        assert (result.sum(-1) - budget).abs().max() < 1e-12
    torch.testing.assert_close(ours.budget_bisect(scores, 1), ours.sparsemax(scores))
    with pytest.raises(ValueError, match="number of finite scores, got 8.5 for row 0"):
        ours.budget_bisect(scores, 8.5)
    # Far apart and far from 0, without losing digits.
    wide = torch.tensor([[1e9, 1e9, 0.0, -1e9]], dtype=torch.double)
    assert ours.budget_bisect(wide, 1.5).tolist() == [[0.75, 0.75, 0.0, 0.0]]


def test_their_derivatives():
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(6), dtype=torch.double)
    scores.requires_grad_()
    budget = torch.tensor([[1.5], [2.5], [1.2]], dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(ours.budget_bisect, (scores, budget))
    assert torch.autograd.gradcheck(ours.normmax_bisect, (scores, 1.6))
    assert torch.autograd.gradgradcheck(ours.normmax_bisect, (scores, 1.6), atol=1e-5)
    alpha = torch.tensor(1.5, requires_grad=True)
    with pytest.raises(NotImplementedError, match="no derivative in alpha"):
        ours.normmax_bisect(scores, alpha)


def test_their_transforms():
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(8), dtype=torch.double)
    for function in (ours.normmax_bisect, ours.budget_bisect):
        expected = torch.autograd.functional.jacobian(function, scores)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PyTorch warns where it maps an op by a loop
            torch.testing.assert_close(jacrev(function)(scores), expected)
            torch.testing.assert_close(jacfwd(function)(scores), expected)
        torch.testing.assert_close(vmap(function)(scores), function(scores))
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(scores), function(scores))
    torch._dynamo.reset()


def test_the_originals_modules_are_there(theirs):
    from sparsum.compat.entmax.activations import entmax15
    from sparsum.compat.entmax.losses import SparsemaxLoss
    from sparsum.compat.entmax.root_finding import budget_bisect

    assert entmax15 is ours.entmax15
    assert SparsemaxLoss is ours.SparsemaxLoss
    assert budget_bisect is ours.budget_bisect
    for name in ("activations", "losses", "root_finding"):
        mine, original = getattr(ours, name), getattr(theirs, name)
        assert set(mine.__all__) <= {name for name in NAMES if hasattr(original, name)}


def test_targets_of_any_integer_type():
    scores = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 3, 1, 2, 2])
    for name in ("sparsemax_loss", "entmax15_loss", "entmax_bisect_loss", "normmax_bisect_loss"):
        loss = getattr(ours, name)
        for dtype in (torch.int32, torch.uint8):
            assert torch.equal(loss(scores, target.to(dtype)), loss(scores, target))
        with pytest.raises(RuntimeError, match="expected target to be integers"):
            loss(scores, target.float())


def test_a_budget_beyond_the_scores_gives_ones(theirs):
    scores = torch.randn(3, 1, generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours.budget_bisect(scores), torch.ones(3, 1))
    assert torch.allclose(ours.budget_bisect(scores), theirs.budget_bisect(scores))


def test_numbers_of_numpy():
    np = pytest.importorskip("numpy")
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(ours.sparsemax(scores, dim=np.int64(0)), ours.sparsemax(scores, dim=0))
    for alpha in (np.float32(1.5), np.array(1.5), np.float64(1.5)):
        assert torch.equal(ours.entmax_bisect(scores, alpha), ours.entmax_bisect(scores, 1.5))


# --- messages and signatures ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name.islower()])
def test_errors_name_the_function_that_was_called(name):
    function = getattr(ours, name)
    rest = (torch.tensor([0, 1]),) if name.endswith("loss") else ()
    scores = torch.zeros(2, 3)
    broken = scores.clone()
    broken[1, 2] = float("nan")
    cases = [
        ((broken, *rest), ValueError, "expected scores to be finite or -inf, got nan in row 1"),
        ((scores.long(), *rest), TypeError, "expected scores to be floating point, got Long"),
    ]
    if rest:
        target = torch.tensor([0, 3])
        message = r"expected target in \[0, 2\], got 3 for row 1"
        cases.append(((scores, target), IndexError, message))
        if name in ("entmax_bisect_loss", "normmax_bisect_loss"):
            alpha = torch.full((2, 1), 1.5)
            cases.append(((scores, target, alpha), IndexError, message))
    if name in ("entmax_bisect", "entmax_bisect_loss"):
        cases.append(((scores, *rest, 0.5), ValueError, "expected alpha to be finite and >= 1"))
        alpha = torch.full((2, 1), 0.5)
        cases.append(((scores, *rest, alpha), ValueError, "expected alpha to be finite and >= 1"))
    for arguments, error, message in cases:
        with pytest.raises(error, match=f"^{name}: {message}"):
            function(*arguments)
    with pytest.raises(TypeError, match=rf"^{name}\(\): argument 'X' must be Tensor, not list"):
        function([[0.0, 1.0]], *rest)


def test_only_two_functions_take_more_than_the_originals(theirs):
    for name in NAMES:
        here, there = (inspect.signature(getattr(m, name)).parameters for m in (ours, theirs))
        more = ["return_support_size"] if name in ("sparsemax", "entmax15") else []
        assert list(here) == [*there, *more], name
        assert all(here[p].kind == there[p].kind for p in there), name


def test_modules_keep_their_arguments_as_the_originals_do(theirs):
    values = {
        "alpha": 1.7, "budget": 3, "dim": 0, "ignore_index": 2, "k": 7, "n_iter": 9,
        "reduction": "sum",
    }  # fmt: skip
    for name in [name for name in NAMES if not name.islower()]:
        parameters = inspect.signature(getattr(theirs, name)).parameters
        given = {p: values[p] for p in parameters}
        here, there = (getattr(m, name)(**given) for m in (ours, theirs))
        kept = [n for n in vars(there) if not n.startswith("_") and n != "training"]
        assert set(kept) == set(given), name
        assert {n: getattr(here, n) for n in kept} == {n: getattr(there, n) for n in kept}, name
        by_position = getattr(ours, name)(*given.values())
        assert {n: getattr(by_position, n) for n in kept} == given


def test_hints_have_no_effect_and_are_checked():
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    target = torch.tensor([0, 1, 2, 3])
    for name in NAMES:
        function = getattr(ours, name)
        if not name.islower():
            continue
        rest = (target,) if name.endswith("loss") else ()
        hint = "k" if "k" in inspect.signature(function).parameters else "n_iter"
        for value in (None, 1, 1000):
            assert torch.equal(function(scores, *rest, **{hint: value}), function(scores, *rest))
        with pytest.raises(ValueError, match=f"{name}: expected {hint} to be None or >= 1, got 0"):
            function(scores, *rest, **{hint: 0})


def test_what_the_table_of_differences_says(theirs):
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(6), dtype=torch.double)
    target = torch.tensor([1, 0, 2])
    for name in [name for name in NAMES if name.endswith("Loss")]:
        here, there = getattr(ours, name), getattr(theirs, name)
        # reduction
        mean = here(reduction="mean")(scores, target)
        assert torch.equal(mean, here()(scores, target))
        with pytest.raises(AssertionError):
            there(reduction="mean")
        with pytest.raises(ValueError, match=f"{name}: expected reduction .* got 'average'"):
            here(reduction="average")
        # ignore_index, negative and beyond the classes
        kept = here(reduction="none")(scores, target)[[0, 2]].mean()
        for index in (-100, 17):
            padded = torch.tensor([1, index, 2])
            torch.testing.assert_close(here(ignore_index=index)(scores, padded), kept)
            with pytest.raises(RuntimeError):
                there(ignore_index=index)(scores, padded)
        everything = torch.full((3,), 1)
        assert here(ignore_index=1)(scores, everything).isnan()
        assert here(ignore_index=1, reduction="sum")(scores, everything) == 0
    # alpha
    alpha = torch.tensor(1.6, dtype=torch.double, requires_grad=True)
    leaf = scores.clone().requires_grad_()
    for module, has_gradient in ((ours, True), (theirs, False)):
        losses = module.entmax_bisect_loss(leaf, target, alpha)
        (gradient,) = torch.autograd.grad(losses.sum(), alpha, allow_unused=True)
        assert (gradient is not None) == has_gradient


def test_every_function_compiles_to_one_graph():
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(7))
    target = torch.tensor([1, 0, 2])
    for name in [name for name in NAMES if name.islower()]:
        function = getattr(ours, name)
        rest = (target,) if name.endswith("loss") else ()
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(scores, *rest), function(scores, *rest))
    torch._dynamo.reset()
