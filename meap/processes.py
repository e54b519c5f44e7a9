"""Processes that end with those that started them, and loader workers that outlive a request to stop."""

from __future__ import annotations

import ctypes
import signal
import sys

__all__ = ["end_with_parent", "outlive_first_sigterm"]

_PR_SET_PDEATHSIG = 1


def end_with_parent(signal_number: int) -> None:
    """Let the kernel send this process a signal when the one that started it ends, however that was; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal_number)


def outlive_first_sigterm() -> None:
    """Ignore the first SIGTERM, and SIGUSR1: a group was told to stop, and its leader still needs this process.

    torch ends a worker with further SIGTERMs; a worker whose leader is gone finds that out by itself.
    """

    def obey_the_next(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, obey_the_next)
