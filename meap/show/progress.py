"""Shows progress: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TextIO

from meap.extras import require_packages
from meap.show.numbers import clock

__all__ = ["Display", "Position", "counting", "is_terminal"]

_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class Position:
    """Progress, for the bar and for the plain line."""

    done: float
    total: float | None
    """`None`: not known; the bar pulses."""
    line: str
    """The whole message, for a log."""
    head: str = ""
    """Before the bar."""
    left: str = ""
    """After the bar: the time left."""
    details: Sequence[tuple[str, str]] = ()
    """Lines below the bar, each with a style such as `bold red`, or none."""


class Display:
    """Draws a bar where `file` is a terminal; elsewhere prints a line every `interval` seconds.

    Use it in a `with` statement, or call `start` and `stop`: they hide the cursor and give it back. What other code
    prints meanwhile scrolls above the bar.

    Args:
        interval: Seconds between two lines.
        title: Frames the bar; no frame where empty.
        file: Where it is shown; the process's stderr where unset.
    """

    def __init__(self, *, interval: float = _LINE_SECONDS, title: str = "", file: TextIO | None = None) -> None:
        self._interval = interval
        self._title = title
        self._file = file or sys.stderr
        self._position = Position(0, None, "")
        self._live: Any = None
        self._shown = time.monotonic()

    @property
    def is_live(self) -> bool:
        """Whether there is a bar now."""
        return self._live is not None

    def start(self) -> None:
        """Show the bar, where `file` is a terminal."""
        self._shown = time.monotonic()
        if not is_terminal(self._file):
            return
        require_packages("a progress bar", "rich", extra="train")
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._file)
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._render)
        self._live.start()

    def stop(self) -> None:
        """Stop drawing; the bar stays as it is. May be called twice."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def show(self, position: Position, *, now: bool = False) -> None:
        """Take note of the position, and show it if the last one is old enough.

        Args:
            position: How far it is.
            now: Whether to show it at once.
        """
        self._position = position
        since = time.monotonic() - self._shown
        if not now and since < (_REDRAW_SECONDS if self.is_live else self._interval):
            return
        self._shown = time.monotonic()
        if self._live is not None:
            self._live.refresh()
        else:
            print(position.line, file=self._file, flush=True)

    def say(self, line: str) -> None:
        """Print a line of its own, above the bar."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self._file, flush=True)

    def _render(self) -> Any:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        from rich.text import Text

        at = self._position
        columns = (
            *([TextColumn("{task.description}", markup=False)] if at.head else []),
            BarColumn(bar_width=None),
            *([TaskProgressColumn()] if at.total else []),
            *([TextColumn("{task.fields[left]}", markup=False)] if at.left else []),
        )
        bar = Progress(*columns, auto_refresh=False, expand=True)
        bar.add_task(at.head, total=at.total, completed=int(at.done), left=at.left)
        below = [Text(text, style=style) for text, style in at.details if text]
        group = Group(bar.get_renderable(), *below)
        return Panel(group, title=Text(self._title), title_align="left") if self._title else group


@contextmanager
def counting(
    name: str, unit: str = "tokens", *, interval: float = _LINE_SECONDS, file: TextIO | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Yields what takes how many units are done, and how many there are; shows them, and the last of them always.

    Args:
        name: What is counted, at the beginning of a line.
        unit: Of what is counted.
        interval: Seconds between two lines.
        file: Where it is shown; the process's stdout where unset.
    """
    started = time.monotonic()

    def show(done: int, total: int) -> None:
        took = time.monotonic() - started
        left = clock(took / max(1, done) * (total - done))
        line = f"{name:<14} {done:>11,}/{total:,} {unit} | {clock(took)} so far, {left} left"
        position = Position(done, total, line, head=name, left=f"{done:,}/{total:,} {unit}, {left} left")
        display.show(position, now=done >= total)

    with Display(interval=interval, file=file or sys.stdout) as display:
        yield show


def is_terminal(file: TextIO) -> bool:
    """Whether `file` shows a bar that moves."""
    return file.isatty() and os.environ.get("TERM") != "dumb"
