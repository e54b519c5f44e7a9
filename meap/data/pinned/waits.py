"""Waits of streaming's processes for each other, which end where one of them has ended.

streaming 0.13 waits without an end for others: in its barrier, and for a shard that another process fetches. All this
is outside of torch's collectives, so that no time-out of theirs applies.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streaming import StreamingDataset
from streaming.base.shared import SharedBarrier

from meap.data.ranks import require_neighbours
from meap.errors import LostRankError

__all__ = ["WatchedBarrier", "watched"]

_SECONDS = 0.5
"""Between looks at the other ranks."""


class _Watch(threading.local):
    is_on = False
    has_lost = False
    began = math.inf
    looked = 0.0


_watch = _Watch()


@contextmanager
def watched(*, is_limited: bool = False) -> Iterator[None]:
    """Within, waits of streaming on this thread raise `LostRankError` if a rank of this machine has ended.

    Args:
        is_limited: Whether they also raise after too long; what others fetch may take as long as it takes.
    """
    now = time.monotonic()
    _watch.is_on, _watch.has_lost = True, False
    _watch.looked, _watch.began = now, now if is_limited else math.inf
    try:
        yield
    finally:
        _watch.is_on = False


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
    now = time.monotonic()
    if _watch.is_on and now - _watch.looked > _SECONDS:
        _watch.looked = now
        try:
            require_neighbours(now - _watch.began)
        except LostRankError:
            if _watch.has_lost:
                raise
            _watch.has_lost = True  # this process may have stood still itself, and the wait be over


for _waits in (SharedBarrier, StreamingDataset):
    _library: Any = sys.modules[_waits.__module__]
    _library.sleep = _sleep


class WatchedBarrier(SharedBarrier):
    """As streaming's; raises `LostRankError` if a rank of this machine ends before all have come."""

    def __call__(self, num_procs: int) -> None:
        """Wait until `num_procs` processes have called it."""
        with watched(is_limited=True):
            super().__call__(num_procs)
