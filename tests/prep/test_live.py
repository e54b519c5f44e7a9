"""What a user sees of a job: a panel in a terminal, lines elsewhere, and numbers that are of now."""

import io
import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from meap.places.folder import Folder
from meap.prep.live import Progress
from meap.prep.progress import BadLine, Tally, read_counts
from meap.prep.view import Snapshot, position_of

SNAPSHOT = Snapshot(
    documents=1_234_567,
    tokens=987_654_321,
    tokens_per_second=1_500_000.4,
    read_bytes=1_500_000_000,
    total_bytes=6_000_000_000,
    seconds_left=3_725.0,
    done_tasks=5,
    tasks=24,
    workers=8,
    bad_lines=0,
    bad_bytes=000,
    failures=0,
)


def tally_of(folder: Path | Folder, task: int, *, tokens: int, input_bytes: int) -> Tally:
    tally = Tally(folder)
    tally.start(task)
    tally.documents["train"], tally.tokens["train"], tally.input_bytes = 10, tokens, input_bytes
    tally.report(now=True)
    return tally


@contextmanager
def terminal() -> Iterator[tuple[io.TextIOWrapper, bytearray]]:
    """A real terminal, and what is shown on it."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 65536))
            except OSError:  # the other side is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as console:
        yield console, shown
    reader.join(30)
    os.close(ours)


def make_progress(folder: Path | Folder, console, **changed) -> Progress:
    given_keys = {"tasks": 4, "completed": frozenset({0}), "total_bytes": 100_000_000, "done_bytes": 25_000_000}
    return Progress(folder, console=console, **given_keys | {"interval": 0.01, "title": "preparing out"} | changed)


def test_a_line_and_a_bar_tell_the_same():
    position = position_of(SNAPSHOT)
    assert position.line == (
        "1,234,567 documents | 1.5 GB of 6.0 GB read | 987,654,321 tokens | 1,500,000 tokens/s | 5 of 24 tasks | "
        "time left: 1:02:05 | 8 running"
    )
    assert (position.done / position.total, position.left) == (0.25, "time left 1:02:05")
    below = " ".join(text for text, _ in position.details)
    for part in position.line.split(" | "):
        assert part in f"{below} {position.left.replace('left', 'left:')}"
    troubled = position_of(
        replace(SNAPSHOT, bad_lines=3, bad_bytes=300, failures=2, seconds_left=None, note="Slurm job 7: 8 running")
    )
    assert troubled.line.endswith(
        "unknown | 8 running | bad lines: 3 (300 B) | failed tasks: 2 | Slurm job 7: 8 running"
    )
    assert ("bad lines: 3 (300 B)   failed tasks: 2", "bold red") in troubled.details
    assert ("Slurm job 7: 8 running", "dim") in troubled.details


def test_in_a_terminal_there_is_one_panel_with_the_warnings_above(tmp_path):
    with terminal() as (console, shown):
        progress = make_progress(tmp_path, console)
        progress.announces_failures = True
        with progress.shown():
            tally = tally_of(tmp_path, 1, tokens=50_000, input_bytes=25_000_000)
            tally.add_bad_line(BadLine("a.json", 7, "not [bold]valid[/bold] JSON"))
            tally.finish()
            tally_of(tmp_path, 2, tokens=1_000, input_bytes=0).fail("no luck")
    text = shown.decode()
    assert "warning: left out a.json:7: not [bold]valid[/bold] JSON" in text
    assert "warning: task 2 failed on " in text
    assert text.count("warning: ") == 2
    last = text[text.rindex("preparing out") :]
    assert " 50%" in last
    assert "50.0 MB of 100.0 MB read   2 of 4 tasks done   0 running" in last
    assert "bad lines: 1   failed tasks: 1" in last
    assert "\x1b[?25h" in last, "the cursor is back"


def test_tallies_of_tasks_that_an_earlier_command_did_are_not_counted_again(tmp_path):
    tally_of(tmp_path, 0, tokens=7_000, input_bytes=25_000_000).finish()
    tally_of(tmp_path, 3, tokens=500, input_bytes=1_000_000)
    progress = make_progress(tmp_path, io.StringIO(), interval=600)
    with progress.shown():
        assert progress.tokens == 500
        tally_of(tmp_path, 3, tokens=900, input_bytes=2_000_000)
    assert progress.tokens == 900
    assert progress.failures() == {}
    progress.clear()
    assert progress.tokens == 0
    assert not list(tmp_path.iterdir())


def test_tallies_go_through_any_folder():
    """As on s3://."""
    folder = Folder("memory://bucket/mds/.prep/tallies")
    assert read_counts(folder, but=frozenset()) == {}
    tally = tally_of(folder, 2, tokens=500, input_bytes=5)
    tally.interval = 3600.0
    tally.tokens["train"] = 600
    tally.report()
    assert read_counts(folder, but=frozenset())[2].tokens == 500
    tally.fail("why")
    counts = read_counts(folder, but=frozenset())[2]
    assert (counts.tokens, counts.failure, counts.is_over, counts.pid) == (600, "why", True, os.getpid())
    assert read_counts(folder, but=frozenset({2})) == {}
    make_progress(folder, io.StringIO()).clear()
    assert read_counts(folder, but=frozenset()) == {}
