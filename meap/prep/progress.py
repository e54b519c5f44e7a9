"""What happens, while it happens: tasks count into a `Tally`, the command prints one line now and then.

A task may run in a process of its own, so a tally leaves its counts in a small file, at most once per second. A thread
of the command reads these files. It also notices a worker that is no more (killed for memory, say), for which a process
pool would wait without end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from meap.errors import DataError

__all__ = ["BadLine", "Progress", "Tally"]

_REPORT_SECONDS = 1.0
_POLL_SECONDS = 0.5
_LOST_SECONDS = 4.0
"""How long a worker must be gone before it counts as lost: longer than a pool takes to end its workers by itself."""
_MAX_KEPT_BAD_LINES = 1000
_MAX_SHOWN_BAD_LINES = 3


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

    folder: Path
    """Where the counts are left for the command to read."""
    task: int = 0
    documents: Counter[str] = field(default_factory=Counter)
    """By split, empty ones excluded."""
    tokens: Counter[str] = field(default_factory=Counter)
    """By split, BOS and EOS included."""
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
    """UTF-8 bytes of all documents."""
    input_bytes: int = 0
    """Stored (compressed) bytes read so far."""
    is_done: bool = False
    reported_at: float = float("-inf")

    def start(self, task: int) -> None:
        """Begin task number `task`, with all counts at zero."""
        self.__dict__.update(Tally(self.folder, task).__dict__)
        self.report(now=True)

    def add_bad_line(self, bad_line: BadLine) -> None:
        """Count a bad line, and keep it if it is among the first."""
        self.bad_lines += 1
        if len(self.kept_bad_lines) < _MAX_KEPT_BAD_LINES:
            self.kept_bad_lines.append(bad_line)

    def finish(self) -> None:
        """End the task: all that it wrote is in place."""
        self.is_done = True
        self.report(now=True)

    def report(self, *, now: bool = False) -> None:
        """Leave the counts for the command, unless that was done within the last second."""
        if not now and time.monotonic() - self.reported_at < _REPORT_SECONDS:
            return
        self.reported_at = time.monotonic()
        counts = _Counts(
            pid=os.getpid(),
            documents=self.documents.total(),
            tokens=self.tokens.total(),
            text_bytes=self.text_bytes,
            input_bytes=self.input_bytes,
            num_bad_lines=self.bad_lines,
            bad_lines=[str(each) for each in self.kept_bad_lines[:_MAX_SHOWN_BAD_LINES]],
            is_done=self.is_done,
        )
        partial = self.folder / f"{self.task:05d}.partial"
        with suppress(OSError):  # a full disk is reported by what needs the space
            partial.write_text(json.dumps(asdict(counts)), encoding="utf-8")
            partial.replace(self.folder / f"{self.task:05d}.json")


@dataclass(frozen=True)
class _Counts:
    """What a tally leaves for the command."""

    pid: int
    documents: int
    tokens: int
    text_bytes: int
    input_bytes: int
    num_bad_lines: int
    bad_lines: list[str]
    is_done: bool


class Progress:
    """Progress of this command's tasks, read from their tallies.

    Args:
        folder: Where the tallies are left.
        tasks: Tasks of the whole job.
        done_tasks: Tasks that an earlier command has done.
        total_bytes: Stored bytes of all input files.
        done_bytes: Those among them that the done tasks have read.
        interval: Seconds between lines.
        console: Where lines go; the process's stderr where unset.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tasks: int,
        done_tasks: int,
        total_bytes: int,
        done_bytes: int,
        interval: float,
        console: TextIO | None = None,
    ) -> None:
        self.folder = folder
        self.seconds = 0.0
        """How long the tasks have taken."""
        self._tasks = tasks
        self._done_tasks = done_tasks
        self._total_bytes = total_bytes
        self._done_bytes = done_bytes
        self._interval = interval
        self._console = console or sys.stderr
        self._counts: dict[str, _Counts] = {}
        self._warned: Counter[str] = Counter()
        self._gone_since: dict[int, float] = {}
        self._lost: str | None = None
        self._over = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Print lines while the body runs.

        Raises:
            DataError: A worker process was lost.
        """
        started = time.monotonic()
        thread = threading.Thread(target=self._watch, args=(started,), name="progress", daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            if self._lost is None:
                raise
            raise DataError(
                f"{self._lost}; was it killed, for want of memory perhaps? Run the same command again to continue, "
                "with fewer workers if it was memory"
            ) from None
        finally:
            self._over.set()
            thread.join()
            self._read_tallies()
            self._warn()
            self.seconds = time.monotonic() - started

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of text packed by this command."""
        return sum(each.text_bytes for each in self._counts.values())

    @property
    def tokens(self) -> int:
        """Tokens packed by this command."""
        return sum(each.tokens for each in self._counts.values())

    def _watch(self, started: float) -> None:
        printed = started
        while not self._over.wait(min(_POLL_SECONDS, self._interval)):
            self._read_tallies()
            self._warn()
            self._look_for_lost_workers()
            if time.monotonic() - printed >= self._interval:
                printed = time.monotonic()
                self._print(self._line(printed - started))

    def _read_tallies(self) -> None:
        for file in self.folder.glob("*.json"):
            if not (known := self._counts.get(file.stem)) or not known.is_done:
                try:
                    self._counts[file.stem] = _Counts(**json.loads(file.read_bytes()))
                except (OSError, ValueError):
                    continue  # it will be there the next time

    def _warn(self) -> None:
        for name, counts in sorted(self._counts.items()):
            for bad_line in counts.bad_lines[self._warned[name] :]:
                self._print(f"warning: left out {bad_line}")
            self._warned[name] = max(self._warned[name], len(counts.bad_lines))
            if counts.num_bad_lines > self._warned[name] == _MAX_SHOWN_BAD_LINES:
                self._warned[name] += 1
                self._print(f"warning: more bad lines in task {int(name)} are only counted and recorded")

    def _look_for_lost_workers(self) -> None:
        now = time.monotonic()
        for name, counts in self._counts.items():
            if counts.is_done or _is_running(counts.pid):
                continue
            gone_since = self._gone_since.setdefault(counts.pid, now)
            if now - gone_since > _LOST_SECONDS and self._lost is None and not self._over.is_set():
                self._lost = f"the worker process {counts.pid} of task {int(name)} has ended without a word"
                os.kill(os.getpid(), signal.SIGINT)  # the one way to wake the main thread from its wait

    def _line(self, seconds: float) -> str:
        read = sum(each.input_bytes for each in self._counts.values())
        documents = sum(each.documents for each in self._counts.values())
        done_tasks = self._done_tasks + sum(each.is_done for each in self._counts.values())
        remaining = self._total_bytes - self._done_bytes - read
        left = _as_clock(remaining * seconds / read) if read else "unknown"
        megabytes = f"{(self._done_bytes + read) / 1e6:,.1f} of {self._total_bytes / 1e6:,.1f} MB read"
        return (
            f"{documents:,} documents | {megabytes}"
            f" | {self.tokens:,} tokens | {self.tokens / seconds:,.0f} tokens/s | {done_tasks} of {self._tasks} tasks"
            f" | time left: {left}"
        )

    def _print(self, line: str) -> None:
        print(line, file=self._console, flush=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _as_clock(seconds: float) -> str:
    minutes, seconds = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
