"""Documents in batches, as they pass from the reader to the packer, and the split that each belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field

import xxhash

from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT

__all__ = ["BATCH_CHARACTERS", "BATCH_DOCUMENTS", "DocumentBatch", "part_of", "split_of"]

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 1 << 20
"""A batch is full when it reaches either: enough that its fixed cost is small, and no more memory than that."""


@dataclass
class DocumentBatch:
    """Some documents in the order in which they were read; the lists run in parallel."""

    texts: list[str] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    """File, and number of the line or record in it, counted from 1."""
    streams: list[str] = field(default_factory=list)
    """Stream of each, if the corpus is divided into streams; else empty strings."""
    ids: list[str] = field(default_factory=list)
    """What the corpus calls each, if `id_key` says where; else empty strings."""
    split: str | None = None
    """Split of all of them, if the corpus has validation files; None leaves it to a hash of the text."""
    characters: int = 0

    def add(self, text: str, file: str, number: int, stream: str = "", name: str = "") -> None:
        """Append a document."""
        self.texts.append(text)
        self.places.append((file, number))
        self.streams.append(stream)
        self.ids.append(name)
        self.characters += len(text)

    @property
    def is_full(self) -> bool:
        """Whether it has enough documents or characters."""
        return len(self.texts) >= BATCH_DOCUMENTS or self.characters >= BATCH_CHARACTERS


def split_of(text: bytes, heldout_ratio: float, seed: int) -> str:
    """The split that a document belongs to; equal texts share one, whatever file or task they are in."""
    is_heldout = xxhash.xxh3_64_intdigest(text, seed) < heldout_ratio * 2.0**64
    return VALIDATION_SPLIT if is_heldout else TRAIN_SPLIT


def part_of(stream: str, split: str) -> str:
    """Part of the output: the folder below it for the rows of a stream's split."""
    return f"{stream}/{split}" if stream else split
