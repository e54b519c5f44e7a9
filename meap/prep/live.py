"""The command's side of progress: one view of the whole job, live in a terminal and as lines elsewhere.

A thread of the command reads the progress that the tasks store.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from meap.places.folder import Folder
from meap.prep.progress import MAX_SHOWN_BAD_LINES, Counts, Totals, clear_counts, read_counts
from meap.prep.view import Snapshot, position_of
from meap.show.progress import Display

__all__ = ["Progress"]

_WINDOW_SECONDS = 60.0
"""Speeds are over the last minute: a job may wait in a queue for hours before it runs."""


class Progress:
    """Progress of the tasks that are not completed yet, read from their tallies.

    Args:
        folder: Where the tasks store their progress.
        tasks: Tasks of the whole job.
        completed: Those that an earlier command has done.
        total_bytes: Stored bytes of all input files.
        done_bytes: Those among them that the completed tasks have read.
        interval: Seconds between lines if there is no terminal.
        poll_seconds: Seconds between reads of the stored progress.
        title: Of the panel in a terminal.
        console: Where it is shown. Unset: the process's stderr.
    """

    def __init__(
        self,
        folder: Path | Folder,
        *,
        tasks: int,
        completed: frozenset[int],
        total_bytes: int,
        done_bytes: int,
        interval: float,
        poll_seconds: float = 0.5,
        title: str = "",
        console: TextIO | None = None,
    ) -> None:
        self.folder = folder
        self.seconds = 0.0
        """How long the tasks have taken."""
        self.note = ""
        """A line from the executor."""
        self.announces_failures = False
        """Whether a failed task is reported at once: if the others continue, its error comes much later."""
        self.announces_bad_lines = True
        """Whether bad lines are reported: each once, although a corpus may be read several times."""
        self._tasks = tasks
        self._completed = completed
        self._total_bytes = total_bytes
        self._done_bytes = done_bytes
        self._poll_seconds = min(poll_seconds, interval)
        self._display = Display(interval=interval, title=title, file=console)
        self._counts: dict[int, Counts] = {}
        """Of the tasks that are not done."""
        self._over_tasks = set(completed)
        """Tasks whose progress is not read any more: a poll costs what the running tasks cost, not all of them."""
        self._done = Totals()
        """Of the tasks that this command has done."""
        self._history: deque[tuple[float, int, int]] = deque()
        """Time, bytes read, tokens."""
        self._warned: Counter[int] = Counter()
        self._announced: set[int] = set()
        self._is_shown = False
        self._over = threading.Event()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show it while the body runs."""
        started = time.monotonic()
        self._read_tallies()
        with self._display:
            thread = threading.Thread(target=self._watch, name="progress", daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._over.set()
                thread.join()
                self._read_tallies()
                self._warn()
                if self._display.is_live:
                    self._display.show(position_of(self._snapshot()), now=True)
                self.seconds = time.monotonic() - started

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of text packed by this command's tasks."""
        return self._totals.text_bytes

    @property
    def tokens(self) -> int:
        """Tokens packed by this command's tasks."""
        return self._totals.tokens

    def clear(self) -> None:
        """Remove the progress of an earlier command."""
        clear_counts(self.folder)
        self._counts.clear()
        self._over_tasks, self._done = set(self._completed), Totals()

    def failures(self) -> dict[int, tuple[str, str]]:
        """Host and error of each task that reported a failure."""
        counts = read_counts(self.folder, but=self._completed)
        return {task: (each.host, each.failure) for task, each in counts.items() if each.failure is not None}

    def say(self, line: str) -> None:
        """Print a line above the progress."""
        self._display.say(line)

    def _watch(self) -> None:
        while not self._over.wait(self._poll_seconds):
            self._read_tallies()
            self._warn()
            self._display.show(position_of(self._snapshot()), now=not self._is_shown)
            self._is_shown = True

    def _read_tallies(self) -> None:
        self._counts |= read_counts(self.folder, but=self._over_tasks)
        now, totals = time.monotonic(), self._totals
        self._history.append((now, totals.input_bytes, totals.tokens))
        while now - self._history[0][0] > _WINDOW_SECONDS:
            self._history.popleft()

    def _warn(self) -> None:
        for task, counts in sorted(self._counts.items()):
            if self.announces_bad_lines:
                self._warn_of_bad_lines(task, counts)
            if self.announces_failures and counts.failure is not None and task not in self._announced:
                self._announced.add(task)
                self.say(f"warning: task {task} failed on {counts.host}, the others continue: {counts.failure}")
            if counts.is_done:
                self._done.add(self._counts.pop(task))
                self._over_tasks.add(task)

    def _warn_of_bad_lines(self, task: int, counts: Counts) -> None:
        for bad_line in counts.bad_lines[self._warned[task] :]:
            self.say(f"warning: left out {bad_line}")
        self._warned[task] = max(self._warned[task], len(counts.bad_lines))
        if counts.num_bad_lines > self._warned[task] == MAX_SHOWN_BAD_LINES:
            self._warned[task] += 1
            self.say(f"warning: more bad lines in task {task} are only counted and recorded")

    @property
    def _totals(self) -> Totals:
        totals = replace(self._done)
        for counts in self._counts.values():
            totals.add(counts)
        return totals

    def _snapshot(self) -> Snapshot:
        counts, totals = self._counts.values(), self._totals
        (before, read_before, tokens_before), (now, read, tokens) = self._history[0], self._history[-1]
        seconds = max(now - before, 1e-9)
        remaining = self._total_bytes - self._done_bytes - read
        return Snapshot(
            documents=totals.documents,
            tokens=tokens,
            tokens_per_second=(tokens - tokens_before) / seconds,
            read_bytes=self._done_bytes + read,
            total_bytes=self._total_bytes,
            seconds_left=remaining * seconds / (read - read_before) if read > read_before else None,
            done_tasks=len(self._over_tasks) + sum(each.is_done for each in counts),
            tasks=self._tasks,
            workers=sum(not each.is_over for each in counts),
            bad_lines=totals.num_bad_lines,
            bad_bytes=totals.bad_bytes,
            failures=sum(each.failure is not None for each in counts),
            note=self.note,
        )
