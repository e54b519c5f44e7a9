"""Names of invented people, about whom no model knows anything."""

from __future__ import annotations

import random

__all__ = ["MOST_NAMES", "draw_names"]

# All words have the same length, so that no word is part of another.
_STARTS = (
    *("Bar", "Cel", "Dor", "Fal", "Gim", "Har", "Jor", "Kel", "Lun", "Mar"),
    *("Nor", "Pel", "Ras", "Sol", "Tam", "Urs", "Vel", "Wen", "Yar", "Zel"),
)
_MIDDLES = ("an", "el", "in", "or", "us", "ad", "em", "il", "ov", "ar")
_ENDS = ("da", "ek", "is", "or", "ya", "et", "on", "um", "as", "en")
_NUM_WORDS = len(_STARTS) * len(_MIDDLES) * len(_ENDS)

MOST_NAMES = _NUM_WORDS // 2
"""Most names that can be drawn at once."""


def draw_names(rng: random.Random, number: int) -> list[str]:
    """First names and surnames, no word of which occurs twice.

    Args:
        rng: Random generator.
        number: Number of names, in [0, `MOST_NAMES`].
    """
    words = [_word(index) for index in rng.sample(range(_NUM_WORDS), 2 * number)]
    return [f"{first} {last}" for first, last in zip(words[:number], words[number:], strict=True)]


def _word(index: int) -> str:
    index, end = divmod(index, len(_ENDS))
    start, middle = divmod(index, len(_MIDDLES))
    return _STARTS[start] + _MIDDLES[middle] + _ENDS[end]
