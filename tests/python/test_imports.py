"""What may be imported with what installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import PYTHON_ROOT

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {root!r})
"""


def python(code: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    prelude = BLOCKED.format(blocked=set(blocked), root=str(PYTHON_ROOT))
    return subprocess.run(
        [sys.executable, "-c", prelude + code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "module", ["sparsum", "sparsum.runs", "sparsum.tensorboard", "sparsum.report.__main__"]
)
def test_imports_nothing_heavy(module):
    heavy = ("torch", "numpy", "matplotlib", "tensorboard", "PIL")
    code = f"import {module}\nprint([m for m in {heavy!r} if m in sys.modules])"
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    result = python(f"import {module}", *heavy)
    assert result.returncode == 0, result.stderr


def test_version_is_there():
    result = python("import sparsum; print(sparsum.__version__)")
    assert result.stdout.strip().count(".") == 2


def test_report_draws_without_torch_and_pandas(make_run, tmp_path):
    arguments = [str(make_run()), "--out", str(tmp_path / "out")]
    code = f"from sparsum.report.__main__ import main; sys.exit(main({arguments!r}))"
    result = python(code, "torch", "pandas")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "index.html").is_file()


def test_report_without_matplotlib_says_so_in_one_line(make_run, tmp_path):
    arguments = [str(make_run()), "--out", str(tmp_path / "out")]
    code = f"from sparsum.report.__main__ import main; sys.exit(main({arguments!r}))"
    result = python(code, "matplotlib", "PIL")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "matplotlib is needed" in result.stderr


def test_bridge_works_without_torch_and_tensorflow(make_run):
    run = str(make_run())
    code = f"from sparsum.tensorboard import main; sys.exit(main([{run!r}, '--once']))"
    result = python(code, "torch", "tensorflow")
    assert result.returncode == 0, result.stderr


def test_bridge_without_tensorboard_says_so_in_one_line(make_run):
    run = str(make_run())
    code = f"from sparsum.tensorboard import main; sys.exit(main([{run!r}, '--once']))"
    result = python(code, "tensorboard")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "tensorboard package is needed" in result.stderr
