"""Waits of streaming's processes for each other, which end where one of them has ended.

streaming 0.13 waits without an end for others: in its barrier, for a shard that another process fetches, and for locks.
All this is outside of torch's collectives, so that no time-out of theirs applies.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from filelock import FileLock, Timeout
from streaming import StreamingDataset
from streaming.base.shared import SharedBarrier

from meap.data.ranks import neighbour_watch, require_neighbours
from meap.errors import LostRankError

__all__ = ["WatchedBarrier", "WatchedLock", "watched"]

_SECONDS = 0.5
"""Between looks at the other ranks."""


class _Watch(threading.local):
    look: Callable[[], None] | None = None
    has_lost = False
    looked = 0.0


_watch = _Watch()


@contextmanager
def watched(*, is_limited: bool = False) -> Iterator[None]:
    """Within, waits of streaming on this thread raise `LostRankError` if a rank of this machine has ended.

    Args:
        is_limited: Whether they also raise after too long, and not only after one was stopped for as long: what others
            fetch may take as long as it takes.
    """
    began, before = time.monotonic(), _watch.look
    _watch.look = (lambda: require_neighbours(time.monotonic() - began)) if is_limited else neighbour_watch()
    _watch.looked, _watch.has_lost = began, False
    try:
        yield
    finally:
        _watch.look = before


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
    now = time.monotonic()
    if _watch.look is not None and now - _watch.looked > _SECONDS:
        _watch.looked = now
        try:
            _watch.look()
        except LostRankError:
            if _watch.has_lost:
                raise
            _watch.has_lost = True  # this process may have stood still itself, and the wait be over


class WatchedLock(FileLock):
    """As filelock's; raises `LostRankError` within `watched`, where one that stands still may hold it."""

    def acquire(self, *given: Any, **named: Any) -> Any:
        """Wait for the lock, or as long as the arguments say."""
        while _watch.look is not None and not (given or named):
            try:
                return super().acquire(timeout=_SECONDS)
            except Timeout:
                _sleep(0.0)
        return super().acquire(*given, **named)


for _waits in (SharedBarrier, StreamingDataset):
    _library: Any = sys.modules[_waits.__module__]
    _library.sleep, _library.FileLock = _sleep, WatchedLock


class WatchedBarrier(SharedBarrier):
    """As streaming's; raises `LostRankError` if a rank of this machine ends before all have come."""

    def __call__(self, num_procs: int) -> None:
        """Wait until `num_procs` processes have called it."""
        with watched(is_limited=True):
            super().__call__(num_procs)
