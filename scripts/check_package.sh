#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment that has PyTorch and NumPy alone, and runs there
# what a newcomer would: the tutorial's program, the command `sparsum`, an import against another torch.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ -x .venv/bin/python ]] || die 2 ".venv not found: run scripts/setup.sh first"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# quietly COMMAND…: the output only if it fails.
quietly() {
  "$@" </dev/null >"$folder/log" 2>&1 || { cat "$folder/log" >&2 && die 1 "failed: $*"; }
}

say "building the wheel"
# Warnings are errors, as in the presets, so that the compiler's cache serves both.
# The compiler by the name that the presets have it, for the same reason.
export CXX=c++ CMAKE_BUILD_PARALLEL_LEVEL
CMAKE_BUILD_PARALLEL_LEVEL=$(build_jobs)
quietly .venv/bin/python -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps \
  --config-settings=cmake.define.SPARSUM_WERROR=ON --wheel-dir "$folder/wheels" .
wheel=$(find "$folder/wheels" -name 'sparsum-*.whl')
note "$(basename "$wheel"), $(du -h "$wheel" | cut -f1)"

say "an empty environment with the same torch"
.venv/bin/python -m venv "$folder/env"
python=$folder/env/bin/python
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
packages=$(.venv/bin/python -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')
for path in "$packages"/*; do
  # What torch needs, and nothing of what the tests and reports need besides.
  case $(basename "$path") in
    torch | torch-* | torchgen | functorch | numpy | numpy-* | numpy.libs | typing_extensions* | sympy | sympy-* | \
      mpmath | mpmath-* | networkx | networkx-* | jinja2 | jinja2-* | Jinja2-* | markupsafe | markupsafe-* | \
      MarkupSafe-* | filelock | filelock-* | fsspec | fsspec-* | setuptools | setuptools-*)
      [[ -e $site/$(basename "$path") ]] || ln -s "$path" "$site/"
      ;;
  esac
done
quietly "$python" -m pip install --disable-pip-version-check --no-index "$wheel"

cd "$folder"
say "the tutorial's program"
"$python" - "$OLDPWD/docs/tutorial.md" >tutorial.py <<'END'
import pathlib, re, sys
print(re.search(r"^```python\n(.*?)^```", pathlib.Path(sys.argv[1]).read_text(), re.S | re.M)[1])
END
OMP_NUM_THREADS=2 quietly "$python" tutorial.py
tail -n 3 log >&2

say "the command"
quietly env/bin/sparsum info
quietly env/bin/sparsum train ssvae --help

say "another torch than the one it was built against"
cat >other.py <<'END'
import torch

torch.__version__ = "2.11.0"
try:
    import sparsum.ops
except ImportError as error:
    assert "built against torch" in str(error) and "2.11.0 is installed" in str(error), error
else:
    raise SystemExit("no ImportError")
END
quietly "$python" other.py
