#!/usr/bin/env bash
# Sets up, builds everything and runs every test: C++, examples, Python, structure of the sources.
#   scripts/test.sh          all tests
#   scripts/test.sh --fast   without the C++ tests that take more than two seconds
# The last line says how many passed and failed; the exit status is 0 if none failed.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

selection=()
case "${1-}" in
  "") ;;
  --fast) selection=(--label-exclude '^slow$') ;;
  -h | --help) sed -n '2,5s/^# \{0,1\}//p' scripts/test.sh && exit 0 ;;
  *) die 2 "test.sh: unknown option $1 (known: --fast)" ;;
esac

scripts/setup.sh --all
results=$PWD/build/release/test-results
rm -rf "$results"
mkdir -p "$results"
status=0

say "C++ tests and examples"
# The whole output goes into the XML file: that is where single test cases are counted.
ctest --test-dir build/release --output-on-failure --timeout 900 --no-tests=error "${selection[@]}" \
  --output-junit "$results/ctest.xml" --test-output-size-passed 10000000 --test-output-size-failed 10000000 \
  </dev/null || status=1

say "Python tests, the package, the program from the outside, the structure of the sources"
# One run a folder: each has a conftest of its own.
for folder in python cli architecture package; do
  # The package's own tests need its compiled part; the others are to do without.
  path=python
  [[ $folder == package ]] && path=build/release/python
  PYTHONPATH=$path .venv/bin/python -m pytest -q -p no:cacheprovider "tests/$folder" \
    --junitxml="$results/$folder.xml" </dev/null || status=1
done

.venv/bin/python scripts/count_tests.py "$results"/{ctest,python,cli,architecture,package}.xml || status=1
exit "$status"
