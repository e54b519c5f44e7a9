"""Decompresses files as streams of bytes; a truncated file is an error, never a short one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Any

import zstandard
from isal.igzip import IGzipFile
from isal.igzip_lib import IsalError

__all__ = ["COMPRESSIONS", "DAMAGED", "ZstdStream", "decompressed_lines", "is_compressed"]

_READ_BYTES = 1 << 20
_ISAL_ERROR: Any = IsalError  # which its stub calls an instance
DAMAGED = (EOFError, zlib.error, _ISAL_ERROR, gzip.BadGzipFile, zstandard.ZstdError, lzma.LZMAError)
"""What decompressors raise for a file that is truncated, or not of the format that its name says."""


class ZstdStream(io.RawIOBase):
    """Decompresses all frames of a zstd file, and raises EOFError where the file ends inside of one.

    The usual stream readers stop silently there, and at the end of the first frame.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._compressed = b""
        self._text = b""
        self._frame: Any = None

    def readable(self) -> bool:
        """It can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with decompressed bytes; 0 means the end."""
        while not self._text:
            if not self._compressed:
                self._compressed = self._raw.read(_READ_BYTES)
            if not self._compressed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._text = self._frame.decompress(self._compressed)
            self._compressed = b""
            if self._frame.eof:
                self._compressed = self._frame.unused_data
                self._frame = None
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size


class _Bz2Stream(bz2.BZ2File):
    """Raises EOFError for a damaged file, where the standard library raises the OSError of a broken disk."""

    def readinto(self, b: Any) -> int:
        """Fill `b` with decompressed bytes; 0 means the end."""
        try:
            return super().readinto(b)
        except OSError as error:
            if error.errno is not None:
                raise
            raise EOFError(str(error)) from error


_OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda raw: IGzipFile(fileobj=raw, mode="rb"),  # zlib takes three times as long
    ".zst": ZstdStream,
    ".xz": lzma.LZMAFile,
    ".bz2": _Bz2Stream,
}
COMPRESSIONS = tuple(_OPENERS)
"""Suffixes of compressed files."""


def is_compressed(name: str) -> bool:
    """Whether a name is that of a compressed file."""
    return name.lower().endswith(COMPRESSIONS)


def decompressed_lines(raw: IO[bytes], name: str) -> io.BufferedReader:
    """The lines of an open file, decompressed by what its name ends in."""
    openers = (opener for suffix, opener in _OPENERS.items() if name.lower().endswith(suffix))
    stream: Any = next(openers, lambda raw: raw)(raw)
    return io.BufferedReader(stream, _READ_BYTES)
