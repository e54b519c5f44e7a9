"""Plain text: a document is a file, a line or a paragraph. CRLF and CR become LF."""

from __future__ import annotations

from collections.abc import Iterator

from meap.prep.formats.records import (
    MAX_RECORD_BYTES,
    BadRecord,
    RawFile,
    ReadOptions,
    Record,
    numbered_lines,
    too_long,
)

__all__ = ["read_text"]

_CHUNK_BYTES = 1 << 20


def read_text(file: RawFile, options: ReadOptions) -> Iterator[Record]:
    """The documents of a file, each under `options.text_key`; blank lines between documents are skipped."""
    for number, text in _UNITS[options.text_unit](file):
        yield number, text if isinstance(text, BadRecord) else {options.text_key: text}


def _whole(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    content = file.stream.read(MAX_RECORD_BYTES + 1)
    num_bytes = len(content)
    while num_bytes > MAX_RECORD_BYTES and (rest := file.stream.read(_CHUNK_BYTES)):
        num_bytes += len(rest)
    if num_bytes > MAX_RECORD_BYTES:
        yield 1, too_long(num_bytes)
    else:
        yield 1, _decoded(content.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))


def _lines(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    for number, line in _split_lines(file):
        if isinstance(line, BadRecord):
            yield number, line
        elif not line.isspace():
            yield number, _decoded(line.rstrip(b"\r\n"))


def _paragraphs(file: RawFile) -> Iterator[tuple[int, str | BadRecord]]:
    block: list[bytes] = []
    size, start = 0, 1
    for number, line in _split_lines(file):
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


def _split_lines(file: RawFile) -> Iterator[tuple[int, bytes | BadRecord]]:
    """The lines of a file, whether they end in LF, CRLF or CR."""
    before = 0
    for number, line in numbered_lines(file):
        if isinstance(line, BadRecord) or line.find(b"\r", 0, -2) < 0:
            yield before + number, line
            continue
        parts = line.splitlines(keepends=True)
        yield from enumerate(parts, before + number)
        before += len(parts) - 1


def _joined(block: list[bytes], size: int) -> str | BadRecord:
    return _decoded(b"\n".join(block)) if size <= MAX_RECORD_BYTES else too_long(size)


def _decoded(content: bytes) -> str | BadRecord:
    if b"\0" in content:
        return BadRecord(f"not text: it has a NUL at byte {content.index(0):,}", len(content))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        return BadRecord(f"not valid UTF-8 ({error.reason} at byte {error.start:,})", len(content))


_UNITS = {"file": _whole, "line": _lines, "paragraph": _paragraphs}
