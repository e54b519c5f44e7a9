"""Where a text may be cut so that the pieces' ids, one after the other, are those of the whole.

SentencePiece-style tokenizers (Llama-2, Mistral, TinyLlama) have no pre-tokenizer: a document is one sequence of
characters, in which BPE merges neighbours as long as its list of merges has the pair. A merge across the border of two
characters ``x|y`` needs a left part that ends in x and a right part that begins with y. Where no merge of the list has
such parts, none ever crosses, and the two sides do not know of each other: the order in which the others happen does
not matter either. Characters outside the vocabulary become byte tokens; these take part in no merge.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORD_MARK", "find_cuts", "without_surroundings"]

WORD_MARK = "\u2581"
"""What stands for a space in such a vocabulary."""

_PREPEND_AND_REPLACE = [
    {"type": "Prepend", "prepend": WORD_MARK},
    {"type": "Replace", "pattern": {"String": " "}, "content": WORD_MARK},
]
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_ASCII = 128


def find_cuts(definition: dict[str, Any]) -> NDArray[np.bool_] | None:
    """Pairs of neighbouring bytes between which a text may be cut, or None for a tokenizer of another kind.

    Args:
        definition: A tokenizer.json.

    Returns:
        (256, 256) by left and right byte of the UTF-8 text, in which a space stands for `WORD_MARK`. Two bytes that are
        not ASCII are never cut apart: they may belong to one character.
    """
    model = definition["model"]
    is_sentencepiece = (
        model.get("type") == "BPE"
        and _steps_of(definition["normalizer"]) == _PREPEND_AND_REPLACE
        and definition["pre_tokenizer"] is None
        and model.get("byte_fallback") is True
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not model.get("ignore_merges")
        and not any(token["normalized"] for token in definition["added_tokens"])
        and model["vocab"].keys() >= _BYTE_TOKENS
    )
    if not is_sentencepiece:
        return None
    cuts = np.ones((256, 256), np.bool_)
    cuts[_ASCII:, _ASCII:] = False
    for left, right in _merges(model):
        if left in _BYTE_TOKENS or right in _BYTE_TOKENS:
            return None
        cuts[_bytes_of(left[-1]), _bytes_of(right[0])] = False
    return cuts


def without_surroundings(definition: dict[str, Any]) -> dict[str, Any]:
    """The bare merges: what encodes a piece that is normalized already and holds no added token."""
    return definition | {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}


def _steps_of(normalizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    return cast("dict[str, Any]", normalizer or {}).get("normalizers", [])


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    # Older files have "left right", newer ones ["left", "right"].
    merges = cast("list[str | list[str]]", model["merges"])
    return [cast("tuple[str, str]", tuple(each.split(" ") if isinstance(each, str) else each)) for each in merges]


def _bytes_of(character: str) -> slice:
    """The bytes next to a cut that `character` may show itself as."""
    code = ord(" " if character == WORD_MARK else character)
    return slice(code, code + 1) if code < _ASCII else slice(_ASCII, 256)
