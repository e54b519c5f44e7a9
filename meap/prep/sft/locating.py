"""Messages -> text, and where its scored answers are: exact, or an error, never a guess.

Where a template has ``{% generation %}`` marks, they are the answers. Elsewhere an answer begins where the prompt ends
that inference renders, ``add_generation_prompt`` and all; or, where the template ignores that or writes another prompt
before answers, where two renderings with different answers begin to differ. It ends with the first special token that
the template writes after its content; the white space that many templates write then is not scored. Each border is
proven by what the template renders, and what a message says must be in the text.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from meap.errors import ConfigError
from meap.prep.sft.contents import is_in, texts_of, without_thoughts
from meap.prep.sft.messages import ASSISTANT, TOOL, USER, Messages, RecordError, is_scored
from meap.prep.sft.templates import has_marks, render, special_of_role
from meap.prep.sft.tools import CALL_NOTATIONS, Notation, Tools
from meap.tokenizer import Tokenizer

__all__ = ["Located", "Locator"]

_REWRITES = (
    "the chat template writes an answer differently once the conversation continues, so that it cannot be located: "
    "turns=each makes each answer the last of a conversation, turns=last scores the last alone"
)
_PROBES = ("Q7", "x4")
"""Answers that differ from the first character on."""
_OWN_KEYS = ("input", "scored")
"""Fields of a message that templates do not know."""
_THINK = "<think>"
_THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>(.*)", re.DOTALL)
"""The model writes no tag where the prompt opens the thought."""
_SHOWN = 60


@dataclass
class Located:
    """A conversation's text, and where its scored answers begin and end."""

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    is_ended: list[bool] = field(default_factory=list[bool])
    """Whether a token of its own ends each of them."""
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
        added = [token for token in tokenizer.plain.get_added_tokens_decoder().values() if token.content.strip()]
        spelled = sorted((re.escape(token.content) for token in added), key=len, reverse=True)
        self._ending = re.compile("|".join(spelled) or r"(?!)")
        self._longest = max((len(token.content) for token in added), default=0)
        self._takes_behind = tuple(token.content for token in added if token.rstrip)
        self._takes_before = tuple(token.content for token in added if token.lstrip)

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
        known, scored = self._for_template(messages), list(map(is_scored, messages))
        try:
            return _Conversation(self, known, tools, None).located(scored)
        except RecordError:
            if any(message.get("tool_calls") for message in messages):
                for notation in CALL_NOTATIONS:
                    with suppress(RecordError):
                        return _Conversation(self, known, tools, notation).located(scored)
            raise

    def _for_template(self, messages: Messages) -> Messages:
        """Messages as the template knows them; only the default one reads an Alpaca record's input by itself."""
        seen: Messages = []
        for message in messages:
            known = {key: value for key, value in message.items() if key not in _OWN_KEYS}
            if thought := message.get("reasoning_content"):
                known["thinking"] = thought  # as transformers does, since gpt-oss's template reads this
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
        place = len(piece) if content and not message.get("tool_calls") else -1
        while place >= 0 and (place := piece.rfind(content, 0, place + len(content) - 1)) >= 0:
            said = place + len(content)
            tokens = self._tokens(piece, max(0, said - self._longest))  # of thousands, searching all takes long
            # "end" is found in <|im_end|>, too.
            if not any(start < said < end or start < place < end for start, end in tokens):
                return next((end for start, end in tokens if start >= said), None)
        # What the template made of the answer may hold special tokens of its own.
        tokens = self._tokens(piece, 0)
        return tokens[-1][1] if tokens and not piece[tokens[-1][1] :].strip() else None

    def _tokens(self, text: str, start: int) -> list[tuple[int, int]]:
        return [found.span() for found in self._ending.finditer(text, start)]

    def beside_white_space(self, text: str, place: int) -> int:
        """A border, moved past the white space around it that a token takes: it is one with the token."""
        if self._takes_behind or self._takes_before:
            before, behind = text[:place].rstrip(), text[place:].lstrip()
            if before.endswith(self._takes_behind):
                return len(text) - len(behind)
            if behind.startswith(self._takes_before):
                return len(before)
        return place


