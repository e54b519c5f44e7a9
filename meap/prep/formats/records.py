"""What a format is given and what it yields: an open file and options; numbered records, each with fields or bad."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader
from typing import IO, Any

import orjson

from meap.prep.decompression import decompressed_lines, is_compressed

__all__ = [
    "MAX_RECORD_BYTES",
    "BadRecord",
    "RawFile",
    "ReadOptions",
    "Record",
    "numbered_lines",
    "refuse_nothing",
    "size_of",
    "stream_of",
    "text_of",
    "too_long",
    "value_at",
]

MAX_RECORD_BYTES = 1 << 28
"""A longer line or file is left out, and never held in memory: a few KB may decompress to it."""
_LINES_PER_REPORT = 256


@dataclass
class RawFile:
    """An open input file."""

    opened: IO[bytes]
    name: str
    size: int
    """Stored (compressed) bytes."""
    read_bytes: int = 0
    """How many of them have been read, about; a format raises it as it reads."""

    @cached_property
    def stream(self) -> BufferedReader:
        """Its decompressed bytes. It closes the file when it is deleted, so it lives as long as this object."""
        return decompressed_lines(self.opened, self.name)


@dataclass(frozen=True)
class ReadOptions:
    """Which fields are read, and what a document is in plain text."""

    fields: tuple[str, ...] | None = None
    """Fields or columns, dotted if nested; None for all."""
    text_key: str = "text"
    """The field under which plain text is yielded."""
    text_unit: str = "file"
    """Document in plain text: `file`, `line` or `paragraph`."""


@dataclass(frozen=True)
class BadRecord:
    """In place of a record's fields: why they cannot be used."""

    reason: str
    num_bytes: int = 0
    """Size of the record, decompressed."""


Record = tuple[int, "dict[str, Any] | BadRecord"]
"""Number of the line or row in the file, from 1; its fields."""


def too_long(num_bytes: int) -> BadRecord:
    """In place of what has more than `MAX_RECORD_BYTES`."""
    return BadRecord(f"longer than {MAX_RECORD_BYTES:,} bytes", num_bytes)


def text_of(values: dict[str, Any], key: str) -> str | BadRecord:
    """The document in a record."""
    value = values.get(key)
    if isinstance(value, str):
        return value
    if key not in values:
        return BadRecord(f"no field {key!r}")
    if isinstance(value, bytes):  # JSON has none: a column that could not be decoded
        return BadRecord(f"field {key!r} is not valid UTF-8")
    return BadRecord(f"field {key!r} is not a string but {type(value).__name__}")


def stream_of(values: dict[str, Any], key: str) -> str | BadRecord:
    """The name of the stream that a record belongs to."""
    value = value_at(values, key)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return BadRecord(f"no field {key!r}, which names the stream")
    return BadRecord(f"field {key!r}, which names the stream, is not a string but {type(value).__name__}")


def size_of(values: dict[str, Any]) -> int:
    """Bytes of a record as JSON."""
    return len(orjson.dumps(values, default=repr, option=orjson.OPT_NON_STR_KEYS))


def value_at(values: Any, key: str) -> Any:
    """A field, dotted if nested; None if there is none."""
    if key in values:
        return values[key]
    for name in key.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def numbered_lines(file: RawFile) -> Iterator[tuple[int, bytes | BadRecord]]:
    """The decompressed lines of a file, numbered from 1, without a byte-order mark; `too_long` for one that is.

    Raises:
        EOFError: See `refuse_nothing`; and what decompressors raise.
    """
    lines, number = file.stream, 0
    for number, line in enumerate(iter(partial(lines.readline, MAX_RECORD_BYTES), b""), 1):
        if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
            num_bytes = len(line)
            while rest := lines.readline(MAX_RECORD_BYTES):
                num_bytes += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield number, too_long(num_bytes)
        else:
            yield number, line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
        if number % _LINES_PER_REPORT == 0:
            file.read_bytes = file.opened.tell()
    if not number:
        refuse_nothing(file)


def refuse_nothing(file: RawFile) -> None:
    """Raise EOFError for a compressed file without a single byte, such as a download that has not begun."""
    if is_compressed(file.name) and not file.opened.tell():
        raise EOFError("the file has no bytes")
