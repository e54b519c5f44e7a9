"""Records -> messages: three notations of a conversation become one.

Alpaca      {"instruction": ..., "input": ..., "output": ...}           one turn
ShareGPT    {"conversations": [{"from": "human", "value": ...}, ...]}   any number of turns
OpenAI      {"messages": [{"role": "user", "content": ...}, ...]}       any number of turns

The turns of either list may be written in either way, since data sets mix them. An OpenAI content may be a list of text
parts. Tool calls and their results are refused: a model would learn the answer without its source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

__all__ = ["ASSISTANT", "Messages", "RecordError", "format_of", "to_messages", "without_first_answers"]

Messages: TypeAlias = "list[dict[str, Any]]"
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
_LISTS = {"sharegpt": "conversations", "messages": "messages"}
"""Field of the list of turns."""
_TURNS = (("from", "value"), ("role", "content"))
"""Fields of role and content in a turn."""
_CALLS = ("tool_calls", "function_call")


class RecordError(Exception):
    """Why a record is left out; counted, and shown to users as a warning."""


def format_of(record: Mapping[str, Any], wanted: str = "auto") -> str | None:
    """The format of a record by its fields, or None if they fit none.

    Args:
        record: One record of the input.
        wanted: The only format to look for, or `auto`.
    """
    has = {
        "messages": "messages" in record,
        "sharegpt": "conversations" in record,
        "alpaca": "instruction" in record and "output" in record,
    }
    return next((form for form, is_there in has.items() if is_there and wanted in {"auto", form}), None)


def to_messages(record: Mapping[str, Any], form: str) -> Messages:
    """The conversation in `record`.

    Args:
        record: One record of the input.
        form: `alpaca`, `sharegpt` or `messages`.

    Raises:
        RecordError: A field is missing or of the wrong type, a role is unknown, or an answer is empty.
    """
    messages = _from_alpaca(record) if form == "alpaca" else _from_list(record, _LISTS[form])
    answers = [message["content"] for message in messages if message["role"] == ASSISTANT]
    if not answers:
        raise RecordError("the conversation has no assistant turn")
    if not all(answer.strip() for answer in answers):
        raise RecordError("an answer is empty")
    return messages


def without_first_answers(messages: Messages) -> Messages:
    """The conversation from its first question on, as FastChat and the official code keep it.

    Raises:
        RecordError: No answer follows a question.
    """
    start = 1 if messages[0]["role"] == _SYSTEM else 0
    first = next((n for n, message in enumerate(messages) if message["role"] == _USER), len(messages))
    kept = messages[:start] + messages[first:]
    if not any(message["role"] == ASSISTANT for message in kept):
        raise RecordError("no assistant turn follows a user turn")
    return kept


def _from_alpaca(record: Mapping[str, Any]) -> Messages:
    instruction, output = _text(record, "instruction"), _text(record, "output")
    context = _text(record, "input") if record.get("input") is not None else ""
    return [
        {"role": _USER, "content": instruction, "input": context},
        {"role": ASSISTANT, "content": output},
    ]


def _from_list(record: Mapping[str, Any], field: str) -> Messages:
    turns = record.get(field)
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise RecordError(f"field {field!r} is not a list of turns but {_kind(turns)}")
    messages: Messages = []
    for number, turn in enumerate(cast("Sequence[Any]", turns), 1):
        if not isinstance(turn, Mapping):
            raise RecordError(f"turn {number} of {field!r} is not an object but {_kind(turn)}")
        messages.append(_from_turn(cast("Mapping[str, Any]", turn), number, is_sharegpt=field == "conversations"))
    if any(message["role"] == _SYSTEM for message in messages[1:]):
        raise RecordError("a system message stands after the first turn")
    return messages


def _from_turn(turn: Mapping[str, Any], number: int, *, is_sharegpt: bool) -> dict[str, str]:
    likely, other = _TURNS if is_sharegpt else _TURNS[::-1]
    role_field, content_field = other if other[0] in turn and likely[0] not in turn else likely
    place = f"turn {number}: "
    name = _text(turn, role_field, place)
    if name not in _ROLES:
        raise RecordError(f"turn {number} has {role_field}={name!r}; known are {', '.join(sorted(_ROLES))}")
    if calls := next((field for field in _CALLS if turn.get(field)), None):
        raise RecordError(f"turn {number} has {calls}, and tool calls are not supported")
    return {"role": _ROLES[name], "content": _text(turn, content_field, place)}


def _text(values: Mapping[str, Any], field: str, place: str = "") -> str:
    if field not in values:
        raise RecordError(f"{place}no field {field!r}")
    value = values[field]
    if isinstance(value, list) and value:
        return "".join(_text_of_part(part, field, place) for part in cast("list[Any]", value))
    if not isinstance(value, str):
        raise RecordError(f"{place}field {field!r} is not a string but {_kind(value)}")
    return value


def _text_of_part(part: Any, field: str, place: str) -> str:
    if isinstance(part, Mapping):
        values = cast("Mapping[str, Any]", part)
        if values.get("type") == "text" and isinstance(values.get("text"), str):
            return values["text"]
    raise RecordError(f"{place}field {field!r} has a part that is not text")


def _kind(value: Any) -> str:
    return "empty" if isinstance(value, Sequence) and not value else type(value).__name__
