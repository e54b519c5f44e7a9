"""Records -> messages: three ways to write a conversation down become one.

Alpaca      {"instruction": ..., "input": ..., "output": ...}           one turn
ShareGPT    {"conversations": [{"from": "human", "value": ...}, ...]}   any number of turns
OpenAI      {"messages": [{"role": "user", "content": ...}, ...]}       any number of turns
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

__all__ = ["ASSISTANT", "Messages", "RecordError", "format_of", "to_messages"]

Messages: TypeAlias = "list[dict[str, str]]"
"""Each with `role` and `content`; an Alpaca record's user message also has `input`, empty where there is none."""

ASSISTANT = "assistant"
_SYSTEM = "system"
_USER = "user"

_ROLES = {
    "system": _SYSTEM,
    "user": _USER,
    "human": _USER,
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "model": ASSISTANT,
}
_LISTS = {"sharegpt": ("conversations", "from", "value"), "messages": ("messages", "role", "content")}
"""Field of the list, and fields of role and content in it."""


class RecordError(Exception):
    """A record that is left out; the message says why. Counted, and never shown to users by itself."""


def format_of(record: Mapping[str, Any]) -> str | None:
    """The format of a record by its fields, or None where it has those of no known one."""
    if "messages" in record:
        return "messages"
    if "conversations" in record:
        return "sharegpt"
    return "alpaca" if "instruction" in record and "output" in record else None


def to_messages(record: Mapping[str, Any], form: str) -> Messages:
    """The conversation in `record`.

    Args:
        record: One record of the input.
        form: `alpaca`, `sharegpt` or `messages`.

    Raises:
        RecordError: A field is missing or of the wrong type, a role is unknown, or an answer is empty.
    """
    messages = _from_alpaca(record) if form == "alpaca" else _from_list(record, *_LISTS[form])
    answers = [message["content"] for message in messages if message["role"] == ASSISTANT]
    if not answers:
        raise RecordError("the conversation has no assistant turn")
    if not all(answer.strip() for answer in answers):
        raise RecordError("an answer is empty")
    if messages[0]["role"] == ASSISTANT:
        raise RecordError("the conversation begins with an assistant turn, which answers nothing")
    return messages


def _from_alpaca(record: Mapping[str, Any]) -> Messages:
    instruction, output = _text(record, "instruction"), _text(record, "output")
    context = _text(record, "input") if record.get("input") is not None else ""
    return [
        {"role": _USER, "content": instruction, "input": context},
        {"role": ASSISTANT, "content": output},
    ]


def _from_list(record: Mapping[str, Any], field: str, role_field: str, content_field: str) -> Messages:
    turns = record.get(field)
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise RecordError(f"field {field!r} is not a list of turns but {_kind(turns)}")
    messages: Messages = []
    for number, turn in enumerate(cast("Sequence[Any]", turns), 1):
        if not isinstance(turn, Mapping):
            raise RecordError(f"turn {number} of {field!r} is not an object but {_kind(turn)}")
        values = cast("Mapping[str, Any]", turn)
        name = _text(values, role_field, f"turn {number}: ")
        if name not in _ROLES:
            raise RecordError(f"turn {number} has {role_field}={name!r}; known are {', '.join(sorted(_ROLES))}")
        messages.append({"role": _ROLES[name], "content": _text(values, content_field, f"turn {number}: ")})
    if any(message["role"] == _SYSTEM for message in messages[1:]):
        raise RecordError("a system message stands after the first turn")
    return messages


def _text(values: Mapping[str, Any], field: str, place: str = "") -> str:
    if field not in values:
        raise RecordError(f"{place}no field {field!r}")
    value = values[field]
    if not isinstance(value, str):
        raise RecordError(f"{place}field {field!r} is not a string but {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return "empty" if isinstance(value, Sequence) and not value else type(value).__name__
