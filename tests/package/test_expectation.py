from __future__ import annotations

import _thread
import gc
import resource
import threading
import time
import traceback
import weakref
from typing import Any

import pytest
import sparsum
import torch
from neighbours import NoNeighbours


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sparse(scores: torch.Tensor) -> sparsum.SparseDistribution:
    return sparsum.SparseDistribution.from_dense(sparsum.sparsemax(scores))


def cost(own: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (own * x).sin() + 0.3 * own.square()


def test_it_is_the_sum_over_all_outcomes() -> None:
    scores, table, x = normal(4, 6), normal(6, 1, seed=1), normal(4, seed=2)
    leaves = [t.requires_grad_() for t in (scores, table, x)]

    def loss(z: sparsum.Assignments, embedding: torch.Tensor) -> torch.Tensor:
        return cost(z.embed(table).squeeze(1), z.gather(embedding))

    ours = sparsum.expectation(sparse(scores), loss, (x.tanh(),))
    all_costs = cost(table.squeeze(1), x.tanh().unsqueeze(1))
    reference = (sparsum.sparsemax(scores) * all_costs).sum(1)
    torch.testing.assert_close(ours, reference)
    expected = torch.autograd.grad(reference.sum(), leaves)
    for gradient, other in zip(
        torch.autograd.grad(ours.sum(), leaves), expected, strict=True
    ):
        torch.testing.assert_close(gradient, other)

    chunked = sparsum.expectation(
        sparse(scores), loss, [x.tanh()], max_evaluations_per_chunk=2
    )
    torch.testing.assert_close(chunked, reference)
    chunked.sum().backward()
    for leaf, other in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, other)


def test_gradcheck_in_the_scores() -> None:
    table = normal(5, 1, seed=1)
    scores = normal(3, 5).requires_grad_()

    def objective(s: torch.Tensor) -> torch.Tensor:
        q = sparse(s)
        return sparsum.expectation(q, lambda z: z.embed(table).squeeze(1).sin()) - q.entropy()

    assert torch.autograd.gradcheck(objective, scores)
    assert torch.autograd.gradgradcheck(objective, scores)


def test_the_loss_sees_the_support_once() -> None:
    seen: list[sparsum.Assignments] = []

    def loss(z: sparsum.Assignments) -> torch.Tensor:
        seen.append(z)
        return torch.zeros(z.count)

    q = sparse(normal(4, 6))
    sparsum.expectation(q, loss)
    assert len(seen) == 1 and torch.equal(seen[0].indices, q.support.indices)
    seen.clear()
    sparsum.expectation(q, loss, max_evaluations_per_chunk=3)
    assert sum(z.count for z in seen) == q.support.count
    assert max(z.count for z in seen) <= 3


def test_a_losss_own_choice() -> None:
    scores, weight = normal(2, 4), normal(4, 1, seed=3).requires_grad_()
    q = sparse(scores)

    def loss(z: sparsum.Assignments) -> sparsum.Loss:
        log_prob = z.embed(weight).squeeze(1)
        return sparsum.Loss(z.values(torch.float64).sum(1) * 2, log_prob)

    value = sparsum.expectation(q, loss)
    torch.testing.assert_close(value, torch.full((2,), 2.0, dtype=torch.float64))
    value.sum().backward()
    torch.testing.assert_close(weight.grad, 2 * q.to_dense().sum(0).unsqueeze(1))


class Mine(Exception):
    pass


@pytest.mark.parametrize("chunk", [0, 2])
def test_an_exception_in_the_loss_arrives_as_itself(chunk: int) -> None:
    def loss(z: sparsum.Assignments) -> torch.Tensor:
        raise Mine("here")

    with pytest.raises(Mine, match="here") as caught:
        sparsum.expectation(sparse(normal(2, 4)), loss, max_evaluations_per_chunk=chunk)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "loss" and frames[0].startswith("test_an_exception")


