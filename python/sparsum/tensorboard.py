"""The command ``python -m sparsum.tensorboard RUN``: a run in TensorBoard while it trains.

Follows the run's ``metrics.jsonl``, ``timing.jsonl``, ``summary.json`` and ``images/*.png`` and
writes event files with TensorBoard's own library: numbers as scalars by epoch, under names such as
``validation/accuracy`` and ``time/seconds``, pictures as images. Run beside it::

    tensorboard --logdir RUN/tensorboard

A resumed run cuts its files back to the last checkpoint. The bridge then tells TensorBoard to
forget the epochs from there on (a session log with the step, as a restarted writer does) and goes
on with the new rows. Ctrl-C ends the bridge; the run is not touched by it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sparsum.runs import (
    PNG_SIGNATURE,
    Row,
    complete_lines,
    is_number,
    keep_latest,
    parse_row,
    read_summary,
)

FILE_SUFFIX = ".sparsum"
"""Ends the names of this bridge's event files, so that a restarted one replaces only its own."""


class Sink(Protocol):
    """Where numbers and pictures go."""

    def scalars(self, epoch: int, values: Iterable[tuple[str, float]]) -> None: ...

    def image(self, epoch: int, tag: str, png: bytes) -> None: ...

    def forget_from(self, epoch: int) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class EventFile:
    """A TensorBoard event file. Raises ImportError without tensorboard, OSError if unwritable."""

    def __init__(self, folder: Path):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        self._session = event_pb2.SessionLog
        self._summary = summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"events.out.tfevents.*{FILE_SUFFIX}"):
            old.unlink()
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        # Written here and now, and not by EventFileWriter's thread: a full disk is then an
        # ordinary OSError of the call that met it.
        self._file = (folder / f"{name}{FILE_SUFFIX}").open("wb")
        self._records = RecordWriter(self._file)
        self._write(0, file_version="brain.Event:2")

    def scalars(self, epoch: int, values: Iterable[tuple[str, float]]) -> None:
        summary = self._summary(
            value=[self._summary.Value(tag=tag, simple_value=value) for tag, value in values]
        )
        self._write(epoch, summary=summary)

    def image(self, epoch: int, tag: str, png: bytes) -> None:
        width, height = struct.unpack(">II", png[16:24])
        picture = self._summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png
        )
        value = self._summary.Value(tag=tag, image=picture)
        self._write(epoch, summary=self._summary(value=[value]))

    def forget_from(self, epoch: int) -> None:
        self._write(epoch, session_log=self._session(status=self._session.START))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, epoch: int, **content: object) -> None:
        event = self._event(wall_time=time.time(), step=epoch, **content)
        self._records.write(event.SerializeToString())


@dataclass
class _Followed:
    """One file of rows and how much of it has been sent."""

    path: Path
    prefix: str
    sent: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def read(self) -> list[str]:
        """Reads the file anew; returns what is wrong with it. An unfinished line is left for later.

        The whole file is read and compared, not only its end: a file that was cut back and has
        grown again since the last look may be longer than it was.
        """
        try:
            lines, _ = complete_lines(self.path.read_bytes())
        except FileNotFoundError:
            self.rows = []
            return []
        except OSError as error:
            return [f"{self.path}: cannot be read ({error.strerror})"]
        rows: list[Row] = []
        problems: list[str] = []
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    rows.append(parse_row(line))
                except ValueError as error:
                    problems.append(f"{self.path}: line {number}: {error}")
        self.rows, _ = keep_latest(rows)
        return problems

    def first_change(self) -> int | None:
        """The first epoch that was sent and is no longer there as it was."""
        for index, row in enumerate(self.sent):
            if index >= len(self.rows) or self.rows[index] != row:
                return row.epoch
        return None

    def forget_from(self, epoch: int) -> None:
        self.sent = [row for row in self.sent if row.epoch < epoch]


