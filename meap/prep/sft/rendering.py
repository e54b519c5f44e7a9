"""Messages -> tokens, and which of them belong to an assistant's answer.

The text of a conversation is encoded at once; if a token ends and the next one begins at every border of an answer, the
answers' tokens are known exactly. If the tokenizer merges across a border, the pieces between borders are encoded one
by one, as inference does with a prompt, provided that this spells the same text; otherwise the record is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from meap.answers import END, SCORED, Flags
from meap.prep.sft.contents import texts_of
from meap.prep.sft.locating import Located, Locator
from meap.prep.sft.messages import ASSISTANT, Messages, RecordError
from meap.prep.sft.templates import time_limit
from meap.prep.sft.tools import Tools
from meap.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Rendered"]

_THOUGHT_TAGS = ("<think>", "</think>")
"""What a model writes itself, be they special tokens or not."""
_MERGED = "the tokenizer merges the end of a prompt with its answer, and cannot encode them apart"


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens."""

    tokens: NDArray[np.uint32]
    flags: Flags
    """Of each token: `SCORED` in an answer, its end of turn included, which is `END` as well."""
    text: str
    ends: tuple[int | None, ...]
    """The token that ends each scored answer; None where it has none of its own."""
    is_prompted: bool
    """Whether the prompt of inference stands before each scored answer."""


class ChatTemplate:
    """Renders and encodes conversations.

    Args:
        tokenizer: Encodes without the mask token.
        name: `tokenizer` or `default`, from `choose_template`.
        template: Its Jinja text.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, template: str) -> None:
        self.tokenizer = tokenizer
        self._locator = Locator(tokenizer, name, template)
        added = tokenizer.plain.get_added_tokens_decoder()
        self._special = [token.content for token in added.values() if token.special]
        self._special_beginnings = {content[:2] for content in self._special}
        self._ending_ids = frozenset(number for number, token in added.items() if token.content.strip())

    def render(self, messages: Messages, tools: Tools | None = None) -> Rendered:
        """Tokens of a conversation.

        Args:
            messages: Its messages; answers whose `scored` is False are not scored.
            tools: JSON schemas of the functions that it may call.

        Raises:
            RecordError: The template refuses it, leaves out a part of it, or does not show where its answers are; a
                message contains a special token; or no encoding has the answers' borders between tokens.
            ConfigError: The template does not end.
        """
        (rendered,) = self.render_batch([(messages, tools)])
        if isinstance(rendered, RecordError):
            raise rendered
        return rendered

    def render_batch(self, conversations: Sequence[tuple[Messages, Tools | None]]) -> list[Rendered | RecordError]:
        """Tokens of many conversations, each as `render` gives them or the error that `render` raises."""
        results: list[Any] = [self._located_or_error(messages, tools) for messages, tools in conversations]
        places = [number for number, result in enumerate(results) if not isinstance(result, RecordError)]
        located = [cast("Located", results[place]) for place in places]
        pieces = self._encode([each.pieces for each in located])
        for place, each, encoded in zip(places, located, pieces, strict=True):
            results[place] = encoded if isinstance(encoded, RecordError) else self._rendered(each, encoded)
        return results

    def _rendered(self, located: Located, encoded: list[NDArray[np.uint32]]) -> Rendered:
        flags = np.zeros(sum(map(len, encoded)), np.uint8)
        ends: list[int | None] = []
        start = 0
        for number, tokens in enumerate(encoded):
            if number % 2 == 1:
                flags[start : start + len(tokens)] = SCORED
                end = self._end_of(tokens) if located.is_ended[number // 2] else len(tokens)
                flags[start + end : start + len(tokens)] |= END
                ends.append(int(tokens[end]) if end < len(tokens) else None)
            start += len(tokens)
        return Rendered(np.concatenate(encoded), flags, located.text, tuple(ends), located.is_prompted)

    def _end_of(self, tokens: NDArray[np.uint32]) -> int:
        """Where an answer's end of turn begins: a special token with but white space behind it; its length if none."""
        for index in range(len(tokens) - 1, -1, -1):
            token = int(tokens[index])
            if token in self._ending_ids:
                return index
            # Only marks leave anything behind it.
            if not self._locator.has_marks or self.tokenizer.decode([token]).strip():
                break
        return len(tokens)

    def _located_or_error(self, messages: Messages, tools: Tools | None) -> Located | RecordError:
        try:
            for message in messages:
                self._refuse_special_tokens(message)
            with time_limit(self.tokenizer.name):
                return self._locator.locate(messages, tools)
        except RecordError as error:
            return error

    def _refuse_special_tokens(self, message: dict[str, Any]) -> None:
        for text in texts_of(message):
            # There may be hundreds of them, and most begin alike.
            if any(beginning in text for beginning in self._special_beginnings):
                for token in self._special:
                    if token in text and not (message["role"] == ASSISTANT and token in _THOUGHT_TAGS):
                        raise RecordError(f"a {message['role']} message contains the special token {token!r}")

    def _encode(self, conversations: Sequence[list[str]]) -> list[list[NDArray[np.uint32]] | RecordError]:
        """Ids of each piece of each conversation, as the whole is encoded where that has the borders between tokens."""
        texts = ["".join(pieces) for pieces in conversations]
        wholes = self.tokenizer.plain.encode_batch(texts, add_special_tokens=False)
        results: list[list[NDArray[np.uint32]] | RecordError] = []
        for pieces, encoding in zip(conversations, wholes, strict=True):
            whole = np.array(encoding.ids, np.uint32)
            borders = _token_borders(encoding, len(whole), pieces)
            if borders is not None:
                results.append([whole[start:end] for start, end in pairwise(borders)])
                continue
            apart = self.tokenizer.encode_batch(pieces)
            text = self.tokenizer.decode(whole.tolist())
            if not self._spells(apart, text):
                apart[1::2] = map(self._encode_behind_text, pieces[1::2])
            results.append(apart if self._spells(apart, text) else RecordError(_MERGED))
        return results

    def _spells(self, pieces: Sequence[NDArray[np.uint32]], text: str) -> bool:
        return self.tokenizer.decode(np.concatenate(pieces).tolist()) == text

    def _encode_behind_text(self, piece: str) -> NDArray[np.uint32]:
        """Ids of a text that another precedes: SentencePiece puts a space before one that stands alone."""
        encoding = self.tokenizer.plain.encode(f"\n{piece}", add_special_tokens=False)
        return np.array(encoding.ids[_token_border(encoding, 1) or 0 :], np.uint32)


def _token_borders(encoding: Encoding, num_tokens: int, pieces: Sequence[str]) -> list[int] | None:
    """Where the pieces begin and end, in tokens; None where a token may stand on a border."""
    borders, place = [0], 0
    for number, piece in enumerate(pieces[:-1], 1):
        place += len(piece)
        border = _token_border(encoding, place) if any(pieces[number:]) else num_tokens
        if border is None:
            return None
        borders.append(border)
    return [*borders, num_tokens]


def _token_border(encoding: Encoding, place: int) -> int | None:
    """The token that begins at a character, where the one before it ends there; None where there is no such token.

    Byte-level tokenizers leave white space out of a token's extent, but never add to it: one on the border shows.
    """
    token = encoding.char_to_token(place)
    if token is None or (encoding.token_to_chars(token) or (None,))[0] != place:
        return None
    before = encoding.token_to_chars(token - 1) if token else (0, 0)
    return token if before is not None and before[1] == place else None
