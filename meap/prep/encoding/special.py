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
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as RustTokenizer

from meap.errors import DataError
from meap.json_text import parse_json
from meap.prep.encoding.engines import Encoded
from meap.tokenizer import Tokenizer

__all__ = ["SpecialTokens"]

_NONCHARACTER = "\ufdd0"
"""Unicode reserves it for use inside programs."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer in text, and what is done with them."""

    definition: str = field(repr=False)
    """A tokenizer.json."""
    mode: str
    """`tokenizer.special_tokens_in_text`: `text`, `token` or `refuse`."""
    special: NDArray[np.bool_] = field(repr=False)
    """(ids,) which are special; not the unknown token where the model writes it itself."""
    gap: tuple[int, int]
    """The two special ids, or ends of the vocabulary, with the most others between them: few batches leave these."""
    unknown: str | None
    """The unknown token where the model writes it itself, so that its id says nothing."""
    mask_id: int
    mask_token: str

    @classmethod
    def of(cls, tokenizer: Tokenizer, mode: str) -> SpecialTokens:
        """Those of a tokenizer's vocabulary without the mask token."""
        definition: dict[str, Any] = parse_json(tokenizer.plain_definition)
        special = np.zeros(tokenizer.vocab_size, np.bool_)
        special[[token["id"] for token in definition["added_tokens"] if token["special"]]] = True
        special[[*tokenizer.record.borders, tokenizer.mask_id]] = True
        unknown = _unknown_of(definition["model"])
        if unknown is not None and (number := tokenizer.plain.token_to_id(unknown)) is not None:
            special[number] = False
        bounds = [-1, *np.flatnonzero(special).tolist(), len(special)]
        gap = max(pairwise(bounds), key=lambda pair: pair[1] - pair[0])
        mask_id, mask_token = tokenizer.mask_id, tokenizer.mask_token
        return cls(tokenizer.plain_definition, mode, special, gap, unknown, mask_id, mask_token)

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
        by_number = self._as_text(again, utf8)
        for number, ids in by_number.items():
            self._require_plain(ids, encoded, utf8, number, places[number])
        again_ids = (by_number.get(number) for number in range(len(utf8)))
        pieces = [_ids_of(encoded, number) if ids is None else ids for number, ids in enumerate(again_ids)]
        return Encoded(np.concatenate(pieces), np.cumsum([0, *map(len, pieces)], dtype=np.int64)), counts

    def _count(self, encoded: Encoded, utf8: Sequence[bytes]) -> dict[int, int]:
        ids, counts = encoded.ids, dict[int, int]()
        if len(ids) and not self.gap[0] < ids.min() <= ids.max() < self.gap[1]:
            hits = np.flatnonzero(self.special[ids])
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

    def _as_text(self, numbers: Sequence[int], utf8: Sequence[bytes]) -> dict[int, NDArray[np.uint32] | None]:
        """Ids of some documents as plain characters; None for one that the model has no token for, not even unknown."""
        hidden = np.flatnonzero(self.special).tolist()
        if self.mask_token.isalnum():  # a word, which texts would lose: `_require_plain` says so
            hidden.remove(self.mask_id)
        reader = _plain_reader(self.definition, tuple(hidden))
        texts = [utf8[number].decode() for number in numbers]
        try:
            found = [each.ids for each in reader.encode_batch_fast(texts, add_special_tokens=False)]
        except Exception:  # noqa: BLE001 (tokenizers has no other)
            if len(numbers) == 1:
                return {numbers[0]: None}
            by_number: dict[int, NDArray[np.uint32] | None] = {}
            for number in numbers:
                by_number |= self._as_text([number], utf8)
            return by_number
        return {number: np.array(ids, np.uint32) for number, ids in zip(numbers, found, strict=True)}

    def _require_plain(
        self,
        ids: NDArray[np.uint32] | None,
        encoded: Encoded,
        utf8: Sequence[bytes],
        number: int,
        place: tuple[str, int],
    ) -> None:
        """Some vocabularies have a special token among their words, which no way to encode can avoid."""
        left = _ids_of(encoded, number) if ids is None else ids
        left = left[self.special[left]]
        if ids is not None and not len(left):
            return
        file, line = place
        if (left == self.mask_id).any():
            raise DataError(
                f"{file}:{line} contains the mask token {self.mask_token!r} (id {self.mask_id}), which is a word of "
                "the tokenizer's own vocabulary: choose a tokenizer.mask_token that the vocabulary lacks"
            )
        raise DataError(
            f"{file}:{line} spells {self._spelled(encoded, utf8, number)!r}, a special token that is also a word of "
            "the tokenizer's vocabulary, so that it cannot be read as plain characters: remove it from the text, or "
            "set tokenizer.special_tokens_in_text=token"
        )


@lru_cache(maxsize=2)
def _reader(definition: str) -> RustTokenizer:
    """What reads special tokens as plain characters; cached per process, as the engines are."""
    reader = RustTokenizer.from_str(definition)
    reader.encode_special_tokens = True
    return reader


@lru_cache(maxsize=2)
def _plain_reader(definition: str, hidden: tuple[int, ...]) -> RustTokenizer:
    """The same, whose model does not find the tokens of `hidden` in text either."""
    parsed: dict[str, Any] = parse_json(definition)
    renamed = _hide(parsed["model"], hidden)
    for token in parsed["added_tokens"]:  # else it would get another id
        token["content"] = renamed.get(token["content"], token["content"])
    return _reader(json.dumps(parsed))


def _hide(model: dict[str, Any], hidden: Sequence[int]) -> dict[str, str]:
    """Give special tokens that are words of a model other texts, which are returned, so that no document spells them.

    BERT's models find a word such as ``[SEP]`` where nothing splits it, Unigram any piece, BPE what its merges make.
    Documents get the unknown token there, or the pieces of the word.
    """
    # The digest keeps a text from spelling the replacement by chance.
    digest = hashlib.sha256(json.dumps(model).encode()).hexdigest()[:16]
    if model.get("type") == "Unigram":
        numbers = [*hidden, *([] if model.get("unk_id") is None else [model["unk_id"]])]
        entries = [(number, model["vocab"][number][0]) for number in numbers if number < len(model["vocab"])]
    else:
        unknown = model["vocab"].get(model.get("unk_token"))
        chosen = {*hidden, unknown}
        entries = [(number, text) for text, number in model["vocab"].items() if number in chosen]
    # One character is a word that texts need.
    renamed = {text: f"{_NONCHARACTER}{digest}{number}" for number, text in entries if len(text) > 1}
    if model.get("type") == "Unigram":
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in model["vocab"]]
        return renamed
    model["vocab"] = {renamed.get(text, text): number for text, number in model["vocab"].items()}
    if model.get("unk_token") is not None:
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        model["merges"] = [pair for pair in pairs if not renamed.keys() & {*pair, "".join(pair)}]
    return renamed


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
