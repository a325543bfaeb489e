#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment that has PyTorch and NumPy alone, and runs there
# what a newcomer would: the tutorial's program, whose output is the page's, the command `sparsum`, an import
# against another torch, or one of the other kind.
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
quietly .venv/bin/python -m pip wheel --verbose --disable-pip-version-check --no-build-isolation --no-deps \
  --config-settings=cmake.define.SPARSUM_WERROR=ON --wheel-dir "$folder/wheels" .
wheel=$(find "$folder/wheels" -name 'sparsum-*.whl')
note "$(basename "$wheel"), $(du -h "$wheel" | cut -f1)"
grep -q "^ *sparsum: building against PyTorch" "$folder/log" || die 1 "the build did not say which PyTorch it is against"

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
# As the page has it, but for the last digit of what is measured while it trains: rounding differs between
# processors, and 200 steps carry it along.
"$python" - "$OLDPWD/docs/tutorial.md" log <<'END' || die 1 "the tutorial printed something else than docs/tutorial.md says (see above)"
import itertools, pathlib, re, sys

page, log = (pathlib.Path(name).read_text() for name in sys.argv[1:])
number = re.compile(r"\d+(?:\.\d+)?")


def same(said: str, printed: str) -> bool:
    if not said.startswith("step "):
        return said == printed
    if number.sub("#", said).split() != number.sub("#", printed).split():
        return False
    # The first number is the step's own.
    for i, (a, b) in enumerate(zip(number.findall(said), number.findall(printed))):
        last_digit = 10.0 ** -len(a.partition(".")[2])
        if abs(float(a) - float(b)) > (1.001 * last_digit if i > 0 else 0):
            return False
    return True


said = re.search(r"^```text\n(.*?)^```", page, re.S | re.M)[1].splitlines()
for line, other in itertools.zip_longest(said, log.splitlines(), fillvalue=""):
    if not same(line, other):
        raise SystemExit(f"expected: {line}\nprinted:  {other}")
END

say "the command"
quietly env/bin/sparsum info
quietly env/bin/sparsum train ssvae --help

say "another torch than the one it was built against"
cat >other.py <<'END'
import sys

import torch

cuda = torch.version.cuda is not None
if sys.argv[1] == "version":
    torch.__version__ = "2.11.0"
    said = ("built against torch", "2.11.0 is installed: install that torch, or build sparsum again")
else:
    torch.version.cuda = None if cuda else "12.8"
    kinds = ("a CPU build", "a CUDA build")
    said = (f"built against {kinds[cuda]} of torch", f"is {kinds[not cuda]}: install that kind of torch")
try:
    import sparsum.ops
except ImportError as error:
    assert all(words in str(error) for words in said), error
else:
    raise SystemExit("no ImportError")
END
quietly "$python" other.py version
quietly "$python" other.py kind
