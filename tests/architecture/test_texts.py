"""What the texts say is what the sources are."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_readme_snippet_is_the_example():
    example = text_of("examples/readme.cpp").split("// [README]\n")
    assert len(example) == 3, "examples/readme.cpp: expected two marks // [README]"
    snippets = re.findall(r"```cpp\n(.*?)```", text_of("README.md"), re.DOTALL)
    assert snippets == [example[1]]


def test_links_lead_somewhere():
    wrong = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", link) and not (path.parent / link).exists():
                wrong.append(f"{path.relative_to(ROOT)}: {link}")
    assert not wrong, wrong


def test_version_is_the_same_everywhere():
    version = re.search(r"^\s*VERSION (\d+\.\d+\.\d+)", text_of("CMakeLists.txt"), re.MULTILINE).group(1)
    assert re.search(r"^version: (\S+)", text_of("CITATION.cff"), re.MULTILINE).group(1) == version
    # A release's own heading, or the one for what is not released yet.
    assert re.search(rf"^## \[({re.escape(version)}|Unreleased)\]", text_of("CHANGELOG.md"), re.MULTILINE)


def test_package_list_is_sound():
    """Nothing twice, nothing that apt would not take as a name."""
    lines = [line for line in text_of("scripts/apt-packages.txt").splitlines() if not line.startswith("#")]
    names = [line.removeprefix("optional: ") for line in lines]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in names)


def test_python_requirements_are_pinned():
    lines = [line for line in text_of("scripts/requirements.txt").splitlines() if not line.startswith("#")]
    assert lines and all(re.fullmatch(r"[\w-]+==\d+(\.\d+)+", line) for line in lines)
