"""The command ``python -m sparsum.report RUN... --out DIR``, or ``SWEEP --out DIR``.

A RUN is a folder that ``sparsum train`` wrote, or one with what ``sparsum gradient-quality --out``
found, or both. A SWEEP is one that ``sparsum sweep`` wrote.

The report's place and its files go to stdout, what is wrong with a run to stderr. Exit status: 0,
also when some runs cannot be read; 2 when none can, or the report cannot be written. Of a sweep of
which no run can be read, be it that none has begun, there is a page, which says so, and status 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsum.report import gradients, sweep_report
from sparsum.report.files import write_all
from sparsum.report.labels import label_runs, slug
from sparsum.runs import Run, RunError, read_run
from sparsum.sweeps import SweepError, is_sweep, read_sweep

if TYPE_CHECKING:  # loads matplotlib, which may be missing
    from sparsum.report.page import Part, RunImage


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = _parser().parse_args(arguments)
    sweeps = [path for path in options.runs if is_sweep(path)]
    if sweeps and len(options.runs) > 1:
        print(
            f"report: expected the folder of one sweep alone, or those of runs; got"
            f" {len(options.runs)} folders, and {sweeps[0]} is a sweep's",
            file=sys.stderr,
        )
        return 2
    try:
        shown, written = (
            _sweep(sweeps[0], options.out) if sweeps else _runs(options.runs, options.out)
        )
    except ImportError as error:
        print(f"report: matplotlib is needed to draw ({error})", file=sys.stderr)
        return 2
    except OSError as error:
        reason = error.strerror or str(error)
        print(f"report: {error.filename or options.out}: cannot write ({reason})", file=sys.stderr)
        return 2
    if not written:
        return 2
    print(f"Report: {options.out / 'index.html'} (open it in a browser)")
    width = max(len(name) for name, _ in written)
    for name, shows in written:
        print(f"  {name:<{width}}  {shows}")
    return 0 if shown else 2


def _runs(paths: Sequence[Path], out: Path) -> tuple[bool, list[tuple[str, str]]]:
    """The report of runs: whether it shows any, the files and what they show; or no files."""
    runs, qualities, problems = _read(paths)
    for problem in problems:
        print(f"report: {problem}", file=sys.stderr)
    if not runs and not qualities:
        print("report: none of the runs can be read: nothing is drawn", file=sys.stderr)
        return False, []
    return True, write_report(runs, problems, out, qualities)


def _sweep(path: Path, out: Path) -> tuple[bool, list[tuple[str, str]]]:
    """The report of a sweep: the same, and a page that says so where there is nothing to draw."""
    try:
        sweep = read_sweep(path)
    except SweepError as error:
        written = sweep_report.write_empty(
            path.resolve().name, [str(error).removeprefix(f"{path}: ")], out
        )
        print(f"report: {error}", file=sys.stderr)
        return False, written
    written, problems = sweep_report.write_report(sweep, out)
    for problem in problems:
        print(f"report: {problem}", file=sys.stderr)
    if not sweep.runs:
        print(f"report: {path}: no run of the sweep has anything to show", file=sys.stderr)
    return bool(sweep.runs), written


def write_report(
    runs: Sequence[Run],
    problems: Sequence[str],
    out: Path,
    qualities: Sequence[gradients.Quality] = (),
) -> list[tuple[str, str]]:
    """Draws everything into the folder ``out``; returns each file's name and what it shows.

    Raises OSError if the folder cannot be written, ImportError without matplotlib.
    """
    out.mkdir(parents=True, exist_ok=True)
    from sparsum.report import elements, figures, page, style, tables
    from sparsum.report.experiments import by_experiment

    everyone = label_runs(runs)
    notes = list(problems)
    images = _run_images(runs, everyone.full, notes)
    groups = by_experiment(runs)
    parts = []
    suffixes: set[str] = set()
    for experiment, members in groups:
        labels = label_runs(members)
        suffix = slug(experiment.name) if len(groups) > 1 else ""
        while suffix in suffixes:
            suffix += "-"
        suffixes.add(suffix)
        parts.append(
            page.Part(
                experiment,
                members,
                labels,
                style.style_runs(labels),
                tables.run_table(experiment, members, labels),
                tables.seed_table(experiment, members, labels),
                figures.draw_all(experiment, members, labels, suffix=suffix),
                [image for run in members for image in images[run.path]],
            )
        )
    for problem in notes[len(problems) :]:
        print(f"report: {problem}", file=sys.stderr)
    comparisons = []
    for index, quality in enumerate(qualities):
        suffix = f"-{index + 1}" if len(qualities) > 1 else ""
        picture = gradients.draw(quality, f"gradient_quality{suffix}.png")
        comparisons.append(elements.Comparison(picture, gradients.table(quality)))
    html = page.render(parts, runs, everyone, notes, comparisons)
    texts = [_markdown(part, several=len(parts) > 1) for part in parts]
    texts += [f"## {c.picture.title}\n\n{c.table.markdown()}" for c in comparisons]
    files: list[tuple[str, bytes, str]] = [
        ("index.html", html.encode(), "everything on one page, explained, pictures included"),
        ("table.md", "\n".join(texts).encode(), "final results of the runs, as Markdown"),
    ]
    if runs:
        csv = tables.csv_text(runs, everyone).encode()
        files.append(("table.csv", csv, "all results and options at full precision, one row a run"))
    files += [(p.file, p.png, p.shows) for part in parts for p in part.pictures]
    for picture in (comparison.picture for comparison in comparisons):
        files.append((picture.file, picture.png, picture.shows))
        if picture.svg is not None:
            name = str(Path(picture.file).with_suffix(".svg"))
            files.append((name, picture.svg, "the same as a drawing that can be scaled"))
    for part in parts:
        for image in part.images:
            words = part.experiment.image_words(image.kind)[0]
            shows = words[0].lower() + words[1:]
            files.append((image.file, image.png, f"{shows} ({image.label})"))
    write_all(out, files)
    return [(name, shows) for name, _, shows in files]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsum.report",
        description="Draws a report of training runs, or of one sweep: learning curves, cost,"
        " samples and tables, as pictures and as one HTML page.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of one sweep"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="folder for the report, made if it is missing; its files are replaced"
        " (default: %(default)s)",
    )
    return parser


def _read(paths: Sequence[Path]) -> tuple[list[Run], list[gradients.Quality], list[str]]:
    """The runs and comparisons that can be read, and one line for each thing that cannot."""
    runs: list[Run] = []
    qualities: list[gradients.Quality] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for path in paths:
        place = path.resolve()
        if place in seen:
            problems.append(f"{path}: given twice, drawn once")
            continue
        seen.add(place)
        try:
            quality = gradients.read_quality(path)
        except gradients.QualityError as error:
            problems.append(str(error))
            quality = None
        if quality is not None:
            qualities.append(quality)
            if not (path / "config.toml").exists():
                continue
        try:
            run = read_run(path)
        except RunError as error:
            problems.append(str(error))
            continue
        runs.append(run)
        problems.extend(f"{path}: {problem}" for problem in run.problems)
    return runs, qualities, problems


def _markdown(part: Part, *, several: bool) -> str:
    heading = f"## {part.title}\n\n" if several else ""
    seeds = f"\n{part.seeds.markdown()}" if part.seeds is not None else ""
    return heading + part.table.markdown() + seeds


def _run_images(
    runs: Sequence[Run], labels: Sequence[str], notes: list[str]
) -> dict[Path, list[RunImage]]:
    """Copies of the runs' own pictures, by folder; damaged ones are named in ``notes``."""
    from PIL import Image

    from sparsum.report import heat_map
    from sparsum.report.page import RunImage

    images: dict[Path, list[RunImage]] = {}
    names: set[str] = set()
    for run, label in zip(runs, labels):
        copies = images.setdefault(run.path, [])
        for kind, path in run.images.items():
            try:
                content = path.read_bytes()
                with Image.open(path) as picture:
                    picture.load()
            except Exception as error:  # Pillow raises of many kinds for damaged files
                reason = " ".join(str(error).split()) or type(error).__name__
                notes.append(f"{run.path}: images/{path.name}: damaged ({reason})")
                continue
            numbers = path.with_suffix(".json")
            if kind == "symbols-concepts" and numbers.exists():
                try:
                    content = heat_map.draw(heat_map.read(numbers))
                except ValueError as error:
                    notes.append(f"{run.path}: images/{numbers.name}: damaged ({error})")
            file = slug(kind) if len(runs) == 1 else f"{slug(kind)}-{slug(label)}"
            while f"{file}.png" in names:
                file += "-"
            names.add(f"{file}.png")
            copies.append(RunImage(kind, label, f"{file}.png", content))
    return images


if __name__ == "__main__":
    sys.exit(main())
