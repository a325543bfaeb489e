"""The report of a sweep: everything that goes into its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsum.report import gradients
from sparsum.report.files import write_all
from sparsum.report.labels import Labels
from sparsum.sweeps import Sweep

if TYPE_CHECKING:  # loads matplotlib, which may be missing
    from sparsum.report.figures import Picture


def write_report(sweep: Sweep, out: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Draws everything into the folder ``out``.

    Returns each file's name and what it shows, and the problems: those of the sweep and what was
    found in drawing, one line each.

    Raises OSError if the folder cannot be written, ImportError without matplotlib.
    """
    out.mkdir(parents=True, exist_ok=True)
    from sparsum.report import elements, sweep_figures, sweep_page, sweep_tables, tables
    from sparsum.report.methods import left_out, studies, unlike

    problems = list(sweep.problems)
    parts = []
    for study in studies(sweep):
        problems += left_out(study)
        if not study.runs:
            continue  # nothing of it has begun, as the problems say
        for method in study:
            different = unlike(method)
            if different:
                what = "differ in more than the seed"
                problems.append(f"{method.label}: its runs {what}: {', '.join(different)}")
        parts.append(
            sweep_page.Part(
                study,
                sweep_tables.method_table(study),
                sweep_tables.run_rows(study),
                sweep_figures.draw_all(study),
            )
        )
    comparisons = [
        (stem, picture, quality, gradients.table(quality))
        for stem, picture, quality in _comparisons(sweep, problems)
    ]
    html = sweep_page.render(
        sweep,
        parts,
        problems,
        [elements.Comparison(picture, table) for _, picture, _, table in comparisons],
    )
    files: list[tuple[str, bytes, str]] = [
        ("index.html", _bytes(html), "everything on one page, explained, pictures included")
    ]
    for part in parts:
        what = f"the methods' numbers, {part.study.experiment.title}"
        files += [
            (f"{part.file}.md", _bytes(part.table.markdown()), f"{what}, as Markdown"),
            (f"{part.file}.tex", _bytes(part.table.latex()), f"{what}, as LaTeX"),
            (f"{part.file}.csv", _bytes(sweep_tables.method_csv(part.study)), f"{what}, as CSV"),
        ]
    entries = [entry for entry in sweep.entries if entry.run is not None]
    names = tuple(entry.name for entry in entries)
    folders = [f"runs/{name}" for name in names]
    if entries:
        text = tables.csv_text(sweep.runs, Labels(names, names), folders)
        files.append(("runs.csv", _bytes(text), "all results and options of each run, a row a run"))
    pictures = [picture for part in parts for picture in part.pictures]
    pictures += [picture for _, picture, _, _ in comparisons]
    for picture in pictures:
        files.append((picture.file, picture.png, picture.shows))
        for suffix, content in ((".pdf", picture.pdf), (".svg", picture.svg)):
            if content is not None:
                name = str(Path(picture.file).with_suffix(suffix))
                files.append((name, content, "the same as a drawing that can be scaled"))
    for stem, _, quality, table in comparisons:
        cells = tables.csv_lines(gradients.csv_rows(quality))
        texts = ((".md", table.markdown()), (".tex", table.latex()), (".csv", cells))
        for suffix, text in texts:
            files.append((stem + suffix, _bytes(text), "the numbers of the comparison"))
    write_all(out, files)
    return [(name, shows) for name, _, shows in files], problems


def write_empty(name: str, problems: Sequence[str], out: Path) -> list[tuple[str, str]]:
    """Writes the page of a folder in which no run is listed that could be read.

    Returns and raises as :func:`write_report`, but for the problems.
    """
    out.mkdir(parents=True, exist_ok=True)
    from sparsum.report import sweep_page

    name_shown = "".join(c if c.isprintable() else "_" for c in name)
    html = sweep_page.render_empty(name_shown, problems)
    write_all(out, [("index.html", _bytes(html), "why there is nothing to show")])
    return [("index.html", "why there is nothing to show")]


def _comparisons(sweep: Sweep, problems: list[str]) -> list[tuple[str, Picture, gradients.Quality]]:
    """Comparisons of gradients that were put into the sweep's folder or its runs'."""
    found: list[tuple[str, Picture, gradients.Quality]] = []
    for where in ("", *(f"runs/{entry.name}" for entry in sweep.entries if entry.begun)):
        try:
            quality = gradients.read_quality(sweep.path / where)
        except gradients.QualityError as error:
            problems.append(str(error).replace(f"{sweep.path}/", "", 1))
            continue
        if quality is not None:
            stem = "gradient_quality" + (f"-{len(found) + 1}" if found else "")
            picture = gradients.draw(quality, f"{stem}.png")
            found.append((stem, picture, quality))
    return found


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
