"""Decompresses files as streams of bytes, in bounded memory; what is truncated or damaged is an error, never short.

A file may hold several streams (`cat`, pbzip2, pigz, frames of zstd). Python's own readers of xz and bz2 take whatever
is no valid stream after the first for garbage, and stop; here only padding may stand between streams and after them.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import zstandard
from isal.igzip_lib import DECOMP_GZIP, IgzipDecompressor, IsalError

__all__ = ["COMPRESSIONS", "DAMAGED", "DecompressedStream", "decompressed"]

_READ_BYTES = 1 << 18
"""Stored bytes read at a time: progress moves by as much."""
_BUFFER_BYTES = 1 << 20
_MAX_WINDOW_BYTES = 1 << 31
"""Largest window: that of `zstd --long=31`."""
_MAX_XZ_BYTES = _MAX_WINDOW_BYTES + (1 << 26)
"""Memory of a decoder with such a window."""
_ZSTD_STEP_BYTES = 1 << 12
"""Stored bytes decompressed at once: at most 128 MB come of them, and the interpreter costs nothing measurable."""
_ISAL_ERROR: Any = IsalError  # which its stub calls an instance
DAMAGED = (EOFError, zlib.error, _ISAL_ERROR, zstandard.ZstdError, lzma.LZMAError)
"""What is raised for a file that is truncated, or not of the format that its name says."""


class _ZstdFrame:
    """One frame, read as the standard library's decompressors read theirs."""

    def __init__(self) -> None:
        self._frame: Any = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        self._stored = memoryview(b"")
        self._text = memoryview(b"")
        self._head = b""

    @property
    def eof(self) -> bool:
        """Whether all of it has been returned."""
        return self._frame.eof and not self._text

    @property
    def needs_input(self) -> bool:
        """Whether it has nothing left to decompress or to return."""
        return not self._stored and not self._text

    @property
    def unused_data(self) -> bytes:
        """What follows the frame."""
        return self._frame.unused_data + self._stored.tobytes()

    def decompress(self, data: bytes, max_length: int) -> memoryview:
        """At most so many bytes of it; further `data` only if `needs_input`."""
        if data:
            self._stored = memoryview(data)
        while not self._text and self._stored and not self._frame.eof:
            step, self._stored = self._stored[:_ZSTD_STEP_BYTES], self._stored[_ZSTD_STEP_BYTES:]
            self._head = self._head or step.tobytes()
            try:
                self._text = memoryview(self._frame.decompress(step))
            except zstandard.ZstdError as error:
                raise zstandard.ZstdError(_named_window(self._head) or str(error)) from error
        text, self._text = self._text[:max_length], self._text[max_length:]
        return text


def _named_window(head: bytes) -> str:
    """What is wrong with a frame's window; empty if nothing is. The library names no size above its own bound."""
    if len(head) < 6 or head[4] & 0x20:  # no window of its own: the size of its content
        return ""
    base = 1 << (10 + (head[5] >> 3))
    window = base + base // 8 * (head[5] & 7)
    return f"its window has {window:,} bytes, {_MAX_WINDOW_BYTES:,} are the most" if window > _MAX_WINDOW_BYTES else ""


class _Bz2Stream:
    """Raises EOFError for a damaged stream, where the standard library raises the OSError of a broken disk."""

    def __init__(self) -> None:
        self._stream = bz2.BZ2Decompressor()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See the standard library."""
        try:
            return self._stream.decompress(data, max_length)
        except OSError as error:
            raise EOFError(str(error)) from error


@dataclass(frozen=True)
class _Compression:
    """How files of one compression are read."""

    open_stream: Callable[[], Any]
    """A decompressor of one stream, with the methods of the standard library's."""
    magics: tuple[bytes, ...]
    """Ways in which a stream begins."""
    padding: int = 0
    """Zero bytes may follow a stream in multiples of so many; 0 for none."""


_COMPRESSIONS = {
    ".gz": _Compression(lambda: IgzipDecompressor(flag=DECOMP_GZIP), (b"\x1f\x8b",), padding=1),
    ".zst": _Compression(_ZstdFrame, (b"\x28\xb5\x2f\xfd", *(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60)))),
    ".xz": _Compression(lambda: lzma.LZMADecompressor(memlimit=_MAX_XZ_BYTES), (b"\xfd7zXZ\0",), padding=4),
    ".bz2": _Compression(_Bz2Stream, (b"BZh",)),
}
COMPRESSIONS = tuple(_COMPRESSIONS)
"""Suffixes of compressed files."""


class DecompressedStream(io.RawIOBase):
    """The content of all streams of a compressed file.

    Args:
        raw: The open file.
        compression: Of what kind it is.
    """

    def __init__(self, raw: IO[bytes], compression: _Compression) -> None:
        self._raw = raw
        self._compression = compression
        self._stored = b""
        self._stream: Any = None
        self._number = 0
        self._failure: Exception | None = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with decompressed bytes; fewer only at the end, or before the damage that the next call raises.

        Raises:
            EOFError: The file is empty, ends inside a stream, or has something else between streams.
        """
        if self._failure is not None:
            raise self._failure
        filled = 0
        try:
            while filled < len(buffer) and (self._stream is not None or self._next_stream()):
                content = self._decompress(len(buffer) - filled)
                buffer[filled : filled + len(content)] = content
                filled += len(content)
        except DAMAGED as error:
            if not filled:
                raise
            self._failure = error
        return filled

    def _decompress(self, max_length: int) -> Any:
        if self._stream.needs_input and not self._stored:
            self._stored = self._raw.read(_READ_BYTES)
            if not self._stored:
                raise EOFError(f"the file ends inside stream {self._number}")
        content, self._stored = self._stream.decompress(self._stored, max_length), b""
        if self._stream.eof:
            self._stored, self._stream = self._stream.unused_data, None
        return content

    def _next_stream(self) -> bool:
        """Open the next stream; False if there is none."""
        size = max(map(len, self._compression.magics))
        if self._number:
            self._skip_padding()
        while len(self._stored) < size and (more := self._raw.read(_READ_BYTES)):
            self._stored += more
        if not self._stored and self._number:
            return False
        if not self._stored:
            raise EOFError("the file has no bytes")
        if self._number and not self._stored.startswith(self._compression.magics):
            raise EOFError(f"what follows stream {self._number} is neither a stream nor padding")
        self._stream = self._compression.open_stream()
        self._number += 1
        return True

    def _skip_padding(self) -> None:
        padding, skipped = self._compression.padding, 0
        while padding:
            rest = self._stored.lstrip(b"\0")
            skipped += len(self._stored) - len(rest)
            self._stored = rest or self._raw.read(_READ_BYTES)
            if rest or not self._stored:
                break
        if padding and skipped % padding:
            raise EOFError(f"{skipped:,} zero bytes follow stream {self._number}, no multiple of {padding}")


def decompressed(raw: IO[bytes], name: str) -> io.BufferedReader:
    """The content of an open file, decompressed by what its name ends in."""
    for suffix, compression in _COMPRESSIONS.items():
        if name.lower().endswith(suffix):
            return io.BufferedReader(DecompressedStream(raw, compression), _BUFFER_BYTES)
    stream: Any = raw
    return io.BufferedReader(stream, _BUFFER_BYTES)
