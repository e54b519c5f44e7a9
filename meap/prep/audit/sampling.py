"""How much of a collection is repeated, in bounded memory: hashes, all of them or those that end in enough zeros.

Choosing by hash keeps every copy of an item or none, so that the share of copies among the kept ones is an unbiased
estimate of the share among all (adaptive sampling, Wegman; Flajolet 1990). Items are told apart by 64-bit hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HashSample", "Repeats", "hash_ngrams"]

_LIMIT = 1 << 22
_MULTIPLIER = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass(frozen=True)
class Repeats:
    """How many items are copies of others."""

    items: int
    copies: int
    """Items beyond the first of each kind; an estimate where `one_in` is more than 1."""
    most: int
    """Copies of the most repeated item among those looked at, itself included."""
    one_in: int
    """Share of the kinds of items that was looked at: 1 is all of them."""

    @property
    def share(self) -> float:
        """Copies as a share of the items."""
        return self.copies / self.items if self.items else 0.0


class HashSample:
    """Collects hashes of items.

    Args:
        expected: About how many items there will be; from `limit` on a part of them is kept.
        limit: Hashes to hold, 8 bytes each.
    """

    def __init__(self, expected: int, *, limit: int = _LIMIT) -> None:
        self.level = max(0, (max(expected, 1) - 1) // limit).bit_length()
        self._mask = np.uint64((1 << self.level) - 1)
        self._kept: list[NDArray[np.uint64]] = []
        self._items = 0

    def choose(self, hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Those of `hashes` that are kept."""
        return hashes[(hashes & self._mask) == 0] if self.level else hashes

    def add(self, items: int, chosen: NDArray[np.uint64]) -> None:
        """Count `items`, whose hashes were given to `choose`."""
        self._items += items
        self._kept.append(chosen)

    def repeats(self) -> Repeats:
        """What was collected."""
        kept = np.concatenate(self._kept) if self._kept else np.empty(0, np.uint64)
        _, counts = np.unique(kept, return_counts=True)
        copies = (len(kept) - len(counts)) / max(1, len(kept)) * self._items
        return Repeats(self._items, round(copies), int(counts.max(initial=0)), 1 << self.level)


def hash_ngrams(tokens: NDArray[Any], length: int, borders: tuple[int, ...]) -> NDArray[np.uint64]:
    """A hash of each run of `length` tokens without any of `borders` in it."""
    count = len(tokens) - length + 1
    if count < 1:
        return np.empty(0, np.uint64)
    mixed = _mix(tokens.astype(np.uint64) + np.uint64(1))
    hashes = np.zeros(count, np.uint64)
    for offset in range(length):  # wraps around, as it should
        hashes *= np.uint64(_MULTIPLIER)
        hashes += mixed[offset : offset + count]
    before = np.concatenate([[0], np.cumsum(np.isin(tokens, borders))])
    return _mix(hashes[before[length:] == before[:count]])


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MIX_2)
    return values ^ (values >> np.uint64(31))
