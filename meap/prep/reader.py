"""Raw files -> documents: JSON lines read as bytes, with every bad line counted and every damaged file refused."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

import orjson
from datatrove.io import get_datafolder
from datatrove.pipeline.base import PipelineStep

from meap.errors import BadInputError
from meap.prep.corpora import InputFiles
from meap.prep.decompression import DAMAGED, decompressed_lines
from meap.prep.documents import DocumentBatch
from meap.prep.folder import storage_errors
from meap.prep.progress import BadLine, Tally

__all__ = ["ReadDocuments"]

_REPORT_LINES = 256


class ReadDocuments(PipelineStep):
    """Yields the documents of a task's files, in order and in batches.

    datatrove's own reader skips what it cannot read, and passes on one object per document; this one passes on lists,
    counts each bad line with its place, and stops when there are too many of them or when a compressed file is damaged.

    Args:
        inputs: The files of the whole job; task t of n reads a contiguous range of them.
        tally: Where lines and bytes are counted.
        text_key: Field that holds the document.
        max_bad_lines: Bad lines per task that are left out before they are fatal.
    """

    type = "READER"
    name = "documents"

    def __init__(self, inputs: InputFiles, tally: Tally, *, text_key: str, max_bad_lines: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.tally = tally
        self.text_key = text_key
        self.max_bad_lines = max_bad_lines
        self._is_first_line = False

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; batches leave this step
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[DocumentBatch]:
        """Yield the documents of task `rank` of `world_size`.

        Raises:
            BadInputError: A file is damaged, there are too many bad lines, or the text field is not there.
            DataError: A file cannot be opened or fetched.
        """
        assert data is None, "a reader is the first step"
        self.tally.start(rank)
        self._is_first_line = True
        batch = DocumentBatch()
        for index in self.inputs.of_task(rank, world_size):
            self.stat_update("input_files")
            for number, text in self._texts(self.inputs.names[index]):
                batch.add(text, self.inputs.url_of(self.inputs.names[index]), number)
                if batch.is_full:
                    yield batch
                    batch = DocumentBatch()
        if batch.texts:
            yield batch

    def _texts(self, name: str) -> Iterator[tuple[int, str]]:
        url = self.inputs.url_of(name)
        read_before = self.tally.input_bytes
        with storage_errors(url), get_datafolder(self.inputs.location).open(name, "rb") as opened:
            raw = cast("IO[bytes]", opened)
            lines = decompressed_lines(raw, name)  # held, since it closes the file when it is let go
            number = 0
            try:
                for number, line in enumerate(lines, 1):
                    if number % _REPORT_LINES == 0:
                        self.tally.input_bytes = read_before + raw.tell()
                        self.tally.report()
                    text = self._text_of(line, url, number)
                    if text is not None:
                        yield number, text
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


def _fields_of(values: dict[str, Any]) -> str:
    """What the line holds instead, and which of it looks most like a text."""
    texts = {name: len(value) for name, value in values.items() if isinstance(value, str)}
    hint = f"; did you mean text_key={max(texts, key=lambda name: texts[name])}?" if texts else ""
    return f"the line has {', '.join(map(repr, values)) or 'no field at all'}{hint}"
