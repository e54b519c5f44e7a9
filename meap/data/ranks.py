"""Communication between the ranks of a run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import distributed

from meap.errors import LostRankError
from meap.processes import neighbours, state_of, visible_processes

__all__ = [
    "gather_from_ranks",
    "limit_waits",
    "meet_neighbours",
    "neighbour_states",
    "neighbour_watch",
    "require_neighbours",
]

T = TypeVar("T")

_patience = math.inf


def gather_from_ranks(own: T) -> Sequence[T]:
    """Gather a value from every rank, in order of rank; a single process gets its own."""
    if not distributed.is_available() or not distributed.is_initialized():
        return [own]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, own)
    return everyone


def meet_neighbours() -> None:
    """Learn which processes the ranks of this machine are; every rank calls it at once."""
    everyone = gather_from_ranks((visible_processes(), os.getpid()))
    neighbours.clear()
    neighbours.update(
        (rank, pid) for rank, (where, pid) in enumerate(everyone) if where == visible_processes() and pid != os.getpid()
    )


def limit_waits(seconds: float) -> None:
    """Say how long ranks of one machine wait for each other where nothing else limits it."""
    global _patience  # noqa: PLW0603
    _patience = seconds


def neighbour_watch() -> Callable[[], None]:
    """A look at the other ranks of this machine, for waits for work that may take long.

    Called again and again, it raises `LostRankError` where one has ended, or was stopped for all the time that
    `limit_waits` allows.
    """
    stopped_at: float | None = None

    def look() -> None:
        nonlocal stopped_at
        is_stopped = "stopped" in neighbour_states().values()
        stopped_at = (stopped_at or time.monotonic()) if is_stopped else None
        require_neighbours(time.monotonic() - stopped_at if stopped_at else 0.0)

    return look


def neighbour_states() -> dict[int, str]:
    """What the other ranks of this machine do, by rank, see `meap.processes.state_of`."""
    return {rank: state_of(pid) for rank, pid in neighbours.items()}


def require_neighbours(waited: float = 0.0) -> None:
    """Raise `LostRankError` if a rank of this machine has ended, or after too long a wait; also in loader workers.

    Args:
        waited: Seconds so far.
    """
    rank, states = os.environ.get("RANK", "0"), neighbour_states()
    if ended := [str(other) for other, state in states.items() if state == "ended"]:
        raise LostRankError(
            f"rank {rank} waited for {'rank' if len(ended) == 1 else 'ranks'} {', '.join(ended)}, which ended: the "
            "reason is among the messages of that rank"
        )
    if waited > _patience:
        still = " and ".join(f"rank {other} is stopped" for other, state in states.items() if state == "stopped")
        raise LostRankError(
            f"rank {rank} waited in vain for another rank of this machine ({still or 'all of them run'}; "
            f"train.dist_timeout={_patience:g}): see what keeps it, and run the same command again"
        )
