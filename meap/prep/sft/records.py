"""Records -> conversations: every record that is none is counted with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from datatrove.pipeline.base import PipelineStep

from meap.errors import BadInputError
from meap.prep.formats import BadRecord, ReadOptions, size_of
from meap.prep.inputs import InputFiles
from meap.prep.job import Job
from meap.prep.progress import Tally
from meap.prep.reader import BadRecords, read_records
from meap.prep.resolved import ResolvedSft
from meap.prep.sft.messages import Messages, RecordError, format_of, parse_record, without_first_answers
from meap.prep.sft.tools import Tools

__all__ = ["ALL_FIELDS", "Conversation", "ReadConversations", "bad_records"]

ALL_FIELDS = "instruction and output, conversations, messages, or prompt and completion"
"""Of which a record must have some."""


@dataclass(frozen=True)
class Conversation:
    """A usable record and its place."""

    messages: Messages
    file: str
    number: int
    """Line, row, or element of an array, from 1."""
    is_shortened: bool = False
    """Whether answers before the first question are left out."""
    tools: Tools | None = None
    """JSON schemas of the functions that the model may call, for the template."""


def bad_records(tally: Tally, allowed: int) -> BadRecords:
    """What counts the records of a task that are no conversations."""
    return BadRecords(tally, allowed, key="max_bad_records", noun="record")


class ReadConversations(PipelineStep):
    """Yields the conversations of a task's files, in order.

    Args:
        inputs: The files of the whole job; task t of n reads a contiguous range of them.
        tally: Where records and bytes are counted.
        form: `alpaca`, `sharegpt`, `messages`, `prompt_completion`, or `auto` for what the fields of each record say.
        max_bad_records: Bad records per task that are left out before they are fatal.
    """

    type = "READER"
    name = "conversations"

    def __init__(self, inputs: InputFiles, tally: Tally, *, form: str, max_bad_records: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.tally = tally
        self.form = form
        self.bad = bad_records(tally, max_bad_records)

    @classmethod
    def of(cls, job: Job[ResolvedSft]) -> ReadConversations:
        """The reader of a job's conversations."""
        return cls(job.inputs, job.tally, form=job.config.format, max_bad_records=job.config.max_bad_records)

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
            url = self.inputs.url_of(self.inputs.names[index])
            for number, record in read_records(self.inputs, index, self.tally, ReadOptions()):
                found = self._conversation(record, url, number, is_first=is_first)
                is_first = False
                if isinstance(found, Conversation):
                    self.bad.readable_file = url
                    yield found
                else:
                    self.bad.leave_out(url, number, found)
            self.bad.end_file(url)

    def _conversation(
        self, record: dict[str, Any] | BadRecord, url: str, number: int, *, is_first: bool
    ) -> Conversation | BadRecord:
        if isinstance(record, BadRecord):
            return record
        form = format_of(record, self.form)
        if form is None:
            fields = ", ".join(map(repr, record)) or "no field at all"
            wanted = ALL_FIELDS if self.form == "auto" else self.form
            if is_first:
                raise BadInputError(f"{url}:{number}: the record has {fields}, not those of {wanted}: see format=")
            return BadRecord(f"the record has {fields}, not those of {wanted}", size_of(record))
        try:
            parsed = parse_record(record, form)
            kept = without_first_answers(parsed.messages)
        except RecordError as error:
            return BadRecord(str(error), size_of(record))
        self.tally.unread.update(parsed.unread)
        return Conversation(kept, url, number, is_shortened=len(kept) < len(parsed.messages), tools=parsed.tools)
