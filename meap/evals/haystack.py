"""The text that needles are put into, as tokens: the user's files, or generated prose.

The essays of the published tests are not distributed here: give a folder of text files. Generated prose comes from
`meap.synthetic`, with draws that no corpus shares: the seed is offset by a fixed number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from meap.config import HaystackConfig
from meap.errors import DataError
from meap.evals.lm import Ids
from meap.synthetic import generate_document
from meap.tokenizer import Tokenizer

__all__ = ["Haystack", "insert_needles", "open_haystack", "sentence_ends", "sentence_place"]

_SEED_OFFSET = 0x6E6565646C65
"""Separates the prose from a training corpus with the same seed."""
_MAX_WALK = 512


class Haystack:
    """Lines of text that are repeated as needed.

    Args:
        lines: Token ids of each line, its newline included.
    """

    def __init__(self, lines: Sequence[Ids]) -> None:
        self._lines = lines
        self.num_lines = len(lines)

    def tokens(self, num_tokens: int, *, first_line: int = 0) -> Ids:
        """Exactly `num_tokens` ids from the start of a line; numbers past the last line wrap around."""
        taken: list[Ids] = []
        left = num_tokens
        line = first_line
        while left > 0:
            taken.append(self._lines[line % self.num_lines][:left])
            left -= len(taken[-1])
            line += 1
        return np.concatenate([np.empty(0, np.int32), *taken]).astype(np.int32)


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
    return Haystack([ids.astype(np.int32) for ids in tokenizer.encode_batch(lines)])


def sentence_ends(tokenizer: Tokenizer, ids: Ids) -> frozenset[int]:
    """Ids that end a sentence: those whose text ends in a period, with or without a space."""
    different = sorted(set(ids.tolist()))
    texts = tokenizer.full.decode_batch([[each] for each in different], skip_special_tokens=False)
    return frozenset(each for each, text in zip(different, texts, strict=True) if text.rstrip().endswith("."))


def sentence_place(context: Ids, depth: float, ends: frozenset[int]) -> int:
    """Where to put a needle: the rule of Kamradt and of Fu et al. (2024), ``insert_needle``.

    The needle goes to `depth` percent of the context, moved left to the end of a sentence; 100 appends it. One thing
    differs: if no sentence ends within 512 tokens, the needle stays at its depth instead of moving to the front.

    Args:
        context: Token ids of the haystack.
        depth: In [0, 100].
        ends: Ids that end a sentence.
    """
    if depth >= 100:
        return len(context)
    asked = place = int(len(context) * (depth / 100))
    while place > 0 and int(context[place - 1]) not in ends:
        place -= 1
    return place if asked - place <= _MAX_WALK else asked


def insert_needles(context: Ids, needles: Sequence[tuple[int, Ids]]) -> Ids:
    """The context with needles inserted, each before the token at its position."""
    pieces: list[Ids] = []
    before = 0
    for place, needle in sorted(needles, key=lambda each: each[0]):
        pieces += [context[before:place], needle]
        before = place
    return np.concatenate([*pieces, context[before:]]).astype(np.int32)


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
