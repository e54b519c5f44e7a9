"""Communication between the ranks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import distributed

__all__ = ["gather_from_ranks"]

T = TypeVar("T")


def gather_from_ranks(own: T) -> Sequence[T]:
    """Gather a value from every rank, in order of rank; a single process gets its own."""
    if not distributed.is_available() or not distributed.is_initialized():
        return [own]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, own)
    return everyone
