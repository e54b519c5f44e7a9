"""Plain text in UTF-8: a file, a line or a paragraph is a document. Of line ends, CRLF becomes LF."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from meap.prep.formats.records import (
    MAX_RECORD_BYTES,
    BadRecord,
    RawFile,
    Record,
    Wanted,
    numbered_lines,
    refuse_nothing,
    too_long,
)

__all__ = ["read_text"]


def read_text(file: RawFile, wanted: Wanted) -> Iterator[Record]:
    """The documents of a file; blank lines between lines or paragraphs are passed over."""
    for number, text in _UNITS[wanted.text_unit](file):
        yield number, text, ""


def _whole(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    content = file.stream.read(MAX_RECORD_BYTES + 1)
    if not content:
        refuse_nothing(file)
    yield 1, _decoded(content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n"))


def _lines(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    for number, line in numbered_lines(file):
        if line is None:
            yield number, too_long()
        elif not line.isspace():
            yield number, _decoded(line.rstrip(b"\r\n"))


def _paragraphs(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    block: list[bytes] = []
    size, start = 0, 1
    for number, line in numbered_lines(file):
        if line is not None and line.isspace():
            if size:
                yield start, _joined(block, size)
            block, size = [], 0
            continue
        if not size:
            start = number
        size += MAX_RECORD_BYTES + 1 if line is None else len(line)
        if size <= MAX_RECORD_BYTES:
            block.append((line or b"").rstrip(b"\r\n"))
    if size:
        yield start, _joined(block, size)


def _joined(block: list[bytes], size: int) -> str | BadRecord:
    return _decoded(b"\n".join(block)) if size <= MAX_RECORD_BYTES else too_long()


def _decoded(content: bytes) -> str | BadRecord:
    if len(content) > MAX_RECORD_BYTES:
        return too_long()
    if b"\0" in content:
        return BadRecord(f"not text: a NUL at byte {content.index(0):,} of it")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return BadRecord(f"not valid UTF-8 ({error.reason} at byte {error.start:,} of it)")


_UNITS = {"file": _whole, "line": _lines, "paragraph": _paragraphs}
