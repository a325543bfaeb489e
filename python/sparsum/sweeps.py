"""Reading of sweeps' folders, as ``sparsum sweep`` writes them.

A sweep's folder holds ``sweep.json`` (every run with its label), ``sweep.toml`` (the file it was
made from), ``configs/NAME.toml`` (the options of each run, begun or not), ``runs/NAME/`` (a run
folder each, see :mod:`sparsum.runs`) and ``failed/NAME.json`` (how a run ended that failed). It may
be read while the sweep goes on: what is readable is returned, what is not is listed in
:attr:`Sweep.problems`, a line for each thing.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sparsum.runs import SCHEMA, Run, RunError, one_line, read_run

FILE = "sweep.json"

State = Literal["finished", "failed", "not finished", "not started", "unreadable"]


class SweepError(Exception):
    """A folder has nothing in it that can be read as a sweep; the text is one line."""


@dataclass(frozen=True)
class Failure:
    """``failed/NAME.json``: how a run ended."""

    exit_code: int | None
    message: str
    """The last line that it wrote."""

    def __str__(self) -> str:
        code = "" if self.exit_code is None else f" with exit code {self.exit_code}"
        return f"failed{code}: {self.message}" if self.message else f"failed{code}"


@dataclass(frozen=True)
class Entry:
    """One run of a sweep, begun or not."""

    name: str
    """Its folder's, in ``runs/``."""
    label: str
    """Shared by the runs that differ in their seed alone."""
    experiment: str
    run: Run | None = None
    """None if there is nothing to read."""
    failure: Failure | None = None
    begun: bool = False
    """Whether it has a folder."""
    waiting: bool = False
    """Whether it has begun and not yet ended an epoch."""
    planned: Mapping[str, Any] = field(default_factory=dict)
    """``configs/NAME.toml``, options spelled with ``-``; empty if it cannot be read."""

    @property
    def fields(self) -> dict[str, str | float | int | bool]:
        """The run's options, as it has them or else as they are planned; empty if unknown."""
        found: dict[str, str | float | int | bool] = {}
        for key, value in self.planned.items():
            if isinstance(value, (str, int, float, bool)):
                found[key.replace("_", "-")] = value
        return {**found, **(self.run.fields if self.run is not None else {})}

    @property
    def state(self) -> State:
        if self.run is not None and self.run.finished:
            return "finished"
        if self.failure is not None:
            return "failed"
        if self.run is not None or self.waiting:
            return "not finished"
        return "unreadable" if self.begun else "not started"


@dataclass(frozen=True)
class Sweep:
    """What could be read of a sweep's folder."""

    path: Path
    name: str
    text: str
    """``sweep.toml``; empty if it cannot be read."""
    versions: Mapping[str, str]
    """Of the program that described the sweep."""
    entries: tuple[Entry, ...]
    problems: tuple[str, ...]
    """One line for each thing that is missing or damaged; paths are those within the folder."""

    @property
    def runs(self) -> list[Run]:
        """Those with something to show."""
        return [entry.run for entry in self.entries if entry.run is not None]


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (path / FILE).is_file()


def read_sweep(path: Path | str) -> Sweep:
    """Reads a sweep's folder. Raises SweepError if it has no run that was begun or is planned."""
    path = Path(path)
    problems: list[str] = []
    plan = _read_plan(path / FILE, problems)
    planned = _planned(plan, problems)
    if plan is None:
        planned = [_by_folder(name) for name in _run_folders(path)]
        if planned:
            problems.append(f"{FILE}: without it, labels are taken from the names of runs/")
    if not planned:
        reasons = "; ".join(problems) or f"{FILE}: it lists no runs"
        raise SweepError(f"{path}: nothing to show: {reasons}")
    entries = [_read_entry(path, entry, problems) for entry in planned]
    waiting = [entry.name for entry in entries if entry.state == "not started"]
    if waiting:
        what = "run has" if len(waiting) == 1 else f"of {len(entries)} runs have"
        problems.append(f"{len(waiting)} {what} not started: {', '.join(waiting)}")
    names = {entry.name for entry in entries}
    problems += [
        f"runs/{name}: not of this sweep ({FILE} does not list it): left out"
        for name in _run_folders(path)
        if name not in names
    ]
    problems += _mixed_versions(entries)
    tree = plan or {}
    name = tree.get("name")
    versions = tree.get("versions")
    return Sweep(
        path,
        _printable(name) if isinstance(name, str) and name else path.resolve().name,
        _read_text(path / "sweep.toml", problems),
        {str(k): str(v) for k, v in versions.items()} if isinstance(versions, dict) else {},
        tuple(entries),
        tuple(map(_printable, problems)),
    )


def _read_plan(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """``sweep.json``, or None with the reason appended to ``problems``."""
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        problems.append(f"{path.name}: cannot be read ({error.strerror or one_line(error)})")
        return None
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name}: not JSON ({one_line(error)})")
        return None
    if not isinstance(tree, dict):
        problems.append(f"{path.name}: expected a JSON object, got {type(tree).__name__}")
        return None
    schema = tree.get("schema", "none")
    if schema != SCHEMA or isinstance(schema, bool):
        problems.append(f"{path.name}: expected schema {SCHEMA}, got {schema!r}")
        return None
    if not isinstance(tree.get("runs"), list):
        got = type(tree["runs"]).__name__ if "runs" in tree else "none"
        problems.append(f"{path.name}: expected a list of runs, got {got}")
        return None
    return tree


