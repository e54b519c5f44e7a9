"""Chooses the fastest engine whose ids match those of `tokenizers` on a probe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np

from meap.errors import DataError, first_line
from meap.json_text import parse_json
from meap.prep.encoding.cuts import WORD_MARK, find_cuts
from meap.prep.encoding.engines import Encoded, Engine, FastokensEngine, TokenizersEngine
from meap.prep.encoding.probe import probe_texts
from meap.tokenizer import Tokenizer

__all__ = ["Encoder", "build_encoder"]


@dataclass(frozen=True)
class Encoder:
    """Encodes documents. Pickled without its engine: each worker process builds its own at its first document.

    The definition leaves the mask token out of the vocabulary, so that no text encodes to its id.
    """

    definition: str = field(repr=False)
    """A tokenizer.json."""
    engine: str
    """`fastokens` or `tokenizers`."""
    by_word: bool
    """Whether words are looked up in a table first; needs `find_cuts` to find cuts."""
    fallback: str = ""
    """Why `fastokens` is not used; empty if it is, or was not asked for."""

    def encode(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded:
        """Ids of each text, without BOS and EOS; exactly those of ``tokenizers.Tokenizer.encode``.

        Args:
            texts: Documents.
            utf8: The same, encoded; the caller has it anyway.
        """
        return self._encoding.encode(texts, utf8)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone, without the engine."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def _encoding(self) -> _Encoding:
        return _load(self.definition, self.engine, self.by_word)


class _Encoding(Protocol):
    def encode(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded: ...


class _WholeDocuments:
    """Encodes documents without a word table."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def encode(self, texts: Sequence[str], utf8: Sequence[bytes]) -> Encoded:
        del utf8
        return self._engine.encode(texts)


@lru_cache(maxsize=2)
def _load(definition: str, engine: str, by_word: bool) -> _Encoding:
    """Cached per process: a worker runs many tasks, and each unpickles its encoder again."""
    load_engine = FastokensEngine if engine == "fastokens" else TokenizersEngine
    cuts = find_cuts(parse_json(definition)) if by_word else None
    if cuts is None:
        return _WholeDocuments(load_engine(definition))
    from meap.prep.encoding.by_word import ByWord  # imports numba

    return ByWord(definition, cuts, load_engine)


def build_encoder(tokenizer: Tokenizer, *, engine: str = "auto") -> Encoder:
    """Choose the fastest engine whose ids match those of `tokenizers` on every probe text.

    If that is not `fastokens`, a warning on stderr says why.

    Args:
        tokenizer: Its vocabulary without the mask token is used.
        engine: `auto`, or `tokenizers` for the reference.

    Raises:
        DataError: `tokenizers` itself fails on a probe text.
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
    definition = tokenizer.plain_definition
    reference = Encoder(definition, "tokenizers", by_word=False)
    if engine == "tokenizers":
        return reference
    by_word = find_cuts(parse_json(definition)) is not None
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
    try:
        expected = reference.encode(texts, utf8)
    except Exception as error:
        raise DataError(
            f"tokenizer.name={tokenizer.name} cannot encode every text ({first_line(error)}): choose a tokenizer whose "
            "model has an unknown token, or bytes to fall back to"
        ) from error
    for _ in range(2):  # the second time from the engine's caches
        try:
            found = candidate.encode(texts, utf8)
        except Exception as error:  # noqa: BLE001 (whatever it is, `tokenizers` remains)
            return f"{candidate.engine} fails on this tokenizer ({type(error).__name__}: {str(error)[:120]})"
        if not np.array_equal(found.ids, expected.ids) or not np.array_equal(found.offsets, expected.offsets):
            return f"{candidate.engine} gives ids that differ from those of tokenizers"
    return None
