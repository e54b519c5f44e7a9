"""The fastest way of encoding that gives the ids of `tokenizers`: chosen by trying, never by trust."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from meap.prep.encoding.cuts import WORD_MARK, find_cuts
from meap.prep.encoding.engines import Encoded, Engine, FastokensEngine, TokenizersEngine
from meap.prep.encoding.probe import probe_texts
from meap.tokenizer import Tokenizer

__all__ = ["Encoder", "build_encoder"]


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
        return self._way.encode(texts, utf8)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: engines stay in their process."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def _way(self) -> _Way:
        return _load(self.definition, self.engine, self.by_word)


class _Way(Protocol):
    def encode(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded: ...


class _Whole:
    """Encodes documents as they are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def encode(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded:
        del utf8
        return self._engine.encode(texts)


@lru_cache(maxsize=2)
def _load(definition: str, engine: str, by_word: bool) -> _Way:
    """Kept by the process: a worker does many tasks, and each brings its encoder anew."""
    load_engine = FastokensEngine if engine == "fastokens" else TokenizersEngine
    parsed = json.loads(definition) if by_word else {}
    cuts = find_cuts(parsed) if by_word else None
    if cuts is None:
        return _Whole(load_engine(definition))
    from meap.prep.encoding.by_word import ByWord  # compiles

    return ByWord(parsed, cuts, load_engine)


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
