"""The site: `scripts/docs.sh` builds it, every warning being an error."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]

project = "Sparsum"
author = "the Sparsum authors"
copyright = "the Sparsum authors"
release = re.search(
    r"^\s*VERSION (\d+\.\d+\.\d+)$", (_ROOT / "CMakeLists.txt").read_text(), re.MULTILINE
)[1]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["README.md"]

html_theme = "furo"
html_title = f"Sparsum {release}"
html_show_sourcelink = False

# Headings can be linked to, `page.md#a-heading`, as code hosts do.
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Shown as written, not as values.
autodoc_preserve_defaults = True


# --- docstrings -----------------------------------------------------------------------------------
# Beside Google's sections, docstrings list arguments as the C++ headers do, one "name: what it is"
# a line with longer ones indented below, and write sizes as mathematics does, |Z| and [*shape, B]:
# this says so in reStructuredText.

_ITEM = re.compile(r"(\w[^:`]{0,60}): +(\S.*)")


def _escaped(line: str) -> str:
    parts = re.split(r"(``[^`]*``|`[^`]*`)", line)
    parts[::2] = [
        re.sub(r"\[\*(?=\w)", r"[\\*", re.sub(r"(?<!\\)\|(\w+)\|", r"\\|\1\\|", part))
        for part in parts[::2]
    ]
    return "".join(parts)


def _paragraph(lines: list[str]) -> list[str]:
    """A list of its "name: what it is" lines, if that is what a paragraph is made of."""
    items = [line for line in lines if not line.startswith(" ")]
    many = len(items) > 1 or len(lines) > len(items)
    if not many or not all(_ITEM.fullmatch(line) for line in items[:1]):
        return lines
    if len(items) == len(lines) and not all(_ITEM.fullmatch(line) for line in items):
        return lines
    result = []
    for line in lines:
        item = None if line.startswith(" ") else _ITEM.fullmatch(line)
        result.append(f"- *{item[1]}*: {item[2]}" if item else "  " + line.strip())
    return result


def _process_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    result: list[str] = []
    paragraph: list[str] = []
    for line in [*map(_escaped, lines), ""]:
        if line.strip():
            paragraph.append(line)
            continue
        listed = bool(paragraph) and not paragraph[0].startswith(" ")
        result += _paragraph(paragraph) if listed else paragraph
        result.append("")
        paragraph = []
    lines[:] = result


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _process_docstring, priority=400)  # before napoleon
