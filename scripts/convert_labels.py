"""Turns label lists that are Python pickles into files that hold the labels and nothing to run.

  scripts/convert_labels.py train/labels.objects test/labels.objects

writes, beside each, labels.npy (int64) if its labels are integers, or labels.json (a list) if they are strings. Labels
stay as they are, so that a label means the same in every file.

A pickle is a program that builds objects. Here it can build lists, tuples, dictionaries, integers, strings and the
like, and NumPy arrays of them; for anything else it is refused, by the name of what it asks for. A dictionary must
have the keys 0 … n − 1, or --key says which of its entries is meant.
Exit status: 0, or 2 if a file cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

INT64 = np.iinfo(np.int64)


class LabelError(Exception):
    """A file that cannot be used: one line that says why."""


# What NumPy's pickles call, in our own words: its own functions would believe what the file says of memory layouts.


class Dtype:
    """Stands for numpy.dtype: integers, booleans, strings, or objects that are among those."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?([iu][1248]|b1|[SU]\d{1,6}|O8?)", code):
            raise LabelError(f"expected NumPy arrays of integers or strings, got one of dtype {str(code)[:40]!r}")
        self.code = code

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise LabelError("expected NumPy arrays of integers or strings, got one of records")
        if state[1] not in ("<", ">", "|", "="):
            raise LabelError(f"expected a byte order, got {str(state[1])[:40]!r}")
        self.code = state[1] + self.code.lstrip("<>|=")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.code)


def make_array(shape: object, dtype: object, data: object, fortran: bool) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, Dtype) or not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise LabelError("expected NumPy arrays as NumPy pickles them, got something else")
    order = "F" if fortran else "C"
    if dtype.dtype.hasobject:
        if not isinstance(data, list):
            raise LabelError("expected NumPy arrays as NumPy pickles them, got something else")
        array = np.empty(len(data), object)
        array[:] = data
    else:
        if isinstance(data, str):  # what Python 2 wrote
            data = data.encode("latin-1")
        if not isinstance(data, (bytes, bytearray)):
            raise LabelError("expected NumPy arrays as NumPy pickles them, got something else")
        array = np.frombuffer(bytes(data), dtype.dtype)
    return array.reshape(shape, order=order)


class Array:
    """Stands for an array that is being read."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray[Any, Any] = np.empty(0)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise LabelError("expected NumPy arrays as NumPy pickles them, got something else")
        _, shape, dtype, fortran, data = state
        self.array = make_array(shape, dtype, data, bool(fortran))


class Ndarray:
    """Stands for the class numpy.ndarray, which pickles name and do not call."""

    def __init__(self, *_: object) -> None:
        raise LabelError("expected NumPy arrays as NumPy pickles them, got something else")


def from_buffer(data: object, dtype: object, shape: object, order: object) -> Array:
    result = Array()
    result.array = make_array(shape, dtype, data, order == "F")
    return result


def scalar(dtype: object, data: object) -> object:
    if isinstance(dtype, Dtype) and dtype.dtype.hasobject:
        raise LabelError("expected NumPy numbers or strings, got an object")
    return make_array((), dtype, data, False).item()


def encode(text: object, encoding: object) -> bytes:
    """Stands for _codecs.encode, by which old protocols write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise LabelError("expected bytes written as Latin-1, got something else")
    return text.encode("latin-1")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): encode,
    ("numpy", "dtype"): Dtype,
    ("numpy", "ndarray"): Ndarray,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", Array),
            ("multiarray", "scalar", scalar),
            ("numeric", "_frombuffer", from_buffer),
        )
    },
}


