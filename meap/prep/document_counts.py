"""What is counted of the documents of a split while they are packed, and stored beside its manifest for `stats`.

A row does not say where its documents begin: a text may spell out BOS and EOS itself, and shards cut documents. So
their lengths, and hashes that find copies among them, are taken where documents are still whole.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from meap.errors import DataError
from meap.json_text import parse_json
from meap.prep.sampling import HashSample

__all__ = ["DOCUMENTS_NAME", "DocumentCounts", "hash_of", "rounded"]

DOCUMENTS_NAME = "documents.json"
"""Beside a split's manifest."""
_SIGNIFICANT_BITS = 8


@dataclass(frozen=True)
class DocumentCounts:
    """Documents, or conversations, of a split or of a part of it."""

    lengths: Counter[int] = field(default_factory=Counter)
    """How many there are of each length in tokens, without BOS and EOS; from 256 on to eight significant bits."""
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Of their tokens, sorted; those that are divisible by `one_in`."""
    level: int = 0
    """Zero bits in which `hashes` end."""

    def to_values(self) -> dict[str, Any]:
        """As JSON stores it."""
        return {
            "lengths": {str(length): count for length, count in sorted(self.lengths.items())},
            "hashes": base64.b64encode(self.hashes.astype("<u8").tobytes()).decode(),
            "level": self.level,
        }

    @classmethod
    def from_values(cls, values: Any) -> DocumentCounts:
        """Read what `to_values` gave; raises ValueError, KeyError or TypeError for anything else."""
        lengths = Counter({int(length): int(count) for length, count in values["lengths"].items()})
        hashes = np.frombuffer(base64.b64decode(values["hashes"], validate=True), "<u8").astype(np.uint64)
        level = int(values["level"])
        if not 0 <= level < 64 or any(length < 0 or count < 0 for length, count in lengths.items()):
            raise ValueError("a count is out of range")
        if level and (hashes & np.uint64((1 << level) - 1)).any():
            raise ValueError(f"a hash does not end in {level} zero bits")
        return cls(lengths, hashes, level)

    @classmethod
    def parse(cls, content: bytes, *, origin: str) -> DocumentCounts:
        """Read a stored file.

        Raises:
            DataError: It is something else.
        """
        try:
            return cls.from_values(parse_json(content))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{origin} is not readable ({type(error).__name__}: {error})") from error

    @classmethod
    def total(cls, parts: Iterable[DocumentCounts], *, level: int) -> DocumentCounts:
        """The counts of several tasks.

        Args:
            parts: Of each task.
            level: Of the result, at least that of each part.
        """
        in_order, sample = list(parts), HashSample(limit=1 << 62)
        for part in in_order:
            sample.add(part.hashes, level=max(level, part.level))
        lengths = sum((part.lengths for part in in_order), Counter[int]())
        return cls(lengths, sample.of(""), sample.level)


def hash_of(tokens: NDArray[Any]) -> int:
    """64 bits that tell documents apart by their tokens.

    Args:
        tokens: A contiguous array of the stored type.
    """
    return xxhash.xxh3_64_intdigest(cast("Any", tokens))


def rounded(lengths: NDArray[np.int64]) -> Counter[int]:
    """Counts of lengths, of which large ones are rounded down to eight significant bits."""
    excess = np.maximum(0, np.frexp(lengths.astype(np.float64))[1] - _SIGNIFICANT_BITS).astype(np.int64)
    values, counts = np.unique((lengths >> excess) << excess, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
