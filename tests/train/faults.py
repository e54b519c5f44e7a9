"""Faults at a chosen place inside a rank: after so many calls of one of its functions, a signal.

{"point": "write", "call": 3, "signal": 9}                          a rank of its own
{"point": "update", "call": 5, "signal": 2, "whom": "session"}      and its loader workers, as Ctrl-C in a terminal
{"point": "update", "call": 5, "signal": 9, "whom": "worker"}       one of its loader workers alone
{"point": "load", "call": 1, "whom": "parts"}                       the files of a sharded checkpoint are gone
{"point": "joined", "call": 1, "whom": "files"}                     no signal: it may open no more from now on
{"point": "row", "call": 20, "whom": "rows"}                         no more come, and all ranks are asked to stop
{"point": "epoch", "call": 2, "whom": "shared memory"}              no signal: /dev/shm is full from now on
"""

import errno
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch
from composer.utils import dist

from meap.checkpoints import CheckpointStore
from meap.data import RowLoader, StreamingMaskedDataset
from meap.data.pinned.stream import CheckedStream
from meap.processes import neighbours
from meap.train import machine
from meap.train.checkpoints import publishing, saving, writing
from meap.train.checkpoints.stopping import Agreement
from meap.train.pinned import step

POINTS: dict[str, tuple[Any, str]] = {
    "join": (dist, "initialize_dist"),
    "joined": (machine, "open_line"),
    "load": (step, "_load"),
    "settle": (step, "_settle_buckets"),
    "connect": (torch.distributed, "new_group"),
    "workers": (RowLoader, "__iter__"),
    "shard": (CheckedStream, "prepare_shard"),
    "epoch": (StreamingMaskedDataset, "_get_work"),
    "row": (StreamingMaskedDataset, "__getitem__"),
    "forward": (torch.nn.Linear, "forward"),
    "backward": (torch.Tensor, "backward"),
    "update": (torch.optim.AdamW, "step"),
    "copy": (saving, "copy_state"),
    "write": (writing._HashingFile, "write"),
    "move": (publishing, "_move"),
    "publish": (CheckpointStore, "publish"),
    "prune": (CheckpointStore, "prune"),
    "settled": (Agreement, "settle"),
    "upload": (CheckpointStore, "_put"),
}
"""Where a run can be hit: before its first step, as loader workers start, while a shard is fetched, as an epoch begins,
in a step, while a checkpoint is copied, written and put into place, while it is uploaded, when all wait for that.
"""


def inject(fault: dict[str, Any]) -> None:
    """Let the fault happen in this process."""
    owner, name = POINTS[fault["point"]]
    function: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        is_step = getattr(
            next(iter(given), None), "training", True
        )  # not held-out loss, samples, or a trial before the start
        calls += is_step
        if is_step and calls == fault["call"]:
            _hit(fault.get("whom", "rank"), fault.get("signal", 0), named.get("path", next(iter(given), None)))
        return function(*given, **named)

    setattr(owner, name, counted)


def _hit(whom: str, number: int, owner: Any) -> None:
    if whom == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if whom == "shared memory":
        assert shutil.disk_usage("/dev/shm").total <= 1 << 24, "the machine's own would take all of its memory"
        # Ranks share it: one that emptied it would make room for another.
        with Path("/dev/shm/filler").open("ab", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(1 << 12))
    elif whom == "files":
        most = 1 + max(int(each.name) for each in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    elif whom == "rows":
        for pid in (*neighbours.values(), os.getpid()):
            os.kill(pid, signal.SIGTERM)
        time.sleep(600)
    elif whom == "memory":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    elif whom == "weights":
        with torch.no_grad():
            owner.weight.fill_(float("nan"))
    elif whom == "parts":
        for part in Path(owner).glob("__*"):
            part.unlink()
    elif whom == "session":
        os.killpg(os.getpgid(0), number)
    elif whom == "worker":
        own = psutil.Process()
        # Beside workers there may be torch's and Python's own trackers, which are other programs.
        next(each for each in own.children() if each.cmdline() == own.cmdline()).send_signal(number)
    else:
        os.kill(os.getpid(), number)
        if threading.current_thread() is not threading.main_thread():  # which gets the signal
            time.sleep(60)
