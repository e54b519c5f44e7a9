"""Hashes of a collection's items in bounded memory: all of them, or those that end in enough zero bits.

Choosing by hash keeps every copy of an item or none, so the share of copies among the kept items is an unbiased
estimate of the share among all (adaptive sampling, Wegman; Flajolet 1990). Items are compared by 64-bit hashes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_HASHES", "HashSample", "Repeats"]

MAX_HASHES = 1 << 20
"""Hashes held at most, 8 bytes each."""


@dataclass(frozen=True)
class Repeats:
    """How many items are copies of others."""

    items: int
    copies: int
    """Items beyond the first of each kind; an estimate if `one_in` is more than 1."""
    most: int
    """Copies of the most repeated item in the sample, itself included."""
    one_in: int
    """Kinds of items of which one is in the sample; 1 means all are."""

    @property
    def share(self) -> float:
        """Copies as a share of the items."""
        return self.copies / self.items if self.items else 0.0


class HashSample:
    """Collects hashes of items, in groups; once there are too many, it keeps every second kind, fourth, and so on.

    What is kept depends on the items alone, not on their order.

    Args:
        limit: Hashes to hold in all groups.
    """

    def __init__(self, limit: int = MAX_HASHES) -> None:
        self.level = 0
        """Zero bits in which kept hashes end."""
        self._limit = limit
        self._kept: dict[str, list[NDArray[np.uint64]]] = {}
        self._num_kept = 0
        self._items = 0

    @property
    def one_in(self) -> int:
        """Kinds of items of which one is kept."""
        return 1 << self.level

    def choose(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of `hashes` that are kept at present."""
        return hashes[(hashes & np.uint64(self.one_in - 1)) == 0] if self.level else hashes

    def add(self, hashes: NDArray[np.uint64], *, items: int | None = None, level: int = 0, group: str = "") -> None:
        """Count items.

        Args:
            hashes: Of the items, or of those that `choose` kept.
            items: How many items there are. Unset: as many as hashes.
            level: Of the sample from which the hashes come.
            group: See `of`.
        """
        self._items += len(hashes) if items is None else items
        self._raise_level(level)
        chosen = self.choose(hashes)
        self._kept.setdefault(group, []).append(chosen)
        self._num_kept += len(chosen)
        while self._num_kept > self._limit:
            self._raise_level(self.level + 1)

    def of(self, group: str) -> NDArray[np.uint64]:
        """The kept hashes of a group, sorted."""
        return np.sort(np.concatenate(self._kept.get(group) or [np.empty(0, np.uint64)]))

    def repeats(self) -> Repeats:
        """How much is repeated, in all groups together."""
        kept = np.concatenate([np.empty(0, np.uint64), *(each for group in self._kept.values() for each in group)])
        _, counts = np.unique(kept, return_counts=True)
        copies = (len(kept) - len(counts)) / max(1, len(kept)) * self._items
        return Repeats(self._items, round(copies), int(counts.max(initial=0)), self.one_in)

    def _raise_level(self, level: int) -> None:
        if level > self.level:
            self.level = level
            self._kept = {
                group: [self.choose(np.concatenate(arrays))] for group, arrays in self._kept.items() if arrays
            }
            self._num_kept = sum(len(arrays[0]) for arrays in self._kept.values())
