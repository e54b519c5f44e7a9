"""The text that needles are put into, as tokens: files of one's own, or generated prose.

The essays of the published tests are their author's, and are not here: give a folder of text files. Generated prose is
that of `meap.synthetic`, with other draws than any corpus of it: the seed is offset by a fixed number.
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
"""Keeps the prose apart from that of a training corpus with the same seed."""
_MAX_WALK = 512


class Haystack:
    """Lines of text that are repeated as long as need be.

    Args:
        lines: Token ids of each line, its end included.
    """

    def __init__(self, lines: Sequence[Ids]) -> None:
        self._lines = lines
        self.num_lines = len(lines)

    def tokens(self, num_tokens: int, *, first_line: int = 0) -> Ids:
        """Exactly `num_tokens` ids from the beginning of a line, which is counted on past the last one."""
        taken: list[Ids] = []
        left = num_tokens
        line = first_line
        while left > 0:
            taken.append(self._lines[line % self.num_lines][:left])
            left -= len(taken[-1])
            line += 1
        return np.concatenate([np.empty(0, np.int32), *taken]).astype(np.int32)


def open_haystack(config: HaystackConfig, tokenizer: Tokenizer, seed: int, num_tokens: int) -> Haystack:
    """A haystack of about `num_tokens` different tokens, or of as many as the files have.

    Files are read in the order of their names, so that the haystack does not depend on the file system.

    Raises:
        DataError: The folder holds no text.
    """
    texts = _read(config.dir) if config.dir is not None else _prose(seed, num_tokens)
    lines = [line for text in texts for line in text.splitlines(keepends=True) if line.strip()]
    if not lines:
        raise DataError(
            f"haystack.dir={config.dir} holds no text in files *.txt: give another folder, or leave it unset"
        )
    return Haystack([ids.astype(np.int32) for ids in tokenizer.encode_batch(lines)])


def sentence_ends(tokenizer: Tokenizer, ids: Ids) -> frozenset[int]:
    """Which of `ids` end a sentence: those whose text ends in a period, with or without a space, by whatever name."""
    different = sorted(set(ids.tolist()))
    texts = tokenizer.full.decode_batch([[each] for each in different], skip_special_tokens=False)
    return frozenset(each for each, text in zip(different, texts, strict=True) if text.rstrip().endswith("."))


def sentence_place(context: Ids, depth: float, ends: frozenset[int]) -> int:
    """Where to put a needle: the rule of Kamradt and of Fu et al. (2024), ``insert_needle``.

    `depth` percent of the context stand before, less what a walk to the left takes up to the end of a sentence; 100
    appends. It differs in one thing: where no sentence ends within 512 tokens, the needle stays at its depth instead of
    going to the front in silence.

    Args:
        context: Ids of the haystack.
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
    """The context with ids put in, each before the token that stands at its place."""
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
        raise DataError(f"haystack.dir={folder} has a file that is not UTF-8 text: {error}") from error


def _prose(seed: int, num_tokens: int) -> list[str]:
    texts: list[str] = []
    characters = 0
    # English is about four characters a token; more of it is only fewer repetitions.
    while characters < 4 * num_tokens:
        texts.append(generate_document(seed + _SEED_OFFSET, len(texts)).text + "\n")
        characters += len(texts[-1])
    return texts
