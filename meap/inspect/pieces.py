"""Tokens -> pieces that concatenate to the decoded text, whatever bytes a token holds.

A character may be spread over several tokens, none of which can be decoded alone; such tokens make one piece. A piece
ends where no following token changes what has been decoded so far.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from meap.inspect.samples import Part
from meap.tokenizer import Tokenizer

__all__ = ["Cutter", "Piece"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_MOST_CONTINUATIONS = 3
"""Bytes of a UTF-8 character after its first."""


@dataclass(frozen=True)
class Piece:
    """Adjacent tokens treated alike, and their text; a masked or special token is a piece of its own."""

    text: str
    num_tokens: int
    num_masked: int
    is_scored: bool
    """Whether it is a scored answer. False in rows of documents, whose tokens are all scored."""
    is_special: bool
    is_end: bool
    """Whether it is the token that ends a document."""
    became: str = ""
    """What the model reads instead, where that is another token than the mask token, or the same."""


class Cutter:
    """Splits decoded text at token boundaries.

    Args:
        tokenizer: That of the data.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.full.get_added_tokens_decoder()
        self._special = {token_id: token.content for token_id, token in added.items() if token.special}

    def cut(self, part: Part) -> list[Piece]:
        """The pieces of a part, with what training does to them."""
        pieces: list[Piece] = []
        start = 0
        for text, num_tokens, is_special in self.split(part.tokens.tolist()):
            here = slice(start, start + num_tokens)
            piece = Piece(
                text=text,
                num_tokens=num_tokens,
                num_masked=int(part.is_masked[here].sum()),
                is_scored=part.conversation is not None and bool(part.is_scored[here].any()),
                is_special=is_special,
                is_end=is_special and int(part.tokens[start]) == self._tokenizer.eos_id,
                became=self._replacement(part, here),
            )
            if pieces and _are_alike(pieces[-1], piece):
                last = pieces.pop()
                piece = replace(last, text=last.text + text, num_tokens=last.num_tokens + num_tokens)
            pieces.append(piece)
            start += num_tokens
        return pieces

    def _replacement(self, part: Part, here: slice) -> str:
        chosen = part.inputs[here][part.is_masked[here]]
        return "" if (chosen == self._tokenizer.mask_id).all() else self._tokenizer.decode(part.inputs[here].tolist())

    def split(self, ids: Sequence[int]) -> Iterator[tuple[str, int, bool]]:
        """Text, number of tokens, and whether it is a special token.

        The text of special tokens is their name; what stands between two of them is decoded by itself.
        """
        start = 0
        while start < len(ids):
            if ids[start] in self._special:
                yield self._special[ids[start]], 1, True
                start += 1
                continue
            end = next((place for place in range(start, len(ids)) if ids[place] in self._special), len(ids))
            for text, num_tokens in _split_plain(ids[start:end], self._tokenizer.decode):
                yield text, num_tokens, False
            start = end


def _are_alike(one: Piece, other: Piece) -> bool:
    is_plain = not (one.num_masked or other.num_masked or one.is_special or other.is_special)
    return is_plain and one.is_scored == other.is_scored


def _split_plain(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Iterator[tuple[str, int]]:
    # Decoders look at what is around a token (a space at the very beginning is dropped, say), so the piece before goes
    # along as context, and only what is new is taken.
    context, start = 0, 0
    while start < len(ids):
        known = decode(ids[context:start]) if start else ""
        end = start + 1
        while not _is_settled(ids, context, end, decode):
            end += 1
        yield decode(ids[context:end])[len(known) :], end - start
        # Context begins at the start of a character. After a replacement character that is unknown: it may stand for an
        # incomplete character, or be part of the text.
        if not known.endswith(_REPLACEMENT):
            context = start
        start = end


def _is_settled(ids: Sequence[int], start: int, end: int, decode: Callable[[Sequence[int]], str]) -> bool:
    """Whether no token from `end` on changes the text of those before."""
    text = decode(ids[start:end])
    if not text.endswith(_REPLACEMENT):
        return True
    longest = min(end + _MOST_CONTINUATIONS, len(ids))
    return all(decode(ids[start:later]).startswith(text) for later in range(end + 1, longest + 1))