def test_an_exception_in_the_backward_pass_arrives_as_itself() -> None:
    calls = []
    weight = torch.ones(4, 1, dtype=torch.float64, requires_grad=True)

    def loss(z: sparsum.Assignments) -> torch.Tensor:
        calls.append(z)
        if torch.is_grad_enabled() and len(calls) > forward:
            raise Mine("again")
        return z.embed(weight).squeeze(1)

    forward = 100
    value = sparsum.expectation(sparse(normal(2, 4)), loss, max_evaluations_per_chunk=2)
    forward = len(calls)
    with pytest.raises(Mine, match="again") as caught:
        value.sum().backward()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "loss"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (3.0, TypeError, r"expected the loss to return a Tensor \[n\] = \[\d\] or Loss\(.*float"),
        (None, TypeError, "got NoneType"),
        ([torch.zeros(3)], TypeError, "got list"),
        (torch.zeros(1, 1), RuntimeError, r"expected the loss to be \[n\] = \[\d\], got \[1, 1\]"),
        (torch.zeros(17, dtype=torch.int64), RuntimeError, "floating point, got Long"),
        (sparsum.Loss(torch.zeros(17)), RuntimeError, r"got \[17\]"),
    ],
)
def test_wrong_answers_of_a_loss(answer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sparsum.expectation(sparse(normal(2, 4)), lambda z: answer)


def test_wrong_arguments() -> None:
    q = sparse(normal(2, 4))

    def loss(z: sparsum.Assignments, *_: torch.Tensor) -> torch.Tensor:
        return torch.zeros(z.count)

    for arguments, message in (
        ((q, 3), r"argument 'loss' \(position 2\) must be callable, not int"),
        ((q, loss, torch.zeros(2)), "'shared' .* must be tuple of Tensors, not Tensor"),
        ((q, loss, [torch.zeros(2), 1]), "found element of type int at pos 1"),
        ((torch.zeros(2), loss), "'q' .* must be SparseDistribution, not Tensor"),
        (
            (sparsum.Gibbs(sparsum.Categorical(4), normal(2, 4)), loss),
            r"must be SparseDistribution, not Gibbs \(enumerate\(\) lists a dense one\)",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            sparsum.expectation(*arguments)
    with pytest.raises(RuntimeError, match="expected max_evaluations_per_chunk >= 0, got -1"):
        sparsum.expectation(q, loss, max_evaluations_per_chunk=-1)


def test_chunks_refuse_a_captured_history_and_grad() -> None:
    x = normal(2, seed=1).requires_grad_()
    captured = x.tanh()
    q = sparse(normal(2, 4).requires_grad_())
    value = sparsum.expectation(q, lambda z: z.gather(captured), max_evaluations_per_chunk=2)
    with pytest.raises(RuntimeError, match="TanhBackward.* outside it; pass it in `shared`"):
        value.sum().backward()
    value = sparsum.expectation(
        q, lambda z, e: z.gather(e), (captured,), max_evaluations_per_chunk=2
    )
    with pytest.raises(RuntimeError, match=r"use backward\(\) without `inputs`"):
        torch.autograd.grad(value.sum(), x)


def test_noise_is_replayed_in_the_backward_pass(generator: torch.Generator) -> None:
    weight = torch.ones(4, 1, dtype=torch.float64, requires_grad=True)

    def loss(z: sparsum.Assignments) -> torch.Tensor:
        noise = torch.randn(z.count, generator=generator, dtype=torch.float64)
        return z.embed(weight).squeeze(1) * noise

    scores = normal(3, 4)
    state = generator.get_state()
    sparsum.expectation(
        sparse(scores), loss, max_evaluations_per_chunk=2, generator=generator
    ).sum().backward()
    chunked = weight.grad
    generator.set_state(state)
    weight.grad = None
    q = sparse(scores)
    z, values = q.support, []
    for begin in range(0, z.count, 2):
        values.append(loss(z.slice(begin, min(begin + 2, z.count))))
    (q.probs * torch.cat(values)).sum().backward()
    torch.testing.assert_close(chunked, weight.grad)


# Ctrl-C.


def test_ctrl_c_ends_a_long_expectation() -> None:
    q = sparsum.Gibbs(sparsum.BitVector(16), normal(1, 16)).enumerate()
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sparsum.expectation(q, lambda z: torch.zeros(z.count), max_evaluations_per_chunk=1)
    timer.join()
    assert time.monotonic() - begin < 5


def test_ctrl_c_ends_a_long_sparsemap() -> None:
    class Slow(NoNeighbours):
        def best(self, scores: Any) -> Any:
            time.sleep(0.01)
            return super().best(scores)

    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sparsum.sparsemap(Slow(6), 0.3 * normal(500, 6))
    timer.join()
    assert time.monotonic() - begin < 5


# Threads and memory.


def test_two_python_threads_at_once() -> None:
    scores = normal(16, 20)
    expected = sparsum.expectation(sparse(scores), lambda z: z.rows.double())
    failures: list[str] = []

    def work() -> None:
        for _ in range(100):
            own = scores.clone().requires_grad_()
            value = sparsum.expectation(sparse(own), lambda z: z.rows.double())
            value.sum().backward()
            if not torch.equal(value.detach(), expected) or own.grad is None:
                failures.append("another value")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)


def test_the_gil_is_free_while_the_library_works() -> None:
    scores = torch.zeros(200, 200)
    started, done = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        sparsum.Budget(200, 100).entropy(scores.requires_grad_())
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    steps = 0
    while not done.is_set():
        steps += 1
        time.sleep(0)
    thread.join()
    assert steps > 20


@pytest.mark.parametrize("chunk", [0, 3])
def test_memory_does_not_grow(chunk: int) -> None:
    scores = normal(4, 6).requires_grad_()
    table = normal(6, 1, seed=1).requires_grad_()
    structure = NoNeighbours(6)

    def step(i: int) -> None:
        own = torch.zeros(1000)

        def loss(z: sparsum.Assignments) -> torch.Tensor:
            return z.embed(table).squeeze(1) + own[0]

        q = sparse(scores) if i % 20 else sparsum.sparsemap(structure, scores)
        sparsum.expectation(q, loss, max_evaluations_per_chunk=chunk).sum().backward()

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    def calls(count: int) -> None:
        q = sparse(scores.detach())
        for _ in range(count):
            sparsum.expectation(q, lambda z: z.rows.double())

    for i in range(100):
        step(i)
    calls(1000)
    before, high = objects(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(300):
        step(i)
    calls(10000)
    assert objects() - before < 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - high < 8192  # KiB


def test_a_loss_is_let_go() -> None:
    class Callable:
        def __call__(self, z: sparsum.Assignments) -> torch.Tensor:
            return torch.zeros(z.count)

    loss = Callable()
    watch = weakref.ref(loss)
    value = sparsum.expectation(
        sparse(normal(2, 4).requires_grad_()), loss, max_evaluations_per_chunk=2
    )
    del loss
    assert watch() is not None  # needed by the backward pass
    del value
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("outcome", ["value", "backward", "error"])
def test_a_loss_is_let_go_without_the_garbage_collector(chunk: int, outcome: str) -> None:
    table = normal(5, 1).requires_grad_()

    class Callable:
        def __call__(self, z: sparsum.Assignments, x: torch.Tensor) -> torch.Tensor:
            if outcome == "error":
                raise Mine
            return z.embed(table).squeeze(1) * z.gather(x)

    def once(name: str, structure: Any) -> weakref.ref[Callable]:
        loss, x = Callable(), normal(3).requires_grad_()
        watch = weakref.ref(loss)
        try:
            estimate = sparsum.make_estimator(name).estimate(
                structure, normal(3, 5).requires_grad_(), loss, shared=(x.tanh(),),
                max_evaluations_per_chunk=chunk, generator=torch.Generator().manual_seed(1),
            )  # fmt: skip
            if outcome == "backward":
                estimate.objective.sum().backward()
                assert x.grad is not None
        except Mine:
            pass
        return watch

    gc.collect()
    gc.disable()
    try:
        for name in ("sparsemax", "dense", "sfe", "sum-and-sample", "rebar", "gumbel"):
            assert once(name, sparsum.Categorical(5))() is None, name
        for structure in (sparsum.BitVector(5), NoNeighbours(5)):
            assert once("sparsemap", structure)() is None, structure
    finally:
        gc.enable()


@pytest.mark.parametrize("chunk", [0, 2])
def test_a_backward_pass_lets_the_loss_go(chunk: int) -> None:
    table = normal(5, 1).requires_grad_()

    def once() -> tuple[torch.Tensor, weakref.ref[Any]]:
        value: torch.Tensor | None = None

        def loss(z: sparsum.Assignments) -> torch.Tensor:
            assert value is None or not value.is_cuda  # it refers to what it is evaluated for
            return z.embed(table).squeeze(1)

        value = sparsum.expectation(
            sparse(normal(3, 5).requires_grad_()), loss, max_evaluations_per_chunk=chunk
        )
        value.sum().backward()
        return value.detach(), weakref.ref(loss)

    gc.collect()
    gc.disable()
    try:
        assert once()[1]() is None
    finally:
        gc.enable()


def test_a_retained_graph_keeps_the_loss() -> None:
    table = normal(5, 1).requires_grad_()
    value = sparsum.expectation(
        sparse(normal(3, 5)), lambda z: z.embed(table).squeeze(1), max_evaluations_per_chunk=2
    ).sum()
    value.backward(retain_graph=True)
    first = table.grad.clone()
    value.backward()
    torch.testing.assert_close(table.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()
