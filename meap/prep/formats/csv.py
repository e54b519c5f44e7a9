"""Comma-separated values with a header: a record per row, numbered by the line in which it begins.

Fields are as RFC 4180 has them: quoted ones keep commas and line ends, a quote within is doubled. Rows end in LF, CRLF
or CR.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial

from meap.errors import BadInputError
from meap.prep.formats.records import MAX_RECORD_BYTES, BadRecord, RawFile, ReadOptions, Record, require_one_of_each

__all__ = ["read_csv"]


def read_csv(file: RawFile, options: ReadOptions) -> Iterator[Record]:
    """The rows of a file below its header, by column.

    Raises:
        BadInputError: A quoted field has no end, or two wanted columns have one name.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    text = io.TextIOWrapper(file.stream, encoding="utf-8", errors="surrogateescape", newline="")
    try:
        yield from _rows(_Lines(text, file.name), options)
    finally:
        text.detach()


def _rows(lines: _Lines, options: ReadOptions) -> Iterator[Record]:
    rows = csv.reader(lines, strict=True)
    names: list[str] | None = None
    while True:
        start = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise BadInputError(
                f"{lines.name}:{start}: not valid CSV ({error}): repair the row that begins here, with each quote in a "
                "quoted field doubled"
            ) from error
        num_bytes, lines.record_size = lines.record_size, 0
        if row is None:
            return
        if names is None and row:
            names = row
            require_one_of_each(options.fields or names, names, file=lines.name)
        elif names is not None and row:
            yield start, _record(names, row, num_bytes)


class _Lines:
    """The lines of a file with their ends, of which a record may take no more than memory has room for.

    Args:
        text: The open file.
        name: Of the file, for the error.
    """

    def __init__(self, text: io.TextIOWrapper, name: str) -> None:
        self.name = name
        self.record_size = 0
        """Characters read since it was last set to 0."""
        self._lines = enumerate(iter(partial(text.readline, MAX_RECORD_BYTES), ""), 1)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.record_size += len(line)
        if self.record_size >= MAX_RECORD_BYTES:
            raise BadInputError(
                f"{self.name}:{number}: a row is longer than {MAX_RECORD_BYTES:,} bytes: is a quoted field without an "
                "end? Repair the file, or take it out of source="
            )
        return line


def _record(names: list[str], row: list[str], num_bytes: int) -> dict[str, str] | BadRecord:
    if len(row) != len(names):
        return BadRecord(f"{len(row)} fields, where the header has {len(names)}", num_bytes)
    joined = "".join(row)
    if "\0" in joined:
        return BadRecord("not text: it has a NUL", num_bytes)
    try:
        joined.encode()
    except UnicodeEncodeError:
        return BadRecord("not valid UTF-8", num_bytes)
    return dict(zip(names, row, strict=True))
