"""The text, model and tokens in a server's answer: one JSON object, or a stream of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meap.json_text import parse_json

__all__ = ["Answer", "read_answer"]


@dataclass(frozen=True)
class Answer:
    """What a judge answered."""

    text: str
    model: str
    """Name that the server gives the model; empty if it gives none."""
    tokens: tuple[float, float] | None
    """Tokens of prompt and reply; None if they are not given, or cannot be: negative or not finite."""


def read_answer(body: str) -> Answer:
    """The answer in the body of a response: a chat completion, or the server-sent events of a stream.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: It is neither, or it is not whole.
    """
    if body.lstrip().startswith(("data:", "event:", "id:", "retry:", ":")):
        return _join(list(_events(body)))
    found = parse_json(body)
    return Answer(_text(found["choices"][0]["message"].get("content")), _model(found), _tokens(found.get("usage")))


def _events(body: str) -> Iterator[Mapping[str, Any]]:
    done = False
    for line in body.splitlines():
        name, _, value = line.partition(":")
        if name != "data":
            continue
        if value.strip() == "[DONE]":
            done = True
        elif value.strip():
            event = parse_json(value)
            done = done or any(choice.get("finish_reason") for choice in event.get("choices") or ())
            yield event
    if not done:
        raise ValueError("a stream that was cut")


def _join(events: list[Mapping[str, Any]]) -> Answer:
    if not any(event.get("choices") for event in events):
        raise ValueError("a stream without a reply")
    pieces = [
        _text((choice.get("delta") or choice.get("message") or {}).get("content"))
        for event in events
        for choice in (event.get("choices") or ())[:1]
    ]
    usages = [event["usage"] for event in events if event.get("usage")]
    models = [name for event in events if (name := _model(event))]
    return Answer("".join(pieces), models[0] if models else "", _tokens(usages[-1]) if usages else None)


def _text(content: Any) -> str:
    """The text of a message: a string, nothing, or a list of parts, of which some are text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TypeError(f"content is {type(content).__name__}")
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    return "".join(text for text in texts if isinstance(text, str))


def _model(found: Mapping[str, Any]) -> str:
    return str(found.get("model") or "")


def _tokens(usage: Any) -> tuple[float, float] | None:
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    numbers = [float(each) for each in counts if isinstance(each, int | float) and not isinstance(each, bool)]
    if len(numbers) < 2 or not all(math.isfinite(each) and each >= 0 for each in numbers):
        return None
    return numbers[0], numbers[1]
