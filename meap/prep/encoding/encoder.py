"""The fastest way of encoding that gives the ids of `tokenizers`: chosen by trying, never by trust."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from meap.prep.encoding.cuts import WORD_MARK, find_cuts, without_surroundings
from meap.prep.encoding.engines import Encoded, Engine, FastokensEngine, TokenizersEngine
from meap.prep.encoding.probe import probe_texts
from meap.tokenizer import Tokenizer

if TYPE_CHECKING:
    from meap.prep.encoding.words import WordTable

__all__ = ["Encoder", "build_encoder"]

_MARK = WORD_MARK.encode()


@dataclass(frozen=True)
class Encoder:
    """Encodes documents. Travels to worker processes as its definition; each builds its engine when it first encodes.

    The definition is that of the vocabulary without the mask token, so that no text can give its id.
    """

    definition: str = field(repr=False)
    """A tokenizer.json."""
    engine: str
    """`fastokens` or `tokenizers`."""
    by_word: bool
    """Whether words are looked up in a table first; only where `find_cuts` finds cuts."""
    fallback: str = ""
    """Why it is not the fastest way; empty where it is."""

    def encode(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded:
        """Ids of each text, without BOS and EOS; exactly those of ``tokenizers.Tokenizer.encode``.

        Args:
            texts: Documents.
            utf8: The same, encoded: the caller has that anyway.
        """
        if self._table is None:
            return self._whole.encode(texts)
        prefix, tokens = self._added_tokens
        has_token = [prefix in text and any(token in text for token in tokens) for text in utf8]
        if any(has_token):
            return self._encode_apart(texts, utf8, has_token)
        return self._by_word(texts, utf8)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: engines stay in their process."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def _by_word(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded:
        assert self._table is not None
        pairs = zip(texts, utf8, strict=True)
        return self._table.encode_utf8(
            [encoded if text.isascii() else encoded.replace(_MARK, b" ") for text, encoded in pairs]
        )

    def _encode_apart(self, texts: Sequence[str], utf8: Sequence[bytes], has_token: Sequence[bool]) -> Encoded:
        """Texts with the characters of an added token go to the engine whole: there they are that token."""
        others = [not each for each in has_token]
        whole = iter(_split(self._whole.encode([*compress(texts, has_token)])))
        by_word = iter(_split(self._by_word([*compress(texts, others)], [*compress(utf8, others)])))
        ids = [next(whole) if is_whole else next(by_word) for is_whole in has_token]
        return Encoded(np.concatenate(ids), np.cumsum([0, *map(len, ids)], dtype=np.int64))

    @cached_property
    def _parsed(self) -> dict[str, Any]:
        return json.loads(self.definition)

    @cached_property
    def _whole(self) -> Engine:
        # Few texts are not cut where texts are; and fastokens cannot read every such tokenizer as a whole.
        return TokenizersEngine(self.definition) if self.by_word else self._load(self.definition)

    @cached_property
    def _table(self) -> WordTable | None:
        cuts = find_cuts(self._parsed) if self.by_word else None
        if cuts is None:
            return None
        from meap.prep.encoding.bpe import build_merge_tables  # compiles
        from meap.prep.encoding.words import WordTable

        bare = self._load(json.dumps(without_surroundings(self._parsed)))
        return WordTable(bare, cuts, build_merge_tables(self._parsed["model"]))

    @cached_property
    def _added_tokens(self) -> tuple[bytes, list[bytes]]:
        """What all of them begin with, which is quicker to look for, and each of them."""
        tokens = [token["content"] for token in self._parsed["added_tokens"]]
        prefix = os.path.commonprefix(tokens)  # noqa: RUF071 (of strings, not of paths)
        return prefix.encode(), [token.encode() for token in tokens]

    def _load(self, definition: str) -> Engine:
        return FastokensEngine(definition) if self.engine == "fastokens" else TokenizersEngine(definition)


def build_encoder(tokenizer: Tokenizer, *, engine: str = "auto") -> Encoder:
    """Choose how to encode: the fastest way that gives the ids of `tokenizers` for every probe.

    Where that is not `fastokens`, a line on stderr says so and why.

    Args:
        tokenizer: Its vocabulary without the mask token is used.
        engine: `auto`, or `tokenizers` for that alone.
    """
    encoder = _choose(tokenizer, engine)
    if encoder.fallback:
        print(
            f"warning: encoding goes through tokenizers, several times slower: {encoder.fallback}",
            file=sys.stderr,
            flush=True,
        )
    return encoder


def _choose(tokenizer: Tokenizer, engine: str) -> Encoder:
    definition = tokenizer.plain.to_str()
    reference = Encoder(definition, "tokenizers", by_word=False)
    if engine == "tokenizers":
        return reference
    by_word = find_cuts(json.loads(definition)) is not None
    reason = ""
    for name in ("fastokens", "tokenizers"):
        candidate = Encoder(definition, name, by_word=by_word, fallback=reason)
        problem = _problem(candidate, reference, tokenizer)
        if problem is None:
            return candidate
        reason = reason or problem
    return Encoder(definition, "tokenizers", by_word=False, fallback=reason)


def _problem(candidate: Encoder, reference: Encoder, tokenizer: Tokenizer) -> str | None:
    """Why `candidate` cannot be used, or None."""
    if candidate == reference:
        return None
    vocabulary = sorted(tokenizer.plain.get_vocab(with_added_tokens=False))
    every = max(1, len(vocabulary) // 1000)
    words = [word.replace(WORD_MARK, " ") for word in vocabulary[::every]] or ["word"]
    tokens = [token.content for token in tokenizer.plain.get_added_tokens_decoder().values()]
    texts = list(probe_texts([*tokens[:16], tokenizer.mask_token], words))
    utf8 = [text.encode() for text in texts]
    expected = reference.encode(texts, utf8)
    for _ in range(2):  # the second time from its caches
        try:
            found = candidate.encode(texts, utf8)
        except Exception as error:  # noqa: BLE001 (whatever it is, there is another way)
            return f"{candidate.engine} cannot read it ({type(error).__name__}: {str(error)[:120]})"
        if not np.array_equal(found.ids, expected.ids) or not np.array_equal(found.offsets, expected.offsets):
            return f"{candidate.engine} gives other ids"
    return None


def _split(encoded: Encoded) -> list[NDArray[np.uint32]]:
    return [encoded.ids[start:end] for start, end in pairwise(encoded.offsets.tolist())]
