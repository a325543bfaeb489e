"""The examples in Python, in short: they run and draw their pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib", reason="the package matplotlib is not installed")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "python"
# Name, steps, what it then prints.
RUNS = {
    "discrete_vae": (30, "decoder runs per image of 64 codes"),
    "sparse_attention": (60, "sparsemax: "),
    "k_subset_bottleneck": (60, "from 2 words of 12"),
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors: several threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", RUNS)
def test_an_example_runs_and_draws(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    steps, words = RUNS[name]
    out = tmp_path / "picture.png"
    module.main(["--steps", str(steps), "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    assert words in capsys.readouterr().out
