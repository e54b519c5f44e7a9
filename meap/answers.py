"""Flags of conversation tokens: which are scored, which end a turn, which may be masked in a copy.

Preparation writes them, loading reads them. An *answer* is what an assistant says in one turn; its *words* are its
tokens without the end of the turn. Threshold and ratio are those of an answer, not of a conversation: the paper counts
question-answer pairs (section 4.2).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["END", "LONG", "SCORED", "Flags", "answer_spans", "long_answers", "with_long_answers"]

Flags = NDArray[np.uint8]

SCORED: Final = 1
"""The token is a target."""
END: Final = 2
"""The token ends a turn, or follows its end: no word, never masked."""
LONG: Final = 4
"""The token is a word of an answer that is long enough for a masked copy."""


def answer_spans(flags: Flags) -> list[tuple[int, int]]:
    """First position of each scored answer, and the first after it, ends of turns included.

    Args:
        flags: Of a conversation's tokens, (T,).
    """
    is_scored, is_end = (np.concatenate([[False], (flags & bit) != 0, [False]]) for bit in (SCORED, END))
    # An answer may follow another at once: the end of a turn tells them apart.
    begins = is_scored[1:] & (~is_scored[:-1] | (is_end[:-1] & ~is_end[1:]))
    stops = is_scored[:-1] & (~is_scored[1:] | (is_end[:-1] & ~is_end[1:]))
    return list(zip(np.flatnonzero(begins).tolist(), np.flatnonzero(stops).tolist(), strict=True))


def with_long_answers(flags: Flags, more_than: int) -> Flags:
    """The flags with `LONG` at the words of answers that have more than so many."""
    words = (flags & (SCORED | END)) == SCORED
    words[:1] = False  # nothing stands before the first token that could predict it
    marked: Any = flags & ~np.uint8(LONG)
    for start, end in answer_spans(flags):
        if np.count_nonzero(words[start:end]) > more_than:
            marked[start:end] |= LONG * words[start:end].astype(np.uint8)
    return marked


def long_answers(flags: Flags, more_than: int = 0) -> list[tuple[int, int]]:
    """Spans, as of `answer_spans`, of the answers with more than so many words flagged `LONG`."""
    words = (flags & LONG) != 0
    return [(start, end) for start, end in answer_spans(flags) if np.count_nonzero(words[start:end]) > more_than]
