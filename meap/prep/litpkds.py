"""Packed chunks of the official code -> rows, without tokenizing again.

A chunk is a file of lit-gpt's ``PackedDatasetBuilder`` (scitix/MEAP, MEAP-Pretain/lit_gpt/packed_dataset.py):

    "LITPKDS"  version:u64 = 1  dtype code:u8  chunk size:u64  tokens[chunk size]         little-endian

Its tokens are documents back to back (``prepare_c4.py``: the tokenizer's encoding, with BOS where the tokenizer adds
one, and EOS), which run on from a chunk into the next. The official ``PackedDataset`` cuts each chunk by itself into
blocks of seq_len + 1 tokens, floor(chunk size / (seq_len + 1)) of them; these blocks are our rows, in the same order.

The builder fills the last chunk of each of its processes with the separator, which is EOS. Official training learns to
predict that filling; here a row never holds padding, so the blocks from the first filled position on are left out: of
the EOS tokens at the end of a chunk the first is the last document's own, and all others are filling. What was real in
a block that is left out, and what is left over behind a chunk's last block, counts as dropped tail tokens; the filling
is counted as `PADDING`, and is no part of the tokens.
"""

from __future__ import annotations

import dataclasses
import math
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from meap.config.litpkds_prep import LitpkdsPrepConfig
from meap.errors import BadInputError, ConfigError
from meap.prep.corpora import check_import
from meap.prep.documents import split_of
from meap.prep.inputs import InputFiles, find_inputs
from meap.prep.progress import Tally
from meap.prep.steps import RowBatch
from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT, token_dtype
from meap.tokenizer import Tokenizer

__all__ = ["PADDING", "ReadChunks", "resolve_chunks"]

PADDING = "padding_tokens"
"""What a manifest counts of the filling that was left out."""

_HEADER = struct.Struct("<7sQBQ")
_MAGIC, _VERSION = b"LITPKDS", 1
_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float32", 7: "float64", 8: "uint16"}
_TASK_BYTES = 256_000_000
_BATCH_TOKENS = 1 << 19
_PEEKED_TOKENS = 1 << 12
_TOO_LONG = 1 << 22
"""Tokens of a task without an EOS that no document has: an official chunk is a little more."""


@dataclass(frozen=True)
class _Chunk:
    """An open chunk."""

    file: IO[bytes]
    url: str
    dtype: np.dtype[Any]
    tokens: int

    def read(self, start: int, count: int) -> NDArray[Any]:
        """Some tokens.

        Raises:
            BadInputError: The file ends before.
        """
        offset = _HEADER.size + start * self.dtype.itemsize
        self.file.seek(offset)
        content = self.file.read(count * self.dtype.itemsize)
        if len(content) != count * self.dtype.itemsize:
            raise BadInputError(
                f"{self.url} ended at byte {offset + len(content):,} while it was read: is it still being written? "
                "Fetch it again"
            )
        return np.frombuffer(content, self.dtype)


