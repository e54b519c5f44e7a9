"""What tasks count: each counts into a `Tally`, which stores its progress where the command reads it.

A task may run in another process or on another machine, so progress goes through small files: one write per second on
the command's machine, fewer where hundreds of machines share a file system or each write is a request.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from meap.errors import DataError
from meap.json_text import parse_json
from meap.places.folder import Folder
from meap.places.whole import write_whole
from meap.prep.document_counts import DocumentCounts, rounded
from meap.prep.sampling import MAX_HASHES, HashSample

__all__ = ["MAX_SHOWN_BAD_LINES", "BadLine", "Counts", "Tally", "Totals", "clear_counts", "read_counts"]

MAX_SHOWN_BAD_LINES = 3

_MAX_KEPT_BAD_LINES = 1000


@dataclass(frozen=True)
class BadLine:
    """An input record that was left out."""

    file: str
    line: int
    """Line or row, from 1."""
    reason: str
    num_bytes: int = 0
    """Size of the record, decompressed."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass
class Tally:
    """Counts of one task. The steps of a task share one tally; the first of them starts it."""

    folder: Path | Folder
    """Where progress is stored for the command: visible to every process of the job."""
    task: int = 0
    interval: float = 1.0
    """Seconds between two reports."""
    max_hashes: int = MAX_HASHES
    """Hashes of documents that are kept at most."""
    documents: Counter[str] = field(default_factory=Counter)
    """By part of the output, empty ones excluded."""
    tokens: Counter[str] = field(default_factory=Counter)
    """By part, BOS and EOS included."""
    kept_bytes: Counter[str] = field(default_factory=Counter)
    """By part: UTF-8 bytes of these documents."""
    tail_tokens: Counter[str] = field(default_factory=Counter)
    """By part: tokens at the end that did not fill a row."""
    tail_documents: Counter[str] = field(default_factory=Counter)
    """By part: documents that end in these."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By part and name: what only some kinds of data have."""
    lengths: dict[str, Counter[int]] = field(default_factory=dict[str, "Counter[int]"])
    """By part: documents by their length."""
    hashes: HashSample = field(default_factory=HashSample)
    """Of the documents, by part."""
    unread: Counter[str] = field(default_factory=Counter)
    """Records with a field that carries text and is not read, by its name."""
    empty_documents: int = 0
    bad_lines: int = 0
    bad_bytes: int = 0
    """Size of the bad lines, decompressed."""
    kept_bad_lines: list[BadLine] = field(default_factory=list)
    """The first thousand."""
    removed: Counter[str] = field(default_factory=Counter)
    """Documents that filters and deduplication removed, by `step/reason`."""
    removed_bytes: int = 0
    """UTF-8 bytes of these documents."""
    removed_lines: Counter[str] = field(default_factory=Counter)
    """Lines that a filter cut out of kept documents, by `step/reason`."""
    removed_examples: list[dict[str, Any]] = field(default_factory=list)
    """The first few of each reason."""
    tried: Counter[str] = field(default_factory=Counter)
    """By part: documents that were decoded as a trial."""
    first_loss: str | None = None
    """What the first document lost that does not come back when it is decoded, for a message."""
    text_bytes: int = 0
    """UTF-8 bytes of all documents that were read."""
    input_bytes: int = 0
    """Stored (compressed) bytes read so far, those of open files included."""
    is_done: bool = False
    failure: str | None = None
    """Why the task failed."""
    reported_at: float = float("-inf")

    def start(self, task: int) -> None:
        """Begin task number `task`, with all counts at zero."""
        hashes = HashSample(self.max_hashes)
        self.__dict__.update(Tally(self.folder, task, self.interval, self.max_hashes, hashes=hashes).__dict__)
        self.report(now=True)

    def add_documents(self, part: str, lengths: ArrayLike, hashes: ArrayLike) -> None:
        """Count the documents that go to a part of the output.

        Args:
            part: See `meap.prep.documents.part_of`.
            lengths: Tokens of each, without BOS and EOS.
            hashes: See `hash_of`.
        """
        found = np.asarray(lengths, np.int64)
        self.documents[part] += len(found)
        self.lengths.setdefault(part, Counter()).update(rounded(found))
        self.hashes.add(np.asarray(hashes, np.uint64), group=part)

    def document_counts(self, part: str) -> DocumentCounts:
        """What was counted of the documents of a part."""
        return DocumentCounts(self.lengths.get(part, Counter()), self.hashes.of(part), self.hashes.level)

    def add_bad_line(self, bad_line: BadLine) -> None:
        """Count a bad line, and keep it if it is among the first."""
        self.bad_lines += 1
        self.bad_bytes += bad_line.num_bytes
        if len(self.kept_bad_lines) < _MAX_KEPT_BAD_LINES:
            self.kept_bad_lines.append(bad_line)

    def finish(self) -> None:
        """End the task: everything that it wrote is in place."""
        self.is_done = True
        self.report(now=True)

    def fail(self, reason: str) -> None:
        """End the task without success."""
        self.failure = reason
        self.report(now=True)

    def report(self, *, now: bool = False) -> None:
        """Store the progress for the command, at most once per `interval` unless `now`."""
        if not now and time.monotonic() - self.reported_at < self.interval:
            return
        self.reported_at = time.monotonic()
        counts = Counts(
            host=socket.gethostname(),
            pid=os.getpid(),
            documents=self.documents.total(),
            tokens=self.tokens.total(),
            text_bytes=self.text_bytes,
            input_bytes=self.input_bytes,
            num_bad_lines=self.bad_lines,
            bad_bytes=self.bad_bytes,
            bad_lines=[str(each) for each in self.kept_bad_lines[:MAX_SHOWN_BAD_LINES]],
            is_done=self.is_done,
            failure=self.failure,
        )
        _write(self.folder, f"{self.task:05d}.json", json.dumps(asdict(counts)).encode())


