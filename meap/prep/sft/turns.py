"""A turn of a list -> a message: its role, its text in parts or not, its thoughts and calls, and whether it is learned.

Sources: OpenAI's API reference (roles, parts of content, `refusal`, `weight`), axolotl's "Conversation" (`train` of a
turn or of a part, `train_detail`, `reasoning_content`, roles that are written in either way), LLaMA-Factory's
data/README.md (`function_call`, `observation`) and the section "Harmony" of TRL's "Dataset formats" (`thinking`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from meap.prep.sft.fields import Fields, short
from meap.prep.sft.tools import calls_in_text, calls_of

__all__ = ["ASSISTANT", "ROLES", "SYSTEM", "TOOL", "USER", "Messages", "read_turns"]

Messages: TypeAlias = "list[dict[str, Any]]"
"""Each with `role` (system, user, assistant or tool) and `content` (a string, empty where there are only calls).

An Alpaca record's question also has `input`, empty where there is none. An assistant's message may have `tool_calls`
(see `meap.prep.sft.tools`), `reasoning_content` (a string), and `scored`, false where it is no answer to learn; a
tool's may have `tool_call_id` and `name`.
"""

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"

ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "human": USER,
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "model": ASSISTANT,
    "bot": ASSISTANT,
    "function_call": ASSISTANT,
    "tool": TOOL,
    "observation": TOOL,
    "function": TOOL,
    "ipython": TOOL,
}
"""Roles by the names that records give them."""
_CALL_ROLE = "function_call"
"""Whose text is the JSON of calls."""
_FLAGS = ("weight", "train", "training", "trainable")
"""Whether a message is learned: OpenAI's field, axolotl's, and their kin."""
_SPANS = ("train_detail", "training_detail")
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning")
_TEXT_OF_PART = ("text", "content", "value")


def read_turns(record: Fields, key: str) -> Messages:
    """The messages in a list of turns, which may be stored as JSON in a string.

    Args:
        record: What the list is in.
        key: Its field; in `conversations` a turn that has several fields for a role or content means ShareGPT's.

    Raises:
        RecordError: It is no list of turns, or a turn has an unknown role, or content that is not text.
    """
    turns = record.parsed(key)
    if not isinstance(turns, list):
        raise record.error(f"field {key!r} is not a list of turns but {'empty' if turns is None else short(turns)}")
    plain = [_plain(turn) for turn in cast("list[Any]", turns)]
    if all(plain):
        return cast("Messages", plain)
    is_sharegpt = key == "conversations"
    return [_message(turn, is_sharegpt=is_sharegpt) for turn in record.objects(turns, key, "turn")]


def _plain(turn: Any) -> dict[str, Any] | None:
    """The message of a turn that has nothing but a role and a text, as most have: without the price of the others."""
    if not isinstance(turn, dict) or len(cast("Any", turn)) != 2:
        return None
    for role_key, content_key in (("role", "content"), ("from", "value")):
        name, text = (cast("dict[str, Any]", turn).get(key) for key in (role_key, content_key))
        if isinstance(name, str) and isinstance(text, str) and name in ROLES and name != _CALL_ROLE:
            return {"role": ROLES[name], "content": text}
    return None


def _message(turn: Fields, *, is_sharegpt: bool) -> dict[str, Any]:
    role_keys, content_keys = ("from", "role"), ("value", "content")
    role_key = _first(turn, role_keys if is_sharegpt else role_keys[::-1])
    content_key = _first(turn, content_keys if is_sharegpt else content_keys[::-1])
    name = turn.text(role_key)
    if name not in ROLES:
        raise turn.error(f"{role_key}={short(name)} is no role; known are {', '.join(sorted(ROLES))}")
    role = ROLES[name]
    if role == ASSISTANT:
        return _answer(turn, content_key, text_is_calls=name == _CALL_ROLE)
    for key in ("tool_calls", "function_call"):
        if turn.parsed(key) is not None:
            raise turn.error(f"{key} in a message of {role_key}={name!r}: only an assistant calls tools")
    if _flag(turn):  # only answers are learned, whatever a prompt says
        turn.leave(next(key for key in _FLAGS if key in turn))
    parts = _parts(turn, content_key, may_be_empty=role == TOOL and turn.has(content_key))
    if any(part.is_thought for part in parts):
        raise turn.error(f"a thought in a message of {role_key}={name!r}: only an assistant thinks")
    message = {"role": role, "content": "".join(part.text for part in parts)}
    if role == TOOL:
        message |= {key: turn.text(key) for key in ("tool_call_id", "name") if key in turn}
    return message


def _answer(turn: Fields, content_key: str, *, text_is_calls: bool) -> dict[str, Any]:
    calls = calls_of(turn)
    parts = _parts(turn, content_key, may_be_empty=bool(calls) or "refusal" in turn or turn.has(content_key))
    content = "".join(part.text for part in parts if not part.is_thought)
    if not content:
        content = turn.text("refusal", "")
    thoughts = "".join(part.text for part in parts if part.is_thought)
    for key in _THOUGHTS:
        if not thoughts and turn.is_text(key):
            found = _parts(turn, key)
            parts, thoughts = parts + found, "".join(part.text for part in found)
        else:
            turn.take_same(key, thoughts)
    if text_is_calls and content.strip():
        if calls:
            raise turn.error(f"there are calls in {content_key!r} and in tool_calls: keep one of them")
        content, calls = calls_in_text(turn, content, content_key)
    message: dict[str, Any] = {"role": ASSISTANT, "content": content}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = calls
    if not _is_learned(turn, parts, has_calls=bool(calls)):
        message["scored"] = False
    return message


def _is_learned(turn: Fields, parts: list[_Part], *, has_calls: bool) -> bool:
    """Whether an answer is, as a whole: a part that has no flag is as its turn."""
    if spans := next((key for key in _SPANS if not turn.is_empty(key)), None):
        raise turn.error(
            f"{spans}={short(turn.get(spans))} leaves out parts of an answer, which is not supported: set train to "
            "true or false for the whole turn"
        )
    of_turn = _flag(turn) is not False
    learned = {of_turn if part.flag is None else part.flag for part in parts if part.text}
    if has_calls or not learned:
        learned.add(of_turn)
    if len(learned) == 2:
        raise turn.error(
            "some parts of the answer have train=false and others not, which is not supported: set it for the turn"
        )
    return learned == {True}


def _flag(fields: Fields) -> bool | None:
    """What a turn or part says on whether it is learned; None where it says nothing.

    Raises:
        RecordError: It says neither yes nor no, or both.
    """
    found = {key: value for key in _FLAGS if (value := fields.get(key)) is not None}
    for key, value in found.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise fields.error(f"{key}={short(value)} is neither 0 nor 1: write 1 (true) to learn it, 0 (false) not to")
    if len(set(map(bool, found.values()))) > 1:
        said = " and ".join(f"{key}={short(value)}" for key, value in found.items())
        raise fields.error(f"{said} contradict each other: keep one of them")
    return next((bool(value) for value in found.values()), None)


@dataclass(frozen=True)
class _Part:
    """A piece of a message's text."""

    text: str
    is_thought: bool = False
    flag: bool | None = None
    """See `_flag`."""


