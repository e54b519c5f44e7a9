"""JSON lines. Of a key that a line has twice, the last value counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import orjson

from meap.prep.formats.records import (
    BadRecord,
    RawFile,
    Record,
    Wanted,
    as_stream,
    as_text,
    numbered_lines,
    too_long,
)

__all__ = ["read_json_lines"]


def read_json_lines(file: RawFile, wanted: Wanted) -> Iterator[Record]:
    """The documents of a file; blank lines are passed over."""
    path = wanted.stream_key.split(".") if wanted.stream_key else None
    for number, line in numbered_lines(file):
        if line is None:
            yield number, too_long(), ""
        elif not line.isspace():
            values = _parsed(line)
            text = values if isinstance(values, BadRecord) else _text_of(values, wanted.text_key)
            if path is None or isinstance(text, BadRecord):
                yield number, text, ""
            else:
                stream = as_stream(_value_at(values, path), cast("str", wanted.stream_key))
                yield (number, stream, "") if isinstance(stream, BadRecord) else (number, text, stream)


def _parsed(line: bytes) -> dict[str, Any] | BadRecord:
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadRecord(f"not valid JSON ({error})")
    return values if isinstance(values, dict) else BadRecord(f"not a JSON object but {type(values).__name__}")


def _text_of(values: dict[str, Any], key: str) -> str | BadRecord:
    if key in values:
        return as_text(values[key], key)
    return BadRecord(f"no field {key!r}", lacks_text=values)


def _value_at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
