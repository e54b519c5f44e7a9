"""Messages -> tokens, and which of them belong to an assistant's answer: exact, or an error, never a guess.

A conversation is rendered prefix by prefix: the text up to an answer, then the text with that answer, and so on. Each
must be a prefix of the next. The whole text is encoded at once; if a token ends and the next one begins at every border
of an answer, the answers' tokens are known exactly. If the tokenizer merges across a border, the pieces between borders
are encoded one by one, as inference does with a prompt, provided that this spells the same text; otherwise the record
is left out.

An answer ends with the template's end-of-turn token; the white space that many templates write after it belongs to the
template and is not scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from meap.errors import ConfigError
from meap.prep.sft.messages import ASSISTANT, Messages, RecordError
from meap.prep.sft.templates import render, special_of_role, time_limit
from meap.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Rendered"]

_MERGED = "the tokenizer merges the end of a prompt with its answer, and cannot encode them apart"


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens."""

    tokens: NDArray[np.uint32]
    answer: NDArray[np.uint8]
    """1 where the token belongs to an assistant's answer, its end-of-turn token included."""
    text: str


class ChatTemplate:
    """Renders and encodes conversations.

    Args:
        tokenizer: Encodes without the mask token.
        name: `tokenizer` or `default`, from `choose_template`.
        template: Its Jinja text.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, template: str) -> None:
        self.tokenizer = tokenizer
        self.name = name
        self.template = template
        added = tokenizer.plain.get_added_tokens_decoder()
        self._special = {number: token.content for number, token in added.items() if token.special}
        self._special_beginnings = {content[:2] for content in self._special.values()}
        self._special_of_role = special_of_role(tokenizer)
        self._is_blank: dict[int, bool] = {}

    def render(self, messages: Messages) -> Rendered:
        """Tokens of a conversation.

        Raises:
            RecordError: The template refuses it or is not prefix-stable for it, a message contains a special token, or
                no encoding has the answers' borders between tokens.
            ConfigError: The template does not end.
        """
        (rendered,) = self.render_batch([messages])
        if isinstance(rendered, RecordError):
            raise rendered
        return rendered

    def render_batch(self, conversations: Sequence[Messages]) -> list[Rendered | RecordError]:
        """Tokens of many conversations, each as `render` gives them or the error that `render` raises."""
        results: list[Any] = [self._pieces_or_error(messages) for messages in conversations]
        places = [number for number, result in enumerate(results) if not isinstance(result, RecordError)]
        pieces = [cast("list[str]", results[place]) for place in places]
        for place, each, encoded in zip(places, pieces, self._encode(pieces), strict=True):
            results[place] = encoded if isinstance(encoded, RecordError) else self._rendered(each, encoded)
        return results

    def _rendered(self, pieces: list[str], encoded: list[NDArray[np.uint32]]) -> Rendered:
        answer = np.zeros(sum(map(len, encoded)), np.uint8)
        start = 0
        for number, tokens in enumerate(encoded):
            if number % 2 == 1:
                answer[start : start + self._num_scored(tokens)] = 1
            start += len(tokens)
        return Rendered(np.concatenate(encoded), answer, "".join(pieces))

    def _pieces_or_error(self, messages: Messages) -> list[str] | RecordError:
        messages = self._for_template(messages)
        try:
            for message in messages:
                self._refuse_special_tokens(message)
            with time_limit(self.tokenizer.name):
                return self._pieces(messages)
        except RecordError as error:
            return error

    def _refuse_special_tokens(self, message: Mapping[str, str]) -> None:
        for text in (message["content"], message.get("input", "")):
            # There may be hundreds of them, and most begin alike.
            if any(beginning in text for beginning in self._special_beginnings):
                for token in self._special.values():
                    if token in text:
                        raise RecordError(f"a {message['role']} message contains the special token {token!r}")

    def _for_template(self, messages: Messages) -> Messages:
        """Only the default template knows an Alpaca record's input; others read it as part of the question."""
        if self.name == "default":
            return messages
        return [
            {
                "role": message["role"],
                "content": "\n\n".join(each for each in (message["content"], message.get("input", "")) if each),
            }
            for message in messages
        ]

    def _pieces(self, messages: Messages) -> list[str]:
        """The rendered text cut at the borders of answers; every second piece is an answer."""
        borders = [""]
        for number, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                borders.append(self._text(messages[:number], add_generation_prompt=True))
                borders.append(self._text(messages[: number + 1]))
        if messages[-1]["role"] != ASSISTANT:
            borders.append(self._text(messages))
        for before, after in pairwise(borders):
            if not after.startswith(before):
                raise RecordError(
                    "the chat template writes the beginning of a conversation differently once it continues, so that "
                    "its answers cannot be located; template=default does not"
                )
        return [after[len(before) :] for before, after in pairwise(borders)]

    def _text(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        try:
            return render(self.template, messages, self._special_of_role, add_generation_prompt=add_generation_prompt)
        except ConfigError:
            raise
        except Exception as error:  # a template can raise whatever Python's operators do
            raise RecordError(f"the chat template refuses it ({error})") from error

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
            if self.tokenizer.decode(np.concatenate(apart).tolist()) == self.tokenizer.decode(whole.tolist()):
                results.append(apart)
            else:
                results.append(RecordError(_MERGED))
        return results

    def _num_scored(self, tokens: NDArray[np.uint32]) -> int:
        """Tokens of an answer up to its last special token, where but white space follows that; all of them if not."""
        for index in range(len(tokens) - 1, -1, -1):
            token = int(tokens[index])
            if token in self._special:
                return index + 1
            if token not in self._is_blank:
                self._is_blank[token] = not self.tokenizer.decode([token]).strip()
            if not self._is_blank[token]:
                break
        return len(tokens)


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
