"""Documents -> rows: encode in batches, hold out a share for validation, pack back to back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from meap.mds.writing import MdsWriter, Shard
from meap.packing import RowPacker
from meap.prep.document_counts import hash_of
from meap.prep.documents import DocumentBatch, part_of, split_of
from meap.prep.encoding import Encoder, RoundTrip, SpecialTokens, build_encoder
from meap.prep.job import Job
from meap.prep.progress import Tally
from meap.prep.resolved import ResolvedPrep
from meap.prep.selection import Selection, SelectionRule
from meap.schema import token_dtype
from meap.tokenizer import Tokenizer

__all__ = [
    "LOSSY_DOCUMENTS",
    "SPELLED_TOKENS",
    "SPELLING_DOCUMENTS",
    "TRIED_DOCUMENTS",
    "PackRows",
    "RowBatch",
]

SPELLING_DOCUMENTS, SPELLED_TOKENS = "documents_that_spell_special_tokens", "special_tokens_in_text"
TRIED_DOCUMENTS, LOSSY_DOCUMENTS = "documents_decoded_as_a_trial", "documents_that_do_not_come_back"


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
        tokenizer: Only its definition and special ids are kept: it is not sent to other processes.
        tally: Where documents and tokens are counted.
        seq_len: Input tokens per row; rows hold one more.
        heldout_ratio: Share of documents that go to the validation split, in [0, 1).
        seed: Key of the choice, in [0, 2**32).
        special_tokens_in_text: What becomes of those that a document spells: `text`, `token` or `refuse`.
        selection: Which documents become rows, by their length. Unset: all.
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
        special_tokens_in_text: str = "text",
        selection: SelectionRule | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.borders = tokenizer.record.borders
        self.special = SpecialTokens.of(tokenizer, special_tokens_in_text)
        self.round_trip = RoundTrip(self.special.definition)
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
            build_encoder(job.tokenizer, engine=config.engine),
            job.tokenizer,
            job.tally,
            seq_len=config.seq_len,
            heldout_ratio=config.heldout_ratio,
            seed=config.seed,
            special_tokens_in_text=config.tokenizer.special_tokens_in_text,
            selection=SelectionRule(job.inputs, config.long, config.max_tokens, config.streams),
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
            if self.tally.counts[part, LOSSY_DOCUMENTS]:
                self.tally.counts[part, TRIED_DOCUMENTS] = self.tally.tried[part]
            self.tally.tail_documents[part] = packer.tail_documents

    def _pack(
        self, batch: DocumentBatch, packers: dict[str, RowPacker], selection: Selection | None
    ) -> Iterator[RowBatch]:
        utf8 = [text.encode() for text in batch.texts]
        encoded, spelled = self.special.settle(self.encoder.encode(batch.texts, utf8), utf8, batch.places)
        ids, offsets = encoded.ids.astype(self.dtype, copy=False), encoded.offsets.tolist()
        numbers_of: dict[str, list[int]] = {}
        added = len(self.borders)
        for number, (text, stream) in enumerate(zip(utf8, batch.streams, strict=True)):
            split = batch.split or split_of(text, self.heldout_ratio, self.seed)
            part = part_of(stream, split)
            num_tokens = offsets[number + 1] - offsets[number] + added
            if selection is None or selection.takes(part, stream, split, num_tokens, batch.places[number]):
                numbers_of.setdefault(part, []).append(number)
        self.tally.text_bytes += sum(map(len, utf8))
        for part, numbers in numbers_of.items():
            if part not in packers:
                packers[part] = RowPacker(self.seq_len + 1, borders=self.borders, dtype=self.dtype)
            documents = [ids[offsets[number] : offsets[number + 1]] for number in numbers]
            lengths, hashes = [*map(len, documents)], [*map(hash_of, documents)]
            self.tally.add_documents(part, lengths, hashes)
            self.tally.tokens[part] += sum(lengths) + added * len(lengths)
            self.tally.kept_bytes[part] += sum(len(utf8[number]) for number in numbers)
            for number in spelled.keys() & numbers if spelled else ():
                self.tally.counts[part, SPELLING_DOCUMENTS] += 1
                self.tally.counts[part, SPELLED_TOKENS] += spelled[number]
            for chosen in self.round_trip.chosen(lengths, hashes, tried=self.tally.tried[part]):
                self._try_round_trip(part, batch, numbers[chosen], documents[chosen])
            yield RowBatch(part, packers[part].pack(documents))

    def _try_round_trip(self, part: str, batch: DocumentBatch, number: int, document: NDArray[Any]) -> None:
        self.tally.tried[part] += 1
        if (loss := self.round_trip.loss(batch.texts[number], document)) is not None:
            self.tally.counts[part, LOSSY_DOCUMENTS] += 1
            file, line = batch.places[number]
            self.tally.first_loss = self.tally.first_loss or f"{loss} of {file}:{line}"
