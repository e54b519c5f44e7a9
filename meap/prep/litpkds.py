"""Packed chunks of the official code -> rows, without tokenizing again.

A chunk (`lit_chunks`) holds documents back to back (``prepare_c4.py``: the tokenizer's encoding, with BOS if the
tokenizer adds one, and EOS), which continue from one chunk to the next. The official ``PackedDataset`` cuts each
chunk separately into blocks of seq_len + 1 tokens, floor(chunk size / (seq_len + 1)) of them; these blocks are our
rows, in the same order.

The builder pads the last chunk of each of its processes with the separator, which is EOS. Official training learns to
predict that padding; our rows hold none, so the blocks from the first padded position on are left out: of the EOS
tokens at the end of a chunk the first ends the last document, all others are padding. The real tokens of a block that
is left out, and those behind a chunk's last block, count as dropped tail tokens; padding is counted as `PADDING`, and
is no part of the tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from meap.errors import BadInputError
from meap.prep.document_counts import hash_of
from meap.prep.documents import split_of
from meap.prep.inputs import InputFiles
from meap.prep.job import Job
from meap.prep.lit_chunks import Chunk, open_chunk
from meap.prep.progress import Tally
from meap.prep.resolved import ResolvedLitpkds
from meap.prep.steps import RowBatch
from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT, token_dtype
from meap.tokenizer import Tokenizer

__all__ = ["PADDING", "ReadChunks"]

PADDING = "padding_tokens"
"""Name of the manifest's count of padding that was left out."""

_BATCH_TOKENS = 1 << 19
_PEEKED_TOKENS = 1 << 12
_TOO_LONG = 1 << 22
"""More tokens than a document has: an official chunk is a little larger."""


