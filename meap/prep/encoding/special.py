"""What becomes of special tokens that a document spells, such as ``<s>`` in a page about HTML.

`tokenizers` makes of them the tokens that end and begin documents, so that a text could say where a document ends. An
encoding that has no such id needs no look at its text: no special token was found in it, and nothing else differs
between the two ways to encode. So only documents with such an id are encoded once more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from meap.errors import DataError
from meap.prep.encoding.engines import Encoded
from meap.tokenizer import Tokenizer

__all__ = ["SpecialTokens"]

_NONCHARACTER = "\ufdd0"
"""Unicode reserves it for use inside programs."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer in text, and what is done with them.

    Args:
        tokenizer: Its vocabulary without the mask token is used.
        mode: `tokenizer.special_tokens_in_text`: `text`, `token` or `refuse`.
    """

    definition: str = field(repr=False)
    """A tokenizer.json."""
    plain: str = field(repr=False)
    """The same, or one whose model finds no special token in text either; see `_without_pieces`."""
    mode: str
    special: NDArray[np.bool_] = field(repr=False)
    """(ids,) which are special; not the unknown token where the model writes it itself."""
    unknown: str | None
    """The unknown token where the model writes it itself, so that its id says nothing."""
    mask_id: int
    mask_token: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, mode: str) -> SpecialTokens:
        """Those of a tokenizer."""
        definition: dict[str, Any] = json.loads(tokenizer.plain.to_str())
        special = np.zeros(tokenizer.vocab_size, np.bool_)
        special[[token["id"] for token in definition["added_tokens"] if token["special"]]] = True
        special[[*tokenizer.record.borders, tokenizer.mask_id]] = True
        unknown = _unknown_of(definition["model"])
        if unknown is not None and (number := tokenizer.plain.token_to_id(unknown)) is not None:
            special[number] = False
        plain = _without_pieces(definition, special)
        return cls(tokenizer.plain.to_str(), plain, mode, special, unknown, tokenizer.mask_id, tokenizer.mask_token)

    def settle(
        self, encoded: Encoded, utf8: Sequence[bytes], places: Sequence[tuple[str, int]]
    ) -> tuple[Encoded, dict[int, int]]:
        """Encode documents that spell special tokens as `mode` says.

        Args:
            encoded: Ids of the documents, special tokens read as such.
            utf8: The documents.
            places: File and line of each.

        Returns:
            Ids of the documents, and how many special tokens those spell that spell any.

        Raises:
            DataError: A document spells one, and `mode` is `refuse`; or one that is no token cannot be avoided.
        """
        counts = self._count(encoded, utf8)
        if not counts:
            return encoded, counts
        if self.mode == "refuse":
            number = min(counts)
            file, line = places[number]
            raise DataError(
                f"{file}:{line} spells {self._spelled(encoded, utf8, number)!r}, a special token of the tokenizer: "
                "remove it from the text, or set tokenizer.special_tokens_in_text=text to read it as plain characters"
            )
        with_mask = [number for number in counts if (_ids_of(encoded, number) == self.mask_id).any()]
        again = sorted(counts) if self.mode == "text" else with_mask
        if not again:
            return encoded, counts
        reader = _reader(self.plain)
        texts = [utf8[number].decode() for number in again]
        found = reader.encode_batch_fast(texts, add_special_tokens=False)
        by_number = {number: np.array(each.ids, np.uint32) for number, each in zip(again, found, strict=True)}
        for number, ids in by_number.items():
            self._require_plain(ids, *places[number])
        pieces = [by_number.get(number, _ids_of(encoded, number)) for number in range(len(utf8))]
        return Encoded(np.concatenate(pieces), np.cumsum([0, *map(len, pieces)], dtype=np.int64)), counts

    def _count(self, encoded: Encoded, utf8: Sequence[bytes]) -> dict[int, int]:
        hits = np.flatnonzero(self.special[encoded.ids])
        owners = np.searchsorted(encoded.offsets, hits, side="right") - 1
        numbers, found = np.unique(owners, return_counts=True)
        counts = dict(zip(numbers.tolist(), found.tolist(), strict=True))
        if self.unknown is not None:
            spelled = self.unknown.encode()
            for number, text in enumerate(utf8):
                if spelled in text:
                    counts[number] = counts.get(number, 0) + text.count(spelled)
        return counts

    def _spelled(self, encoded: Encoded, utf8: Sequence[bytes], number: int) -> str:
        ids = _ids_of(encoded, number)
        special = ids[self.special[ids]]
        if not len(special):
            return self.unknown or ""
        token = _reader(self.definition).id_to_token(int(special[0]))
        return token if token is not None else utf8[number][:20].decode(errors="replace")

    def _require_plain(self, ids: NDArray[np.uint32], file: str, line: int) -> None:
        """Some vocabularies have a special token among their words, which no way to encode can avoid."""
        left = ids[self.special[ids]]
        if not len(left):
            return
        if (left == self.mask_id).any():
            raise DataError(
                f"{file}:{line} contains the mask token {self.mask_token!r} (id {self.mask_id}), which is a word of "
                "the tokenizer's own vocabulary: choose a tokenizer.mask_token that the vocabulary lacks"
            )
        token = _reader(self.definition).id_to_token(int(left[0]))
        raise DataError(
            f"{file}:{line} spells {token!r}, a special token that is also a word of the tokenizer's vocabulary, so "
            "that it cannot be read as plain characters: remove it from the text, or set "
            "tokenizer.special_tokens_in_text=token"
        )


@lru_cache(maxsize=2)
def _reader(definition: str) -> RustTokenizer:
    """What reads special tokens as plain characters; cached per process, as the engines are."""
    reader = RustTokenizer.from_str(definition)
    reader.encode_special_tokens = True
    return reader


def _without_pieces(definition: dict[str, Any], special: NDArray[np.bool_]) -> str:
    """The tokenizer.json with other texts for special tokens that are pieces of a Unigram model.

    SentencePiece never finds its control symbols in text; the Unigram model of `tokenizers` takes them for words.
    """
    model = definition["model"]
    if model.get("type") != "Unigram":
        return json.dumps(definition)
    # The digest keeps a text from spelling the replacement by chance; one character is a word that texts need.
    digest = hashlib.sha256(json.dumps(model).encode()).hexdigest()[:16]
    hidden = np.append(np.flatnonzero(special), [] if model.get("unk_id") is None else model["unk_id"]).astype(int)
    for number in hidden[hidden < len(model["vocab"])].tolist():
        piece, score = model["vocab"][number]
        if len(piece) > 1:
            model["vocab"][number] = [f"{_NONCHARACTER}{digest}{number}", score]
    return json.dumps(definition)


def _unknown_of(model: dict[str, Any]) -> str | None:
    """The token that a model writes for what its vocabulary lacks; None if bytes stand for that, or nothing does."""
    if model.get("byte_fallback"):
        return None
    if model.get("type") == "Unigram":
        number = model.get("unk_id")
        return None if number is None else model["vocab"][number][0]
    return model.get("unk_token")


def _ids_of(encoded: Encoded, number: int) -> NDArray[np.uint32]:
    return encoded.ids[encoded.offsets[number] : encoded.offsets[number + 1]]
