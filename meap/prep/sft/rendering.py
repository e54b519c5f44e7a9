"""Messages -> tokens, and which of them belong to an assistant's answer: exact, or an error, never a guess.

A conversation is rendered by a chat template as transformers' ``apply_chat_template`` does, prefix by prefix: the text
up to an answer, then the text with that answer, and so on. Each must be a prefix of the next. The whole text is encoded
at once; where the ids of each prefix are a prefix of the whole's ids, the borders of answers are known exactly. Where a
tokenizer merges across a border, the pieces between borders are encoded one by one (which is what inference does with a
prompt) if that spells the same text, and the record is left out if it does not.

An answer ends with the template's end-of-turn token; the white space that many templates write after it is the
template's, and not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.errors import ConfigError
from meap.prep.sft.messages import ASSISTANT, Messages, RecordError
from meap.tokenizer import Tokenizer

__all__ = ["DEFAULT_TEMPLATE", "ChatTemplate", "Rendered", "choose_template"]

DEFAULT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- set start = 0 %}"
    "{%- if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% set start = 1 %}"
    "{%- elif messages[0]['input'] %}"
    "{{ 'Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n' }}"
    "{%- else %}"
    "{{ 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n' }}"
    "{%- endif %}"
    "{%- for message in messages[start:] %}"
    "{%- if message['role'] == 'user' %}"
    "{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{%- if message['input'] %}{{ '### Input:\n' + message['input'] + '\n\n' }}{% endif %}"
    "{%- else %}"
    "{{ '### Response:\n' + message['content'] + eos_token }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
"""Alpaca's prompt format (github.com/tatsu-lab/stanford_alpaca), for base models that have no chat template.

A single turn is Alpaca's prompt to the letter; a system message replaces its first sentence, and further turns repeat
its headings, each answer closed by EOS.
"""


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens."""

    tokens: NDArray[np.uint32]
    answer: NDArray[np.uint8]
    """1 where the token belongs to an assistant's answer, its end-of-turn token included."""
    text: str


def choose_template(tokenizer: Tokenizer, wanted: str) -> tuple[str, str]:
    """Which template is used, `tokenizer` or `default`, and its text.

    Raises:
        ConfigError: The tokenizer's own is asked for, and it has none that is one template.
    """
    own = tokenizer.source_config.get("chat_template")
    if isinstance(own, list):
        own = next((each["template"] for each in own if each["name"] == "default"), None)
    if wanted == "default" or (wanted == "auto" and not own):
        return "default", DEFAULT_TEMPLATE
    if not isinstance(own, str) or not own:
        raise ConfigError(f"template=tokenizer, but tokenizer {tokenizer.name!r} has none: use template=default")
    return "tokenizer", own


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

    def render(self, messages: Messages) -> Rendered:
        """Tokens of a conversation.

        Raises:
            RecordError: The template refuses it or is not prefix-stable for it, a message contains a special token, or
                no encoding has the answers' borders between tokens.
        """
        messages = self._in_template_s_terms(messages)
        for message in messages:
            texts = (message["content"], message.get("input", ""))
            if found := [token for token in self._special.values() if any(token in text for text in texts)]:
                raise RecordError(f"a {message['role']} message contains the special token {found[0]!r}")
        pieces, is_answer = self._pieces(messages)
        encoded = self._encode(pieces)
        answer = [
            self._scored(tokens) if scored else np.zeros(len(tokens), np.uint8)
            for tokens, scored in zip(encoded, is_answer, strict=True)
        ]
        return Rendered(np.concatenate(encoded), np.concatenate(answer), "".join(pieces))

    def _in_template_s_terms(self, messages: Messages) -> Messages:
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

    def _pieces(self, messages: Messages) -> tuple[list[str], list[bool]]:
        """The rendered text cut at the borders of answers, and which of the pieces are answers."""
        borders = [""]
        for number, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                borders.append(self._text(messages[:number], add_generation_prompt=True))
                borders.append(self._text(messages[: number + 1]))
        borders.append(self._text(messages))
        for before, after in pairwise(borders):
            if not after.startswith(before):
                raise RecordError(
                    "the chat template writes the beginning of the conversation differently when it goes on"
                )
        pieces = [after[len(before) :] for before, after in pairwise(borders)]
        return pieces, [number % 2 == 1 for number in range(len(pieces))]

    def _text(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        conversations: Any = [messages]
        try:
            rendered, _ = render_jinja_template(
                conversations=conversations,
                chat_template=self.template,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.tokenizer.bos_token,
                eos_token=self.tokenizer.eos_token,
            )
        except TemplateError as error:
            raise RecordError(f"the chat template refuses it ({error})") from error
        return rendered[0]

    def _encode(self, pieces: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Ids of each piece, as the whole is encoded where that has the borders between tokens."""
        texts = ["".join(pieces[: number + 1]) for number in range(len(pieces))]
        prefixes = self.tokenizer.encode_batch(texts)
        whole = prefixes[-1]
        if all(np.array_equal(prefix, whole[: len(prefix)]) for prefix in prefixes):
            ends = [0, *(len(prefix) for prefix in prefixes)]
            return [whole[start:end] for start, end in pairwise(ends)]
        separate = self.tokenizer.encode_batch(list(pieces))
        if self.tokenizer.decode(np.concatenate(separate).tolist()) != self.tokenizer.decode(whole.tolist()):
            raise RecordError("the tokenizer merges the end of a prompt with its answer, and cannot encode them apart")
        return separate

    def _scored(self, tokens: NDArray[np.uint32]) -> NDArray[np.uint8]:
        scored = np.ones(len(tokens), np.uint8)
        ends = [index for index, token in enumerate(tokens.tolist()) if token in self._special]
        if ends and not self.tokenizer.decode(tokens[ends[-1] + 1 :].tolist()).strip():
            scored[ends[-1] + 1 :] = 0
        return scored
