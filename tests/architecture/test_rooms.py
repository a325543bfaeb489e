"""The rules of the house that a compiler does not check: who may include whom, and that nothing is forgotten.

docs/design.md describes the rooms. The checks read the files that git tracks, so they need no build.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A room and the rooms that it may include; itself is allowed. The longest prefix of a path is its room.
ALLOWED = {
    "include/sparsum/kernels": set(),
    "include/sparsum": set(),
    "src/kernels": {"include/sparsum/kernels"},
    "src/ops": {"include/sparsum", "include/sparsum/kernels", "src/kernels"},
    "src/structures": {"include/sparsum", "include/sparsum/kernels", "src/kernels", "src/ops"},
    "src/sparsemap": {"include/sparsum", "include/sparsum/kernels", "src/kernels", "src/ops", "src/structures"},
    "src/estimators": {
        "include/sparsum",
        "include/sparsum/kernels",
        "src/kernels",
        "src/ops",
        "src/structures",
        "src/sparsemap",
    },
    "lab": {"include/sparsum", "include/sparsum/kernels"},
    "lab/experiments": {"include/sparsum", "include/sparsum/kernels", "lab"},
    "cli": {"include/sparsum", "include/sparsum/kernels", "lab", "lab/experiments"},
    "python/bindings": {"include/sparsum", "lab", "lab/experiments"},
    "examples": {"include/sparsum", "include/sparsum/kernels"},
    "tests/install": {"include/sparsum", "include/sparsum/kernels"},
}
# No header of these libraries reaches the kernels, which others use without LibTorch.
TORCH_FREE = ("src/kernels", "include/sparsum/kernels")
TORCH_HEADER = re.compile(r"^(torch|ATen|c10|caffe2)/")
# Only the bindings know Python.
PYTHON_HEADER = re.compile(r"^(Python\.h|pybind11/|torch/extension\.h|torch/csrc/utils/pybind)")

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)


def tracked(*patterns: str) -> list[Path]:
    """The tracked files that match, relative to the root; deleted ones that are not committed yet are left out."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [Path(name) for name in names.split("\0") if name and (ROOT / name).is_file()]


def sources() -> list[Path]:
    return tracked("*.h", "*.cpp", "*.cc")


def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def room_of(path: Path) -> str | None:
    rooms = [room for room in ALLOWED if path.is_relative_to(room)]
    return max(rooms, key=len, default=None)


def resolve(include: str, source: Path) -> Path | None:
    """The project's own file that `include` in `source` means, or None for headers of others."""
    for folder in (source.parent, Path("include"), Path("src"), Path(".")):
        candidate = (ROOT / folder / include).resolve()
        if candidate.is_file() and candidate.is_relative_to(ROOT):
            return candidate.relative_to(ROOT)
    return None


def forbidden_includes(source: Path, text: str) -> list[str]:
    """What is wrong with the include lines of one file."""
    room = room_of(source)
    wrong = []
    for include in INCLUDE.findall(text):
        if PYTHON_HEADER.match(include) and not source.is_relative_to("python"):
            wrong.append(f"{source}: only python/ may include <{include}>")
        if room in TORCH_FREE and TORCH_HEADER.match(include):
            wrong.append(f"{source}: {room} must not include torch, found <{include}>")
        target = resolve(include, source)
        if room is None or target is None:
            continue
        target_room = room_of(target)
        if target_room != room and target_room not in ALLOWED[room]:
            wrong.append(f"{source}: {room} may not include {target} of {target_room or 'no room'}")
    return wrong


def test_rooms_include_only_rooms_below():
    wrong = [line for source in sources() for line in forbidden_includes(source, text_of(source))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "include", "fragment"),
    [
        ("src/kernels/a.cc", "<torch/torch.h>", "must not include torch"),
        ("include/sparsum/kernels/a.h", "<ATen/ATen.h>", "must not include torch"),
        ("src/kernels/a.cc", "<sparsum/sparsemax.h>", "src/kernels may not include include/sparsum/sparsemax.h"),
        ("include/sparsum/a.h", '"lab/error.h"', "include/sparsum may not include lab/error.h"),
        ("lab/a.cpp", '"../src/pch.cpp"', "lab may not include src/pch.cpp"),
        ("src/ops/a.cpp", "<Python.h>", "only python/ may include"),
    ],
)
def test_a_forbidden_include_is_found(source, include, fragment):
    wrong = forbidden_includes(Path(source), f"#pragma once\n#include {include}\n")
    assert len(wrong) >= 1 and fragment in wrong[0]


