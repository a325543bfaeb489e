"""Reading of run folders, as ``sparsum train`` writes them.

A run folder holds ``config.toml`` (the options), ``metrics.jsonl`` (one row an epoch),
``timing.jsonl`` (seconds, kept apart so that metrics repeat to the byte), ``summary.json`` (the
final numbers, once the run has finished) and ``images/*.png``, some with the numbers that they show
beside them as ``images/*.json``. Nested numbers are flattened to
dotted names: ``{"validation": {"accuracy": 0.9}}`` becomes ``"validation.accuracy"``; so a new
experiment with other metrics needs no new reader.

A run may be read while it is being written, or after it broke: what is readable is returned, what
is not is listed in :attr:`Run.problems`.
"""

from __future__ import annotations

import importlib
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

SCHEMA = 1
"""The version of the run folder's JSON files that this module reads."""

LARGEST = 1e300
"""Numbers beyond are overflow, not measurements, and left out as NaN is."""

LAST_EPOCH = 10**9

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class RunError(Exception):
    """A folder has nothing in it that can be read as a run; the text is one line."""


@dataclass(frozen=True)
class Row:
    """One epoch of ``metrics.jsonl`` or ``timing.jsonl``."""

    epoch: int
    """Counted from 1, on over the warm-up and training phases."""
    phase: str
    """``"warmup"`` or ``"train"``; ``""`` where the row does not say."""
    values: Mapping[str, float]
    """Finite numbers by dotted name; nulls and NaNs are left out."""


@dataclass(frozen=True)
class Summary:
    """``summary.json``."""

    values: Mapping[str, float]
    """Finite numbers by dotted name, such as ``"test.accuracy"``."""
    texts: Mapping[str, str]
    """Strings by dotted name, such as ``"estimator"`` or ``"versions.torch"``."""


@dataclass(frozen=True)
class Run:
    """What could be read of one run folder."""

    path: Path
    config: Mapping[str, Any]
    """``config.toml``: options by name, spelled with ``-``."""
    rows: tuple[Row, ...]
    timing: tuple[Row, ...]
    summary: Summary | None
    images: Mapping[str, Path]
    """PNG files of ``images/`` by name without the suffix."""
    problems: tuple[str, ...] = field(default=())
    """One line for each thing that is missing or damaged."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def fields(self) -> dict[str, str | float | int | bool]:
        """The run's options, of the configuration or else the summary, keys spelled with ``-``."""
        found: dict[str, str | float | int | bool] = {}
        if self.summary is not None:
            for source in (self.summary.texts, self.summary.values):
                for key in ("experiment", "dataset", "estimator", "bits", "seed", "epochs"):
                    if key in source:
                        value = source[key]
                        is_whole = isinstance(value, float) and value.is_integer()
                        found[key] = int(value) if is_whole else value
            if "warmup_epochs" in self.summary.values:
                found["warmup-epochs"] = int(self.summary.values["warmup_epochs"])
        for key, value in self.config.items():
            if isinstance(value, (str, int, float, bool)):
                found[key.replace("_", "-")] = value
        return found

    @property
    def last_epoch(self) -> int:
        """The last epoch in ``metrics.jsonl``; 0 without any."""
        return self.rows[-1].epoch if self.rows else 0

    @property
    def warmup_end(self) -> int:
        """The last epoch of the warm-up phase seen so far; 0 without one."""
        return max((row.epoch for row in self.rows if row.phase == "warmup"), default=0)

    @property
    def planned_epochs(self) -> int | None:
        """Warm-up and training epochs together, if the options say."""
        total = 0
        for key in ("epochs", "warmup-epochs"):
            value = self.fields.get(key, 0 if key == "warmup-epochs" else None)
            if not isinstance(value, int):
                return None
            total += value
        return total

    @property
    def metrics(self) -> list[dict[str, float | int | str]]:
        """A row an epoch: ``epoch``, ``phase``, and the metrics by dotted name, such as
        ``"validation.accuracy"``. A number that was null or not finite is left out of its row."""
        return [{"epoch": row.epoch, "phase": row.phase, **row.values} for row in self.rows]

    def frame(self, kind: str = "pandas") -> Any:
        """:attr:`metrics` as a data frame, a column a metric in the order in which they first
        appear; what a row lacks is NaN in pandas and null in Polars.

        Args:
            kind: ``"pandas"`` or ``"polars"``, which is imported when this is called.

        Raises:
            ValueError: another kind.
            ImportError: the package is not installed; the text says how to get it.
        """
        if kind not in ("pandas", "polars"):
            raise ValueError(f"frame: expected kind 'pandas' or 'polars', got {kind!r}")
        try:
            library = importlib.import_module(kind)
        except ImportError as error:
            raise ImportError(
                f"frame: expected the package {kind} to be installed, it cannot be imported "
                f"({error}); `pip install {kind}` gets it"
            ) from error
        rows = self.metrics
        columns = list(dict.fromkeys(["epoch", "phase", *(key for row in rows for key in row)]))
        return library.DataFrame({key: [row.get(key) for row in rows] for key in columns})

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Epochs and values of a metric, leaving out epochs that lack it."""
        points = [(row.epoch, row.values[key]) for row in self.rows if key in row.values]
        return [epoch for epoch, _ in points], [value for _, value in points]

    def result(self, key: str) -> float | None:
        """A number of the summary, or None."""
        return None if self.summary is None else self.summary.values.get(key)

    def seconds_per_epoch(self) -> float | None:
        """Median time of a training epoch, without its evaluation; else of a warm-up epoch."""
        for phase in ("train", "warmup", ""):
            times = [
                row.values["seconds"]
                for row in self.timing
                if row.phase == phase and "seconds" in row.values
            ]
            if times:
                return median(times)
        return None


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings with their dotted names; lists are leaves."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def is_number(value: Any) -> bool:
    """A finite int or float with room to compute with; a bool is none."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -LARGEST < value < LARGEST
    )


