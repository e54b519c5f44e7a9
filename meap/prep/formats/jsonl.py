"""JSON lines, and JSON arrays of objects. If an object has a key twice, the last value counts."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import BufferedReader
from typing import Any, cast

import orjson

from meap.errors import BadInputError
from meap.prep.formats.records import BadRecord, RawFile, ReadOptions, Record, numbered_lines

__all__ = ["read_json", "read_json_lines"]


def read_json(file: RawFile, options: ReadOptions) -> Iterator[Record]:
    """The objects of one array, which is held whole, or of JSON lines.

    Raises:
        BadInputError: It is neither.
    """
    if not _is_array(file.stream):
        yield from _lines(file, may_be_object=True)
        return
    try:
        values = cast("list[Any]", orjson.loads(file.stream.read()))
    except orjson.JSONDecodeError as error:
        raise BadInputError(f"{file.name} is not valid JSON ({error}): repair the file or fetch it again") from error
    for number, value in enumerate(values, 1):
        yield number, _object(value, 0)


def read_json_lines(file: RawFile, options: ReadOptions) -> Iterator[Record]:
    """The objects of a file; blank lines are skipped."""
    return _lines(file)


def _lines(file: RawFile, *, may_be_object: bool = False) -> Iterator[Record]:
    for number, line in numbered_lines(file):
        if isinstance(line, BadRecord):
            yield number, line
            continue
        if line.isspace():
            continue
        try:
            value: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if may_be_object and line.strip() == b"{":
                raise BadInputError(
                    f"{file.name}:{number}: neither a JSON array nor JSON lines ({error}): write the records as one "
                    "array, or each on a line of its own"
                ) from error
            yield number, BadRecord(f"not valid JSON ({error})", len(line))
            continue
        yield number, value if isinstance(value, dict) else _object(value, len(line))
        may_be_object = False


def _object(value: Any, num_bytes: int) -> dict[str, Any] | BadRecord:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    return BadRecord(f"not a JSON object but {type(value).__name__}", num_bytes)


def _is_array(stream: BufferedReader) -> bool:
    """Whether a file is one JSON array rather than JSON lines; reads nothing of it but a byte-order mark."""
    if stream.peek(3).startswith(codecs.BOM_UTF8):
        stream.read(len(codecs.BOM_UTF8))
    return stream.peek(1).lstrip()[:1] == b"["
