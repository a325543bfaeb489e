"""scripts/convert_labels.py: what it converts, and that no pickle makes it run anything."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PYTHON_ROOT

SCRIPT = PYTHON_ROOT.parent / "scripts" / "convert_labels.py"


spec = importlib.util.spec_from_file_location("convert_labels", SCRIPT)
assert spec is not None and spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The script's main(), in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = script.main([str(argument) for argument in arguments])
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def refusal(path: Path, *arguments: object) -> str:
    """What is said of a file that must be refused."""
    before = set(path.parent.iterdir())
    result = convert(path, *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.count("\n") == 1
    assert set(path.parent.iterdir()) == before
    prefix = f"convert_labels.py: {path}: "
    assert result.stderr.startswith(prefix), result.stderr
    return result.stderr[len(prefix) : -1]


LABELS = [
    [3, 1, 2**62, -5],
    (3, 1, 3),
    {0: 7, 2: 9, 1: 8},
    np.array([3, 1, 3]),
    np.array([3, 1, 3], ">i2"),
    np.array([3, 1, 250], np.uint8),
    np.arange(10)[::3],
    np.array([3, 1, 3], object),
    [np.int64(3), np.int32(1)],
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("labels", LABELS, ids=repr)
def test_integers_stay_as_they_are(tmp_path, labels, protocol):
    path = tmp_path / "labels.objects"
    path.write_bytes(pickle.dumps(labels, protocol))
    result = convert(path)
    assert result.returncode == 0, result.stderr
    array = np.load(tmp_path / "labels.npy")
    assert array.dtype == np.int64
    expected = [labels[i] for i in range(len(labels))]
    assert array.tolist() == [int(x) for x in expected]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.npy", "labels.objects"]


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda x: np.array(x, object), lambda x: np.array(x, "S")])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_strings_stay_as_they_are(tmp_path, make, protocol):
    train, test = tmp_path / "train" / "a.objects", tmp_path / "test" / "a.objects"
    all_labels = {train: ["dog", "cat", "dog"], test: ["eel", "dog"]}
    for path, labels in all_labels.items():
        path.parent.mkdir()
        path.write_bytes(pickle.dumps(make(labels), protocol))

    def written() -> dict[str, object]:
        files = sorted(p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".objects")
        return {str(p.relative_to(tmp_path)): json.loads(p.read_text()) for p in files}

    result = convert(train, test)
    assert result.returncode == 0, result.stderr
    together = written()
    assert together == {"test/labels.json": ["eel", "dog"], "train/labels.json": ["dog", "cat", "dog"]}
    # One by one gives the same: nothing is numbered, and a folder has one file of labels.
    for path in (train, test):
        (path.parent / "labels.json").unlink()
        result = convert(path)
        assert (result.returncode, result.stdout) == (0, f"wrote {path.parent / 'labels.json'}\n"), result.stderr
    assert written() == together


def test_strings_that_are_not_unicode_are_refused(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(pickle.dumps(["ä", "cat", "\N{GREEK SMALL LETTER ALPHA}", b"\xc3\xa4"]))
    assert convert(path).returncode == 0
    assert json.loads((tmp_path / "labels.json").read_text(encoding="utf-8")) == ["ä", "cat", "α", "ä"]
    # Replaced characters would make one label of these two.
    path.write_bytes(pickle.dumps([b"cat", b"caf\xe9", b"caf\xe8"]))
    assert refusal(path) == r"expected strings in Unicode, got b'caf\xe9' at position 1"
    path.write_bytes(pickle.dumps(["cat", "a\ud800", "a\ud801"]))
    assert refusal(path) == r"expected strings in Unicode, got 'a\ud800' at position 1"


def test_python_2_pickles_are_read(tmp_path):
    # pickle.dumps(numpy.array(['n01', 'n02'], dtype=object)) and numpy.array([1, 2]) of Python 2, protocol 0 and 2.
    objects = (
        b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntS'b'\ntRp4\n(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntbI00\n(lS'n02'\naS'n01'\natb."
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(objects)
    assert convert(tmp_path / "a" / "x").returncode == 0
    assert json.loads((tmp_path / "a" / "labels.json").read_text()) == ["n02", "n01"]
    numbers = (
        b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'i2'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\x00\\xff\\x00'\ntb."
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_bytes(numbers)
    assert convert(tmp_path / "b" / "x").returncode == 0
    assert np.load(tmp_path / "b" / "labels.npy").tolist() == [1, 255]


class Evil:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self):
        return self.call[0], tuple(self.call[1:])


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["alone", "list", "array", "key"])
def test_nothing_is_run(tmp_path, protocol, where):
    mark = tmp_path / "mark"
    path = tmp_path / "evil"
    for function, arguments, name in (
        (os.system, (f"touch {mark}",), f"{os.system.__module__}.system"),
        (eval, (f"open({str(mark)!r}, 'w')",), "builtins.eval"),
        (open, (str(mark), "w"), "io.open"),
        (subprocess.Popen, (["touch", str(mark)],), "subprocess.Popen"),
        (getattr, ([], "append"), "builtins.getattr"),
        (np.load, (str(mark),), "numpy.load"),
    ):
        evil: object = Evil(function, *arguments)
        if where == "list":
            evil = [1, 2, evil]
        elif where == "array":
            array = np.empty(1, object)
            array[0] = evil
            evil = array
        elif where == "key":
            evil = {"labels": [1, 2], "more": evil}
        path.write_bytes(pickle.dumps(evil, protocol))
        told = refusal(path)
        assert told.startswith("asks for "), told
        assert name.split(".")[-1] in told
        assert not mark.exists()


def test_names_through_dots_and_stand_ins_are_refused(tmp_path):
    path = tmp_path / "evil"
    # STACK_GLOBAL with a path through an allowed name; a call of the class that may only be named; BUILD on it.
    for code, told in (
        (b"\x80\x04\x8c\x05numpy\x8c\x1adtype.__init__.__globals__\x93.", "asks for numpy.dtype.__init__"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x011\x85R.", "asks for builtins.exec"),
        (b"cnumpy\nndarray\n(I4\ntR.", "expected NumPy arrays as NumPy pickles them, got something else"),
        (b"P1\n.", "asks for an object outside the file"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "expected bytes written as Latin-1"),
        (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.", "expected NumPy arrays of integers or strings, got one of dtype 'V8'"),
    ):
        path.write_bytes(code)
        assert refusal(path).startswith(told)


def test_the_script_runs_by_itself(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(pickle.dumps([4, 5]))
    result = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"wrote {tmp_path / 'labels.npy'}\n")
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    result = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "asks for os.system" in result.stderr


def test_other_contents_are_named(tmp_path):
    path = tmp_path / "labels"
    for value, told in (
        ([], "expected at least one label, got none"),
        (5, "expected a list of labels, got int"),
        ([1, "a"], "expected 64-bit integers alone or strings alone, got str at position 1"),
        (["a", 1], "expected 64-bit integers alone or strings alone, got int at position 1"),
        ([1, True], "expected 64-bit integers alone or strings alone, got bool at position 1"),
        ([1.5], "expected 64-bit integers alone or strings alone, got float at position 0"),
        ([2**63], f"expected 64-bit integers alone or strings alone, got {2**63} at position 0"),
        (np.zeros((2, 2), int), "expected labels in one dimension, got shape (2, 2)"),
        (np.zeros(2), "expected NumPy arrays of integers or strings, got one of dtype 'f8'"),
        ({1: 1, 2: 2}, "expected the keys 0 to 1, or --key with one of 1, 2"),
    ):
        path.write_bytes(pickle.dumps(value))
        assert refusal(path) == told
    path.write_bytes(pickle.dumps([1, 2, 3])[:-4])
    assert refusal(path).startswith("expected a whole Python pickle, got something else (")
    # A character beyond Unicode.
    path.write_bytes(pickle.dumps(np.array(["a", "b"]), 2).replace(b"a\0\0\0", b"a\0\0\x7f"))
    assert refusal(path).startswith("expected ")
    path.write_bytes(b"")
    assert refusal(path).startswith("expected a whole Python pickle, got something else (")
    assert refusal(tmp_path / "missing") == "cannot be read: No such file or directory"


def test_an_entry_is_chosen_by_its_key(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(pickle.dumps({"paths": ["x", "y"], "labels": [4, 5]}))
    assert convert(path, "--key", "labels", "--out", "l.npy").returncode == 0
    assert np.load(tmp_path / "l.npy").tolist() == [4, 5]
    assert refusal(path, "--key", "label") == "expected an entry 'label', got 'paths', 'labels'"
    assert refusal(path) == "expected the keys 0 to 1, or --key with one of 'paths', 'labels'"


def test_the_name_of_the_file_says_its_form(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(pickle.dumps([4, -(2**63)]))
    assert convert(path, "--out", "a.json").returncode == 0
    assert json.loads((tmp_path / "a.json").read_text()) == [4, -(2**63)]
    for name in ("a.txt", "json", "b/a.npy"):
        with pytest.raises(SystemExit, match="2"):
            convert(path, "--out", name)
    path.write_bytes(pickle.dumps(["x"]))
    assert convert(path, "--out", "b.json").returncode == 0
    result = convert(path, "--out", "b.npy")
    assert result.returncode == 2
    told = "--out: expected a file name that ends in .json for labels that are strings, got 'b.npy'"
    assert told in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "b.json", "labels"]


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other" / "one"
    one.write_bytes(pickle.dumps([1]))
    two.write_bytes(pickle.dumps([1]))
    other.write_bytes(pickle.dumps(["a"]))
    result = convert(one, other)
    assert result.returncode == 2
    assert f"{other}: expected integers, as {one} has, got strings" in result.stderr
    result = convert(one, two)
    assert result.returncode == 2
    assert "expected pickles in different folders" in result.stderr
    assert not list(tmp_path.rglob("*.npy"))
