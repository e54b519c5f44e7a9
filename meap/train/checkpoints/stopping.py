"""Stopping on a signal: one to any rank stops all of them after the same step.

SIGTERM comes from a scheduler that wants the machine back, SIGUSR1 from one that warns first (``sbatch
--signal=USR1@300``), SIGHUP from a terminal that was closed. Composer's launcher forwards a SIGTERM and kills its ranks
half a minute later; the others end the launcher at once, and its ranks then have all the time that they need.

A step without its rows, as where their store cannot be reached, does not end in time. The run then ends without one
more checkpoint, as one to resume; the other ranks learn it as they learn of any rank that ends so.

A launcher and its ranks often get the same signal, and some launchers repeat it to their ranks: what comes soon after
the first is the same request. A later one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed

from meap.data.ranks import neighbour_watch, require_neighbours
from meap.processes import (
    SAME_REQUEST_SECONDS,
    leave_lost_terminal,
    raise_stop_request,
    stop_signals,
    wait_with_ranks,
)

__all__ = ["NO_SIGNAL", "Agreement", "StopSignals", "waiting_for_rows"]

_TIMEOUT = timedelta(hours=4)
"""How long ranks wait for one that may be uploading a checkpoint."""
_SHARE_OF_TIMEOUT = 0.9

_SECONDS_FOR_ROWS: dict[int, float] = {signal.SIGTERM: 10.0}
"""How long a step may wait for its rows once the run was asked to stop: Composer's launcher allows half a minute."""
_SECONDS_FOR_ROWS_AT_MOST = 120.0
"""After other signals; a healthy epoch of many rows may take a minute to begin."""
_TICK = 2.0
_waits_since: float | None = None

NO_SIGNAL = 0
"""Sent by a rank without a signal."""


@contextmanager
def waiting_for_rows() -> Iterator[None]:
    """Within, the main thread waits for the rows of a step, which a request to stop does not wait for."""
    global _waits_since  # noqa: PLW0603
    _waits_since = time.monotonic()
    try:
        yield
    finally:
        _waits_since = None


class StopSignals:
    """Records the first signal to stop; a later one ends the process."""

    def __init__(self) -> None:
        self.received = NO_SIGNAL
        """Number of the signal."""
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}
        self._is_reminder = False

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
            threading.Thread(target=self._remind, name="reminder", daemon=True).start()
        elif self._is_reminder:
            self._is_reminder = False
            if _waits_since is not None:
                waited, name = now - _waits_since, signal.Signals(number).name
                told = f"{name}: no rows have come for {waited:.0f} s: steps since the last checkpoint are not saved"
                with suppress(OSError, RuntimeError):  # nobody may read it, or its disk be full; or this be a print
                    print(told, file=sys.stderr, flush=True)
                raise_stop_request(number)
        elif now - self._since > SAME_REQUEST_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _remind(self) -> None:
        """Have the main thread look up, wherever it is, once it has waited for too long."""
        while self._before:
            time.sleep(_TICK)
            since, most = _waits_since, _SECONDS_FOR_ROWS.get(self.received, _SECONDS_FOR_ROWS_AT_MOST)
            if since is not None and time.monotonic() - max(since, self._since) > most and self._before:
                self._is_reminder = True
                os.kill(os.getpid(), self.received)


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
