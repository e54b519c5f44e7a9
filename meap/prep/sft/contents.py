"""What a message says, and whether a text has it: templates may leave nothing out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

__all__ = ["is_in", "texts_of", "without_thoughts"]


def without_thoughts(message: dict[str, Any]) -> dict[str, Any]:
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


def is_in(said: str, text: str) -> bool:
    """Whether a text is in another, but for white space and JSON's escapes."""
    if said.strip() in text:
        return True
    spellings = (said, *(json.dumps(said, ensure_ascii=is_ascii)[1:-1] for is_ascii in (False, True)))
    squeezed = _squeezed(text)
    return any(_squeezed(each) in squeezed for each in spellings)


def _squeezed(text: str) -> str:
    return "".join(text.split())
