"""torch.jit.script of the modules: those of sparsum.nn, and a refusal by those that cannot."""

from __future__ import annotations

import copy
import io

import pytest
import sparsum
import torch
from sparsum.compat import entmax as compat

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")

ALPHAS = torch.tensor([[[1.3]], [[2.0]], [[1.0]]], dtype=torch.float64)

MAPS = {
    "number": lambda: sparsum.Entmax(1.3),
    "number-dim": lambda: sparsum.Entmax(2.2, dim=1),
    "buffer": lambda: sparsum.Entmax(torch.tensor(1.3, dtype=torch.float64)),
    "one-element": lambda: sparsum.Entmax(torch.tensor([1.3], dtype=torch.float64)),
    "heads": lambda: sparsum.Entmax(ALPHAS),
    "learned": lambda: sparsum.Entmax(1.3, learnable=True),
    "learned-heads": lambda: sparsum.Entmax(ALPHAS + 0.1, learnable=True),
}

LOSSES = {
    "entmax": lambda **options: sparsum.EntmaxLoss(1.3, **options),
    "sparsemax": lambda **options: sparsum.SparsemaxLoss(**options),
    "entmax15": lambda **options: sparsum.Entmax15Loss(**options),
}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def through_a_file(module: torch.nn.Module) -> torch.nn.Module:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


def gradients(
    module: torch.nn.Module, scores: torch.Tensor, *rest: torch.Tensor
) -> list[torch.Tensor]:
    leaf = scores.clone().requires_grad_()
    answer = module(leaf, *rest)
    weights = torch.linspace(-1, 1, answer.numel(), dtype=answer.dtype).view(answer.shape)
    inputs = [leaf, *module.parameters()]
    return [answer.detach(), *torch.autograd.grad((answer * weights).sum(), inputs)]


@pytest.mark.parametrize("name", MAPS)
def test_entmax_is_scripted_with_its_gradients(name: str) -> None:
    module, scores = MAPS[name](), normal(2, 3, 5, 4)
    for scripted in (torch.jit.script(module), through_a_file(module)):
        results = zip(gradients(scripted, scores), gradients(module, scores), strict=True)
        for ours, expected in results:
            torch.testing.assert_close(ours, expected)
    inside = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 4).double(), module))
    assert inside(scores).shape == scores.shape


def test_a_scripted_alpha_is_learned() -> None:
    module = sparsum.Entmax(1.3, learnable=True).double()
    scripted = torch.jit.script(copy.deepcopy(module))
    (parameter,) = scripted.parameters()
    before = parameter.detach().clone()
    scripted(normal(4)).square().sum().backward()
    with torch.no_grad():
        parameter -= parameter.grad
    assert not torch.equal(parameter, before)
    alpha = 1 + torch.nn.functional.softplus(parameter)
    torch.testing.assert_close(scripted(normal(4)), sparsum.entmax(normal(4), alpha))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_are_scripted(name: str, reduction: str) -> None:
    scores = normal(4, 5, 3)
    targets = torch.tensor([[0, 1, -7], [4, 2, 2], [-7, 3, 0], [1, 1, 1]])
    for dim, target in ((1, targets), (1, sparsum.entmax15(scores + 1, dim=1))):
        module = LOSSES[name](dim=dim, ignore_index=-7, reduction=reduction)
        for scripted in (torch.jit.script(module), through_a_file(module)):
            results = zip(
                gradients(scripted, scores, target), gradients(module, scores, target), strict=True
            )
            for ours, expected in results:
                torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", [name for name in compat.__all__ if not name.islower()])
def test_what_cannot_be_scripted_says_what_can(name: str) -> None:
    module = getattr(compat, name)()
    message = f"{name}: torch.jit.script is not supported; use torch.export"
    for whole in (module, torch.nn.Sequential(torch.nn.Linear(3, 3), module)):
        with pytest.raises(NotImplementedError, match=message):
            torch.jit.script(whole)


def test_what_can_is_exported() -> None:
    scores, target = normal(4, 3), torch.tensor([0, 2, 1, 1])
    for name in [name for name in compat.__all__ if not name.islower()]:
        module = getattr(compat, name)()
        arguments = (scores, target) if name.endswith("Loss") else (scores,)
        exported = torch.export.export(module, arguments).module()
        torch.testing.assert_close(exported(*arguments), module(*arguments))
