"""Stopping on request: a signal to any rank lets all of them stop after the same step.

SIGTERM comes from a scheduler that wants the machine back, SIGUSR1 from one that warns first (``sbatch
--signal=USR1@300``). Composer's launcher hands a SIGTERM on and ends its ranks half a minute later; SIGUSR1 ends it at
once, and its ranks then have all the time that the scheduler leaves them.

A launcher and its ranks often get the same signal, and some launchers repeat it to their ranks: what comes soon after
the first is the same request. A later one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed

__all__ = ["NO_SIGNAL", "Agreement", "StopSignals"]

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SAME_REQUEST_SECONDS = 2.0
_TIMEOUT = timedelta(hours=4)
"""How long ranks wait for another, which may be uploading a checkpoint."""

NO_SIGNAL = 0
"""What a rank tells the others that has nothing to tell."""


class StopSignals:
    """Remembers the first signal that asks to stop, and ends the process at another one."""

    def __init__(self) -> None:
        self.received = NO_SIGNAL
        """Number of the signal."""
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take the signals over from whoever handles them; only in a process's main thread."""
        self._before = {each: signal.signal(each, self._handle) for each in _SIGNALS}

    def release(self) -> None:
        """Hand the signals back."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.received == NO_SIGNAL:
            self.received, self._since = number, now
        elif now - self._since > _SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class Agreement:
    """What one rank knows, all ranks learn at the same step, without waiting for a device or for each other.

    Each step starts a reduction of one number over the CPUs and reads that of the step before, so that every rank sees
    the same number one step later.
    """

    def __init__(self) -> None:
        self.group: Any = None
        """A group of all ranks that talks over the CPUs; None where there is one rank."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            self.group = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        self._told = torch.zeros((), dtype=torch.int64)
        self._work: Any = None

    def exchange(self, mine: int) -> int:
        """Tell the others `mine`; returns the largest number told at the call before (one rank: at this one)."""
        if self.group is None:
            return mine
        heard = self._finish()
        self._told = torch.tensor(mine)
        self._work = torch.distributed.all_reduce(
            self._told, torch.distributed.ReduceOp.MAX, group=self.group, async_op=True
        )
        return heard

    def settle(self, mine: int) -> int:
        """The largest number that any rank tells now; waits for all of them."""
        self.exchange(mine)
        return self._finish() if self.group is not None else mine

    def _finish(self) -> int:
        if self._work is not None:
            self._work.wait()
            self._work = None
        return int(self._told)
