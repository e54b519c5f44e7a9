"""Records -> messages: the documented notations of a conversation become one.

Alpaca             {"instruction": ..., "input": ..., "output": ...}             one turn, with `history` any number
ShareGPT           {"conversations": [{"from": "human", "value": ...}, ...]}     any number of turns
OpenAI             {"messages": [{"role": "user", "content": ...}, ...]}         any number of turns
prompt_completion  {"prompt": ..., "completion": ...}                            strings, or lists of messages

Sources: LLaMA-Factory's data/README.md (Alpaca with `system` and `history`, whose answers are learned as well; ShareGPT
with `system`, `tools`, `function_call` and `observation`); OpenAI's API reference and fine-tuning guide (`weight`,
`developer`, tool calls, parts of content); TRL's "Dataset formats" (prompt and completion, of which the completion
alone is learned; `thinking`) and axolotl's "Conversation" (`train`, `reasoning_content`, parts of content, messages
stored as a JSON string). What two of them write differently may be mixed, since data sets do.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from meap.json_text import parse_json
from meap.prep.sft.fields import Fields, RecordError, short
from meap.prep.sft.tools import Tools, tools_of
from meap.prep.sft.turns import ASSISTANT, SYSTEM, TOOL, USER, Messages, read_turns

__all__ = [
    "ASSISTANT",
    "SYSTEM",
    "TOOL",
    "USER",
    "Messages",
    "Parsed",
    "RecordError",
    "format_of",
    "is_scored",
    "parse_record",
    "to_messages",
    "without_first_answers",
]

_FIELDS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
}
"""Fields that a record of each format has; `auto` looks for them in this order."""
_MEDIA = frozenset({"image", "images", "video", "videos", "audio", "audios"})


@dataclass(frozen=True)
class Parsed:
    """What a record says."""

    messages: Messages
    tools: Tools | None
    """Functions that the model may call."""
    unread: tuple[str, ...]
    """Fields that carry text and are not read, by name, such as `source` or `messages[].name`."""


def format_of(record: Mapping[str, Any], wanted: str = "auto") -> str | None:
    """The format of a record by its fields, or None if they fit none.

    Args:
        record: One record of the input.
        wanted: The only format to look for, or `auto`.
    """
    forms = [form for form in _FIELDS if wanted in {"auto", form} and all(key in record for key in _FIELDS[form])]
    # Columns of parquet give a record the fields of all formats that a data set mixes.
    filled = [form for form in forms if all(record[key] is not None for key in _FIELDS[form])]
    return next(iter(filled or forms), None)


def to_messages(record: Mapping[str, Any], form: str) -> Messages:
    """The messages that `parse_record` finds."""
    return parse_record(record, form).messages


def parse_record(record: Mapping[str, Any], form: str) -> Parsed:
    """The conversation in `record`.

    Args:
        record: One record of the input.
        form: `alpaca`, `sharegpt`, `messages` or `prompt_completion`.

    Raises:
        RecordError: A field is missing or of the wrong type, a role is unknown, an answer is empty, or none is scored.
    """
    fields = Fields(record)
    _refuse_what_no_text_shows(fields, record, form)
    if form == "alpaca":
        messages = _from_alpaca(fields)
    elif form == "prompt_completion":
        messages = _from_prompt_completion(fields)
    else:
        messages = read_turns(fields, *_FIELDS[form])
    messages = _with_system(fields, messages)
    _require_order(messages)
    _require_answers(messages)
    return Parsed(messages, tools_of(fields), tuple(dict.fromkeys(fields.unread())))


def _refuse_what_no_text_shows(fields: Fields, record: Mapping[str, Any], form: str) -> None:
    """Images and the like, and answers that are examples of what not to say (LLaMA-Factory's and TRL's, for KTO)."""
    for key in _MEDIA & record.keys():
        if not fields.is_empty(key):
            raise RecordError(f"field {key!r} is {short(record[key])}: only text is read; take such records out")
    for key in ("kto_tag", "label") if form == "prompt_completion" else ("kto_tag",):
        if record.get(key) is False:
            raise RecordError(f"{key} is false, so its answer is one not to learn: take such records out")


def is_scored(message: Mapping[str, Any]) -> bool:
    """Whether a message is an answer to learn."""
    return message["role"] == ASSISTANT and message.get("scored", True)


def without_first_answers(messages: Messages) -> Messages:
    """The conversation from its first question on, as FastChat and the official code keep it; system messages stay.

    Raises:
        RecordError: No answer to learn follows a question.
    """
    first = next((n for n, message in enumerate(messages) if message["role"] == USER), len(messages))
    kept = [message for message in messages[:first] if message["role"] == SYSTEM] + messages[first:]
    if not any(message["role"] == ASSISTANT for message in kept):
        raise RecordError("no assistant turn follows a user turn")
    if not any(map(is_scored, kept)):
        raise RecordError("every assistant turn after the first user turn has weight 0 or train false")
    return kept


def _from_alpaca(record: Fields) -> Messages:
    """LLaMA-Factory: `history` is a list of pairs that precede the question, and its answers are learned as well."""
    messages: Messages = []
    for number, pair in enumerate(_list(record, "history"), 1):
        if not isinstance(pair, list) or [type(each) for each in cast("list[Any]", pair)] != [str, str]:
            raise RecordError(f"pair {number} of 'history' is not a question and its answer but {short(pair)}")
        question, answer = cast("list[str]", pair)
        messages += [{"role": USER, "content": question}, {"role": ASSISTANT, "content": answer}]
    question = {"role": USER, "content": record.text("instruction"), "input": record.text("input", "")}
    return [*messages, question, {"role": ASSISTANT, "content": record.text("output")}]


def _list(record: Fields, key: str) -> list[Any]:
    found = record.parsed(key)
    if found is not None and not isinstance(found, list):
        raise RecordError(f"field {key!r} is not a list but {short(found)}")
    return cast("list[Any]", found or [])


def _from_prompt_completion(record: Fields) -> Messages:
    """TRL: the completion alone is learned."""
    prompt, completion = _side(record, "prompt", USER), _side(record, "completion", ASSISTANT)
    if not any(message["role"] == ASSISTANT for message in completion):
        raise RecordError("field 'completion' has no assistant turn: nothing of the record is an answer")
    return [each | {"scored": False} if each["role"] == ASSISTANT else each for each in prompt] + completion


def _side(record: Fields, key: str, role: str) -> Messages:
    """The messages of a list, be it stored as JSON in a string, or one message of any other string."""
    value = record.get(key)
    if isinstance(value, str) and not _is_json_of_turns(value):
        return [{"role": role, "content": value}]
    return read_turns(record, key)


def _is_json_of_turns(text: str) -> bool:
    if not text.lstrip().startswith("["):
        return False
    with suppress(ValueError):
        turns = parse_json(text)
        return bool(turns) and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in turns)
    return False


def _with_system(record: Fields, messages: Messages) -> Messages:
    """LLaMA-Factory and axolotl: a field `system` comes first, unless the turns begin with a system message."""
    if messages[0]["role"] == SYSTEM:
        record.take_same("system", messages[0]["content"])
        return messages
    system = record.text("system", "")
    return [{"role": SYSTEM, "content": system}, *messages] if system else messages


def _require_order(messages: Messages) -> None:
    """Templates render system messages, or refuse them, anywhere before an answer."""
    if messages[-1]["role"] == SYSTEM:
        raise RecordError(f"message {len(messages)} is a system message that nothing follows: move it, or take it out")


def _require_answers(messages: Messages) -> None:
    if not any(message["role"] == ASSISTANT for message in messages):
        raise RecordError("the conversation has no assistant turn")
    if not any(map(is_scored, messages)):
        raise RecordError("every assistant turn has weight 0 or train false: nothing of the record is learned")
    for number, message in enumerate(messages, 1):
        if is_scored(message) and not message["content"].strip() and "tool_calls" not in message:
            raise RecordError(f"an answer is empty (message {number}): fill it, or give it weight 0")
