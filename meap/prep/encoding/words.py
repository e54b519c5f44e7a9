"""A table of the words met so far: text is cut into words, each new one is encoded once, the rest is copying.

The table compares whole words, not their hashes, so a word never gets another's ids. Its size is fixed: when it is
full it is emptied, and what cannot be stored (long words, too many collisions) is left to an engine each time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from meap.prep.encoding.bpe import MAX_WORD_BYTES, MergeTables, compiled, merge
from meap.prep.encoding.cuts import WORD_MARK, Cuts
from meap.prep.encoding.engines import Encoded, Engine

__all__ = ["WordTable"]

_NUM_WORDS = 1 << 20
_POOL_BYTES = 1 << 24
_MAX_PROBES = 64
_FULL = 0.9
"""Share of the words or of their bytes at which the table is emptied before the next batch."""
_EMPTY = -1
_FNV_OFFSET, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
"""Fowler, Noll and Vo's hash, 64 bits."""


class WordTable:
    """Encodes texts word by word.

    Args:
        engine: Encodes words that are not stored; `WORD_MARK` stands for a space in them.
        cuts: Where words end.
        merges: Encodes those that are.
        num_words: Words that are kept, a power of two.
    """

    def __init__(self, engine: Engine, cuts: Cuts, merges: MergeTables, *, num_words: int = _NUM_WORDS) -> None:
        self._engine = engine
        self._cuts = cuts
        self._merges = merges
        self._slots = np.empty(2 * num_words, np.int32)
        self._hashes = np.empty(num_words, np.uint64)
        self._text_at = np.zeros(num_words + 1, np.int64)
        self._text = np.empty(_POOL_BYTES, np.uint8)
        self._ids_at = np.zeros(num_words + 1, np.int64)
        self._ids = np.empty(_POOL_BYTES, np.int32)  # a word has no more ids than bytes
        self._clear()

    def encode_utf8(self, texts: Sequence[bytes]) -> Encoded:
        """Ids of each text.

        Args:
            texts: UTF-8, with a space in place of every `WORD_MARK`.
        """
        if self.num_words > _FULL * len(self._hashes) or self._text_at[self.num_words] > _FULL * len(self._text):
            self._clear()
        surrounded = [*map(self._cuts.surround, texts)]
        starts = np.cumsum([0, *map(len, surrounded)], dtype=np.int64)
        joined = np.frombuffer(b"".join(surrounded), np.uint8)
        words = np.empty(len(joined), np.int32)  # no more words than bytes
        words_at = np.zeros(len(starts), np.int64)
        unstored = np.empty((len(joined), 2), np.int64)
        self.num_words, num_unstored = _find_words(
            joined, starts, self._cuts.between, self._merges, self._slots, self._hashes, self._text, self._text_at,
            self._ids, self._ids_at, self.num_words, words, words_at, unstored,
        )  # fmt: skip
        others = self._encode(joined, unstored[:num_unstored])
        ids = np.empty(len(joined), np.uint32)
        offsets = np.zeros(len(starts), np.int64)
        _copy_ids(words, words_at, self._ids_at, self._ids, others.offsets, others.ids, ids, offsets)
        return Encoded(ids[: offsets[-1]], offsets)

    def _clear(self) -> None:
        self.num_words = 0
        self._slots.fill(_EMPTY)

    def _encode(self, text: NDArray[np.uint8], spans: NDArray[np.int64]) -> Encoded:
        if not len(spans):
            return Encoded(np.empty(0, np.uint32), np.zeros(1, np.int64))
        cut = [text[start:end].tobytes().decode() for start, end in spans.tolist()]
        return self._engine.encode([word.replace(" ", WORD_MARK) for word in cut])


@compiled
def _find_words(  # noqa: ANN202, PLR0912
    text, starts, cuts, merges, slots, hashes, pool, pool_at, ids, ids_at, num_words, words, words_at, unstored  # noqa: ANN001
):  # fmt: skip
    """Number the words of each text; new ones are encoded into the table, and those it cannot take go to `unstored`.

    A word in the table is told by its number, the k-th unstored one by -1 - k.

    Returns:
        Words in the table, and number of unstored ones.
    """
    slot_mask = len(slots) - 1
    count, num_unstored = 0, 0
    for document in range(len(starts) - 1):
        start, end = starts[document], starts[document + 1]
        while start < end:
            code = np.uint64(_FNV_OFFSET)
            stop = start
            while True:
                code = (code ^ np.uint64(text[stop])) * np.uint64(_FNV_PRIME)
                stop += 1
                if stop == end or cuts[text[stop - 1], text[stop]]:
                    break
            size = stop - start
            word = _EMPTY
            slot = np.int64(code ^ (code >> np.uint64(32))) & slot_mask
            probes = 0
            while probes < _MAX_PROBES:
                word = slots[slot]
                if word == _EMPTY:
                    break
                at = pool_at[word]
                if hashes[word] == code and pool_at[word + 1] - at == size:
                    position = 0
                    while position < size and pool[at + position] == text[start + position]:
                        position += 1
                    if position == size:
                        break
                slot = (slot + 1) & slot_mask
                probes += 1
            if probes == _MAX_PROBES:
                word = _EMPTY
            if word == _EMPTY:
                at = pool_at[num_words]
                has_room = num_words < len(hashes) and at + size <= len(pool)
                if has_room and size <= MAX_WORD_BYTES and probes < _MAX_PROBES:
                    word = num_words
                    slots[slot] = word
                    hashes[word] = code
                    for offset in range(size):
                        pool[at + offset] = text[start + offset]
                    num_words += 1
                    pool_at[num_words] = at + size
                    ids_at[num_words] = ids_at[word] + merge(text[start:stop], merges, ids[ids_at[word] :])
                else:
                    unstored[num_unstored] = start, stop
                    num_unstored += 1
                    word = -num_unstored
            words[count] = word
            count += 1
            start = stop
        words_at[document + 1] = count
    return num_words, num_unstored


@compiled
def _copy_ids(words, words_at, ids_at, ids, other_ids_at, other_ids, out, offsets):  # noqa: ANN001, ANN202
    """Write the ids of all words, one after the other, and where those of each text end."""
    size = 0
    for document in range(len(words_at) - 1):
        for number in range(words_at[document], words_at[document + 1]):
            word = words[number]
            if word >= 0:
                for source in range(ids_at[word], ids_at[word + 1]):
                    out[size] = ids[source]
                    size += 1
            else:
                for source in range(other_ids_at[-1 - word], other_ids_at[-word]):
                    out[size] = other_ids[source]
                    size += 1
        offsets[document + 1] = size
