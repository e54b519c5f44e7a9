"""Raw files -> documents: in order and in batches, every bad record counted and every damaged file refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from datatrove.pipeline.base import PipelineStep

from meap.errors import BadInputError
from meap.prep.decompression import DAMAGED
from meap.prep.documents import DocumentBatch
from meap.prep.formats import BadRecord, RawFile, Record, Wanted, format_of
from meap.prep.inputs import InputFiles
from meap.prep.progress import BadLine, Tally
from meap.prep.streams import StreamNames

if TYPE_CHECKING:
    from meap.config.prep import PrepConfig
    from meap.prep.job import Job

__all__ = ["ReadDocuments"]

_RECORDS_PER_REPORT = 256


class ReadDocuments(PipelineStep):
    """Yields the documents of a task's files, in order and in batches.

    datatrove's own readers skip what they cannot read, and pass on one object per document; this one passes on lists,
    counts each bad record with its place, and stops when there are too many of them or when a file is damaged. A file
    without a record counts as a bad one.

    Args:
        inputs: The files of the whole job; task t of n reads a contiguous range of them.
        tally: Where records and bytes are counted.
        text_key: Field or column that holds the document.
        stream_key: Field or column, dotted where nested, that says which data set it belongs to; None for one data set.
        text_unit: What a document is in plain text: `file`, `line` or `paragraph`.
        max_bad_lines: Bad records per task that are left out before they are fatal.
    """

    type = "READER"
    name = "documents"

    def __init__(
        self,
        inputs: InputFiles,
        tally: Tally,
        *,
        text_key: str,
        max_bad_lines: int,
        stream_key: str | None = None,
        text_unit: str = "file",
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.tally = tally
        self.wanted = Wanted(text_key, stream_key, text_unit)
        self.max_bad_lines = max_bad_lines

    @classmethod
    def of(cls, job: Job, tally: Tally) -> ReadDocuments:
        """The reader of a job's documents, which counts into `tally`."""
        config = cast("PrepConfig", job.config)
        return cls(
            job.inputs,
            tally,
            text_key=job.text_key,
            max_bad_lines=config.max_bad_lines,
            stream_key=config.stream_key,
            text_unit=config.text_unit,
        )

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; batches leave this step
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[DocumentBatch]:
        """Yield the documents of task `rank` of `world_size`.

        Raises:
            BadInputError: A file is damaged, there are too many bad records, or the text field is not there.
            DataError: A file cannot be opened or fetched.
        """
        assert data is None, "a reader is the first step"
        self.tally.start(rank)
        streams = StreamNames(self.wanted.stream_key)
        batch = DocumentBatch()
        is_first = True
        for index in self.inputs.of_task(rank, world_size):
            self.stat_update("input_files")
            url, split = self.inputs.url_of(self.inputs.names[index]), self.inputs.split_of(index)
            if batch.split != split:
                if batch.texts:
                    yield batch
                batch = DocumentBatch(split=split)
            for number, text, stream in self._records(index):
                if isinstance(text, BadRecord):
                    self._leave_out(text, url, number, is_first=is_first)
                elif text:
                    batch.add(text, url, number, streams.name_of(stream, f"{url}:{number}"))
                    if batch.is_full:
                        yield batch
                        batch = DocumentBatch(split=split)
                else:
                    self.tally.empty_documents += 1
                is_first = False
        if batch.texts:
            yield batch

    def _records(self, index: int) -> Iterator[Record]:
        name, read_before = self.inputs.names[index], self.tally.input_bytes
        url, form = self.inputs.url_of(name), format_of(name)
        with self.inputs.open(index) as opened:
            file = RawFile(opened, url, self.inputs.sizes[index])
            number = 0
            try:
                for record in form.read(file, self.wanted):
                    number = record[0]
                    if number % _RECORDS_PER_REPORT == 0:
                        self.tally.input_bytes = read_before + file.read_bytes
                        self.tally.report()
                    yield record
            except DAMAGED as error:
                raise BadInputError(
                    f"{url} is damaged after {form.record} {number:,}, near byte {opened.tell():,} of the stored file "
                    f"({type(error).__name__}: {error}): fetch the file again"
                ) from error
        self.tally.input_bytes = read_before + self.inputs.sizes[index]
        self.tally.report()
        if not number:
            yield 1, BadRecord("the file is empty"), ""

    def _leave_out(self, bad: BadRecord, url: str, number: int, *, is_first: bool) -> None:
        if bad.lacks_text is not None and is_first:
            key = self.wanted.text_key
            raise BadInputError(f"{url}:{number}: there is no field {key!r}: {_fields_of(bad.lacks_text)}")
        self.tally.add_bad_line(bad_line := BadLine(url, number, bad.reason))
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
