"""Whether documents come back when their tokens are decoded: some vocabularies drop what they have no token for.

A tokenizer without an unknown token and without bytes to fall back to says nothing when it meets a character that it
lacks, be it a letter, a digit or the space. Only what comes back tells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np
from numpy.typing import ArrayLike, NDArray

from meap.prep.encoding.engines import loaded

__all__ = ["RoundTrip"]

_FIRST = 20
"""So many of a task's documents are tried whatever they are."""
_ONE_IN = 512
"""Of the others, chosen by the hash of their tokens."""
_LONGEST = 1 << 20
"""Tokens of a document that is tried."""


@dataclass(frozen=True)
class RoundTrip:
    """Tries a sample of a task's documents."""

    definition: str = field(repr=False)
    """A tokenizer.json."""

    def chosen(self, lengths: ArrayLike, hashes: ArrayLike, *, tried: int) -> list[int]:
        """Which documents of a batch are of the sample.

        Args:
            lengths: Tokens of each.
            hashes: See `meap.prep.document_counts.hash_of`.
            tried: Documents of this task that were tried before.
        """
        is_chosen = np.asarray(hashes, np.uint64) % np.uint64(_ONE_IN) == 0
        is_chosen[: max(0, _FIRST - tried)] = True
        return np.flatnonzero(is_chosen & (np.asarray(lengths, np.int64) <= _LONGEST)).tolist()

    def loss(self, text: str, ids: NDArray[np.integer]) -> str | None:
        """What is lost first when a document is encoded and decoded, for a message; None if nothing is.

        A normalizer's doing, such as lower case, is no loss, and neither is space at the ends.
        """
        reader = loaded(self.definition)
        found = reader.decode(ids.tolist(), skip_special_tokens=False).strip()
        normalizer = reader.normalizer
        wanted = [text.strip(), *([normalizer.normalize_str(text).strip()] if normalizer is not None else [])]
        if found in wanted:
            return None
        pairs = zip_longest(wanted[0], found)
        number, (lost, instead) = next((n, pair) for n, pair in enumerate(pairs) if pair[0] != pair[1])
        around = wanted[0][max(0, number - 20) : number + 10]
        what = f"{lost!r} (U+{ord(lost):04X})" if lost is not None else f"nothing, where {instead!r} comes back,"
        return f"{what} in {around!r}"
