"""Plain text in UTF-8: a document is a file, a line or a paragraph. CRLF becomes LF."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from meap.prep.formats.records import (
    MAX_RECORD_BYTES,
    BadRecord,
    RawFile,
    ReadOptions,
    Record,
    numbered_lines,
    refuse_nothing,
    too_long,
)

__all__ = ["read_text"]


def read_text(file: RawFile, options: ReadOptions) -> Iterator[Record]:
    """The documents of a file, each under `options.text_key`; blank lines between documents are skipped."""
    for number, text in _UNITS[options.text_unit](file):
        yield number, text if isinstance(text, BadRecord) else {options.text_key: text}


def _whole(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    content = file.stream.read(MAX_RECORD_BYTES + 1)
    if not content:
        refuse_nothing(file)
    yield 1, _decoded(content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n"))


def _lines(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    for number, line in numbered_lines(file):
        if isinstance(line, BadRecord):
            yield number, line
        elif not line.isspace():
            yield number, _decoded(line.rstrip(b"\r\n"))


def _paragraphs(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    block: list[bytes] = []
    size, start = 0, 1
    for number, line in numbered_lines(file):
        if not isinstance(line, BadRecord) and line.isspace():
            if size:
                yield start, _joined(block, size)
            block, size = [], 0
            continue
        if not size:
            start = number
        size += line.num_bytes if isinstance(line, BadRecord) else len(line)
        if isinstance(line, bytes) and size <= MAX_RECORD_BYTES:
            block.append(line.rstrip(b"\r\n"))
    if size:
        yield start, _joined(block, size)


def _joined(block: list[bytes], size: int) -> str | BadRecord:
    return _decoded(b"\n".join(block)) if size <= MAX_RECORD_BYTES else too_long(size)


def _decoded(content: bytes) -> str | BadRecord:
    if len(content) > MAX_RECORD_BYTES:
        return too_long(len(content))
    if b"\0" in content:
        return BadRecord(f"not text: it has a NUL at byte {content.index(0):,}", len(content))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return BadRecord(f"not valid UTF-8 ({error.reason} at byte {error.start:,})", len(content))


_UNITS = {"file": _whole, "line": _lines, "paragraph": _paragraphs}
