"""Compressed files as streams of bytes that never take a truncated file for a whole one."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from typing import IO, Any, cast

import fsspec.compression
import fsspec.utils
import zstandard
from isal.igzip import IGzipFile
from isal.igzip_lib import IsalError

__all__ = ["DAMAGED", "ZstdStream", "decompressed_lines"]

_READ_BYTES = 1 << 20
_ISAL_ERROR: Any = IsalError  # which its stub calls an instance
DAMAGED = (EOFError, zlib.error, _ISAL_ERROR, gzip.BadGzipFile, zstandard.ZstdError, lzma.LZMAError)
"""What decompressors raise for a file that is cut short or not what its name says."""


class ZstdStream(io.RawIOBase):
    """Decompresses all frames of a zstd file, and raises EOFError where the file ends inside of one.

    The usual stream readers take such an end, and the end of the first frame, for the end of the file.
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


def decompressed_lines(raw: IO[bytes], name: str) -> io.BufferedReader:
    """The lines of an open file, decompressed by what its name ends in."""
    compression = fsspec.utils.infer_compression(name)
    stream: Any = raw
    if compression == "zstd":
        stream = ZstdStream(raw)
    elif compression == "gzip":
        stream = IGzipFile(fileobj=raw, mode="rb")  # zlib's own inflate takes three times as long
    elif compression is not None:
        openers = cast("dict[str, Any]", fsspec.compression.compr)
        stream = openers[compression](raw, mode="rb")
    return io.BufferedReader(stream, _READ_BYTES)
