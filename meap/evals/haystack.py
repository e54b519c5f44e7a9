"""The text that needles are put into: the user's files, or generated prose.

The essays of the published tests are not distributed here: give a folder of text files. Generated prose comes from
`meap.synthetic`, with draws that no corpus shares: the seed is offset by a fixed number.

Lengths and depths are counted in tokens, but prompts are joined as text and encoded as a whole, as published: what the
model reads, decoded, is the published prompt. Pieces that are encoded apart would differ from it where a tokenizer
begins every text with a space, as those of SentencePiece do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from meap.config import HaystackConfig
from meap.errors import DataError
from meap.synthetic import generate_document
from meap.tokenizer import Tokenizer

__all__ = ["Context", "Haystack", "open_haystack", "sentence_place", "token_borders"]

_SEED_OFFSET = 0x6E6565646C65
"""Separates the prose from a training corpus with the same seed."""
_MAX_WALK = 512


@dataclass(frozen=True, eq=False)
class Context:
    """Text of a number of tokens."""

    text: str
    borders: NDArray[np.int64]
    """Characters before each token, and those of the whole text last."""

    @property
    def num_tokens(self) -> int:
        """Its length."""
        return len(self.borders) - 1

    def last(self, num_tokens: int) -> str:
        """The text of its last tokens."""
        return self.text[int(self.borders[max(0, self.num_tokens - num_tokens)]) :]

    def ends_sentence(self, place: int) -> bool:
        """Whether the token before `place` ends in a period, with or without a space."""
        return self.text[int(self.borders[place - 1]) : int(self.borders[place])].rstrip().endswith(".")

    def with_needles(self, needles: Sequence[tuple[int, str]]) -> str:
        """The text with needles inserted, each before the token at its place; those at one place in their order."""
        pieces: list[str] = []
        before = 0
        for place, needle in sorted(needles, key=lambda each: each[0]):
            border = int(self.borders[place])
            pieces += [self.text[before:border], needle]
            before = border
        return "".join([*pieces, self.text[before:]])


class Haystack:
    """Lines of text that are repeated as needed.

    Args:
        lines: Each with its newline.
        tokenizer: Counts its tokens.
    """

    def __init__(self, lines: Sequence[str], tokenizer: Tokenizer) -> None:
        self.num_lines = len(lines)
        self._text = "".join(lines)
        self._borders = token_borders(self._text, tokenizer)
        first_characters = list(accumulate(map(len, lines), initial=0))[:-1]
        self._first_token = np.searchsorted(self._borders, first_characters, side="right") - 1

    def take(self, num_tokens: int, *, first_line: int = 0) -> Context:
        """Exactly `num_tokens` tokens from the start of a line; numbers past the last line wrap around."""
        start = int(self._first_token[first_line % self.num_lines])
        of_all = len(self._borders) - 1
        rounds = -(-(start + num_tokens) // of_all)
        borders = np.concatenate(
            [np.zeros(1, np.int64), *(self._borders[1:] + each * len(self._text) for each in range(rounds))]
        )[start : start + num_tokens + 1]
        return Context((self._text * rounds)[int(borders[0]) : int(borders[-1])], borders - borders[0])


def token_borders(text: str, tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Characters before each token of a text, and those of all of it last."""
    # Where tokens end: where they begin, tokenizers disagree about spaces.
    ends = [end for _, end in tokenizer.plain.encode(text, add_special_tokens=False).offsets]
    return np.maximum.accumulate(np.array([0, *ends[:-1], len(text)] if ends else [0], np.int64))


def open_haystack(config: HaystackConfig, tokenizer: Tokenizer, seed: int, num_tokens: int) -> Haystack:
    """A haystack of about `num_tokens` tokens before it repeats, or of as many as the files have.

    Files are read in the order of their names, so that the haystack does not depend on the file system.

    Raises:
        DataError: The folder holds no text.
    """
    texts = _read(config.dir) if config.dir is not None else _prose(seed, num_tokens)
    lines = [line for text in texts for line in text.splitlines(keepends=True) if line.strip()]
    if not lines:
        raise DataError(f"haystack.dir={config.dir} has no .txt file with text: give another folder, or leave it unset")
    return Haystack(lines, tokenizer)


def sentence_place(context: Context, depth: float) -> int:
    """Where to put a needle: the rule of Kamradt and of Fu et al. (2024), ``insert_needle``.

    The needle goes to `depth` percent of the context, moved left to the end of a sentence; 100 appends it. Two things
    differ. A sentence ends with any token whose text ends in a period; there, only with the ids of a period encoded
    alone, which miss tokens such as ``..`` and words with a period. And if no sentence ends
    within 512 tokens, the needle stays at its depth; there, it moves on, to the front if there is none.

    Args:
        context: The haystack.
        depth: In [0, 100].
    """
    if depth >= 100:
        return context.num_tokens
    asked = place = int(context.num_tokens * (depth / 100))
    while place > 0 and not context.ends_sentence(place):
        if asked - place >= _MAX_WALK:
            return asked
        place -= 1
    return place


def _read(folder: str) -> list[str]:
    paths = sorted(Path(folder).glob("*.txt"))
    try:
        return [path.read_text(encoding="utf-8") for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"haystack.dir={folder} has a file that is not UTF-8 text ({error}): convert it") from error


def _prose(seed: int, num_tokens: int) -> list[str]:
    texts: list[str] = []
    characters = 0
    # English has about four characters per token; more text only means fewer repetitions.
    while characters < 4 * num_tokens:
        texts.append(generate_document(seed + _SEED_OFFSET, len(texts)).text + "\n")
        characters += len(texts[-1])
    return texts
