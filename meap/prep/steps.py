"""Documents -> rows: encode in batches, hold out a share for validation, pack back to back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from meap.errors import DataError
from meap.mds.writing import MdsWriter, Shard
from meap.packing import RowPacker, borders_of
from meap.prep.document_counts import hash_of
from meap.prep.documents import DocumentBatch, part_of, split_of
from meap.prep.encoding import Encoded, Encoder, SpecialTokens, build_encoder
from meap.prep.job import Job
from meap.prep.progress import Tally
from meap.prep.resolved import ResolvedPrep
from meap.prep.selection import Selection, SelectionRule
from meap.schema import token_dtype
from meap.tokenizer import Tokenizer

__all__ = ["SPELLED_DOCUMENTS", "SPELLED_TOKENS", "PackRows", "RowBatch"]

SPELLED_DOCUMENTS = "documents_that_spell_special_tokens"
SPELLED_TOKENS = "special_tokens_spelled"


@dataclass(frozen=True)
class RowBatch:
    """Some rows of one part of the output."""

    part: str
    """Folder below the output, see `meap.prep.documents.part_of`."""
    rows: NDArray[np.integer[Any]]
    """(rows, seq_len + 1)"""

    def write_to(self, writer: MdsWriter) -> Iterator[Shard]:
        """Append the rows to a writer; yields the shards they fill."""
        return writer.add_rows(self.rows)


class PackRows(PipelineStep):
    """Turns a task's documents into rows: tokenizer, held-out split, packing.

    Args:
        encoder: Texts to ids.
        tokenizer: Only its BOS, EOS and mask ids are kept: it is not sent to other processes.
        tally: Where documents and tokens are counted.
        seq_len: Input tokens per row; rows hold one more.
        heldout_ratio: Share of documents that go to the validation split, in [0, 1).
        seed: Key of the choice, in [0, 2**32).
        selection: Which documents become rows, by their length. Unset: all.
        separator: `tokenizer.separator`.
        special_tokens: `tokenizer.special_tokens_in_text`.
    """

    type = "PACK"
    name = "rows"

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        tally: Tally,
        *,
        seq_len: int,
        heldout_ratio: float,
        seed: int,
        selection: SelectionRule | None = None,
        separator: str = "auto",
        special_tokens: str = "text",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bos_id, self.eos_id = borders_of(tokenizer.bos_id, tokenizer.eos_id, separator)
        self.num_borders = 1 if self.bos_id is None else 2
        self.special_tokens = special_tokens
        self.spelled = SpecialTokens.of(tokenizer)
        self.mask_id, self.mask_token = tokenizer.mask_id, tokenizer.mask_token
        self.dtype = token_dtype(tokenizer.vocab_size)
        self.tally = tally
        self.seq_len = seq_len
        self.heldout_ratio = heldout_ratio
        self.seed = seed
        self.selection = selection if selection is not None and selection.is_on else None

    @classmethod
    def of(cls, job: Job[ResolvedPrep]) -> PackRows:
        """The packer of a job's documents."""
        config = job.config
        return cls(
            build_encoder(job.tokenizer, engine=config.engine, special_tokens=config.tokenizer.special_tokens_in_text),
            job.tokenizer,
            job.tally,
            seq_len=config.seq_len,
            heldout_ratio=config.heldout_ratio,
            seed=config.seed,
            selection=SelectionRule(job.inputs, config.long, config.max_tokens, config.streams),
            separator=config.tokenizer.separator,
            special_tokens=config.tokenizer.special_tokens_in_text,
        )

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; rows leave this step
        self, data: Iterable[DocumentBatch], rank: int = 0, world_size: int = 1
    ) -> Iterator[RowBatch]:
        """Yield the rows of a task's documents as they fill; tokens that fill no last row are counted and dropped.

        Once the selection takes no more documents, none are read.

        Raises:
            DataError: A document contains the mask token's id, or a special token that is refused.
        """
        packers: dict[str, RowPacker] = {}
        selection = self.selection and self.selection.of_task(rank, world_size, self.tally)
        for batch in data:
            with self.track_time("batch"):
                packed = list(self._pack(batch, packers, selection))
                self.tally.report()
            yield from packed
            if selection is not None and selection.is_complete:
                break
        for part, packer in packers.items():
            self.tally.tail_tokens[part] = len(packer.tail)

    def _pack(
        self, batch: DocumentBatch, packers: dict[str, RowPacker], selection: Selection | None
    ) -> Iterator[RowBatch]:
        utf8 = [text.encode() for text in batch.texts]
        encoded = self.encoder.encode(batch.texts, utf8)
        self._refuse_mask_id(encoded, batch)
        ids = encoded.ids.astype(self.dtype, copy=False)
        by_part: dict[str, list[Any]] = {}
        kept_bytes = self.tally.kept_bytes
        spans = pairwise(encoded.offsets.tolist())
        for text, stream, place, (start, end) in zip(utf8, batch.streams, batch.places, spans, strict=True):
            split = batch.split or split_of(text, self.heldout_ratio, self.seed)
            part = part_of(stream, split)
            if selection is None or selection.takes(part, stream, split, end - start + self.num_borders, place):
                by_part.setdefault(part, []).append(ids[start:end])
                kept_bytes[part] += len(text)
                if self.spelled.beginnings and (found := self.spelled.find(text)):
                    self._count_spelled(part, found, place)
        self.tally.text_bytes += sum(map(len, utf8))
        for part, documents in by_part.items():
            if part not in packers:
                packers[part] = RowPacker(self.seq_len + 1, bos_id=self.bos_id, eos_id=self.eos_id, dtype=self.dtype)
            lengths = [len(document) for document in documents]
            self.tally.add_documents(part, lengths, [hash_of(document) for document in documents])
            self.tally.tokens[part] += sum(lengths) + self.num_borders * len(lengths)
            yield RowBatch(part, packers[part].pack(documents))

    def _count_spelled(self, part: str, found: list[bytes], place: tuple[str, int]) -> None:
        if self.special_tokens == "refuse":
            raise DataError(
                f"{place[0]}:{place[1]} spells the special token {found[0].decode()!r}, and "
                "tokenizer.special_tokens_in_text=refuse: remove it, or set that key to text, which encodes it as "
                "plain characters"
            )
        self.tally.counts[part, SPELLED_DOCUMENTS] += 1
        self.tally.counts[part, SPELLED_TOKENS] += len(found)

    def _refuse_mask_id(self, encoded: Encoded, batch: DocumentBatch) -> None:
        # The tokenizer encodes without the mask token, so its id occurs only if the vocabulary of the model has it; the
        # model would learn that the mask is a word.
        masks = np.flatnonzero(encoded.ids == self.mask_id)
        if len(masks):
            file, number = batch.places[int(np.searchsorted(encoded.offsets, masks[0], side="right")) - 1]
            raise DataError(
                f"{file}:{number} contains the mask token {self.mask_token!r} "
                f"(id {self.mask_id}), which is a word of the tokenizer's own vocabulary: choose a "
                "tokenizer.mask_token that the vocabulary lacks"
            )
