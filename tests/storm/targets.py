"""What is aimed at: the parts of a command, by what its probe has noted, and the moments after a record is there."""

import contextlib
import os
import re
from pathlib import Path


def hit(notes: Path, whom: str, number: int, *, own: int = 0) -> None:
    """Send a signal to a part of the command, as far as it is there."""
    leader = int((notes / "pid").read_text())
    ranks = [int(path.read_text()) for path in sorted(notes.glob("rank*.pid"))]
    with contextlib.suppress(ProcessLookupError):
        if whom == "group":
            os.killpg(leader, number)
        elif whom == "launcher":
            os.kill(leader, number)
        elif whom == "rank":
            os.kill(own if own in ranks else (ranks or [leader])[-1], number)
        else:
            for worker in workers_of(leader, ranks)[-1:]:
                os.kill(worker, number)


def workers_of(leader: int, ranks: list[int]) -> list[int]:
    import psutil

    found = []
    for each in psutil.Process(leader).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.pid not in ranks and "tracker" not in " ".join(each.cmdline()):
                found.append(each.pid)
    return found


def is_record(path: str) -> bool:
    """Whether a file vouches for others: a checkpoint, a task, shards, an export."""
    return re.search(r"(^|/)(ba\d+|\d{5}|index|manifest|meap_export)\.json$", path) is not None
