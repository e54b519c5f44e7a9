"""What a format is given and what it yields."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from io import BufferedReader
from typing import IO, Any

from meap.prep.decompression import decompressed_lines, is_compressed

__all__ = [
    "MAX_RECORD_BYTES",
    "BadRecord",
    "RawFile",
    "Record",
    "Wanted",
    "as_stream",
    "as_text",
    "numbered_lines",
    "refuse_nothing",
    "too_long",
]

MAX_RECORD_BYTES = 1 << 28
"""A longer line or file is no document, and may be what a few KB decompress to: it is left out, never held."""
_LINES_PER_REPORT = 256


@dataclass
class RawFile:
    """An input file that is open."""

    opened: IO[bytes]
    name: str
    size: int
    """Stored (compressed) bytes."""
    read_bytes: int = 0
    """How many of them have been read, about; a format counts them up as it goes."""

    @cached_property
    def stream(self) -> BufferedReader:
        """Its bytes, decompressed. It closes the file when it is let go, and so lives as long as this object."""
        return decompressed_lines(self.opened, self.name)


@dataclass(frozen=True)
class Wanted:
    """What is a document, and which data set it belongs to."""

    text_key: str = "text"
    """Field or column that holds the document."""
    stream_key: str | None = None
    """Field or column, dotted where it is nested, that names the document's stream; None where there is one stream."""
    text_unit: str = "file"
    """Of plain text: `file`, `line` or `paragraph`."""


@dataclass(frozen=True)
class BadRecord:
    """In place of a text: why there is none."""

    reason: str
    lacks_text: dict[str, Any] | None = None
    """What the record holds, where the text field is not among it."""


Record = tuple[int, "str | BadRecord", str]
"""Number of the line or row in the file, from 1; text, empty for an empty document; stream, empty without a key."""


def too_long() -> BadRecord:
    """In place of what has more than `MAX_RECORD_BYTES`."""
    return BadRecord(f"longer than {MAX_RECORD_BYTES:,} bytes")


def as_text(value: Any, key: str) -> str | BadRecord:
    """A field's value, if it is a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):  # JSON has none: a column that could not be decoded
        return BadRecord(f"field {key!r} is not valid UTF-8")
    return BadRecord(f"field {key!r} is not a string but {type(value).__name__}")


def as_stream(value: Any, key: str) -> str | BadRecord:
    """A field's value, if it can name a stream."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return BadRecord(f"no field {key!r}, which says the stream")
    return BadRecord(f"field {key!r}, which says the stream, is not a string but {type(value).__name__}")


def numbered_lines(file: RawFile) -> Iterator[tuple[int, bytes | None]]:
    """The decompressed lines of a file, numbered from 1, without a byte-order mark; None for one that is too long.

    Raises:
        EOFError: See `refuse_nothing`; and what decompressors raise.
    """
    lines, number = file.stream, 0
    for number, line in enumerate(iter(partial(lines.readline, MAX_RECORD_BYTES), b""), 1):
        if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
            while (rest := lines.readline(MAX_RECORD_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
        if number % _LINES_PER_REPORT == 0:
            file.read_bytes = file.opened.tell()
    if not number:
        refuse_nothing(file)


def refuse_nothing(file: RawFile) -> None:
    """Raise EOFError for a compressed file without a single byte, as of a download that has not begun."""
    if is_compressed(file.name) and not file.opened.tell():
        raise EOFError("there is not a single byte in it")
