"""Stopping on a signal: one to any rank stops all of them after the same step.

SIGTERM comes from a scheduler that wants the machine back, SIGUSR1 from one that warns first (``sbatch
--signal=USR1@300``), SIGHUP from a terminal that was closed. Composer's launcher forwards a SIGTERM and kills its ranks
half a minute later; the others end the launcher at once, and its ranks then have all the time that they need.

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

from meap.data.ranks import neighbour_watch, require_neighbours
from meap.processes import SAME_REQUEST_SECONDS, leave_lost_terminal, stop_signals, wait_with_ranks

__all__ = ["NO_SIGNAL", "Agreement", "StopSignals"]

_TIMEOUT = timedelta(hours=4)
"""How long ranks wait for one that may be uploading a checkpoint."""
_SHARE_OF_TIMEOUT = 0.9

NO_SIGNAL = 0
"""Sent by a rank without a signal."""


class StopSignals:
    """Records the first signal to stop; a later one ends the process."""

    def __init__(self) -> None:
        self.received = NO_SIGNAL
        """Number of the signal."""
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Install the handlers; only in a process's main thread."""
        self._before = {each: signal.signal(each, self._handle) for each in stop_signals()}

    def release(self) -> None:
        """Restore the former handlers."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self._before = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_lost_terminal()
        now = time.monotonic()
        if self.received == NO_SIGNAL:
            self.received, self._since = number, now
        elif now - self._since > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class Agreement:
    """Shares a number of any rank with all ranks at the same step, without syncing with a device or each other.

    Each step starts a reduction of one number over the CPUs and reads that of the step before, so that every rank sees
    the same number one step later.

    Args:
        step_timeout: Seconds that ranks may be apart.
    """

    def __init__(self, step_timeout: float = _TIMEOUT.total_seconds()) -> None:
        # Before the device's own time-out, which on GPUs ends the process without a word from here.
        self._step_timeout = min(_TIMEOUT, timedelta(seconds=_SHARE_OF_TIMEOUT * step_timeout))
        self.group: Any = None
        """A process group of all ranks over CPUs; None if there is one rank."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            self.group = wait_with_ranks(
                lambda: torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT), look=require_neighbours
            )
        self._told = torch.zeros((), dtype=torch.int64)
        self._work: Any = None

    def exchange(self, mine: int) -> int:
        """Send `mine`; returns the largest number sent in the previous call (with one rank, in this one)."""
        if self.group is None:
            return mine
        heard = self._finish(self._step_timeout)
        self._told = torch.tensor(mine)
        self._work = torch.distributed.all_reduce(
            self._told, torch.distributed.ReduceOp.MAX, group=self.group, async_op=True
        )
        return heard

    def settle(self, mine: int) -> int:
        """The largest number that any rank sends now; waits for all of them, which may be uploading."""
        self.exchange(mine)
        if self.group is None:
            return mine
        return wait_with_ranks(lambda: self._finish(_TIMEOUT), look=neighbour_watch())

    def _finish(self, timeout: timedelta) -> int:
        if self._work is not None:
            self._work.wait(timeout)
            self._work = None
        return int(self._told)
