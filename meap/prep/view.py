"""The progress of a job, as a log line and for a terminal: pure functions of a `Snapshot`."""

from __future__ import annotations

from dataclasses import dataclass

from meap.show.numbers import clock, size
from meap.show.progress import Position

__all__ = ["Snapshot", "position_of"]


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment; counts are of this command's tasks unless said otherwise."""

    documents: int
    tokens: int
    tokens_per_second: float
    """Over the last minute."""
    read_bytes: int
    """Stored bytes read by all commands."""
    total_bytes: int
    """Stored bytes of all input files."""
    seconds_left: float | None
    """At the speed of the last minute; None if nothing was read in it."""
    done_tasks: int
    """Tasks done by all commands."""
    tasks: int
    """Tasks of the whole job."""
    workers: int
    """Tasks that run now."""
    bad_lines: int
    bad_bytes: int
    """Their size, decompressed."""
    failures: int
    note: str = ""
    """A line from the executor."""

    @property
    def read(self) -> str:
        """What was read, of how much."""
        return f"{size(self.read_bytes)} of {size(self.total_bytes)} read"

    @property
    def troubles(self) -> list[str]:
        """What may need attention."""
        num_bytes = f" ({size(self.bad_bytes)})" if self.bad_bytes else ""
        bad = f"bad lines: {self.bad_lines:,}{num_bytes}" if self.bad_lines else ""
        failed = f"failed tasks: {self.failures:,}" if self.failures else ""
        return list(filter(None, [bad, failed]))


def position_of(snapshot: Snapshot) -> Position:
    """The snapshot as it is shown."""
    documents = f"{snapshot.documents:,} documents"
    tokens, speed = f"{snapshot.tokens:,} tokens", f"{snapshot.tokens_per_second:,.0f} tokens/s"
    tasks, workers = f"{snapshot.done_tasks:,} of {snapshot.tasks:,} tasks", f"{snapshot.workers:,} running"
    time_left = "unknown" if snapshot.seconds_left is None else clock(snapshot.seconds_left)
    line = [documents, snapshot.read, tokens, speed, tasks, f"time left: {time_left}", workers]
    return Position(
        done=min(snapshot.read_bytes, snapshot.total_bytes),
        total=max(1, snapshot.total_bytes),
        line=" | ".join([*line, *snapshot.troubles, *filter(None, [snapshot.note])]),
        left=f"time left {time_left}",
        details=(
            (f"{snapshot.read}   {tasks} done   {workers}", ""),
            (f"{documents}   {tokens}   {speed}", ""),
            ("   ".join(snapshot.troubles), "bold red" if snapshot.failures else "yellow"),
            (snapshot.note, "dim"),
        ),
    )
