"""Runs that share a machine: the slow imports once, then a process forked for each run.

    TMPDIR=<empty folder> python neighbours.py <shards> <folder>

Prints one JSON line with what each scenario has found out.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from meap.config import DataConfig
from meap.data import build_loader, open_shards
from meap.errors import ConfigError
from meap.places import locks

SHARDS, FOLDER, TEMPORARY = sys.argv[1], Path(sys.argv[2]), Path(os.environ["TMPDIR"])


def open_loader(cache: Path, *, workers: int = 0) -> Any:
    data = DataConfig(remote=SHARDS, seq_len=16, num_canonical_nodes=4, num_workers=workers)
    shards = open_shards(data, "train")
    return build_loader(
        data, shards, rule=None, seed=17, global_batch_size=8, world_size=1, cache_dir=cache, shuffle=True
    )


def rows_of(loader: Any) -> list[int]:
    return [int(sample_id) for batch in loader for sample_id in batch["sample_id"]]


def fork(run: Callable[[], Any]) -> tuple[int, Any]:
    """Start `run` in a process of its own; its pid, and a file that will have one line with what it returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, os.fdopen(reader)
    os.close(reader)
    try:
        os.write(writer, (json.dumps(run()) + "\n").encode())
    except BaseException:  # noqa: BLE001 (the parent sees that there is no answer)
        traceback.print_exc()
    finally:
        os._exit(0)


def leftovers(number: str) -> set[str]:
    """What goes by a run's number: segments of shared memory, lock files, and the file that stands for the run."""
    paths = (path for place in (Path("/dev/shm"), TEMPORARY) for path in place.iterdir())
    return {str(path) for path in paths if path.name.startswith(number) or path.name.endswith(f"-{number}")}


def at_once() -> Any:
    """Six runs, let go together: what each of them read."""
    gate, opened = os.pipe()

    def run(number: int) -> Callable[[], list[int]]:
        def read() -> list[int]:
            os.close(opened)
            os.read(gate, 1)  # returns for all of them when the last writer has closed
            return rows_of(open_loader(FOLDER / str(number), workers=number % 2))

        return read

    answers = [fork(run(number))[1] for number in range(6)]
    os.close(opened)
    return [json.loads(answer.readline() or "null") for answer in answers]


def leave_nothing() -> Any:
    """What a killed run has left, and what of it the next one leaves."""

    def stay() -> None:
        next(iter(open_loader(FOLDER / "killed")))
        (number,) = (path.name.rpartition("-")[2] for path in TEMPORARY.glob("meap-streaming-*"))
        # Who is killed with his whole group takes Python's tracker with him, which would clean up.
        if tracker := resource_tracker._resource_tracker._pid:
            os.kill(tracker, signal.SIGKILL)
        os.write(ready, number.encode())
        signal.pause()

    started, ready = os.pipe()
    pid, _ = fork(stay)
    number = os.read(started, 16).decode()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    left = leftovers(number)
    _, answer = fork(lambda: rows_of(open_loader(FOLDER / "killed")))
    rows = json.loads(answer.readline() or "null")
    return {"left": sorted(left), "after": sorted(leftovers(number)), "rows": rows}


def one_cache() -> Any:
    """Two runs on one cache folder, and the second again when the first has been killed."""
    locks._SECONDS_TO_DIE = 0.2
    started, ready = os.pipe()

    def stay() -> None:
        open_loader(FOLDER / "cache")
        os.write(ready, b".")
        signal.pause()

    def try_it() -> Any:
        try:
            return rows_of(open_loader(FOLDER / "cache"))
        except ConfigError as error:
            return str(error)

    pid, _ = fork(stay)
    os.read(started, 1)
    refused = json.loads(fork(try_it)[1].readline())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {"holder": pid, "refused": refused, "rows": json.loads(fork(try_it)[1].readline())}


if __name__ == "__main__":
    print(json.dumps({scenario.__name__: scenario() for scenario in (leave_nothing, at_once, one_cache)}))
