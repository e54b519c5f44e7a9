"""Byte pair encoding of short words with a SentencePiece-style vocabulary, compiled.

The algorithm is that of `tokenizers`: a word starts as characters, or bytes for characters outside the vocabulary. As
long as a neighbouring pair is in the list of merges, the pair that comes first in the list is merged, the leftmost one
where it occurs twice (Sennrich et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from meap.prep.encoding.cuts import WORD_MARK, merges_of

__all__ = ["MAX_WORD_BYTES", "MergeTables", "build_merge_tables", "compiled", "merge"]

MAX_WORD_BYTES = 64
"""The cost is quadratic in a word's length; an engine encodes longer words."""

_NO_PAIR = np.int64(-1)
_NO_MERGE = np.int64((1 << 63) - 1)
_NUM_CODES = 0x110000
_MULTIPLIER = 0x9E3779B97F4A7C15


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, and cache the result on disk if possible."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's is writable: each process compiles
        return njit(function)


class MergeTables(NamedTuple):
    """A vocabulary as arrays."""

    char_ids: NDArray[np.int32]
    """(0x110000,) id of each character, -1 outside the vocabulary; a space has that of `WORD_MARK`."""
    byte_ids: NDArray[np.int32]
    """(256,)"""
    pairs: NDArray[np.int64]
    """Hash table of pairs of ids, left << 32 | right."""
    merges: NDArray[np.int64]
    """Of each pair: its rank in the list of merges << 32 | the merged id. The smallest is merged first."""


def build_merge_tables(model: dict[str, Any]) -> MergeTables:
    """The tables of a tokenizer.json's ``model``, for which `find_cuts` has found cuts."""
    vocabulary = cast("dict[str, int]", model["vocab"])
    char_ids = np.full(_NUM_CODES, -1, np.int32)
    for piece, number in vocabulary.items():
        if len(piece) == 1:
            char_ids[ord(piece)] = number
    char_ids[ord(" ")] = vocabulary[WORD_MARK]
    merges = merges_of(model)
    size = 1 << (2 * len(merges) + 2).bit_length()
    tables = MergeTables(
        char_ids,
        np.array([vocabulary[f"<0x{byte:02X}>"] for byte in range(256)], np.int32),
        np.full(size, _NO_PAIR),
        np.full(size, _NO_MERGE),
    )
    ids = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in merges]
    _fill(np.array(ids, np.int64).reshape(-1, 3), tables)
    return tables


@compiled
def _slot_of(pair, pairs):  # noqa: ANN001, ANN202
    """The slot of a pair in the table, or the free slot for it."""
    mask = len(pairs) - 1
    slot = np.int64((np.uint64(pair) * np.uint64(_MULTIPLIER)) >> np.uint64(32)) & mask
    while pairs[slot] not in (pair, _NO_PAIR):
        slot = (slot + 1) & mask
    return slot


@compiled
def _fill(merges, tables):  # noqa: ANN001, ANN202
    for rank in range(len(merges)):
        pair = merges[rank, 0] << 32 | merges[rank, 1]
        slot = _slot_of(pair, tables.pairs)
        tables.pairs[slot] = pair
        tables.merges[slot] = rank << 32 | merges[rank, 2]


@compiled
def _spell(text, tables, ids):  # noqa: ANN001, ANN202
    """Write the ids of a word's characters, and return their number."""
    count = position = 0
    while position < len(text):
        first = np.int64(text[position])
        if first < 0x80:
            size, code = 1, first
        elif first < 0xE0:
            size, code = 2, first & 0x1F
        elif first < 0xF0:
            size, code = 3, first & 0x0F
        else:
            size, code = 4, first & 0x07
        for offset in range(1, size):
            code = code << 6 | np.int64(text[position + offset]) & 0x3F
        if tables.char_ids[code] >= 0:
            ids[count] = tables.char_ids[code]
            count += 1
        else:
            for offset in range(size):
                ids[count] = tables.byte_ids[text[position + offset]]
                count += 1
        position += size
    return count


@compiled
def _merge_of(left, right, tables):  # noqa: ANN001, ANN202
    return tables.merges[_slot_of(np.int64(left) << 32 | np.int64(right), tables.pairs)]


@compiled
def merge(text, tables, ids, merges):  # noqa: ANN001, ANN201
    """Encode a word.

    Args:
        text: Its UTF-8 bytes, at most `MAX_WORD_BYTES`.
        tables: Of the vocabulary.
        ids: Where its ids go: room for as many as there are bytes.
        merges: As much room to work in.

    Returns:
        Number of ids.
    """
    count = _spell(text, tables, ids)
    for left in range(count - 1):  # the merge of the pair that begins at each id
        merges[left] = _merge_of(ids[left], ids[left + 1], tables)
    while True:
        best, first = -1, _NO_MERGE
        for left in range(count - 1):
            if merges[left] < first:
                best, first = left, merges[left]
        if best < 0:
            return count
        ids[best] = first & 0xFFFFFFFF
        count -= 1
        for left in range(best + 1, count):
            ids[left] = ids[left + 1]
            merges[left] = merges[left + 1]
        if best > 0:
            merges[best - 1] = _merge_of(ids[best - 1], ids[best], tables)
        if best < count - 1:
            merges[best] = _merge_of(ids[best], ids[best + 1], tables)
