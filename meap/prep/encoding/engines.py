"""Two libraries that encode with a tokenizer.json, behind one interface: a batch of texts in, one flat array out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

__all__ = ["Encoded", "Engine", "FastokensEngine", "TokenizersEngine", "loaded"]


@dataclass(frozen=True)
class Encoded:
    """Ids of a batch of texts, without BOS and EOS; text i has ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    """(texts + 1,)"""


class Engine(Protocol):
    """Encodes texts."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of each text."""
        ...


@lru_cache(maxsize=2)
def loaded(definition: str) -> RustTokenizer:
    """A tokenizer.json in memory, never to be changed: whoever encodes or decodes with it in this process shares it."""
    return RustTokenizer.from_str(definition)


class TokenizersEngine:
    """The reference: Hugging Face's `tokenizers`.

    Args:
        definition: A tokenizer.json.
    """

    def __init__(self, definition: str) -> None:
        self._tokenizer = loaded(definition)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of each text."""
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        arrays = [np.array(encoding.ids, np.uint32) for encoding in encodings]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return Encoded(np.concatenate(arrays) if arrays else np.empty(0, np.uint32), offsets)


class FastokensEngine:
    """`fastokens`, which reads the same file and makes no Python object per token.

    Args:
        definition: A tokenizer.json.

    Raises:
        ValueError: `fastokens` does not support a component of it.
    """

    def __init__(self, definition: str) -> None:
        from fastokens import Tokenizer

        self._tokenizer = Tokenizer.from_json_str(definition)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Ids of each text."""
        ids, offsets = self._tokenizer.encode_batch_flat(list(texts))
        return Encoded(np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64))