def test_an_allowed_include_passes():
    text = '#include <torch/torch.h>\n#include <sparsum/sparsemax.h>\n#include "lab/error.h"\n#include <vector>\n'
    assert forbidden_includes(Path("lab/a.cpp"), text) == []


def test_every_source_has_a_room():
    homes = tuple(ALLOWED) + ("bench", "tests", "python")
    lost = [
        str(path)
        for path in sources()
        if not any(path.is_relative_to(home) for home in homes) and path != Path("src/pch.cpp")
    ]
    assert not lost, lost


def test_every_header_is_guarded():
    # x-inl.h is included once per SIMD target and guards itself by Highway's toggle.
    wrong = [
        str(path)
        for path in sources()
        if path.suffix == ".h" and not path.stem.endswith("-inl") and "#pragma once" not in text_of(path)
    ]
    assert not wrong, f"no #pragma once in {wrong}"


def test_sparsum_h_includes_every_public_header():
    # The kernels' headers are for those who have no LibTorch; export.h holds one macro that the others use.
    included = set(INCLUDE.findall(text_of(Path("include/sparsum/sparsum.h"))))
    public = {
        str(path.relative_to("include"))
        for path in tracked("include/*.h")
        if not path.is_relative_to("include/sparsum/kernels")
    } - {"sparsum/sparsum.h", "sparsum/export.h"}
    assert included == public


def test_every_source_is_listed_in_a_cmake_file():
    wrong = []
    for path in tracked("*.cpp", "*.cc"):
        listed = False
        for folder in path.parents:
            cmake = ROOT / folder / "CMakeLists.txt"
            if cmake.is_file():
                name = re.escape(path.relative_to(folder).as_posix())
                # examples/ and bench/ give the name without its ending to a function of theirs.
                stem = re.escape(path.relative_to(folder).with_suffix("").as_posix())
                pattern = rf"(^|[\s/(\"]){name}($|[\s)\"])|^\w+\({stem}[\s)]"
                listed = listed or re.search(pattern, cmake.read_text(encoding="utf-8"), re.MULTILINE)
        if not listed:
            wrong.append(str(path))
    assert not wrong, f"in no CMakeLists.txt: {wrong}"


def test_cmake_lists_sources_by_name():
    wrong = [
        str(path)
        for path in tracked("*CMakeLists.txt")
        if re.search(r"file\s*\(\s*GLOB|aux_source_directory", text_of(path), re.IGNORECASE)
    ]
    assert not wrong, f"sources are globbed in {wrong}"


def test_every_module_of_the_package_is_in_the_build_tree():
    cmake = text_of(Path("python/CMakeLists.txt"))
    listed = set(re.search(r"set\(_modules\s([^)]*)\)", cmake)[1].split())
    there = {path.relative_to("python/sparsum").parts[0] for path in tracked("python/sparsum/*")}
    assert listed == there


def test_no_machine_and_no_package_host_is_named():
    # Written with brackets so that this file does not match itself; "me" is nobody's folder.
    pattern = re.compile(
        r"(?<![\w.}])/(?:[w]ork/|[r]oot/|[h]ome/(?!me\b))\w"
        r"|py[p]i\.org|python[h]osted|download\.py[t]orch|[d]eb\.debian\.org|archive\.[u]buntu\.com"
    )
    wrong = []
    for path in tracked():
        try:
            lines = text_of(path).splitlines()
        except UnicodeDecodeError:  # an image
            continue
        wrong += [f"{path}:{number}: {line.strip()}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert not wrong, "\n".join(wrong)


def test_scripts_can_be_run():
    wrong = [
        str(path)
        for path in tracked("scripts/*.sh", ".ci/run")
        if text_of(path).startswith("#!") != bool((ROOT / path).stat().st_mode & 0o100)
    ]
    assert not wrong, f"either a first line #! or no permission to execute: {wrong}"
