"""What `stats` takes from one shard: how often each token occurs, and hashes that find repeated rows and n-grams."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from meap.errors import DataError
from meap.mds.findings import ShardError
from meap.prep.audit.shard import ShardTask, read_shard
from meap.prep.sampling import HashSample
from meap.schema import TOKENS_COLUMN

__all__ = ["NGRAM", "Contents", "contents_of", "hash_ngrams"]

NGRAM = 13
"""Tokens of the n-grams whose repeats are counted (as in the decontamination of GPT-3, Brown et al. 2020)."""

_BLOCK = 1 << 20
_MULTIPLIER = 0x9E3779B97F4A7C15
_MIX_1, _MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclass
class Contents:
    """What was found in a shard."""

    rows: int
    row_hashes: NDArray[np.uint64]
    token_counts: NDArray[np.int64]
    ngrams: int = 0
    ngram_hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))


def contents_of(task: ShardTask, *, rows: HashSample, ngrams: HashSample | None) -> Contents:
    """Look at the tokens of a shard.

    Args:
        task: The shard.
        rows: Chooses hashes of rows.
        ngrams: Chooses hashes of n-grams; None leaves them out.

    Raises:
        DataError: It cannot be read or decoded.
    """
    try:
        content = read_shard(task)
    except ShardError as error:
        raise DataError(f"{error} (`meap verify` lists everything that is wrong)") from error
    if isinstance(content, list):
        by_row = [row[TOKENS_COLUMN] for row in content]
        tokens = np.concatenate(by_row) if by_row else np.empty(0, np.int64)
        ends = np.cumsum([0, *map(len, by_row)])
    else:
        tokens, ends = content.reshape(-1), np.arange(len(content) + 1) * content.shape[1]
    found = Contents(len(content), rows.choose(_hash_spans(tokens, ends)), _count_tokens(tokens, task))
    if ngrams is not None:
        tokenizer, kept = task.manifest.tokenizer, list[NDArray[np.uint64]]()
        for start in range(0, len(tokens), _BLOCK):
            block = tokens[start : start + _BLOCK + NGRAM - 1]
            hashes = hash_ngrams(block, NGRAM, tokenizer.borders)
            found.ngrams += len(hashes)
            kept.append(ngrams.choose(hashes))
        found.ngram_hashes = np.concatenate([found.ngram_hashes, *kept])
    return found


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


def _hash_spans(tokens: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of the tokens between each of `ends` and the next."""
    content = memoryview(cast("Any", np.ascontiguousarray(tokens))).cast("B")
    places = (ends * tokens.itemsize).tolist()
    hashes = (xxhash.xxh3_64_intdigest(content[start:end]) for start, end in pairwise(places))
    return np.fromiter(hashes, np.uint64, max(0, len(places) - 1))


def _count_tokens(tokens: NDArray[Any], task: ShardTask) -> NDArray[np.int64]:
    vocab_size = task.manifest.tokenizer.vocab_size
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), _BLOCK):
        of_block = np.bincount(tokens[start : start + _BLOCK], minlength=vocab_size)
        if len(of_block) > vocab_size:
            raise DataError(f"{task.file} holds token ids of {vocab_size} and beyond: `meap verify` says more")
        counts += of_block
    return counts
