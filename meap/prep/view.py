"""Where a job stands, as one line of text or as a panel for a terminal: pure functions of a `Snapshot`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.panel import Panel

__all__ = ["Snapshot", "as_line", "as_panel"]


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment; counts are of this command's tasks unless said otherwise."""

    documents: int
    tokens: int
    tokens_per_second: float
    """Of late."""
    read_bytes: int
    """Stored bytes read by all commands."""
    total_bytes: int
    """Stored bytes of all input files."""
    seconds_left: float | None
    """At the speed of late; None where nothing was read of late."""
    done_tasks: int
    """Tasks done by all commands."""
    tasks: int
    """Tasks of the whole job."""
    workers: int
    """Tasks at work."""
    bad_lines: int
    failures: int
    note: str = ""
    """What the executor has to say."""

    @property
    def megabytes(self) -> str:
        """What was read, of how much."""
        return f"{self.read_bytes / 1e6:,.1f} of {self.total_bytes / 1e6:,.1f} MB read"

    @property
    def time_left(self) -> str:
        """Hours, minutes and seconds."""
        if self.seconds_left is None:
            return "unknown"
        minutes, seconds = divmod(int(max(0.0, self.seconds_left)), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}"

    @property
    def troubles(self) -> list[str]:
        """What a user may have to look at; empty where there is nothing."""
        counts = {"bad lines": self.bad_lines, "failed tasks": self.failures}
        return [f"{name}: {count:,}" for name, count in counts.items() if count]


def as_line(snapshot: Snapshot) -> str:
    """The snapshot for a log file."""
    parts = [
        f"{snapshot.documents:,} documents",
        snapshot.megabytes,
        f"{snapshot.tokens:,} tokens",
        f"{snapshot.tokens_per_second:,.0f} tokens/s",
        f"{snapshot.done_tasks:,} of {snapshot.tasks:,} tasks",
        f"time left: {snapshot.time_left}",
        f"{snapshot.workers:,} at work",
        *snapshot.troubles,
        *([snapshot.note] if snapshot.note else []),
    ]
    return " | ".join(parts)


def as_panel(snapshot: Snapshot, title: str) -> Panel:
    """The snapshot for a terminal."""
    from rich.panel import Panel  # not needed where there is no terminal
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    share = snapshot.read_bytes / snapshot.total_bytes if snapshot.total_bytes else 0.0
    speed = f"{snapshot.tokens_per_second:,.0f} tokens/s"
    lines = [
        Text(f"{share:6.1%}   {snapshot.megabytes}   time left {snapshot.time_left}"),
        Text(f"{snapshot.documents:,} documents   {snapshot.tokens:,} tokens   {speed}"),
        Text(f"{snapshot.done_tasks:,} of {snapshot.tasks:,} tasks done   {snapshot.workers:,} at work"),
    ]
    if snapshot.troubles:
        lines.append(Text("   ".join(snapshot.troubles), style="bold red" if snapshot.failures else "yellow"))
    if snapshot.note:
        lines.append(Text(snapshot.note, style="dim"))
    bar = ProgressBar(total=max(1, snapshot.total_bytes), completed=min(snapshot.read_bytes, snapshot.total_bytes))
    rows = Table.grid()
    for each in (bar, *lines):
        rows.add_row(each)
    return Panel(rows, title=Text(title), title_align="left")