@dataclass(frozen=True)
class Counts:
    """Progress of a task, as the command reads it."""

    host: str
    pid: int
    documents: int
    tokens: int
    text_bytes: int
    input_bytes: int
    num_bad_lines: int
    bad_bytes: int
    bad_lines: list[str]
    is_done: bool
    failure: str | None

    @property
    def is_over(self) -> bool:
        """Whether the task has ended."""
        return self.is_done or self.failure is not None


@dataclass
class Totals:
    """Sums over tasks."""

    tasks: int = 0
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0
    input_bytes: int = 0
    num_bad_lines: int = 0
    bad_bytes: int = 0

    def add(self, counts: Counts) -> None:
        """Add a task's."""
        self.tasks += 1
        for name in ("documents", "tokens", "text_bytes", "input_bytes", "num_bad_lines", "bad_bytes"):
            setattr(self, name, getattr(self, name) + getattr(counts, name))


def read_counts(folder: Path | Folder, *, but: Container[int]) -> dict[int, Counts]:
    """The stored progress of each task except some."""
    found: dict[int, Counts] = {}
    for name, content in _read_all(folder, but).items():
        with suppress(ValueError, TypeError):  # half written: the next read gets it
            found[int(name.partition(".")[0])] = Counts(**parse_json(content))
    return found


def clear_counts(folder: Path | Folder) -> None:
    """Remove the stored progress."""
    if not isinstance(folder, Path):
        folder.remove()
        return
    for file in folder.glob("*.json"):
        file.unlink()


def _write(folder: Path | Folder, name: str, content: bytes) -> None:
    # Neither sync nor error: a full disk or a lost connection is reported by the writes that matter.
    if isinstance(folder, Path):
        with suppress(OSError):
            write_whole(folder / name, content, one_writer=True)
        return
    with suppress(DataError):
        folder.write(name, content)


def _read_all(folder: Path | Folder, but: Container[int]) -> dict[str, bytes]:
    with suppress(DataError, FileNotFoundError):
        names = os.listdir(folder) if isinstance(folder, Path) else folder.entries()  # noqa: PTH208  cheap names
        wanted = [name for name in names if (task := _task_of(name)) is not None and task not in but]
        if not isinstance(folder, Path):
            return folder.read_all(wanted)
        contents: dict[str, bytes] = {}
        for name in wanted:
            with suppress(OSError):
                contents[name] = (folder / name).read_bytes()
        return contents
    return {}


def _task_of(name: str) -> int | None:
    """The task whose progress a file of that name holds; None for drafts."""
    stem, _, suffix = name.partition(".")
    return int(stem) if suffix == "json" and stem.isdecimal() else None
