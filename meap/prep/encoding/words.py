"""A table from words to ids: each new word of a text is encoded once, and copied from the table from then on.

Whole words are compared, not their hashes, so a word never gets another's ids. The table has a fixed size and is
cleared when full. An engine encodes words that are too long for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from meap.prep.encoding.bpe import MAX_WORD_BYTES, MergeTables, compiled, merge
from meap.prep.encoding.cuts import WORD_MARK, Cuts
from meap.prep.encoding.engines import Encoded, Engine

__all__ = ["WordTable"]

_NUM_WORDS = 1 << 19
_POOL_SIZE = 1 << 23
_MAX_PROBES = 64
_FULL = 0.9
"""Share of the table or of a pool at which it is cleared before the next batch."""
_EMPTY = -1
_KEY_BYTES = 8
"""A word of up to so many bytes is its own key; the key of a longer one is a hash, and its text is compared too."""
_MULTIPLIER = 0x9E3779B97F4A7C15
"""2**64 divided by the golden ratio (Knuth's multiplicative hashing)."""


class WordTable:
    """Encodes texts word by word.

    Args:
        engine: Encodes words that are too long; `WORD_MARK` stands for a space in them.
        cuts: Where words end.
        merges: Vocabulary for words of at most `MAX_WORD_BYTES`.
        num_words: Capacity, a power of two.
    """

    def __init__(self, engine: Engine, cuts: Cuts, merges: MergeTables, *, num_words: int = _NUM_WORDS) -> None:
        self._engine = engine
        self._cuts = cuts
        self._merges = merges
        self._keys = np.empty(2 * num_words, np.uint64)
        self._entries = np.empty(2 * num_words, np.int64)  # position in the pool of ids << 16 | ids << 8 | bytes
        self._text_at = np.empty(2 * num_words, np.int64)
        self._text = np.empty(_POOL_SIZE, np.uint8)
        self._ids = np.empty(_POOL_SIZE, np.int32)
        self._used = np.zeros(3, np.int64)  # words, bytes, ids
        self._clear()

    @property
    def num_words(self) -> int:
        """Words in the table."""
        return int(self._used[0])

    def encode_utf8(self, texts: Sequence[bytes]) -> Encoded:
        """Ids of each text.

        Args:
            texts: UTF-8, with a space in place of every `WORD_MARK`.
        """
        if (self._used > _FULL * np.array([len(self._keys) / 2, _POOL_SIZE, _POOL_SIZE])).any():
            self._clear()
        surrounded = [*map(self._cuts.surround, texts)]
        starts = np.cumsum([0, *map(len, surrounded)], dtype=np.int64)
        joined = np.frombuffer(b"".join(surrounded), np.uint8)
        ids = np.empty(len(joined), np.uint32)  # no more ids than bytes
        offsets = np.zeros(len(starts), np.int64)
        gaps = np.empty((len(joined) // MAX_WORD_BYTES + 1, 3), np.int64)
        num_gaps = _encode_words(
            joined, starts, self._cuts.between, self._merges, self._keys, self._entries, self._text_at, self._text,
            self._ids, self._used, ids, offsets, gaps,
        )  # fmt: skip
        encoded = Encoded(ids[: offsets[-1]], offsets)
        return self._fill_gaps(encoded, joined, gaps[:num_gaps]) if num_gaps else encoded

    def _clear(self) -> None:
        self._used.fill(0)
        self._entries.fill(_EMPTY)

    def _fill_gaps(self, encoded: Encoded, text: NDArray[np.uint8], gaps: NDArray[np.int64]) -> Encoded:
        """Insert the ids of long words, each of which has a gap as wide as its bytes."""
        words = [text[start:stop].tobytes().decode().replace(" ", WORD_MARK) for _, start, stop in gaps.tolist()]
        long = self._engine.encode(words)
        pieces, position = [], 0
        for (at, start, stop), (first, last) in zip(gaps.tolist(), pairwise(long.offsets.tolist()), strict=True):
            pieces += [encoded.ids[position:at], long.ids[first:last]]
            position = at + stop - start
        surplus = np.cumsum([0, *((gaps[:, 2] - gaps[:, 1]) - np.diff(long.offsets))])
        before = np.searchsorted(gaps[:, 0], encoded.offsets, side="left")
        return Encoded(np.concatenate([*pieces, encoded.ids[position:]]), encoded.offsets - surplus[before])


@compiled
def _encode_words(  # noqa: ANN202, PLR0912, PLR0915
    text, starts, cuts, merges, keys, entries, text_at, pool, pool_ids, used, out, offsets, gaps  # noqa: ANN001
):  # fmt: skip
    """Encode the words of each text, from the table where they are in it.

    Args:
        text: UTF-8 of all texts.
        starts: Where each text begins, and the end.
        cuts: See `meap.prep.encoding.cuts`.
        merges: Encodes words that are new.
        keys: First bytes or hash of the word in a slot.
        entries: Position and number of the word's ids, and its size in bytes; or `_EMPTY`.
        text_at: Position of its text in `pool`, for words longer than their key.
        pool: Texts of words longer than their key.
        pool_ids: Ids of all words.
        used: Words, bytes and ids in the table.
        out: Output ids; words of more than `MAX_WORD_BYTES` leave a gap.
        offsets: Output, where the ids of each text end.
        gaps: Output, rows (position in `out`, start and stop in `text`) of such words.

    Returns:
        Number of gaps.
    """
    mask = len(keys) - 1
    size_out, num_gaps = 0, 0
    scratch = np.empty(MAX_WORD_BYTES, np.int32)
    merge_scratch = np.empty(MAX_WORD_BYTES, np.int64)
    for document in range(len(starts) - 1):
        start, end = starts[document], starts[document + 1]
        while start < end:
            previous = text[start]
            key = np.uint64(previous)
            stop = start + 1
            while stop < end:
                byte = text[stop]
                if cuts[previous, byte]:
                    break
                if stop - start < _KEY_BYTES:
                    key = key << np.uint64(8) | np.uint64(byte)
                else:
                    key = (key ^ np.uint64(byte)) * np.uint64(_MULTIPLIER)
                previous = byte
                stop += 1
            size = stop - start
            if size > MAX_WORD_BYTES:
                gaps[num_gaps] = size_out, start, stop
                num_gaps += 1
                size_out += size
                start = stop
                continue

            slot = np.int64(key * np.uint64(_MULTIPLIER) >> np.uint64(32)) & mask
            entry = entries[slot]
            probes = 0
            while entry != _EMPTY:
                if keys[slot] == key and entry & 0xFF == size:
                    same = size <= _KEY_BYTES
                    if not same:
                        at, position = text_at[slot], 0
                        while position < size and pool[at + position] == text[start + position]:
                            position += 1
                        same = position == size
                    if same:
                        break
                slot = (slot + 1) & mask
                entry = entries[slot]
                probes += 1
                if probes == _MAX_PROBES:
                    break

            if entry != _EMPTY and probes < _MAX_PROBES:
                begin, count = entry >> 16, entry >> 8 & 0xFF
                for position in range(count):
                    out[size_out + position] = pool_ids[begin + position]
                size_out += count
                start = stop
                continue

            count = merge(text[start:stop], merges, scratch, merge_scratch)
            for position in range(count):
                out[size_out + position] = scratch[position]
            size_out += count
            at, begin = used[1], used[2]
            has_room = used[0] < len(keys) // 2 and at + size <= len(pool) and begin + count <= len(pool_ids)
            if has_room and probes < _MAX_PROBES:
                keys[slot] = key
                entries[slot] = begin << 16 | count << 8 | size
                for position in range(count):
                    pool_ids[begin + position] = scratch[position]
                if size > _KEY_BYTES:
                    text_at[slot] = at
                    for position in range(size):
                        pool[at + position] = text[start + position]
                    used[1] = at + size
                used[0] += 1
                used[2] = begin + count
            start = stop
        offsets[document + 1] = size_out
    return num_gaps
