"""What a format is given and what it yields: an open file and options; numbered records, each with fields or bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BufferedReader
from typing import IO, Any

import orjson

from meap.errors import BadInputError
from meap.prep.decompression import decompressed
from meap.prep.formats.encodings import in_utf8, with_line_feeds

__all__ = [
    "MAX_RECORD_BYTES",
    "BadRecord",
    "RawFile",
    "ReadOptions",
    "Record",
    "has_field",
    "numbered_lines",
    "require_one_of_each",
    "size_of",
    "stream_of",
    "text_of",
    "too_long",
    "value_at",
]

MAX_RECORD_BYTES = 1 << 28
"""A longer line or file is left out, and never held in memory: a few KB may decompress to it."""


@dataclass
class RawFile:
    """An open input file."""

    opened: IO[bytes]
    name: str
    size: int
    """Stored (compressed) bytes."""
    read_ratio: float | None = None
    """How much of it has been read; set by formats that do not read it from front to back."""

    @cached_property
    def stream(self) -> BufferedReader:
        """Its decompressed bytes, in UTF-8. It closes the file when it is deleted, so it lives as long as this."""
        return in_utf8(self._decompressed, self.name)

    @cached_property
    def _decompressed(self) -> BufferedReader:
        return decompressed(self.opened, self.name)

    @property
    def read_bytes(self) -> int:
        """How many stored bytes have been read, about."""
        return min(self.opened.tell(), self.size) if self.read_ratio is None else int(self.size * self.read_ratio)


@dataclass(frozen=True)
class ReadOptions:
    """Which fields are read, and what a document is in plain text."""

    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    """Fields or columns, dotted if nested, by the key of the configuration that names each; empty for all fields."""
    text_unit: str = "file"
    """Document in plain text: `file`, `line` or `paragraph`."""

    @property
    def fields(self) -> list[str] | None:
        """The fields that are read; None for all."""
        return list(dict.fromkeys(self.keys.values())) or None

    @property
    def text_key(self) -> str:
        """The field under which plain text is yielded."""
        return self.keys.get("text_key", "text")


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
    """The document in a record: a field, dotted if nested."""
    value = values.get(key)
    if isinstance(value, str):
        return value
    if value is None:
        value = value_at(values, key)
        if isinstance(value, str):
            return value
    if not has_field(values, key):
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


def has_field(values: dict[str, Any], key: str) -> bool:
    """Whether a record has a field, dotted if nested."""
    for name in () if key in values else key.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def require_one_of_each(wanted: Sequence[str], columns: Sequence[str], *, file: str) -> None:
    """Raise `BadInputError` if two of a file's columns have the name of a wanted one, dotted if nested."""
    counts = Counter(columns)
    for path in wanted:
        name = path if path in counts else path.partition(".")[0]
        if (count := counts[name]) > 1:
            raise BadInputError(f"{file}: {count} columns have the name {name!r}: rename or drop all but one")


def numbered_lines(file: RawFile) -> Iterator[tuple[int, bytes | BadRecord]]:
    """The lines of a file, numbered from 1; `too_long` for one that is.

    They end in LF, and also in CR if the file begins with lines that do.

    Raises:
        EOFError: And what decompressors raise: the file is damaged.
    """
    lines = with_line_feeds(file.stream)
    for number, line in enumerate(iter(partial(lines.readline, MAX_RECORD_BYTES), b""), 1):
        if len(line) == MAX_RECORD_BYTES and not line.endswith(b"\n"):
            num_bytes = len(line)
            while rest := lines.readline(MAX_RECORD_BYTES):
                num_bytes += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield number, too_long(num_bytes)
        else:
            yield number, line
