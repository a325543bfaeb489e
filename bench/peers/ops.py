"""Times of sparsemax and entmax15 through Python: torch.softmax, Sparsum and PyPI's entmax.

All in one run, interleaved, after checking that the outputs agree. Prints a Markdown table.

    PYTHONPATH=build/release/python python bench/peers/ops.py [--threads N] [--quick] [--cpu-time]

On a machine that has other work, ``--threads 1 --cpu-time`` counts this thread's own time only.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import sparsum

try:
    import entmax as peer
except ImportError:
    peer = None

FORWARD = (64, 10)
BOTH = ((64, 256), (1024, 1000), (128, 32000))
# Wanted: at most so many times softmax's time, at least so many times faster than the peer.
TARGETS = {
    (64, 10): (0.7, None),
    (64, 256): (1.2, 20),
    (1024, 1000): (1.0, 60),
    (128, 32000): (1.0, 60),
}
HEADER = (
    "map",
    "shape",
    "pass",
    "softmax µs",
    "sparsum µs",
    "entmax µs",
    "× softmax",
    "× faster than entmax",
    "wanted",
    "met",
)


def seconds(call: Callable[[], object], least: float, clock: Callable[[], float]) -> float:
    """The time of one call, over as many as take ``least`` seconds."""
    count = 1
    while True:
        start = clock()
        for _ in range(count):
            call()
        spent = clock() - start
        if spent >= least:
            return spent / count
        count = max(2 * count, int(1.2 * count * least / max(spent, 1e-9)))


def interleaved(
    calls: dict[str, Callable[[], object]],
    repetitions: int,
    least: float,
    clock: Callable[[], float],
) -> dict[str, float]:
    """The median time of each call, in seconds, over rounds in which each has its turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repetitions):
        for name, call in calls.items():
            times[name].append(seconds(call, least, clock))
    return {name: statistics.median(values) for name, values in times.items()}


def step(
    function: Callable[[torch.Tensor], torch.Tensor], scores: torch.Tensor, grad: torch.Tensor
) -> Callable[[], object]:
    def call() -> torch.Tensor | None:
        scores.grad = None
        function(scores).backward(grad)
        return scores.grad

    return call


def maps() -> dict[str, tuple[Callable, Callable | None]]:
    return {
        "sparsemax": (sparsum.sparsemax, peer and peer.sparsemax),
        "entmax15": (sparsum.entmax15, peer and peer.entmax15),
    }


def softmax(scores: torch.Tensor) -> torch.Tensor:
    return torch.softmax(scores, -1)


def row(name: str, shape: tuple[int, int], what: str, times: dict[str, float]) -> str:
    ours, base = times["ours"], times["softmax"]
    most, least = TARGETS[shape]
    faster = f"{times['peer'] / ours:.1f}" if "peer" in times else "n/a"
    peer_time = f"{1e6 * times['peer']:.1f}" if "peer" in times else "n/a"
    met = ours / base <= most
    if least is not None and "peer" in times:
        met = met and times["peer"] / ours >= least
    wanted = f"≤ {most}×" + (f", ≥ {least}×" if least else "")
    return (
        f"| {name} | {shape[0]} × {shape[1]} | {what} | {1e6 * base:.1f} | {1e6 * ours:.1f} | "
        f"{peer_time} | {ours / base:.2f} | {faster} | {wanted} | {'yes' if met else 'no'} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--cpu-time", action="store_true", help="this thread's time; one thread")
    options = parser.parse_args()
    if options.cpu_time and options.threads != 1:
        parser.error(f"--cpu-time: expected --threads 1, got {options.threads}")
    clock = time.thread_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.threads)
    repetitions, least = (5, 0.02) if options.quick else (15, 0.1)
    generator = torch.Generator().manual_seed(1)

    print(f"torch {torch.__version__}, {options.threads} thread(s), medians of {repetitions}\n")
    print("| " + " | ".join(HEADER) + " |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |")
    for shape in (FORWARD, *BOTH):
        scores = torch.randn(shape, generator=generator)
        grad = torch.randn(shape, generator=generator)
        for name, (ours, theirs) in maps().items():
            calls: dict[str, Callable[[], object]] = {}
            functions = {"softmax": softmax, "ours": ours} | ({"peer": theirs} if theirs else {})
            for key, function in functions.items():
                tracked = scores.clone().requires_grad_(shape != FORWARD)
                if shape == FORWARD:
                    calls[key] = lambda f=function, s=tracked: f(s)
                else:
                    calls[key] = step(function, tracked, grad)
            if theirs:
                torch.testing.assert_close(calls["ours"](), calls["peer"](), rtol=1e-4, atol=1e-5)
            what = "forward" if shape == FORWARD else "forward + backward"
            times = interleaved(calls, repetitions, least, clock)
            print(row(name, shape, what, times), flush=True)


if __name__ == "__main__":
    main()
