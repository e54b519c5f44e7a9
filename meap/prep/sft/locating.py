"""Messages -> text, and where its scored answers are: exact, or an error, never a guess.

Where a template has ``{% generation %}`` marks, they are the answers. Elsewhere an answer begins where the prompt ends
that inference renders, ``add_generation_prompt`` and all; or, where the template ignores that or writes another prompt
before answers, where two renderings with different answers begin to differ. It ends with the first special token that
the template writes after its content; the white space that many templates write then is not scored. Each border is
proven by what the template renders, and what a message says must be in the text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

from meap.errors import ConfigError
from meap.prep.sft.messages import ASSISTANT, USER, Messages, RecordError, is_scored
from meap.prep.sft.templates import has_marks, render, special_of_role
from meap.prep.sft.tools import Tools
from meap.tokenizer import Tokenizer

__all__ = ["Located", "Locator", "texts_of"]

_REWRITES = (
    "the chat template writes an answer differently once the conversation continues, so that it cannot be located: "
    "turns=each makes each answer the last of a conversation, turns=last scores the last alone"
)
_PROBES = ("Q7", "x4")
"""Answers that differ from the first character on."""
_OWN_KEYS = ("input", "scored")
"""Fields of a message that templates do not know."""
_THINK = "<think>"
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)
_SHOWN = 60


@dataclass
class Located:
    """A conversation's text, and where its scored answers begin and end."""

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    is_prompted: bool = True
    """Whether the prompt of inference stands before each of them."""

    @property
    def pieces(self) -> list[str]:
        """The text cut at the borders of answers; every second piece is an answer."""
        borders = [0, *(border for span in self.spans for border in span), len(self.text)]
        return [self.text[start:end] for start, end in pairwise(borders)]


class Locator:
    """Renders conversations by one template.

    Args:
        tokenizer: Its special tokens may end an answer.
        name: `tokenizer` or `default`, from `choose_template`.
        template: Its Jinja text.
    """

    def __init__(self, tokenizer: Tokenizer, name: str, template: str) -> None:
        self._name = name
        self._template = template
        self._special_of_role = special_of_role(tokenizer)
        self.has_marks = has_marks(template)
        ending = [token for token in tokenizer.plain.get_added_tokens_decoder().values() if token.content.strip()]
        # A token that takes the white space after it is one with it.
        spelled = [re.escape(token.content) + r"\s*" * token.rstrip for token in ending]
        self._ending = re.compile("|".join(sorted(spelled, key=len, reverse=True)) or r"(?!)")

    @cached_property
    def makes_prompts(self) -> bool:
        """Whether the template knows `add_generation_prompt`."""
        question: Messages = [{"role": USER, "content": _PROBES[0]}]
        try:
            return self.text(question, None) != self.text(question, None, add_generation_prompt=True)
        except RecordError:  # it wants other messages
            return False

    def locate(self, messages: Messages, tools: Tools | None) -> Located:
        """The text of a conversation, and its answers whose `scored` is not False.

        Raises:
            RecordError: The template refuses it, leaves out a part of it, or does not show where its answers are.
            ConfigError: The template does not end, or makes too much.
        """
        return _Conversation(self, self._for_template(messages), tools).located(list(map(is_scored, messages)))

    def _for_template(self, messages: Messages) -> Messages:
        """Messages as the template knows them; only the default one reads an Alpaca record's input by itself."""
        seen: Messages = []
        for message in messages:
            known = {key: value for key, value in message.items() if key not in _OWN_KEYS}
            if context := message.get("input"):
                if self._name == "default":
                    known["input"] = context
                else:
                    known["content"] = "\n\n".join(filter(None, (message["content"], context)))
            seen.append(known)
        return seen

    def text(self, messages: Messages, tools: Tools | None, **how: Any) -> str:
        """What the template writes; `how` is for `render`.

        Raises:
            RecordError: It refuses the messages.
        """
        try:
            return render(self._template, messages, self._special_of_role, tools=tools, **how)
        except ConfigError:
            raise
        except Exception as error:  # a template can raise whatever Python's operators do
            raise RecordError(f"the chat template refuses it ({error})") from error

    def end_of_turn(self, piece: str, message: dict[str, Any]) -> int | None:
        """Where the token ends that closes an answer; None where there is none.

        Args:
            piece: Text from the answer's beginning on.
            message: The answer.
        """
        content = message["content"].strip()
        place = piece.rfind(content) if content and not message.get("tool_calls") else -1
        if place >= 0:
            found = self._ending.search(piece, place + len(content))
            return found and found.end()
        # What the template made of the answer may hold special tokens of its own.
        ends = [found.end() for found in self._ending.finditer(piece)]
        return ends[-1] if ends and not piece[ends[-1] :].strip() else None