def resolve_chunks(config: LitpkdsPrepConfig) -> tuple[LitpkdsPrepConfig, InputFiles]:
    """Fill in every default, and list the chunks.

    Raises:
        ConfigError: A key is missing or does not fit the input.
        DataError: The source cannot be listed or holds no chunk.
    """
    check_import(config)
    assert config.source is not None
    inputs = find_inputs(config.source, suffixes=(".bin",), kind="packed chunks (.bin) of the official code")
    tasks = config.tasks or max(1, min(len(inputs.names), math.ceil(sum(inputs.sizes) / _TASK_BYTES)))
    if tasks > len(inputs.names):
        raise ConfigError(
            f"tasks={tasks} is more than the {len(inputs.names)} chunks: a task reads whole files, so "
            f"tasks={len(inputs.names)} is the most"
        )
    return dataclasses.replace(config, tasks=tasks), inputs


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

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; rows leave this step
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[RowBatch]:
        """Yield the rows of task `rank` of `world_size`.

        Raises:
            BadInputError: A file is no chunk, is cut short, or holds what is no token of the tokenizer.
            DataError: A file cannot be opened or fetched.
        """
        assert data is None, "a reader is the first step"
        self.tally.start(rank)
        for number in self.inputs.of_task(rank, world_size):
            name = self.inputs.names[number]
            url = self.inputs.url_of(name)
            with self.inputs.open(number) as opened:
                yield from self._rows(_open_chunk(opened, url))
            self.tally.input_bytes += self.inputs.sizes[number]
            self.tally.report()
        if not self.tally.documents.total() and self.tally.tokens.total() >= _TOO_LONG:
            raise BadInputError(
                f"task {rank} has read {self.tally.tokens.total():,} tokens and not one EOS (id "
                f"{self.tokenizer.eos_id}) among them: tokenizer {self.tokenizer.name!r} did not make these chunks, so "
                "name the one that did"
            )

    def _rows(self, chunk: _Chunk) -> Iterator[RowBatch]:
        tally, dtype = self.tally, token_dtype(self.tokenizer.vocab_size)
        content = self._content_len(chunk)
        left_over = content % self.row_len
        per_batch = max(1, _BATCH_TOKENS // self.row_len) * self.row_len
        for start in range(0, content - left_over, per_batch):
            tokens = self._checked(chunk, start, min(per_batch, content - left_over - start))
            rows = tokens.astype(dtype).reshape(-1, self.row_len)
            for split, chosen in self._split(rows):
                tally.documents[split] += int(np.count_nonzero(chosen == self.tokenizer.eos_id))
                tally.tokens[split] += chosen.size
                yield RowBatch(split, chosen)
            tally.report()
        if left_over:
            self._checked(chunk, content - left_over, left_over)
        tally.tokens[TRAIN_SPLIT] += left_over
        tally.tail_tokens[TRAIN_SPLIT] += left_over
        tally.counts[TRAIN_SPLIT, PADDING] += chunk.tokens - content

    def _content_len(self, chunk: _Chunk) -> int:
        """Tokens before the filling."""
        end, count = chunk.tokens, _PEEKED_TOKENS
        while end:
            start = max(0, end - count)
            real = np.flatnonzero(chunk.read(start, end - start) != self.tokenizer.eos_id)
            if len(real):
                last = start + int(real[-1])
                return min(chunk.tokens, last + 2)  # with the EOS of the last document
            end, count = start, _BATCH_TOKENS
        return 0

    def _checked(self, chunk: _Chunk, start: int, count: int) -> NDArray[Any]:
        tokens = chunk.read(start, count)
        limit, mask_id = self.tokenizer.plain_vocab_size, self.tokenizer.mask_id
        is_wrong = (tokens < 0) | (tokens >= limit) | (tokens == mask_id)
        if not is_wrong.any():
            return tokens
        place = int(np.flatnonzero(is_wrong)[0])
        value, number = int(tokens[place]), start + place
        where = f"{chunk.url}: token {number:,} (byte {_HEADER.size + number * chunk.dtype.itemsize:,}) is {value}"
        if value == mask_id:
            raise BadInputError(
                f"{where}, the id of the mask token {self.tokenizer.mask_token!r}, which would teach the model that "
                "the mask is a word: name the tokenizer that made the chunks, or another tokenizer.mask_token"
            )
        raise BadInputError(
            f"{where}, but tokenizer {self.tokenizer.name!r} has ids 0 to {limit - 1}: name the tokenizer that made "
            "the chunks, or fetch the file again"
        )

    def _split(self, rows: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
        if not self.heldout_ratio:
            yield TRAIN_SPLIT, rows
            return
        splits = np.array([split_of(row.tobytes(), self.heldout_ratio, self.seed) for row in rows])
        for split in (TRAIN_SPLIT, VALIDATION_SPLIT):
            if (is_chosen := splits == split).any():
                yield split, rows[is_chosen]


def _open_chunk(file: IO[bytes], url: str) -> _Chunk:
    """Check the header.

    Raises:
        BadInputError: It is not that of a chunk, or not that of this file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    header = file.read(_HEADER.size)
    remedy = "take it out of source=, or fetch it again"
    if not header.startswith(_MAGIC):
        raise BadInputError(
            f"{url} is no packed chunk: it begins with {header[:7]!r} at byte 0, not {_MAGIC!r}: {remedy}"
        )
    if len(header) < _HEADER.size:
        raise BadInputError(f"{url} is cut short: {size} bytes, less than a header's {_HEADER.size}: {remedy}")
    _, version, code, tokens = _HEADER.unpack(header)
    if version != _VERSION:
        raise BadInputError(f"{url} has version {version} at byte 7; only version {_VERSION} is known: {remedy}")
    dtype = np.dtype(_DTYPES.get(code, "float32")).newbyteorder("<")
    if code not in _DTYPES or dtype.kind not in "iu":
        known = ", ".join(f"{number} {name}" for number, name in _DTYPES.items() if "int" in name)
        raise BadInputError(
            f"{url} has dtype code {code} at byte 15, {_DTYPES.get(code, 'which is not known')}; tokens are integers "
            f"({known}): {remedy}"
        )
    expected = _HEADER.size + tokens * dtype.itemsize
    if size != expected:
        problem = "is cut short" if size < expected else "is longer than it says"
        raise BadInputError(
            f"{url} {problem}: a chunk size of {tokens:,} {dtype.name} tokens at byte 16 makes {expected:,} bytes, but "
            f"it has {size:,}: fetch it again"
        )
    return _Chunk(file, url, dtype, tokens)
