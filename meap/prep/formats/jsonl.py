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
            continue
        if line.isspace():
            continue
        try:
            values: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, BadRecord(f"not valid JSON ({error})"), ""
            continue
        text = values.get(wanted.text_key) if isinstance(values, dict) else None
        if not isinstance(text, str):
            yield number, _no_text(values, wanted.text_key), ""
        elif path is None:
            yield number, text, ""
        else:
            stream = as_stream(_value_at(values, path), cast("str", wanted.stream_key))
            yield (number, stream, "") if isinstance(stream, BadRecord) else (number, text, stream)


def _no_text(values: Any, key: str) -> str | BadRecord:
    if not isinstance(values, dict):
        return BadRecord(f"not a JSON object but {type(values).__name__}")
    fields = cast("dict[str, Any]", values)
    return as_text(fields[key], key) if key in fields else BadRecord(f"no field {key!r}", lacks_text=fields)


def _value_at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