def _planned(plan: Mapping[str, Any] | None, problems: list[str]) -> list[Entry]:
    """The runs that ``sweep.json`` lists, without what was read of them."""
    entries: dict[str, Entry] = {}
    for number, item in enumerate([] if plan is None else plan["runs"], start=1):
        where = f"{FILE}: run {number}"
        if not isinstance(item, dict):
            problems.append(f"{where}: expected a JSON object, got {type(item).__name__}: left out")
            continue
        name = item.get("name")
        usable = isinstance(name, str) and name.isprintable() and "/" not in name
        if not isinstance(name, str) or not usable or name in ("", ".", ".."):
            got = repr(name)[:60]
            problems.append(f"{where}: expected the name of a folder, got {got}: left out")
            continue
        if name in entries:
            problems.append(f"{where}: {name}: listed twice, read once")
            continue
        plain = _by_folder(name)
        label, experiment = item.get("label"), item.get("experiment")
        entries[name] = Entry(
            name,
            _printable(label) if isinstance(label, str) and label else plain.label,
            _printable(experiment) if isinstance(experiment, str) else "",
        )
    return list(entries.values())


def _by_folder(name: str) -> Entry:
    """A run whose folder alone tells of it."""
    return Entry(name, re.sub(r"-s\d+$", "", name) or name, "")


def _run_folders(path: Path) -> list[str]:
    try:
        return sorted(folder.name for folder in (path / "runs").iterdir() if folder.is_dir())
    except OSError:
        return []


def _read_entry(path: Path, entry: Entry, problems: list[str]) -> Entry:
    folder, where = path / "runs" / entry.name, f"runs/{entry.name}"
    failure = _read_failure(path / "failed" / f"{entry.name}.json", problems)
    run: Run | None = None
    found: list[str] = []
    try:
        begun = folder.exists()
    except OSError as error:
        begun = False
        found.append(f"cannot be read ({error.strerror or one_line(error)})")
    if begun:
        try:
            run = read_run(folder)
            found = list(run.problems)
        except RunError as error:
            found = [str(error).removeprefix(f"{folder}: ")]
    waiting = begun and run is None and _has_no_epoch(folder)
    if waiting:
        found = ["not finished: begun, no epoch has ended"]
    if run is not None and run.finished:
        failure = None  # an earlier call's: it was done again since
    planned = _read_planned(path, f"configs/{entry.name}.toml", problems)
    if not planned and waiting:
        planned = _read_planned(path, f"{where}/config.toml", problems)
    read = replace(entry, run=run, failure=failure, begun=begun, waiting=waiting, planned=planned)
    if failure is not None:
        problems.append(f"{where}: {failure}")
        found = [
            problem
            for problem in found
            if "the run has not finished" not in problem and not waiting
        ]
    if run is not None and read.state == "not finished":
        epochs = run.planned_epochs
        of = f" of {epochs}" if epochs else ""
        found = [
            f"not finished: epoch {run.last_epoch}{of}"
            if "the run has not finished" in problem
            else problem
            for problem in found
        ]
    problems += [f"{where}: {problem}" for problem in found]
    if run is not None and entry.experiment:
        own = run.fields.get("experiment", entry.experiment)
        if own != entry.experiment:
            problems.append(f"{where}: expected the experiment {entry.experiment}, got {own}")
    return read


def _has_no_epoch(folder: Path) -> bool:
    """Whether a run folder holds options and nothing else yet."""
    try:
        metrics = folder / "metrics.jsonl"
        return (
            (folder / "config.toml").is_file()
            and not (folder / "summary.json").exists()
            and not (metrics.exists() and metrics.read_bytes().strip())
        )
    except OSError:
        return False


def _read_planned(path: Path, where: str, problems: list[str]) -> dict[str, Any]:
    """Options from a file, or none; only a file that is there and damaged is a problem."""
    try:
        return tomllib.loads((path / where).read_bytes().decode())
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{where}: cannot be read ({error.strerror or one_line(error)})")
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError too
        problems.append(f"{where}: not TOML ({one_line(error)})")
    return {}


def _read_failure(path: Path, problems: list[str]) -> Failure | None:
    try:
        tree = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"failed/{path.name}: cannot be read ({one_line(error)})")
        return Failure(None, "")
    if not isinstance(tree, dict):
        return Failure(None, "")
    code, message = tree.get("exit_code"), tree.get("message")
    return Failure(
        code if isinstance(code, int) and not isinstance(code, bool) else None,
        _printable(" ".join(message.split())) if isinstance(message, str) else "",
    )


def _mixed_versions(entries: list[Entry]) -> list[str]:
    """A line for each program of which the finished runs had several versions."""
    lines = []
    for program in ("sparsum", "torch"):
        counts: dict[str, int] = {}
        for entry in entries:
            if entry.run is not None and entry.run.summary is not None:
                version = entry.run.summary.texts.get(f"versions.{program}", "unknown")
                counts[version] = counts.get(version, 0) + 1
        if len(counts) > 1:
            of = ", ".join(f"{version} ({count} runs)" for version, count in counts.items())
            lines.append(f"runs of several versions of {program}: {of}")
    return lines


def _printable(text: str) -> str:
    """Without line breaks and what no encoding can write."""
    return "".join(c if c.isprintable() else "_" for c in text)


def _read_text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError as error:
        problems.append(f"{path.name}: cannot be read ({error.strerror or one_line(error)})")
        return ""