def parse_row(line: str | bytes) -> Row:
    """One line of ``metrics.jsonl`` or ``timing.jsonl``. Raises ValueError saying what is wrong."""
    tree = _parse_object(line)
    _check_schema(tree, optional=True)
    epoch = tree.pop("epoch", None)
    if isinstance(epoch, bool) or not isinstance(epoch, int) or not 0 <= epoch <= LAST_EPOCH:
        got = repr(epoch)[:40]
        raise ValueError(f"expected epoch to be a whole number from 0 to {LAST_EPOCH}, got {got}")
    tree.pop("schema", None)
    phase = tree.pop("phase", "")
    values = {key: float(value) for key, value in flatten(tree) if is_number(value)}
    return Row(epoch, phase if isinstance(phase, str) else "", values)


def complete_lines(content: bytes) -> tuple[list[bytes], bytes]:
    """Lines that end in a newline, and what comes after the last newline.

    A line without its newline is still being written or was cut off.
    """
    *lines, rest = content.split(b"\n")
    return lines, rest


def keep_latest(rows: Iterable[Row]) -> tuple[list[Row], int]:
    """Rows with ascending epochs, and how many were dropped.

    A row replaces those that it goes back over: a resumed run writes their epochs anew.
    """
    kept: list[Row] = []
    dropped = 0
    for row in rows:
        while kept and kept[-1].epoch >= row.epoch:
            kept.pop()
            dropped += 1
        kept.append(row)
    return kept, dropped


def read_run(path: Path | str) -> Run:
    """Reads a run folder. Raises RunError if there is neither a row of metrics nor a summary."""
    path = Path(path)
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder"
        raise RunError(f"{path}: {what}")
    problems: list[str] = []
    config = _read_config(path / "config.toml", problems)
    rows = _read_rows(path / "metrics.jsonl", problems, required=True)
    timing = _read_rows(path / "timing.jsonl", problems, required=False)
    summary = read_summary(path / "summary.json", problems)
    images = _read_images(path / "images", problems)
    if not rows and summary is None:
        raise RunError(f"{path}: nothing to show: " + "; ".join(problems))
    return Run(path, config, rows, timing, summary, images, tuple(problems))


def _parse_object(text: str | bytes) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({one_line(error)})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"expected a JSON object, got {type(tree).__name__}")
    return tree


def _check_schema(tree: Mapping[str, Any], *, optional: bool) -> None:
    if optional and "schema" not in tree:
        return
    if tree.get("schema") != SCHEMA or isinstance(tree["schema"], bool):
        raise ValueError(f"expected schema {SCHEMA}, got {tree.get('schema', 'none')!r}")


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _read_bytes(path: Path, problems: list[str], missing: str) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        if missing:
            problems.append(f"{path.name}: {missing}")
    except OSError as error:
        problems.append(f"{path.name}: cannot be read ({error.strerror or one_line(error)})")
    return None


def _read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    content = _read_bytes(path, problems, "missing")
    if content is None:
        return {}
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError too
        problems.append(f"{path.name}: not TOML ({one_line(error)})")
        return {}


def _read_rows(path: Path, problems: list[str], *, required: bool) -> tuple[Row, ...]:
    content = _read_bytes(path, problems, "missing" if required else "")
    if content is None:
        return ()
    if not content.strip():
        if required:
            problems.append(f"{path.name}: empty")
        return ()
    lines, rest = complete_lines(content)
    rows: list[Row] = []
    bad: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(parse_row(line))
            except ValueError as error:
                bad.append(f"{path.name}: line {number}: {error}")
    problems.extend(bad[:1])
    if len(bad) > 1:
        problems.append(f"{path.name}: {len(bad) - 1} more lines left out for such reasons")
    if rest.strip():
        problems.append(
            f"{path.name}: line {len(lines) + 1} is incomplete and left out"
            " (the run is being written or was cut off)"
        )
    kept, dropped = keep_latest(rows)
    if dropped:
        problems.append(f"{path.name}: {dropped} rows left out that later rows go back over")
    return tuple(kept)


def read_summary(path: Path, problems: list[str]) -> Summary | None:
    """``summary.json``, or None with the reason appended to ``problems``."""
    content = _read_bytes(path, problems, "missing: the run has not finished")
    if content is None:
        return None
    if not content.strip():
        problems.append(f"{path.name}: empty")
        return None
    try:
        tree = _parse_object(content)
        _check_schema(tree, optional=False)
    except ValueError as error:
        problems.append(f"{path.name}: {error}")
        return None
    leaves = dict(flatten(tree))
    return Summary(
        values={key: float(value) for key, value in leaves.items() if is_number(value)},
        texts={key: value for key, value in leaves.items() if isinstance(value, str)},
    )


def _read_images(folder: Path, problems: list[str]) -> dict[str, Path]:
    images: dict[str, Path] = {}
    for path in sorted(folder.glob("*.png")):
        try:
            with path.open("rb") as file:
                signature = file.read(len(PNG_SIGNATURE))
        except OSError as error:
            problems.append(f"images/{path.name}: cannot be read ({error.strerror})")
            continue
        if signature == PNG_SIGNATURE:
            images[path.stem] = path
        else:
            problems.append(f"images/{path.name}: not a PNG file")
    return images
