"""The process from which workers are forked; multiprocess has no public name for it."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

import multiprocess.forkserver
import multiprocess.resource_tracker

from meap.processes import signals_wait

__all__ = ["end_server", "start_server"]


def start_server(preload: Sequence[str]) -> int:
    """Start it, unless it runs; the stop signals pass it by, its tracker of resources, and the workers.

    A signal to the process group is the command's to handle, which ends them when it has cleaned up.

    Args:
        preload: Modules that it imports.

    Returns:
        Its process id.
    """
    multiprocess.forkserver.set_forkserver_preload(list(preload))
    # A process inherits what is blocked, and keeps it. Starting the tracker unblocks SIGINT and SIGTERM.
    for start in (multiprocess.resource_tracker.ensure_running, multiprocess.forkserver.ensure_running):
        with signals_wait():
            start()
    atexit.unregister(end_server)
    atexit.register(end_server)
    pid = multiprocess.forkserver._forkserver._forkserver_pid
    assert pid is not None
    return pid


def end_server() -> None:
    """End it at once: it would only see that this process is gone when its imports are done, seconds later."""
    pid = multiprocess.forkserver._forkserver._forkserver_pid
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