class _Conversation:
    """Renders one conversation and its beginnings.

    Args:
        locator: Its template.
        messages: As the template knows them.
        tools: What it may call.
    """

    def __init__(self, locator: Locator, messages: Messages, tools: Tools | None) -> None:
        self._locator = locator
        self._messages = messages
        self._tools = tools

    def located(self, is_scored: list[bool]) -> Located:
        """The text and the scored answers."""
        marks: list[tuple[int, int]] = []
        located = Located(self._text(self._messages, marks=marks if self._locator.has_marks else None))
        answers = [number for number, message in enumerate(self._messages) if message["role"] == ASSISTANT]
        if self._locator.has_marks and len(marks) != len(answers):
            raise RecordError(f"the chat template marks {len(marks)} of {len(answers)} answers with {{% generation %}}")
        for place, number in enumerate(answers):
            if is_scored[number]:
                span = marks[place] if self._locator.has_marks else self._span(number, located)
                located.spans.append(span)
        self._require_contents(located, is_scored)
        return located

    def _span(self, number: int, located: Located) -> tuple[int, int]:
        """Where the answer of a message begins and ends."""
        start = self._start(number, located)
        is_last = number == len(self._messages) - 1
        closed = located.text if is_last else self._text(self._messages[: number + 1])
        piece = _common_beginning(located.text, closed)[start:]
        end = self._locator.end_of_turn(piece, self._messages[number])
        if end is None and start + len(piece) < len(closed):
            raise RecordError(_REWRITES)
        return start, start + (len(piece) if end is None else end)

    def _start(self, number: int, located: Located) -> int:
        before = self._messages[:number]
        prompt = self._text(before, add_generation_prompt=True)
        is_prefix = located.text.startswith(prompt)
        content = self._messages[number]["content"]
        if is_prefix and self._locator.makes_prompts and content and located.text.startswith(content, len(prompt)):
            return len(prompt)
        without = self._text(before)
        if is_prefix and prompt != without:
            return len(prompt)
        one, two = (self._text([*before, {"role": ASSISTANT, "content": probe}]) for probe in _PROBES)
        common = _common_beginning(one, two)
        if not one[len(common) :].startswith(_PROBES[0]):
            raise RecordError("the chat template does not write an answer's content as it is")
        if prompt != without and prompt.startswith(common) and number == len(self._messages) - 1:
            self._put_in_thoughts(located, prompt, common, one[len(common) + len(_PROBES[0]) :])
            if located.text.startswith(prompt):
                return len(prompt)
        if not located.text.startswith(common):
            raise RecordError(_REWRITES)
        located.is_prompted &= prompt == without
        header = common.removeprefix(without)
        # A role's header is the template's; white space before an answer is the model's, which writes it with a word.
        return len(common) - len(header) + (len(header.rstrip(" ")) if header.strip() else 0)

    def _put_in_thoughts(self, located: Located, prompt: str, common: str, suffix: str) -> None:
        """Write the last answer as the model does, where the prompt opens a thought that the template leaves out."""
        message = self._messages[-1]
        thought, answer = message.get("reasoning_content"), message["content"]
        if not thought and (found := _THOUGHT.fullmatch(answer)):
            thought, answer = found.groups()
        written = f"{common}{_THINK}\n{(thought or '').strip()}\n</think>\n\n{answer.strip()}{suffix}"
        if thought and written.startswith(prompt):
            located.text = written

    def _text(self, messages: Messages, **how: Any) -> str:
        return self._locator.text(messages, self._tools, **how)

    def _require_contents(self, located: Located, is_scored: list[bool]) -> None:
        """Raise an error where the template leaves out what a message says, or a tool."""
        spans = iter(located.spans)
        for message, is_target in zip(self._messages, is_scored, strict=True):
            where, said = located.text, message
            if is_target:
                start, end = next(spans)
                # The prompt may have opened the thought.
                where = _THINK * where[:start].rstrip().endswith(_THINK) + where[start:end]
            elif message["role"] == ASSISTANT:
                said = _without_thoughts(message)
            if lost := next((text for text in texts_of(said) if not _is_in(text, where)), None):
                thought = ", or turns=each if it is the thought of an earlier answer" * is_target
                raise RecordError(
                    f"the chat template leaves out a part of a message of role {message['role']!r} "
                    f"({' '.join(lost.split())[:_SHOWN]!r}): choose one that writes it, or template=default{thought}"
                )
        for tool in self._tools or ():
            name = str(tool.get("function", tool).get("name", ""))
            if not _is_in(name, located.text):
                raise RecordError(
                    f"the chat template leaves out the tool {name!r}: choose a template that writes tools, or leave "
                    "such records out"
                )


def _common_beginning(one: str, other: str) -> str:
    if one.startswith(other) or other.startswith(one):  # mostly, and commonprefix takes character by character
        return min(one, other, key=len)
    return os.path.commonprefix([one, other])  # noqa: RUF071  # of strings


def _without_thoughts(message: dict[str, Any]) -> dict[str, Any]:
    """An answer of the history, whose thoughts templates drop on purpose."""
    said = {key: value for key, value in message.items() if key != "reasoning_content"}
    return {**said, "content": message["content"].rpartition("</think>")[2]}


def texts_of(message: dict[str, Any]) -> Iterator[str]:
    """What a message says: contents, thoughts, and the strings of its tool calls."""
    yield from (message[key] for key in ("content", "input", "reasoning_content") if message.get(key))
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        yield from _strings([function.get("name"), function.get("arguments")])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in cast("dict[str, Any]", value).items() for text in _strings(list(pair)))
    elif isinstance(value, list):
        yield from (text for each in cast("list[Any]", value) for text in _strings(each))


def _is_in(said: str, text: str) -> bool:
    """Whether a text is in another, but for white space and JSON's escapes."""
    if said.strip() in text:
        return True
    spellings = (said, *(json.dumps(said, ensure_ascii=is_ascii)[1:-1] for is_ascii in (False, True)))
    squeezed = _squeezed(text)
    return any(_squeezed(each) in squeezed for each in spellings)


def _squeezed(text: str) -> str:
    return "".join(text.split())
