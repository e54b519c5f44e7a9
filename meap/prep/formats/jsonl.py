"""JSON lines, and JSON arrays of objects. If an object has a key twice, the last value counts."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import orjson

from meap.errors import BadInputError
from meap.prep.formats.arrays import array_elements, is_array
from meap.prep.formats.records import BadRecord, RawFile, ReadOptions, Record, numbered_lines

__all__ = ["read_json", "read_json_lines"]


def _read(file: RawFile, options: ReadOptions, *, of_objects: bool) -> Iterator[Record]:
    """The objects of one array, or of JSON lines, of which blank ones are skipped.

    Raises:
        BadInputError: It is neither.
    """
    if not is_array(file.stream, of_objects=of_objects):
        yield from _lines(file)
        return
    for number, element in enumerate(array_elements(file.stream, file.name), 1):
        yield number, element if isinstance(element, BadRecord) else _object(element)


read_json = partial(_read, of_objects=False)
read_json_lines = partial(_read, of_objects=True)


def _lines(file: RawFile) -> Iterator[Record]:
    is_first = True
    for number, line in numbered_lines(file):
        if isinstance(line, BadRecord):
            yield number, line
            continue
        if line.isspace():
            continue
        try:
            value: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if is_first and line.strip() == b"{":
                raise BadInputError(
                    f"{file.name}:{number}: neither a JSON array nor JSON lines ({error}): write the records as one "
                    "array, or each on a line of its own"
                ) from error
            yield from ((number, _object(part)) for part in _parts(line))
        else:
            yield number, value if isinstance(value, dict) else _no_object(value, line)
        is_first = False


def _parts(line: bytes) -> list[bytes]:
    """The lines in one that is not valid JSON: some end in CR alone, or begin with the mark of a file joined here."""
    marked = (part.removeprefix(codecs.BOM_UTF8) for part in line.splitlines(keepends=True))
    return [part for part in marked if part.strip()] or [line]


def _object(text: bytes) -> dict[str, Any] | BadRecord:
    try:
        value: Any = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return BadRecord(f"not valid JSON ({error})", len(text))
    return cast("dict[str, Any]", value) if isinstance(value, dict) else _no_object(value, text)


def _no_object(value: Any, text: bytes) -> BadRecord:
    return BadRecord(f"not a JSON object but {type(value).__name__}", len(text))