class _Conversation:
    """Renders one conversation and its beginnings.

    Args:
        locator: Its template.
        messages: As the template knows them.
        tools: What it may call.
        notation: What the template reads a message with calls as, if not as it is.
    """

    def __init__(self, locator: Locator, messages: Messages, tools: Tools | None, notation: Notation | None) -> None:
        self._locator = locator
        self._messages = messages
        self._tools = tools
        self._notation = notation

    def located(self, is_scored: list[bool]) -> Located:
        """The text and the scored answers."""
        marks: list[tuple[int, int]] = []
        located = Located(self._text(self._messages, marks=marks if self._locator.has_marks else None))
        answers = [number for number, message in enumerate(self._messages) if message["role"] == ASSISTANT]
        if self._locator.has_marks and len(marks) != len(answers):
            raise RecordError(f"the chat template marks {len(marks)} of {len(answers)} answers with {{% generation %}}")
        for place, number in enumerate(answers):
            if is_scored[number]:
                found = self._marked(*marks[place], number, located) if marks else self._span(number, located)
                located.spans.append(found[:2])
                located.is_ended.append(found[2])
        self._require_contents(located, is_scored)
        aside = self._locator.beside_white_space
        located.spans = [(aside(located.text, start), aside(located.text, end)) for start, end in located.spans]
        return located

    def _marked(self, start: int, end: int, number: int, located: Located) -> tuple[int, int, bool]:
        """Where a marked answer begins and ends, and whether a token ends it."""
        if not located.text.startswith(self._messages[number]["content"] or "\0", start):
            prompt = self._text(self._messages[:number], add_generation_prompt=True)
            if start < len(prompt) < end and located.text.startswith(prompt):
                start = len(prompt)  # SmolLM3's marks hold the header
        return start, end, self._locator.end_of_turn(located.text[start:end], self._messages[number]) is not None

    def _span(self, number: int, located: Located) -> tuple[int, int, bool]:
        """Where the answer of a message begins and ends, and whether a token ends it."""
        start = self._start(number, located)
        closed = located.text if number == len(self._messages) - 1 else self._text(self._messages[: number + 1])
        piece = _common_beginning(located.text, closed)[start:]
        end = self._locator.end_of_turn(piece, self._messages[number])
        if end is None and start + len(piece) < len(closed):
            raise RecordError(_REWRITES)
        return start, start + (len(piece) if end is None else end), end is not None

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
        header = common.removeprefix(without)
        # A role's header is the template's; white space before an answer is the model's, which writes it with a word.
        start = len(common) - len(header) + (len(header.rstrip(" ")) if header.strip() else 0)
        if not located.text.startswith(common[:start]):
            raise RecordError(_REWRITES)
        located.is_prompted &= is_prefix and prompt == without
        return start

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
        if self._notation:
            messages = [self._notation(each) if each.get("tool_calls") else each for each in messages]
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
                said = without_thoughts(message)
            if lost := next((text for text in texts_of(said) if not is_in(text, where)), None):
                raise RecordError(
                    f"the chat template leaves out a part of a message of role {message['role']!r} "
                    f"({' '.join(lost.split())[:_SHOWN]!r}): choose one that writes it"
                    + _remedy(lost, said, is_earlier=is_target and message is not self._messages[-1])
                )
        for tool in self._tools or ():
            name = str(tool.get("function", tool).get("name", ""))
            if not is_in(name, located.text):
                raise RecordError(
                    f"the chat template leaves out the tool {name!r}: choose a template that writes tools, or leave "
                    "such records out"
                )


def _remedy(lost: str, message: dict[str, Any], *, is_earlier: bool) -> str:
    """What else helps where a text of a message is left out; template=default knows neither thoughts nor tools."""
    each = ", or turns=each if it is the thought of an earlier answer" * is_earlier
    if lost == message.get("reasoning_content"):
        return f", or write the thought into the content, between <think> and </think>{each}"
    is_content = message["role"] != TOOL and lost in (message["content"], message.get("input"))
    return f", or template=default{each}" if is_content else ", or leave such records out"


def _common_beginning(one: str, other: str) -> str:
    if one.startswith(other) or other.startswith(one):  # mostly, and commonprefix takes character by character
        return min(one, other, key=len)
    return os.path.commonprefix([one, other])  # noqa: RUF071  # of strings
