"""Text files as UTF-8, by their byte-order mark, which goes; and lines that end in CR alone as lines that end in LF."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import Any

from meap.errors import BadInputError

__all__ = ["in_utf8", "with_line_feeds"]

_CHUNK_BYTES = 1 << 20
_MARKS = {  # that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32-LE",
    codecs.BOM_UTF32_BE: "UTF-32-BE",
    codecs.BOM_UTF16_LE: "UTF-16-LE",
    codecs.BOM_UTF16_BE: "UTF-16-BE",
    codecs.BOM_UTF8: "UTF-8",
}


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = filter(None, chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, perhaps in part; 0 means the end."""
        self._rest = self._rest or memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def in_utf8(stream: io.BufferedReader, name: str) -> io.BufferedReader:
    """The content of a file without its byte-order mark, in UTF-8 if that is one of UTF-16 or UTF-32.

    Args:
        stream: The file, at its beginning.
        name: Of the file, for the error.

    Raises:
        BadInputError: It is UTF-16 without a mark.
        EOFError: While reading: it is not valid in the encoding that its mark names.
    """
    head = stream.peek(4)[:4]
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            stream.read(len(mark))
            return stream if encoding == "UTF-8" else _buffered(_recoded(stream, encoding))
    zeros = [not byte for byte in head]
    if zeros in ([False, True] * 2, [True, False] * 2):
        encoding = f"UTF-16{'LE' if zeros[1] else 'BE'}"
        raise BadInputError(
            f"{name} seems to be {encoding} and has no byte-order mark: convert it with iconv -f {encoding} -t UTF-8"
        )
    return stream


def with_line_feeds(stream: io.BufferedReader) -> io.BufferedReader:
    """The content of a file; LF in place of CR and CRLF if its beginning has lines that end in CR alone, and no LF."""
    head = stream.peek(1)
    if b"\n" in head or b"\r" not in head[:-1]:
        return stream
    return _buffered(_without_returns(stream))


def _buffered(chunks: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Chunks(chunks), _CHUNK_BYTES)


def _recoded(stream: io.BufferedReader, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk := stream.read(_CHUNK_BYTES):
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise EOFError(f"not valid {encoding}, which its byte-order mark says it is: {error}") from error


def _without_returns(stream: io.BufferedReader) -> Iterator[bytes]:
    is_after_return = False
    while chunk := stream.read(_CHUNK_BYTES):
        text = chunk.removeprefix(b"\n") if is_after_return else chunk
        is_after_return = chunk.endswith(b"\r")
        yield text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
