"""Runs shards in parallel, yields results in order, and shows progress."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self, TextIO, TypeVar

from meap.show.numbers import clock, size
from meap.show.progress import Display, Position

__all__ = ["ShardMeter", "in_order"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class ShardMeter:
    """Shows the progress over shards, inside a `with` statement.

    Args:
        shards: How many there are.
        total_bytes: Their stored bytes.
        console: Where it is shown. Unset: the process's stderr.
    """

    def __init__(self, shards: int, total_bytes: int, *, console: TextIO | None = None) -> None:
        self.shards = shards
        self.total_bytes = total_bytes
        self.done_shards = 0
        self.done_bytes = 0
        self.seconds = 0.0
        """From the beginning to the shard counted last."""
        self._display = Display(file=console)

    def __enter__(self) -> Self:
        self._display.start()
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()

    def add(self, num_bytes: int) -> None:
        """Count a shard."""
        self.done_shards += 1
        self.done_bytes += num_bytes
        self.seconds = time.monotonic() - self._started
        if self.done_shards < self.shards or self._display.is_live:
            self._display.show(self.position(), now=self.done_shards == self.shards)

    def position(self) -> Position:
        """The progress at present."""
        speed = self.done_bytes / max(self.seconds, 1e-9)
        left = clock((self.total_bytes - self.done_bytes) / speed) if speed else "unknown"
        shards = f"{self.done_shards:,} of {self.shards:,} shards"
        read = f"{size(self.done_bytes)} of {size(self.total_bytes)}"
        speed_now = f"{size(speed)}/s"
        line = f"{shards} | {read} | {speed_now} | time left: {left}"
        details = ((f"{shards}   {read}   {speed_now}", ""),)
        return Position(self.done_bytes, self.total_bytes, line, left=f"time left {left}", details=details)


def in_order(function: Callable[[ItemT], ResultT], items: Sequence[ItemT], workers: int) -> Iterator[ResultT]:
    """Results of `function` for each of `items`, in their order, with at most `workers` running or done ahead.

    Threads suffice: hashing, decompression, numpy and waiting for a network release the interpreter's lock.
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
