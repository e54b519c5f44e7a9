"""Waits of streaming's processes for each other, which end where one of them has ended.

streaming 0.13 waits without an end, and outside of torch's collectives, so that no time-out of theirs applies.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from streaming.base.shared import SharedBarrier

from meap.data.ranks import require_neighbours

__all__ = ["WatchedBarrier"]

_SECONDS = 0.5
"""Between looks at the other ranks."""
_library: Any = sys.modules[SharedBarrier.__module__]


class WatchedBarrier(SharedBarrier):
    """As streaming's; raises `LostRankError` if a rank of this machine ends before all have come."""

    def __call__(self, num_procs: int) -> None:
        """Wait until `num_procs` processes have called it."""
        began = looked = time.monotonic()

        def sleep(seconds: float) -> None:
            nonlocal looked
            time.sleep(seconds)
            if (now := time.monotonic()) - looked > _SECONDS:
                looked = now
                require_neighbours(now - began)

        theirs, _library.sleep = _library.sleep, sleep
        try:
            super().__call__(num_procs)
        finally:
            _library.sleep = theirs
