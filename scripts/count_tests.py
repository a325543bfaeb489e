"""Sums test results up: count_tests.py CTEST.xml PYTEST.xml… prints 'N passed, N failed'.

The files are in JUnit's layout. A CTest entry that is a GoogleTest program counts as its test cases, any
other entry as one. Exits with 1 if anything failed, or if a file is missing or says nothing.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree


def count_ctest(case: ElementTree.Element) -> tuple[int, int]:
    """Passed and failed test cases of one program that CTest ran."""
    text = "".join(case.itertext())
    ran = case.get("status") == "run"
    summary = re.search(r"\[==========\] (\d+) tests? from \d+ test suites? ran", text)
    if summary is None:  # no GoogleTest program, or one that crashed before its end
        passed = len(re.findall(r"^\[       OK \]", text, re.MULTILINE))
        return (passed or 1, 0) if ran else (passed, 1)
    passed = sum(int(n) for n in re.findall(r"^\[  PASSED  \] (\d+) tests?\.", text, re.MULTILINE))
    failed = sum(int(n) for n in re.findall(r"^\[  FAILED  \] (\d+) tests?, listed", text, re.MULTILINE))
    return passed, failed if ran else max(failed, 1)


def count_pytest(case: ElementTree.Element) -> tuple[int, int]:
    """Passed and failed: a test that errs fails, a skipped one is neither."""
    if case.find("failure") is not None or case.find("error") is not None:
        return 0, 1
    return (0, 0) if case.find("skipped") is not None else (1, 0)


def main(ctest: str, *pytest: str) -> int:
    passed = failed = 0
    for path, count in [(ctest, count_ctest), *((path, count_pytest) for path in pytest)]:
        try:
            cases = list(ElementTree.parse(path).getroot().iter("testcase"))
        except (OSError, ElementTree.ParseError) as error:
            print(f"{path}: expected a JUnit file, found: {error}", file=sys.stderr)
            cases = []
        if not cases:
            print(f"{path}: no test ran", file=sys.stderr)
            failed += 1
        for case in cases:
            more_passed, more_failed = count(case)
            passed += more_passed
            failed += more_failed
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
