"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content``, or leaves it as it was and raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_all(folder: Path, files: Sequence[tuple[str, bytes, str]]) -> None:
    """Writes (name, content, …) into a folder; the first, the page, last: it tells that all is
    there."""
    for name, content, _ in [*files[1:], *files[:1]]:
        write_atomically(folder / name, content)
