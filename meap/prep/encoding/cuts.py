"""Where a text can be split so that the concatenated ids of its pieces are the ids of the whole.

SentencePiece-style tokenizers (Llama-2, Mistral, TinyLlama) have no pre-tokenizer: a document is one sequence of
characters, in which BPE merges neighbours as long as its list of merges has the pair. A merge across the border of two
characters ``x|y`` needs a left part that ends in x and a right part that begins with y. If no merge of the list has
such parts, none ever crosses, and the two sides are independent, whatever the order of their merges. Characters outside
the vocabulary become byte tokens, which take part in no merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORD_MARK", "Cuts", "find_cuts", "merges_of", "without_surroundings"]

WORD_MARK = "\u2581"
"""Stands for a space in such a vocabulary."""

_NORMALIZERS = [
    {"type": "Prepend", "prepend": WORD_MARK},
    {"type": "Replace", "pattern": {"String": " "}, "content": WORD_MARK},
]
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_ASCII = 128


@dataclass(frozen=True)
class Cuts:
    """How texts of a SentencePiece-style tokenizer are split into words."""

    between: NDArray[np.bool_]
    """(256, 256) by left and right byte of the UTF-8 text, in which a space stands for `WORD_MARK`: whether the
    text can be split there. Two non-ASCII bytes are never separated: they may belong to one character."""
    begins_with_space: bool
    """Whether each text is prefixed with a space."""
    even_before_space: bool
    """Whether a text that already begins with a space gets another one."""

    def surround(self, text: bytes) -> bytes:
        """The text as it is split: with its prefix."""
        is_given = not text or not self.begins_with_space or (text[:1] == b" " and not self.even_before_space)
        return text if is_given else b" " + text


def find_cuts(definition: dict[str, Any]) -> Cuts | None:
    """How to split the texts of a tokenizer; None for tokenizers of other kinds.

    Args:
        definition: A tokenizer.json.
    """
    model = definition["model"]
    prefix = _prefix(definition)
    is_plain = (
        model.get("type") == "BPE"
        and model.get("byte_fallback") is True
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not model.get("ignore_merges")
        and not any(token["normalized"] for token in definition["added_tokens"])
        and model["vocab"].keys() >= _BYTE_TOKENS | {WORD_MARK}
    )
    if prefix is None or not is_plain:
        return None
    merges = merges_of(model)
    if len(set(merges)) < len(merges) or any(piece in _BYTE_TOKENS for merge in merges for piece in merge):
        return None
    between = np.ones((256, 256), np.bool_)
    between[_ASCII:, _ASCII:] = False
    for left, right in {(left[-1], right[0]) for left, right in merges}:
        between[_bytes_of(left), _bytes_of(right)] = False
    return Cuts(between, *prefix)


def without_surroundings(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition without normalizer and added tokens, for pieces that are normalized already."""
    return definition | {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "added_tokens": []}


def _prefix(definition: dict[str, Any]) -> tuple[bool, bool] | None:
    """`begins_with_space` and `even_before_space` of a tokenizer; None for other kinds."""
    normalizer, pre_tokenizer = (definition[key] or {} for key in ("normalizer", "pre_tokenizer"))
    if normalizer.get("normalizers") == _NORMALIZERS and not pre_tokenizer:
        return True, True
    is_metaspace = not normalizer and pre_tokenizer.get("type") == "Metaspace"
    if is_metaspace and pre_tokenizer["replacement"] == WORD_MARK and pre_tokenizer.get("split") is False:
        # "first" differs from "always" only after an added token, and texts with one are not split.
        return pre_tokenizer.get("prepend_scheme") != "never", False
    return None


def merges_of(model: dict[str, Any]) -> list[tuple[str, str]]:
    """The list of merges of a tokenizer.json's ``model``."""
    # Older files have "left right", newer ones ["left", "right"].
    merges = cast("list[str | list[str]]", model["merges"])
    return [cast("tuple[str, str]", tuple(each.split(" ") if isinstance(each, str) else each)) for each in merges]


def _bytes_of(character: str) -> slice:
    """The bytes by which `character` may appear next to a cut."""
    code = ord(" " if character == WORD_MARK else character)
    return slice(code, code + 1) if code < _ASCII else slice(_ASCII, 256)