def _parts(above: Fields, key: str, *, may_be_empty: bool = False) -> list[_Part]:
    """The text in a field: a string, or a list of parts; no part of one that is empty and may be.

    Raises:
        RecordError: There is anything but text.
    """
    value = above.get(key)
    if may_be_empty and above.is_empty(key):
        return []
    if not isinstance(value, list) or not value:
        return [_Part(above.text(key))]
    return [_part(part) for part in above.objects(value, key, "part")]


def _part(part: Fields) -> _Part:
    kind, flag = part.text("type", "text"), _flag(part)
    if kind in _TEXT_PARTS:
        return _Part(part.text(_first(part, _TEXT_OF_PART)), flag=flag)
    if kind == "refusal":
        return _Part(part.text("refusal"), flag=flag)
    if kind in _THOUGHT_PARTS:
        inner = _parts(part, _first(part, (*_THOUGHT_PARTS, *_TEXT_OF_PART)))
        return _Part("".join(each.text for each in inner), is_thought=True, flag=flag)
    raise part.error(f"type={short(kind)} is not read: only text is, type='text'; take such records out")


def _first(fields: Fields, keys: tuple[str, ...]) -> str:
    """The first of some fields that is there, and not null if one is not."""
    return next((key for key in keys if key in fields), next((key for key in keys if fields.has(key)), keys[0]))
