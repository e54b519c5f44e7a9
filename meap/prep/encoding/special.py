"""Special tokens that documents spell: encoded as plain characters, as transformers' ``split_special_tokens`` does.

Each special token gets another text in the definition of the tokenizer, one that no document has; ids and all other
tokens stay. So every engine encodes its former text as any other text. A vocabulary in which the model itself finds the
piece (Unigram, WordPiece, BPE with `ignore_merges`) loses it the same way.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, cast

from meap.tokenizer import Tokenizer

__all__ = ["SpecialTokens", "without_special_tokens"]

_NONCHARACTER = "\ufdd0"
"""Unicode reserves it for use inside programs; texts have none."""


@dataclass(frozen=True)
class SpecialTokens:
    """Finds the texts of special tokens in documents."""

    pattern: re.Pattern[bytes]
    beginnings: tuple[bytes, ...]
    """First two bytes of each: faster to search for, and usually absent."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> SpecialTokens:
        """Those of a tokenizer, its mask token among them."""
        texts = sorted((each.encode() for each in _contents(tokenizer)), key=len, reverse=True)
        return cls(re.compile(b"|".join(map(re.escape, texts))), tuple(sorted({each[:2] for each in texts})))

    def find(self, text: bytes) -> list[bytes]:
        """Each that a text spells, in order, as often as it does."""
        return self.pattern.findall(text) if any(each in text for each in self.beginnings) else []


def without_special_tokens(tokenizer: Tokenizer) -> str:
    """The tokenizer.json of a tokenizer without the mask token, in which no text is a special token."""
    content = tokenizer.plain.to_str()
    definition = cast("dict[str, Any]", json.loads(content))
    model, digest = definition["model"], hashlib.sha256(content.encode()).hexdigest()[:16]
    added = {token["content"] for token in definition["added_tokens"]}
    hidden = {each: f"{_NONCHARACTER}{digest}{each}" for each in _contents(tokenizer) if each in added}
    for token in definition["added_tokens"]:
        if token["content"] in hidden:
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            token.update({"content": hidden[token["content"]]} | flags)
    if model["type"] == "Unigram":
        pieces = hidden | {each: f"{_NONCHARACTER}{digest}{each}" for each in _contents(tokenizer) if len(each) > 1}
        model["vocab"] = [[pieces.get(piece, piece), score] for piece, score in model["vocab"]]
        return json.dumps(definition)
    model["vocab"] = {hidden.get(piece, piece): number for piece, number in model["vocab"].items()}
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if model["type"] == "BPE":
        pairs = [(merge, merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        model["merges"] = [merge for merge, pair in pairs if not ({*pair, "".join(pair)} & hidden.keys())]
    return json.dumps(definition)


def _contents(tokenizer: Tokenizer) -> set[str]:
    special = {each.content for each in tokenizer.full.get_added_tokens_decoder().values() if each.special}
    delimiters = {each for each in (tokenizer.bos_token, tokenizer.eos_token) if each is not None and len(each) > 1}
    return special | delimiters
