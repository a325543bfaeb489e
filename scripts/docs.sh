#!/usr/bin/env bash
# Builds the documentation's site into build/docs; every warning is an error.
# SPARSUM_PACKAGE: the folder that holds the built package sparsum (default build/release/python).
. "$(dirname "$0")/common.sh"

package=${SPARSUM_PACKAGE:-build/release/python}
[[ -d $package/sparsum ]] || die 2 "$package/sparsum: expected the built package; run scripts/setup.sh"
python=.venv/bin/python
[[ -x $python ]] || python=python3
"$python" -c 'import sphinx, furo, myst_parser' 2>/dev/null ||
  die 2 "sphinx, furo and myst-parser are needed: pip install -r scripts/requirements.txt"

say "building the site"
PYTHONPATH=$package "$python" -m sphinx -W --keep-going -q -b html -d build/docs/.doctrees docs build/docs
say "build/docs/index.html"