class ReadChunks(PipelineStep):
    """Yields the blocks of a task's chunks as rows, in order.

    Args:
        inputs: The files of the whole job; task t of n reads a contiguous range of them.
        tokenizer: The one that made the chunks.
        tally: Where rows and bytes are counted.
        seq_len: Input tokens per row; rows hold one more.
        heldout_ratio: Share of blocks that go to the validation split, in [0, 1).
        seed: Key of the choice, in [0, 2**32).
    """

    type = "READER"
    name = "LITPKDS chunks"

    def __init__(
        self, inputs: InputFiles, tokenizer: Tokenizer, tally: Tally, *, seq_len: int, heldout_ratio: float, seed: int
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.tally = tally
        self.row_len = seq_len + 1
        self.heldout_ratio = heldout_ratio
        self.seed = seed

    @classmethod
    def of(cls, job: Job[ResolvedLitpkds]) -> ReadChunks:
        """The reader of a job's chunks."""
        config = job.config
        return cls(
            job.inputs,
            job.tokenizer,
            job.tally,
            seq_len=config.seq_len,
            heldout_ratio=config.heldout_ratio,
            seed=config.seed,
        )

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; rows leave this step
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[RowBatch]:
        """Yield the rows of task `rank` of `world_size`.

        Raises:
            BadInputError: A file is no chunk, is truncated, or holds ids that the tokenizer does not have.
            DataError: A file cannot be opened or fetched.
        """
        assert data is None, "a reader is the first step"
        self.tally.start(rank)
        documents = _Documents(self.tokenizer)
        for number in self.inputs.of_task(rank, world_size):
            name = self.inputs.names[number]
            url = self.inputs.url_of(name)
            with self.inputs.open(number) as opened:
                yield from self._rows(open_chunk(opened, url), documents)
            self.tally.input_bytes += self.inputs.sizes[number]
            self.tally.report()
        if not self.tally.documents.total() and self.tally.tokens.total() >= _TOO_LONG:
            raise BadInputError(
                f"task {rank} has read {self.tally.tokens.total():,} tokens without one EOS (id "
                f"{self.tokenizer.eos_id}): tokenizer {self.tokenizer.name!r} did not make these chunks, so name the "
                "one that did"
            )

    def _rows(self, chunk: Chunk, documents: _Documents) -> Iterator[RowBatch]:
        tally, dtype = self.tally, token_dtype(self.tokenizer.vocab_size)
        content = self._content_len(chunk)
        left_over = content % self.row_len
        per_batch = max(1, _BATCH_TOKENS // self.row_len) * self.row_len
        for start in range(0, content - left_over, per_batch):
            tokens = self._checked(chunk, start, min(per_batch, content - left_over - start)).astype(dtype)
            rows = tokens.reshape(-1, self.row_len)
            splits = self._splits(rows)
            ends, lengths, hashes = documents.add(tokens)
            for split in (TRAIN_SPLIT, VALIDATION_SPLIT):
                if (is_chosen := splits == split).any():
                    chosen = rows[is_chosen]
                    tally.tokens[split] += chosen.size
                    # A document counts where its EOS is.
                    is_here = is_chosen[ends // self.row_len]
                    tally.add_documents(split, lengths[is_here], hashes[is_here])
                    yield RowBatch(split, chosen)
            tally.report()
        if left_over:
            documents.add(self._checked(chunk, content - left_over, left_over).astype(dtype))
        tally.tokens[TRAIN_SPLIT] += left_over
        tally.tail_tokens[TRAIN_SPLIT] += left_over
        tally.counts[TRAIN_SPLIT, PADDING] += chunk.tokens - content

    def _content_len(self, chunk: Chunk) -> int:
        """Tokens before the padding."""
        end, count = chunk.tokens, _PEEKED_TOKENS
        while end:
            start = max(0, end - count)
            real = np.flatnonzero(chunk.read(start, end - start) != self.tokenizer.eos_id)
            if len(real):
                last = start + int(real[-1])
                return min(chunk.tokens, last + 2)  # with the EOS of the last document
            end, count = start, _BATCH_TOKENS
        return 0

    def _checked(self, chunk: Chunk, start: int, count: int) -> NDArray[Any]:
        tokens = chunk.read(start, count)
        limit, mask_id = self.tokenizer.plain_vocab_size, self.tokenizer.mask_id
        is_wrong = (tokens < 0) | (tokens >= limit) | (tokens == mask_id)
        if not is_wrong.any():
            return tokens
        place = int(np.flatnonzero(is_wrong)[0])
        value, number = int(tokens[place]), start + place
        where = f"{chunk.url}: token {number:,} (byte {chunk.offset_of(number):,}) is {value}"
        if value == mask_id:
            raise BadInputError(
                f"{where}, the id of the mask token {self.tokenizer.mask_token!r}, which would teach the model that "
                "the mask is a word: name the tokenizer that made the chunks, or another tokenizer.mask_token"
            )
        raise BadInputError(
            f"{where}, but tokenizer {self.tokenizer.name!r} has ids 0 to {limit - 1}: name the tokenizer that made "
            "the chunks, or fetch the file again"
        )

    def _splits(self, rows: NDArray[Any]) -> NDArray[Any]:
        if not self.heldout_ratio:
            return np.full(len(rows), TRAIN_SPLIT)
        return np.array([split_of(row.tobytes(), self.heldout_ratio, self.seed) for row in rows])


class _Documents:
    """The documents in a task's chunks, which continue from one chunk to the next.

    Args:
        tokenizer: The one that made the chunks.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bos_id, self._eos_id = tokenizer.bos_id, tokenizer.eos_id
        self._open: list[NDArray[Any]] = []
        self._open_tokens = 0

    def add(self, tokens: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """The documents that end in the next tokens: place of their EOS, length without BOS and EOS, hash."""
        ends = np.flatnonzero(tokens == self._eos_id)
        *whole, rest = np.split(tokens, ends + 1)
        if whole:
            whole[0] = np.concatenate([*self._open, whole[0]])
            self._open, self._open_tokens = [], 0
        if self._open_tokens < _TOO_LONG:  # a longer document is cut: its rest is not held
            self._open.append(rest)
            self._open_tokens += len(rest)
        contents = [self._content(document) for document in whole]
        lengths = np.fromiter(map(len, contents), np.int64, len(contents))
        return ends, lengths, np.fromiter(map(hash_of, contents), np.uint64, len(contents))

    def _content(self, document: NDArray[Any]) -> NDArray[Any]:
        has_bos = len(document) > 1 and document[0] == self._bos_id != self._eos_id
        return document[1 if has_bos else 0 : -1]
