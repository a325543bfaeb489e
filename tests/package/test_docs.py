"""The pages' code is run, and prints what the pages say."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sparsum
import torch

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md") if "```python\n" in path.read_text())


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.S | re.M)


def test_the_pages_with_code_are_known() -> None:
    assert {"tutorial.md", "from-sampling.md", "from-entmax.md"} <= set(PAGES)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "tutorial.md"])
def test_code_runs_and_prints_what_the_page_says(page: str) -> None:
    printed = io.StringIO()
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(printed):
        exec(compile("\n".join(blocks(page, "python")), page, "exec"), {"__name__": page})
    assert printed.getvalue() == "".join(blocks(page, "text"))


def test_the_tutorial_pasted_into_a_file_prints_what_the_page_says(tmp_path: Path) -> None:
    (code,) = blocks("tutorial.md", "python")
    (expected,) = blocks("tutorial.md", "text")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 45
    (tmp_path / "tutorial.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "tutorial.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(sparsum.__file__).absolute().parents[1]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == expected


def test_every_page_of_the_api_is_in_the_contents() -> None:
    contents = (DOCS / "index.md").read_text()
    missing = [
        path.name
        for path in [*DOCS.glob("*.md"), *(DOCS / "api").glob("*.md")]
        if path.name != "index.md"
        and not re.search(rf"^{path.relative_to(DOCS).with_suffix('')}$", contents, re.MULTILINE)
    ]
    assert missing == []
