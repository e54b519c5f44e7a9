"""Documents -> rows: encode in batches, keep a share for validation, pack back to back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from meap.errors import DataError
from meap.packing import RowPacker
from meap.prep.progress import Tally
from meap.schema import TOKENS_COLUMN, TRAIN_SPLIT, VALIDATION_SPLIT, token_dtype
from meap.tokenizer import Tokenizer

__all__ = ["PackRows", "RowBatch", "split_of"]

_BATCH_DOCUMENTS = 256
_BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class RowBatch:
    """Some rows of one split."""

    split: str
    rows: NDArray[np.integer[Any]]
    """(rows, seq_len + 1)"""

    @property
    def samples(self) -> Iterator[dict[str, NDArray[np.integer[Any]]]]:
        """The rows as they are written."""
        return ({TOKENS_COLUMN: row} for row in self.rows)


class PackRows(PipelineStep):
    """Turns a task's documents into rows: tokenizer, held-out split, packing.

    Args:
        tokenizer: Encodes, and knows the BOS, EOS and mask ids.
        tally: Where documents and tokens are counted.
        seq_len: Input tokens per row; rows hold one more.
        heldout_ratio: Share of documents that go to the validation split, in [0, 1).
        seed: Key of the choice, in [0, 2**32).
    """

    type = "PACK"
    name = "rows"

    def __init__(self, tokenizer: Tokenizer, tally: Tally, *, seq_len: int, heldout_ratio: float, seed: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.tally = tally
        self.seq_len = seq_len
        self.heldout_ratio = heldout_ratio
        self.seed = seed

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; rows leave this step
        self, data: Iterable[Document], rank: int = 0, world_size: int = 1
    ) -> Iterator[RowBatch]:
        """Yield the rows of a task's documents, as they fill; what does not fill a last row is counted and dropped.

        Raises:
            DataError: A document contains the mask token's id.
        """
        del rank, world_size
        dtype = token_dtype(self.tokenizer.vocab_size)
        packers = {
            split: RowPacker(self.seq_len + 1, bos_id=self.tokenizer.bos_id, eos_id=self.tokenizer.eos_id, dtype=dtype)
            for split in (TRAIN_SPLIT, VALIDATION_SPLIT)
        }
        for batch in _batched(data):
            with self.track_time("batch"):
                encoded = self.tokenizer.encode_batch([document.text for document in batch])
                by_split: dict[str, list[Any]] = {split: [] for split in packers}
                for document, tokens in zip(batch, encoded, strict=True):
                    text = document.text.encode()
                    split = split_of(text, self.heldout_ratio, self.seed)
                    by_split[split].append(tokens)
                    self.tally.text_bytes += len(text)
                    self.tally.documents[split] += 1
                    self.tally.tokens[split] += len(tokens) + 2
                packed = [RowBatch(split, packers[split].pack(chosen)) for split, chosen in by_split.items() if chosen]
                self._refuse_mask_id(packed, batch)
                self.tally.report()
            yield from packed
        for split, packer in packers.items():
            self.tally.tail_tokens[split] = len(packer.tail)

    def _refuse_mask_id(self, packed: list[RowBatch], batch: list[Document]) -> None:
        # The tokenizer encodes without the mask token; this can only happen where it belongs to the model's own
        # vocabulary, and would teach the model that the mask is a word.
        if any((each.rows == self.tokenizer.mask_id).any() for each in packed):
            raise DataError(
                f"a document up to {batch[-1].id} contains the mask token {self.tokenizer.mask_token!r} "
                f"(id {self.tokenizer.mask_id}), which is a word of the tokenizer's own vocabulary: choose a "
                "tokenizer.mask_token that the vocabulary lacks"
            )


def split_of(text: bytes, heldout_ratio: float, seed: int) -> str:
    """Which split a document belongs to; equal texts always share one, whatever file or task they are in."""
    digest = hashlib.blake2b(text, digest_size=8, key=seed.to_bytes(4, "big")).digest()
    is_heldout = int.from_bytes(digest, "big") < heldout_ratio * 2.0**64
    return VALIDATION_SPLIT if is_heldout else TRAIN_SPLIT


def _batched(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) >= _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