class Unpickler(pickle.Unpickler):
    """Knows the names above and no others."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin-1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise LabelError(
                f"asks for {module[:80]}.{name[:80]}; expected lists, numbers, strings and NumPy arrays alone"
            )
        return ALLOWED[module, name]

    def persistent_load(self, pid: object) -> NoReturn:
        raise LabelError("asks for an object outside the file; expected lists, numbers, strings and NumPy arrays alone")


def read_pickle(path: Path) -> object:
    try:
        with path.open("rb") as file:
            return Unpickler(file).load()
    except OSError as error:
        raise LabelError(f"cannot be read: {error.strerror}") from error
    except LabelError:
        raise
    except Exception as error:  # what a damaged pickle raises can be nearly anything
        raise LabelError(f"expected a whole Python pickle, got something else ({error})") from error


def text_of(item: str | bytes, i: int) -> str:
    """The string at position i. What is not Unicode is refused: replacing characters could make two labels one."""
    try:
        text = item.decode("utf-8") if isinstance(item, bytes) else item
        text.encode("utf-8")  # half of a surrogate pair
    except UnicodeError as error:
        raise LabelError(f"expected strings in Unicode, got {ascii(item)[:60]} at position {i}") from error
    return text


def labels_in(value: object, key: str | None) -> list[int] | list[str]:
    """The labels as a list of integers or of strings."""
    if isinstance(value, dict):
        if key is not None:
            if key not in value:
                known = ", ".join(repr(k) for k in list(value)[:10])
                raise LabelError(f"expected an entry {key!r}, got {known}")
            value = value[key]
        elif all(type(k) is int for k in value) and sorted(value) == list(range(len(value))):
            value = [value[i] for i in range(len(value))]
        else:
            known = ", ".join(repr(k) for k in list(value)[:10])
            raise LabelError(f"expected the keys 0 to {len(value) - 1}, or --key with one of {known}")
    if isinstance(value, Array):
        if value.array.ndim != 1:
            raise LabelError(f"expected labels in one dimension, got shape {value.array.shape}")
        try:
            value = value.array.tolist()
        except (ValueError, SystemError) as error:  # NumPy raises the latter
            raise LabelError(f"expected strings in Unicode, got something else ({error})") from error
    if not isinstance(value, (list, tuple)):
        raise LabelError(f"expected a list of labels, got {type(value).__name__}")
    if not value:
        raise LabelError("expected at least one label, got none")
    items: list[Any] = [text_of(item, i) if isinstance(item, (str, bytes)) else item for i, item in enumerate(value)]
    wanted = str if isinstance(items[0], str) else int
    for i, item in enumerate(items):
        if type(item) is not wanted or (wanted is int and not INT64.min <= item <= INT64.max):
            text = type(item).__name__ if type(item) is not wanted else str(item)
            raise LabelError(f"expected 64-bit integers alone or strings alone, got {text} at position {i}")
    return items


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replaces `path`, or leaves it as it was."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise LabelError(f"cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise LabelError(f"cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def form(labels: list[Any], suffix: str) -> Callable[[BinaryIO], object]:
    """What writes the labels as a file .json, one a line, or .npy."""
    if suffix == ".json":
        text = json.dumps(labels, ensure_ascii=False, indent=0) + "\n"
        return lambda file: file.write(text.encode("utf-8"))
    array = np.array(labels, np.int64)
    return lambda file: np.save(file, array, allow_pickle=False)


def convert(paths: Iterable[Path], key: str | None, out: str | None) -> None:
    paths = list(paths)
    labels: list[list[Any]] = []
    for path in paths:
        try:
            labels.append(labels_in(read_pickle(path), key))
            if type(labels[-1][0]) is not type(labels[0][0]):
                kinds = ("strings", "integers") if isinstance(labels[0][0], str) else ("integers", "strings")
                raise LabelError(f"expected {kinds[0]}, as {paths[0]} has, got {kinds[1]}")
        except LabelError as error:
            raise LabelError(f"{path}: {error}") from error
    words = isinstance(labels[0][0], str)
    if out is None:
        out = "labels.json" if words else "labels.npy"
    if words and out.endswith(".npy"):
        raise LabelError(f"--out: expected a file name that ends in .json for labels that are strings, got {out!r}")
    targets = [path.parent / out for path in paths]
    if len(set(targets)) < len(targets):
        raise LabelError(f"expected pickles in different folders, got several that would become {targets[0]}")
    for target, some in zip(targets, labels):
        try:
            write_atomically(target, form(some, target.suffix))
        except LabelError as error:
            raise LabelError(f"{target}: {error}") from error
        print(f"wrote {target}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pickles", nargs="+", type=Path, metavar="PICKLE")
    parser.add_argument("--key", help="the entry of a dictionary that holds the labels")
    parser.add_argument("--out", metavar="NAME", help="file name beside each pickle, .npy or .json (see above)")
    given = parser.parse_args(arguments)
    if given.out is not None and (Path(given.out).name != given.out or Path(given.out).suffix not in (".npy", ".json")):
        parser.error(f"--out: expected a file name that ends in .npy or .json, without a folder, got {given.out!r}")
    try:
        convert(given.pickles, given.key, given.out)
    except LabelError as error:
        line = str(error).replace("\n", "\\n")
        print(f"convert_labels.py: {line}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