class Bridge:
    """Carries what a run folder gains to a sink, one :meth:`poll` at a time."""

    def __init__(self, run: Path, sink: Sink):
        self._run = run
        self._sink = sink
        self._files = [
            _Followed(run / "metrics.jsonl", ""),
            _Followed(run / "timing.jsonl", "time/"),
        ]
        self._images: dict[str, tuple[tuple[int, int], int]] = {}  # signature, epoch
        self._summary: tuple[tuple[int, int], int] | None = None
        self._told: set[str] = set()

    @property
    def last_epoch(self) -> int:
        """The last epoch of ``metrics.jsonl`` that has been sent; 0 before the first."""
        sent = self._files[0].sent
        return sent[-1].epoch if sent else 0

    def poll(self) -> list[str]:
        """Sends what is new; returns problems that were not returned before."""
        problems = [problem for file in self._files for problem in file.read()]
        self._forget_what_was_cut()
        for file in self._files:
            for row in file.rows[len(file.sent) :]:
                values = [(file.prefix + k.replace(".", "/"), v) for k, v in row.values.items()]
                self._sink.scalars(row.epoch, (v for v in values if v[0] != "steps"))
                file.sent.append(row)
        problems += self._send_summary()
        problems += self._send_images()
        self._sink.flush()
        new = [problem for problem in problems if problem not in self._told]
        self._told.update(new)
        return new

    def _forget_what_was_cut(self) -> None:
        changes = [change for file in self._files if (change := file.first_change()) is not None]
        if not changes:
            return
        epoch = min(changes)
        self._sink.forget_from(epoch)
        for file in self._files:
            file.forget_from(epoch)
        self._images = {k: (s, e) for k, (s, e) in self._images.items() if e < epoch}
        if self._summary is not None and self._summary[1] >= epoch:
            self._summary = None

    def _send_summary(self) -> list[str]:
        path = self._run / "summary.json"
        signature = _signature(path)
        if signature is None or (self._summary is not None and self._summary[0] == signature):
            return []
        problems: list[str] = []
        summary = read_summary(path, problems)
        if summary is None:
            return [f"{self._run}: {problem}" for problem in problems]
        values = [
            (key.replace(".", "/"), value)
            for key, value in summary.values.items()
            if key.startswith("test.")
        ]
        self._sink.scalars(self.last_epoch, values)
        self._summary = (signature, self.last_epoch)
        return []

    def _send_images(self) -> list[str]:
        problems: list[str] = []
        for path in sorted((self._run / "images").glob("*.png")):
            signature = _signature(path)
            known = self._images.get(path.stem)
            if signature is None or (known is not None and known[0] == signature):
                continue
            try:
                png = path.read_bytes()
            except OSError as error:
                problems.append(f"{path}: cannot be read ({error.strerror})")
                continue
            if not png.startswith(PNG_SIGNATURE) or len(png) < 24:
                problems.append(f"{path}: not a PNG file")
                continue
            self._sink.image(self.last_epoch, f"images/{path.stem}", png)
            self._images[path.stem] = (signature, self.last_epoch)
        return problems


def _signature(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 2 with one line on stderr."""
    options = _parser().parse_args(arguments)
    logdir = options.logdir or options.run / "tensorboard"
    if not options.run.is_dir():
        what = "not a folder" if options.run.exists() else "no such folder"
        return _fail(f"{options.run}: {what}")
    if options.once and not (options.run / "metrics.jsonl").is_file():
        return _fail(f"{options.run}: metrics.jsonl: missing")
    try:
        sink = EventFile(logdir)
    except ImportError as error:
        return _fail(f"the tensorboard package is needed ({error})")
    except OSError as error:
        return _fail(f"{error.filename or logdir}: cannot write ({error.strerror or error})")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        return _follow(Bridge(options.run, sink), options, logdir, stop)
    except OSError as error:
        return _fail(f"{error.filename or logdir}: cannot write ({error.strerror or error})")
    finally:
        with contextlib.suppress(OSError):  # what it could not flush has been reported
            sink.close()


def _follow(
    bridge: Bridge, options: argparse.Namespace, logdir: Path, stop: threading.Event
) -> int:
    print(f"TensorBoard: tensorboard --logdir {logdir}", flush=True)
    if not options.once:
        print(f"Following {options.run}; Ctrl-C ends.", flush=True)
    while True:
        for problem in bridge.poll():
            print(f"tensorboard: {problem}", file=sys.stderr, flush=True)
        if options.once or stop.wait(options.interval):
            break
    print(f"{bridge.last_epoch} epochs of {options.run} are in {logdir}", flush=True)
    return 0


def _fail(problem: str) -> int:
    print(f"tensorboard: {problem}", file=sys.stderr)
    return 2


def _interval(text: str) -> float:
    seconds = float(text)
    if not is_number(seconds) or not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected 0.1 to 3600 seconds, got {text}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsum.tensorboard",
        description="Shows a run in TensorBoard, also while it trains.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--logdir",
        type=Path,
        metavar="DIR",
        help="folder for TensorBoard's event files (default: RUN/tensorboard)",
    )
    parser.add_argument(
        "--once", action="store_true", help="send what is there and end, instead of following"
    )
    parser.add_argument(
        "--interval",
        type=_interval,
        default=2.0,
        metavar="SECONDS",
        help="time between two looks at the run, 0.1 to 3600 (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
