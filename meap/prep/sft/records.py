"""Files -> records: JSON arrays, JSON lines and parquet, every bad record counted, every damaged file refused."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import orjson
from datatrove.pipeline.base import PipelineStep

from meap.errors import BadInputError
from meap.prep.decompression import DAMAGED, decompressed_lines
from meap.prep.formats.parquet import parquet_records
from meap.prep.inputs import InputFiles
from meap.prep.progress import BadLine, Tally
from meap.prep.sft.messages import Messages, RecordError, format_of, to_messages, without_first_answers

__all__ = ["BadRecords", "Conversation", "ReadConversations"]

_REPORT_RECORDS = 256


@dataclass(frozen=True)
class Conversation:
    """A usable record and its place."""

    messages: Messages
    file: str
    number: int
    """Record of the file, counted from 1; of JSON lines the line."""
    is_shortened: bool = False
    """Whether answers before the first question are left out."""


class BadRecords:
    """Counts the records that are left out, and ends the task when they are too many.

    Args:
        tally: Where they are counted.
        allowed: Bad records per task that are not fatal.
    """

    def __init__(self, tally: Tally, allowed: int) -> None:
        self.tally = tally
        self.allowed = allowed

    def leave_out(self, file: str, number: int, reason: str) -> None:
        """Count one.

        Raises:
            BadInputError: It is one too many.
        """
        self.tally.add_bad_line(bad := BadLine(file, number, reason))
        if self.tally.bad_lines > self.allowed:
            raise BadInputError(
                f"{bad}; that is bad record {self.tally.bad_lines} of task {self.tally.task}, and max_bad_records="
                f"{self.allowed} are allowed: repair the file, or raise max_bad_records to leave such records out"
            )


class ReadConversations(PipelineStep):
    """Yields the conversations of a task's files, in order.

    Args:
        inputs: The files of the whole job; task t of n reads a contiguous range of them.
        tally: Where records and bytes are counted.
        bad: Where unusable records are counted.
        form: `alpaca`, `sharegpt`, `messages`, or `auto` for what each record's fields say.
    """

    type = "READER"
    name = "conversations"

    def __init__(self, inputs: InputFiles, tally: Tally, bad: BadRecords, *, form: str) -> None:
        super().__init__()
        self.inputs = inputs
        self.tally = tally
        self.bad = bad
        self.form = form

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None
        self, data: Iterable[Any] | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Conversation]:
        """Yield the conversations of task `rank` of `world_size`.

        Raises:
            BadInputError: A file is damaged, there are too many bad records, or the first record has unknown fields.
            DataError: A file cannot be opened or fetched.
        """
        assert data is None, "a reader is the first step"
        self.tally.start(rank)
        is_first = True
        for index in self.inputs.of_task(rank, world_size):
            name, url = self.inputs.names[index], self.inputs.url_of(self.inputs.names[index])
            with self.inputs.open(index) as raw, self.tally.reading(raw, self.inputs.sizes[index]):
                for number, record in self._records(raw, name, url):
                    conversation = self._conversation(record, url, number, is_first=is_first)
                    is_first = False
                    if conversation is not None:
                        yield conversation
                    if number % _REPORT_RECORDS == 0:
                        self.tally.report()

    def _conversation(self, record: Any, url: str, number: int, *, is_first: bool) -> Conversation | None:
        if not isinstance(record, dict):
            self.bad.leave_out(url, number, f"not a JSON object but {type(record).__name__}")
            return None
        values = cast("dict[str, Any]", record)
        form = format_of(values, self.form)
        if form is None:
            fields = ", ".join(map(repr, values)) or "no field at all"
            wanted = "instruction and output, conversations, or messages" if self.form == "auto" else self.form
            if is_first:
                raise BadInputError(f"{url}:{number}: the record has {fields}, not those of {wanted}: see format=")
            self.bad.leave_out(url, number, f"the record has {fields}, not those of {wanted}")
            return None
        try:
            messages = to_messages(values, form)
            kept = without_first_answers(messages)
            return Conversation(kept, url, number, is_shortened=len(kept) < len(messages))
        except RecordError as error:
            self.bad.leave_out(url, number, str(error))
            return None

    def _records(self, raw: IO[bytes], name: str, url: str) -> Iterator[tuple[int, Any]]:
        number = 0
        try:
            for number, record in self._parsed(raw, name, url):
                yield number, record
        except DAMAGED as error:
            raise BadInputError(
                f"{url} is damaged after record {number:,} ({type(error).__name__}: {error}): fetch the file again"
            ) from error
        if not number:
            raise BadInputError(f"{url} holds no readable record: fetch the file again, or take it out of source=")

    def _parsed(self, raw: IO[bytes], name: str, url: str) -> Iterator[tuple[int, Any]]:
        if name.endswith(".parquet"):
            yield from enumerate(parquet_records(raw), 1)
            return
        with decompressed_lines(raw, name) as lines:
            if not _is_array(lines):
                yield from self._json_lines(lines, name, url)
                return
            try:
                records = cast("list[Any]", orjson.loads(lines.read()))
            except orjson.JSONDecodeError as error:
                raise BadInputError(f"{url} is not valid JSON ({error}): repair the file or fetch it again") from error
            yield from enumerate(records, 1)

    def _json_lines(self, lines: Iterable[bytes], name: str, url: str) -> Iterator[tuple[int, Any]]:
        is_first = True
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            try:
                yield number, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                if is_first and ".jsonl" not in name:
                    raise BadInputError(
                        f"{url}:{number}: neither a JSON array nor JSON lines ({error}): write the records as one "
                        "array, or each on a line of its own"
                    ) from error
                self.bad.leave_out(url, number, f"not valid JSON ({error})")
            is_first = False


def _is_array(lines: io.BufferedReader) -> bool:
    """Whether a file is one JSON array rather than JSON lines; nothing of it is consumed but a byte-order mark."""
    if lines.peek(3)[:3] == b"\xef\xbb\xbf":
        lines.read(3)
    return lines.peek(1).lstrip()[:1] == b"["
