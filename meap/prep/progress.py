"""What tasks say of their progress: each counts into a `Tally`, which leaves its counts where the command sees them.

A task may run in a process of its own, on a machine of its own, so the counts go through small files: once per second
on the machine of the command, more seldom where hundreds of machines share a file system or each write is a request.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from meap.errors import DataError
from meap.places.folder import Folder
from meap.places.whole import write_whole

__all__ = ["MAX_SHOWN_BAD_LINES", "BadLine", "Counts", "Tally", "clear_counts", "read_counts"]

MAX_SHOWN_BAD_LINES = 3

_MAX_KEPT_BAD_LINES = 1000


@dataclass(frozen=True)
class BadLine:
    """An input line that was left out."""

    file: str
    line: int
    """Counted from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass
class Tally:
    """Counts of one task. The steps of a task share one tally; the first of them starts it."""

    folder: Path | Folder
    """Where the counts are left for the command to read: seen by every process that has a part in the job."""
    task: int = 0
    interval: float = 1.0
    """Seconds between two reports."""
    documents: Counter[str] = field(default_factory=Counter)
    """By split, empty ones excluded."""
    tokens: Counter[str] = field(default_factory=Counter)
    """By split, BOS and EOS included."""
    kept_bytes: Counter[str] = field(default_factory=Counter)
    """By split: UTF-8 bytes of these documents."""
    tail_tokens: Counter[str] = field(default_factory=Counter)
    """By split: tokens at the end that did not fill a row."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By split and name: what only some kinds of data have."""
    empty_documents: int = 0
    bad_lines: int = 0
    kept_bad_lines: list[BadLine] = field(default_factory=list)
    """The first thousand."""
    removed: Counter[str] = field(default_factory=Counter)
    """Documents that filters and deduplication took out, by `step/reason`."""
    removed_lines: Counter[str] = field(default_factory=Counter)
    """Lines that a filter cut out of documents that stay, by `step/reason`."""
    removed_examples: list[dict[str, Any]] = field(default_factory=list)
    """The first few of each reason."""
    text_bytes: int = 0
    """UTF-8 bytes of all documents that were read."""
    input_bytes: int = 0
    """Stored (compressed) bytes read so far, of files that are still being read too."""
    is_done: bool = False
    failure: str | None = None
    """Why the task failed."""
    reported_at: float = float("-inf")
    position: Callable[[], int] | None = None
    """Tells `input_bytes` while a file is being read."""

    def start(self, task: int) -> None:
        """Begin task number `task`, with all counts at zero."""
        self.__dict__.update(Tally(self.folder, task, self.interval).__dict__)
        self.report(now=True)

    @contextmanager
    def reading(self, raw: IO[bytes], size: int) -> Iterator[None]:
        """Count the `size` stored bytes of an open file while the body reads it: one huge file is seen moving."""
        before = self.input_bytes
        self.position = lambda: before + min(raw.tell(), size)
        try:
            yield
        finally:
            self.position = None
        self.input_bytes = before + size
        self.report()

    def add_bad_line(self, bad_line: BadLine) -> None:
        """Count a bad line, and keep it if it is among the first."""
        self.bad_lines += 1
        if len(self.kept_bad_lines) < _MAX_KEPT_BAD_LINES:
            self.kept_bad_lines.append(bad_line)

    def finish(self) -> None:
        """End the task: all that it wrote is in place."""
        self.is_done = True
        self.report(now=True)

    def fail(self, reason: str) -> None:
        """End the task without success."""
        self.failure = reason
        self.report(now=True)

    def report(self, *, now: bool = False) -> None:
        """Leave the counts for the command, unless that was done a moment ago."""
        if not now and time.monotonic() - self.reported_at < self.interval:
            return
        self.reported_at = time.monotonic()
        if self.position is not None:
            self.input_bytes = self.position()
        counts = Counts(
            host=socket.gethostname(),
            pid=os.getpid(),
            documents=self.documents.total(),
            tokens=self.tokens.total(),
            text_bytes=self.text_bytes,
            input_bytes=self.input_bytes,
            num_bad_lines=self.bad_lines,
            bad_lines=[str(each) for each in self.kept_bad_lines[:MAX_SHOWN_BAD_LINES]],
            is_done=self.is_done,
            failure=self.failure,
        )
        _write(self.folder, f"{self.task:05d}.json", json.dumps(asdict(counts)).encode())


@dataclass(frozen=True)
class Counts:
    """What a tally leaves for the command."""

    host: str
    pid: int
    documents: int
    tokens: int
    text_bytes: int
    input_bytes: int
    num_bad_lines: int
    bad_lines: list[str]
    is_done: bool
    failure: str | None

    @property
    def is_over(self) -> bool:
        """Whether they are the last ones."""
        return self.is_done or self.failure is not None


def read_counts(folder: Path | Folder, *, but: frozenset[int]) -> dict[int, Counts]:
    """The counts of each task that has left any, but for some tasks."""
    found: dict[int, Counts] = {}
    for name, content in _read_all(folder, but).items():
        with suppress(ValueError, TypeError):  # they will be whole the next time
            found[int(name.removesuffix(".json"))] = Counts(**json.loads(content))
    return found


def clear_counts(folder: Path | Folder) -> None:
    """Remove what tasks have left."""
    if not isinstance(folder, Path):
        folder.remove()
        return
    for file in folder.glob("*.json"):
        file.unlink()


def _write(folder: Path | Folder, name: str, content: bytes) -> None:
    # No sync, no error: a full disk or a lost connection is reported by what the job cannot do without.
    if isinstance(folder, Path):
        with suppress(OSError):
            write_whole(folder / name, content)
        return
    with suppress(DataError):
        folder.write(name, content)


def _read_all(folder: Path | Folder, but: frozenset[int]) -> dict[str, bytes]:
    left_out = {f"{task:05d}.json" for task in but}
    if isinstance(folder, Path):
        contents: dict[str, bytes] = {}
        for file in folder.glob("*.json"):
            with suppress(OSError):
                if file.name not in left_out:
                    contents[file.name] = file.read_bytes()
        return contents
    with suppress(DataError):
        return folder.read_all([name for name in folder.entries() if name not in left_out])
    return {}
