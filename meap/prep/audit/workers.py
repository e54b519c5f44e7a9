"""Shards in parallel, results in order, and a line now and then about how far they are."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TextIO, TypeVar

__all__ = ["ShardMeter", "in_order"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_LINE_SECONDS = 5.0


class ShardMeter:
    """Prints how far the shards are, every five seconds.

    Args:
        shards: How many there are.
        total_bytes: Their stored bytes.
        console: Where lines go; the process's stderr where unset.
    """

    def __init__(self, shards: int, total_bytes: int, *, console: TextIO | None = None) -> None:
        self.shards = shards
        self.total_bytes = total_bytes
        self.done_shards = 0
        self.done_bytes = 0
        self._console = console or sys.stderr
        self._started = time.monotonic()
        self._printed = self._started

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started

    def add(self, num_bytes: int) -> None:
        """Count a shard, and print a line if the last one is old enough."""
        self.done_shards += 1
        self.done_bytes += num_bytes
        now = time.monotonic()
        if now - self._printed >= _LINE_SECONDS and self.done_shards < self.shards:
            self._printed = now
            print(self.line(now - self._started), file=self._console, flush=True)

    def line(self, seconds: float) -> str:
        """How far they are after `seconds`."""
        speed = self.done_bytes / max(seconds, 1e-9)
        left = int((self.total_bytes - self.done_bytes) / speed) if speed else 0
        clock = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
        return (
            f"{self.done_shards:,} of {self.shards:,} shards | {self.done_bytes / 1e6:,.1f} of "
            f"{self.total_bytes / 1e6:,.1f} MB | {speed / 1e6:,.1f} MB/s | time left: {clock}"
        )


def in_order(function: Callable[[ItemT], ResultT], items: Sequence[ItemT], workers: int) -> Iterator[ResultT]:
    """Results of `function` for each of `items`, in their order, with at most `workers` of them at work or waiting.

    Threads suffice: hashing, decompression and arrays let go of the interpreter, and so does waiting for a network.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="shard")
    pending: deque[Future[ResultT]] = deque()
    try:
        for item in items:
            if len(pending) >= workers:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
