"""Functions that a model may call, and its calls, as the chat templates of transformers read them.

Sources: OpenAI's API reference (`tools`, `tool_calls`, and the deprecated `functions` and `function_call`), the section
"Tool Calling" of TRL's "Dataset formats", axolotl's "Conversation" (arguments and parameters stored as JSON strings),
and LLaMA-Factory's data/README.md with its example glaive_toolcall_en_demo (functions without a wrapper, and calls as
JSON in a turn).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from meap.prep.sft.fields import Fields, short

__all__ = ["CALL_NOTATIONS", "Notation", "Tools", "calls_in_text", "calls_of", "tools_of"]

Tools = list[dict[str, Any]]
"""JSON schemas of functions, each {"type": "function", "function": {"name": ..., "description": ..., ...}}."""

Notation = Callable[[dict[str, Any]], dict[str, Any]]
"""Writes a message with calls for a template."""

_THOUGHTS = re.compile(r"\s*<think>.*?</think>\s*", re.DOTALL)


def tools_of(record: Fields) -> Tools | None:
    """The functions of a conversation, None if there are none.

    Raises:
        RecordError: What is there is no list of functions.
    """
    if "tools" not in record and "functions" not in record:
        return None
    key = "tools" if record.parsed("tools") is not None or "functions" not in record else "functions"
    return [_tool(each) for each in record.objects(record.parsed(key) or [], key, "function")] or None


def calls_of(message: Fields) -> list[dict[str, Any]]:
    """The calls in an assistant's message.

    Raises:
        RecordError: They are no calls of functions, or there are some of both forms.
    """
    found = {key: message.parsed(key) for key in ("tool_calls", "function_call")}
    calls, old = ([_call(each) for each in message.objects(found[key] or [], key, "call")] for key in found)
    if calls and old:
        raise message.error("there are both tool_calls and function_call: keep one of them")
    return calls or old


def calls_in_text(message: Fields, text: str, key: str) -> tuple[str, list[dict[str, Any]]]:
    """Calls that are JSON in the text of a turn, and what stands before them: a thought in <think> tags, or nothing.

    Raises:
        RecordError: The text is something else.
    """
    thoughts = match[0] if (match := _THOUGHTS.match(text)) else ""
    found = message.from_json(text[len(thoughts) :], key)
    return thoughts.strip(), [_call(each) for each in message.objects(found, key, "call")]


def _tool(fields: Fields) -> dict[str, Any]:
    function = _function(fields)
    schema = function.rest(but="type")
    schema = schema if function.is_exact else _without_nulls(schema)
    if isinstance(schema.get("parameters"), str):
        schema["parameters"] = function.from_json(schema["parameters"], "parameters")
    return {"type": "function", "function": {"name": _name(function), **schema}}


def _call(fields: Fields) -> dict[str, Any]:
    function = _function(fields)
    name, arguments = _name(function), function.get("arguments")
    if not function.has("arguments"):
        raise function.error(f"the call of {name!r} has no arguments: write {{}} where there are none")
    if isinstance(arguments, str):
        arguments = function.from_json(arguments, "arguments") if arguments.strip() else {}
    elif arguments is None:
        arguments = {}
    elif not function.is_exact:
        arguments = _without_nulls(arguments)
    if not isinstance(arguments, dict):
        raise function.error(f"arguments={short(arguments)} are not an object with a value by each name")
    id_of_call = {"id": fields.text("id")} if "id" in fields else {}
    return {**id_of_call, "type": "function", "function": {"name": name, "arguments": arguments}}


def _function(fields: Fields) -> Fields:
    """The fields of a function, which may stand in a wrapper or alone."""
    kind = fields.text("type", "function")
    if kind != "function":
        raise fields.error(f"type={kind!r} is not read: only functions are, type='function'")
    if "function" not in fields:
        return fields
    return fields.objects(fields.get("function"), "function", "function")[0]


def _name(function: Fields) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise function.error(f"name={short(name)} is not the name of a function: give it one")
    return name


def _without_nulls(value: Any) -> Any:
    """An object as it was before a column of parquet gave it the fields of all."""
    if isinstance(value, Mapping):
        values = cast("Mapping[str, Any]", value)
        return {key: _without_nulls(each) for key, each in values.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in cast("list[Any]", value)]
    return value


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    """A message with calls, as OpenAI writes their arguments: JSON in a string."""
    functions = [call["function"] for call in message["tool_calls"]]
    texts = [json.dumps(function["arguments"], ensure_ascii=False) for function in functions]
    calls = zip(message["tool_calls"], functions, texts, strict=True)
    return {
        **message,
        "tool_calls": [{**call, "function": {**function, "arguments": text}} for call, function, text in calls],
    }


def _with_null(message: dict[str, Any]) -> dict[str, Any]:
    """A message with calls, as OpenAI writes one that says nothing else."""
    return {**message, "content": message["content"] or None}


CALL_NOTATIONS: tuple[Notation, ...] = (
    _with_text_arguments,
    _with_null,
    lambda message: _with_null(_with_text_arguments(message)),
)
"""Of messages with calls; transformers documents objects and empty contents, and some templates read others."""
