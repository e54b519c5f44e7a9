"""Raw files -> records -> documents, in order; every bad record is counted, every damaged file refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from datatrove.pipeline.base import PipelineStep

from meap.errors import BadInputError
from meap.prep.decompression import DAMAGED
from meap.prep.documents import DocumentBatch
from meap.prep.formats import (
    BadRecord,
    RawFile,
    ReadOptions,
    Record,
    format_of,
    has_field,
    size_of,
    stream_of,
    text_of,
    value_at,
)
from meap.prep.inputs import InputFiles
from meap.prep.job import Job
from meap.prep.progress import BadLine, Tally
from meap.prep.resolved import ResolvedPrep
from meap.prep.streams import StreamNames
from meap.show.numbers import size

__all__ = ["BadRecords", "ReadDocuments", "read_records"]

_RECORDS_PER_REPORT = 32
_EMPTY_FILE = BadRecord("the file is empty: fetch it again, or take it out of source=")


class BadRecords:
    """Counts records that are left out; fails the task if they are too many, or all that a file has.

    Args:
        tally: Where they are counted.
        allowed: Bad records per task that are not fatal.
        key: Of the configuration, that says so.
        noun: What a record is called.
    """

    def __init__(self, tally: Tally, allowed: int, *, key: str, noun: str) -> None:
        self.tally = tally
        self.allowed = allowed
        self.key = key
        self.noun = noun
        self.readable_file = ""
        """The last file of which a record is good; whoever reads records sets it."""
        self._of_file: tuple[str, int, int, BadLine] | None = None
        """The last file with bad records, their number, their bytes, and the first of them."""

    def leave_out(self, file: str, number: int, bad: BadRecord) -> None:
        """Count one.

        Raises:
            BadInputError: It is one too many.
        """
        self.tally.add_bad_line(bad_line := BadLine(file, number, bad.reason, bad.num_bytes))
        _, count, num_bytes, first = self._of_file or ("", 0, 0, bad_line)
        if self._of_file is None or self._of_file[0] != file:
            count, num_bytes, first = 0, 0, bad_line
        self._of_file = (file, count + 1, num_bytes + bad.num_bytes, first)
        if self.tally.bad_lines > self.allowed:
            all_bad = ", all there is of the file so far" if self.readable_file != file and count else ""
            raise BadInputError(
                f"{bad_line}; that is bad {self.noun} {self.tally.bad_lines} of task {self.tally.task} "
                f"({size(self.tally.bad_bytes)}{all_bad}), and {self.key}={self.allowed} "
                f"are allowed: repair the file, or raise {self.key} to leave such {self.noun}s out"
            )

    def end_file(self, file: str) -> None:
        """Refuse a file that has been read to its end if all its records are bad.

        Raises:
            BadInputError: They are.
        """
        if self._of_file is None or self._of_file[0] != file or self.readable_file == file:
            return
        _, count, num_bytes, first = self._of_file
        if num_bytes:  # an empty file has none
            raise BadInputError(
                f"{first}; nothing can be read of the whole file, whose {self.noun}s are all bad ({count:,}, "
                f"{size(num_bytes)}): repair or convert it, or take it out of source="
            )


def read_records(inputs: InputFiles, index: int, tally: Tally, options: ReadOptions) -> Iterator[Record]:
    """The records of an input file, in order; a file without any yields one bad record.

    Args:
        inputs: The files of the job.
        index: Number of the file.
        tally: Where its bytes are counted.
        options: What is read.

    Raises:
        BadInputError: The file is damaged.
        DataError: It cannot be opened or fetched.
    """
    name, read_before = inputs.names[index], tally.input_bytes
    url, form = inputs.url_of(name), format_of(name)
    with inputs.open(index) as opened:
        file = RawFile(opened, url, inputs.sizes[index])
        number = count = 0
        try:
            for record in form.read(file, options):
                number, count = record[0], count + 1
                if count % _RECORDS_PER_REPORT == 1:
                    tally.input_bytes = read_before + file.read_bytes
                    tally.report(now=count == 1 and not read_before)
                yield record
        except DAMAGED as error:
            raise BadInputError(
                f"{url} is damaged after {form.record} {number:,}, near byte {opened.tell():,} of the stored file "
                f"({type(error).__name__}: {error}): fetch the file again"
            ) from error
    tally.input_bytes = read_before + inputs.sizes[index]
    tally.report()
    if not number:
        yield 1, _EMPTY_FILE


class ReadDocuments(PipelineStep):
    """Yields the documents of a task's files, in order and in batches.

    datatrove's own readers skip what they cannot read, and pass on one object per document. This one passes on lists,
    counts each bad record with its place, and stops if there are too many of them or a file is damaged.

    Args:
        inputs: The files of the whole job; task t of n reads a contiguous range of them.
        tally: Where records and bytes are counted.
        text_key: Field or column, dotted if nested, that holds the document.
        stream_key: The same for the name of the document's stream. Unset: there is one stream.
        id_key: The same for the document's id, as messages and examples of removed documents show it.
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
        id_key: str | None = None,
        text_unit: str = "file",
    ) -> None:
        super().__init__()
        self.inputs = inputs
        self.tally = tally
        self.text_key = text_key
        self.stream_key = stream_key
        self.id_key = id_key
        keys = {"text_key": text_key, "stream_key": stream_key, "id_key": id_key}
        self.options = ReadOptions({key: name for key, name in keys.items() if name is not None}, text_unit)
        self.bad = BadRecords(tally, max_bad_lines, key="max_bad_lines", noun="line")

    @classmethod
    def of(cls, job: Job[ResolvedPrep], tally: Tally | None = None) -> ReadDocuments:
        """The reader of a job's documents.

        Args:
            job: The job.
            tally: Where it counts. Unset: the job's.
        """
        config = job.config
        return cls(
            job.inputs,
            tally or job.tally,
            text_key=config.text_key,
            max_bad_lines=config.max_bad_lines,
            stream_key=config.stream_key,
            id_key=config.id_key,
            text_unit=config.text_unit,
        )

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; batches leave this step
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[DocumentBatch]:
        """Yield the documents of task `rank` of `world_size`.

        Raises:
            BadInputError: A file is damaged, there are too many bad records, or the text field does not exist.
            DataError: A file cannot be opened or fetched.
        """
        assert data is None, "a reader is the first step"
        self.tally.start(rank)
        streams = StreamNames(self.stream_key)
        batch, is_first = DocumentBatch(), True
        for index in self.inputs.of_task(rank, world_size):
            self.stat_update("input_files")
            url, split = self.inputs.url_of(self.inputs.names[index]), self.inputs.split_of(index)
            if batch.split != split:
                if batch.texts:
                    yield batch
                batch = DocumentBatch(split=split)
            for number, record in read_records(self.inputs, index, self.tally, self.options):
                text, stream = self._document(record)
                if is_first and isinstance(record, dict):
                    self._require_fields(record, url, number)
                is_first = False
                if isinstance(text, BadRecord):
                    self.bad.leave_out(url, number, text)
                    continue
                self.bad.readable_file = url
                if not text:
                    self.tally.empty_documents += 1
                    continue
                stream = streams.name_of(stream, f"{url}:{number}")
                batch.add(text, url, number, stream, self._id_of(record) if self.id_key is not None else "")
                if batch.is_full:
                    yield batch
                    batch = DocumentBatch(split=split)
            self.bad.end_file(url)
        if batch.texts:
            yield batch

    def _document(self, record: dict[str, Any] | BadRecord) -> tuple[str | BadRecord, str]:
        """Text and stream of a record; both empty if its text is."""
        if isinstance(record, BadRecord):
            return record, ""
        text = text_of(record, self.text_key)
        stream = stream_of(record, self.stream_key) if self.stream_key is not None else ""
        for each in (text, stream):
            if isinstance(each, BadRecord):
                number = self._id_of(record)
                return BadRecord(each.reason + (f" (id {number})" if number else ""), size_of(record)), ""
        return text, cast("str", stream)

    def _id_of(self, record: Any) -> str:
        found = None if self.id_key is None else value_at(record, self.id_key)
        return "" if found is None else str(found)

    def _require_fields(self, record: dict[str, Any], url: str, number: int) -> None:
        """Raise if the first record of a task lacks a field that must be there: the others will not have it either."""
        keys = {key: name for key, name in self.options.keys.items() if key != "stream_key"}
        missing = [key for key, name in keys.items() if not has_field(record, name)]
        if not missing:
            return
        texts = _texts_in(record) if missing[0] == "text_key" else {}
        hint = f"; did you mean text_key={max(texts, key=lambda name: texts[name])}?" if texts else ""
        fields = ", ".join(map(repr, record)) or "no field at all"
        raise BadInputError(
            f"{url}:{number}: there is no field {self.options.keys[missing[0]]!r}: the line has {fields}{hint}"
        )


def _texts_in(record: dict[str, Any], above: str = "") -> dict[str, int]:
    """Lengths of the texts in a record, by their dotted names."""
    found: dict[str, int] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            found |= _texts_in(value, f"{above}{name}.")
        elif isinstance(value, str):
            found[above + name] = len(value)
    return found
