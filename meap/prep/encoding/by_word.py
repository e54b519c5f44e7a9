"""Encodes documents word by word; documents with added tokens bypass the word table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from itertools import compress, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.json_text import parse_json
from meap.prep.encoding.bpe import build_merge_tables
from meap.prep.encoding.cuts import WORD_MARK, Cuts, without_surroundings
from meap.prep.encoding.engines import Encoded, Engine, TokenizersEngine
from meap.prep.encoding.words import WordTable

__all__ = ["ByWord"]

_MARK = WORD_MARK.encode()


class ByWord:
    """Encodes documents of a SentencePiece-style tokenizer word by word, those that spell an added token as a whole.

    Args:
        definition: A tokenizer.json.
        cuts: Where its texts can be split.
        load_engine: Builds an engine from a definition, for long words.
    """

    def __init__(self, definition: str, cuts: Cuts, load_engine: Callable[[str], Engine]) -> None:
        parsed: dict[str, Any] = parse_json(definition)
        bare = load_engine(json.dumps(without_surroundings(parsed)))
        self._table = WordTable(bare, cuts, build_merge_tables(parsed["model"]))
        self._whole = TokenizersEngine(definition)
        tokens = [token["content"] for token in parsed["added_tokens"]]
        self._added_tokens = [token.encode() for token in tokens]
        self._prefix = os.path.commonprefix(tokens).encode()  # noqa: RUF071 (of strings, not of paths)

    def encode(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded:
        """Ids of each text.

        Args:
            texts: Documents.
            utf8: The same, encoded.
        """
        # The common prefix of all added tokens is faster to search for, and usually absent.
        has_token = [self._prefix in text and any(token in text for token in self._added_tokens) for text in utf8]
        if not any(has_token):
            return self._encode_words(texts, utf8)
        others = [not each for each in has_token]
        whole = iter(_split(self._whole.encode([*compress(texts, has_token)])))
        by_word = iter(_split(self._encode_words([*compress(texts, others)], [*compress(utf8, others)])))
        ids = [next(whole) if is_whole else next(by_word) for is_whole in has_token]
        return Encoded(np.concatenate(ids), np.cumsum([0, *map(len, ids)], dtype=np.int64))

    def _encode_words(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded:
        pairs = zip(texts, utf8, strict=True)
        return self._table.encode_utf8(
            [encoded if text.isascii() else encoded.replace(_MARK, b" ") for text, encoded in pairs]
        )


def _split(encoded: Encoded) -> list[NDArray[np.uint32]]:
    return [encoded.ids[start:end] for start, end in pairwise(encoded.offsets.tolist())]
