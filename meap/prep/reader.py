"""Raw files -> documents: JSON lines read as bytes, with every bad line counted and every damaged file refused."""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

import fsspec.compression
import fsspec.utils
import orjson
import zstandard
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader

from meap.errors import BadInputError
from meap.prep.corpora import InputFiles
from meap.prep.folder import storage_errors
from meap.prep.progress import BadLine, Tally

__all__ = ["DAMAGED", "StrictJsonlReader", "ZstdStream", "decompressed_lines"]

_READ_BYTES = 1 << 20
_REPORT_LINES = 256
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, lzma.LZMAError)
"""What decompressors raise for a file that is cut short or not what its name says."""


class StrictJsonlReader(JsonlReader):
    """Yields the documents of a task's files, in order.

    datatrove's own reader skips what it cannot read; this one counts each such line with its place, and stops when
    there are too many of them or when a compressed file is damaged.

    Args:
        inputs: The files of the whole job; task t of n reads a contiguous range of them.
        tally: Where lines and bytes are counted.
        text_key: Field that holds the document.
        max_bad_lines: Bad lines per task that are left out before they are fatal.
    """

    name = "strict JSON lines"

    def __init__(self, inputs: InputFiles, tally: Tally, *, text_key: str, max_bad_lines: int) -> None:
        super().__init__(inputs.location, text_key=text_key)
        self.inputs = inputs
        self.tally = tally
        self.max_bad_lines = max_bad_lines
        self._is_first_line = False

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None
        self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        """Yield the documents of task `rank` of `world_size`."""
        assert data is None, "a reader is the first step"
        self.tally.start(rank)
        self._is_first_line = True
        for number in self.inputs.of_task(rank, world_size):
            self.stat_update("input_files")
            yield from self.read_file(self.inputs.names[number])

    def read_file(self, filepath: str) -> Iterator[Document]:  # type: ignore[override]
        """Yield the documents of one file.

        Raises:
            BadInputError: The file is damaged, there are too many bad lines, or the text field is not there.
            DataError: The file cannot be opened or fetched.
        """
        url = self.inputs.url_of(filepath)
        read_before = self.tally.input_bytes
        with storage_errors(url), self.data_folder.open(filepath, "rb") as opened:
            raw = cast("IO[bytes]", opened)
            lines = decompressed_lines(raw, filepath)  # held, since it closes the file when it is let go
            number = 0
            try:
                for number, line in enumerate(lines, 1):
                    if number % _REPORT_LINES == 0:
                        self.tally.input_bytes = read_before + raw.tell()
                        self.tally.report()
                    text = self._text_of(line, url, number)
                    if text is not None:
                        yield Document(text=text, id=f"{url}:{number}")
            except DAMAGED as error:
                raise BadInputError(
                    f"{url} is damaged after line {number:,}, near byte {raw.tell():,} of the stored file "
                    f"({type(error).__name__}: {error}): fetch the file again"
                ) from error
            self.tally.input_bytes = read_before + raw.tell()
            self.tally.report()

    def _text_of(self, line: bytes, url: str, number: int) -> str | None:
        is_first_line, self._is_first_line = self._is_first_line, False
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.isspace():
            return None
        try:
            values = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            self._leave_out(url, number, f"not valid JSON ({error})")
            return None
        if not isinstance(values, dict):
            self._leave_out(url, number, f"not a JSON object but {type(values).__name__}")
            return None
        text = values.get(self.text_key)
        if isinstance(text, str):
            if not text:
                self.tally.empty_documents += 1
            return text or None
        if self.text_key in values:
            self._leave_out(url, number, f"field {self.text_key!r} is not a string but {type(text).__name__}")
        elif is_first_line:
            raise BadInputError(f"{url}:{number}: there is no field {self.text_key!r}: {_fields_of(values)}")
        else:
            self._leave_out(url, number, f"no field {self.text_key!r}")
        return None

    def _leave_out(self, url: str, number: int, reason: str) -> None:
        self.tally.add_bad_line(bad_line := BadLine(url, number, reason))
        if self.tally.bad_lines > self.max_bad_lines:
            raise BadInputError(
                f"{bad_line}; that is bad line {self.tally.bad_lines} of task {self.tally.task}, and "
                f"max_bad_lines={self.max_bad_lines} are allowed: repair the file, or raise max_bad_lines to leave "
                "such lines out"
            )


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
    elif compression is not None:
        openers = cast("dict[str, Any]", fsspec.compression.compr)
        stream = openers[compression](raw, mode="rb")
    return io.BufferedReader(stream, _READ_BYTES)


def _fields_of(values: dict[str, Any]) -> str:
    """What the line holds instead, and which of it looks most like a text."""
    texts = {name: len(value) for name, value in values.items() if isinstance(value, str)}
    hint = f"; did you mean text_key={max(texts, key=lambda name: texts[name])}?" if texts else ""
    return f"the line has {', '.join(map(repr, values)) or 'no field at all'}{hint}"
