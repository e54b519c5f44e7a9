"""Ends the process from which workers are forked; multiprocess has no public name for it."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import multiprocess.forkserver

__all__ = ["end_server"]


def end_server() -> None:
    """End it at once: it would only see that this process is gone when its imports are done, seconds later."""
    pid = multiprocess.forkserver._forkserver._forkserver_pid
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
