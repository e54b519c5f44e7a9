"""Rows -> shards, and the record of the task that wrote them.

A task stores each shard under its final name as soon as it is full, and its record once all of them are in place. A
task without a record counts as not done: a rerun writes the same bytes under the same names. `meap.prep.publish` makes
a data set of what all tasks have stored.

    <remote>/train/{shard.TTTTT.SSSSS.mds.zstd, documents.json, manifest.json, index.json}    T task, S its shard
    <remote>/validation/...                                                     if any document was held out
    <remote>/tokenizer/...
    <remote>/<stream>/{train, validation, tokenizer}                            for a corpus divided into streams
    <remote>/.prep/{job.json, tasks/TTTTT.json, logs}                           for a rerun, not for readers
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from datatrove.pipeline.base import PipelineStep

from meap.manifest import CONVERSATIONS, ShardRecord
from meap.mds.index import shard_name
from meap.mds.writing import MdsWriter, Shard
from meap.places.folder import Folder
from meap.prep.job import Job
from meap.prep.progress import Tally
from meap.prep.sizes import bytes_of_size
from meap.prep.task_records import SplitRecord, TaskRecord, task_record_name
from meap.schema import SPLITS, conversation_columns, mds_columns

__all__ = ["Rows", "WriteShards"]


class Rows(Protocol):
    """What the step before the writer yields: some rows of one part of the output."""

    @property
    def part(self) -> str:
        """Folder below the output, see `meap.prep.documents.part_of`."""
        ...

    def write_to(self, writer: MdsWriter) -> Iterator[Shard]:
        """Append the rows; yields the shards they fill."""
        ...


class WriteShards(PipelineStep):
    """Writes a task's rows as MDS shards, then its record.

    A thread compresses, hashes and stores them while the steps before go on.

    Args:
        folder: Where the data set goes.
        tally: What the steps before this one have counted.
        job: Identity of the job, for the record.
        files: Input files of each task, for the record.
        columns: MDS columns of a row.
        compression: `zstd`, `zstd:LEVEL` or None.
        shard_size: Uncompressed size of a shard, such as 64mb.
    """

    type = "WRITE"
    name = "MDS shards"

    def __init__(
        self,
        folder: Folder,
        tally: Tally,
        *,
        job: str,
        files: Sequence[Sequence[str]],
        columns: dict[str, str],
        compression: str | None,
        shard_size: str,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.tally = tally
        self.job = job
        self.files = files
        self.columns = columns
        self.compression = compression
        self.shard_size = shard_size

    @classmethod
    def of(cls, job: Job) -> WriteShards:
        """The writer of a job's rows."""
        urls, vocab_size = job.inputs.urls, job.tokenizer.vocab_size
        return cls(
            job.folder,
            job.tally,
            job=job.identity,
            files=[[urls[n] for n in job.inputs.of_task(task, job.num_tasks)] for task in range(job.num_tasks)],
            columns=conversation_columns(vocab_size)
            if job.kind == CONVERSATIONS
            else mds_columns(job.config.seq_len, vocab_size),
            compression=job.config.compression,
            shard_size=job.config.shard_size,
        )

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; the last step yields nothing
        self, data: Iterable[Rows], rank: int = 0, world_size: int = 1
    ) -> None:
        """Write the shards of task `rank`, then its record.

        Raises:
            DataError: They cannot be written, because the disk is full for example.
        """
        del world_size
        writers: dict[str, MdsWriter] = {}
        with closing(_Storing(self.folder, rank)) as storing:
            for batch in data:
                if batch.part not in writers:
                    writers[batch.part] = MdsWriter(
                        self.columns, compression=self.compression, shard_bytes=bytes_of_size(self.shard_size)
                    )
                for shard in batch.write_to(writers[batch.part]):
                    storing.add(batch.part, shard)
            for part, writer in writers.items():
                for shard in writer.finish():
                    storing.add(part, shard)
            storing.wait()
        parts = {*SPLITS, *writers, *self.tally.documents, *(part for part, _ in self.tally.counts)}
        record = TaskRecord(
            job=self.job,
            task=rank,
            files=list(self.files[rank]),
            splits={part: self._record(part, storing.stored.get(part, [])) for part in sorted(parts)},
            empty_documents=self.tally.empty_documents,
            bad_lines=self.tally.bad_lines,
            bad_bytes=self.tally.bad_bytes,
            kept_bad_lines=[asdict(each) for each in self.tally.kept_bad_lines],
            removed=dict(self.tally.removed),
            removed_bytes=self.tally.removed_bytes,
            removed_lines=dict(self.tally.removed_lines),
            first_loss=self.tally.first_loss,
            unread=dict(self.tally.unread),
        )
        self.folder.write(task_record_name(rank), record.to_json())
        self.tally.finish()

    def _record(self, part: str, stored: list[_Stored]) -> SplitRecord:
        return SplitRecord(
            documents=self.tally.documents[part],
            tokens=self.tally.tokens[part],
            rows=sum(each.record.rows for each in stored),
            dropped_tail_tokens=self.tally.tail_tokens[part],
            dropped_tail_documents=self.tally.tail_documents[part],
            text_bytes=self.tally.kept_bytes[part],
            index=[each.entry for each in stored],
            shards=[each.record for each in stored],
            counts={name: count for (of_part, name), count in self.tally.counts.items() if of_part == part},
            document_counts=self.tally.document_counts(part),
        )


@dataclass(frozen=True)
class _Stored:
    """A shard that is in place."""

    entry: dict[str, Any]
    record: ShardRecord


class _Storing:
    """Compresses, hashes and stores the shards of a task in order, in a thread that is at most one shard behind."""

    def __init__(self, folder: Folder, task: int) -> None:
        self.stored: dict[str, list[_Stored]] = {}
        self._folder = folder
        self._task = task
        self._count: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._pending: Future[None] | None = None

    def add(self, part: str, shard: Shard) -> None:
        """Hand over a shard; waits for the one before it, and raises its error."""
        self.wait()
        basename = shard_name(self._task, self._count[part])
        self._count[part] += 1
        self._pending = self._thread.submit(self._store, part, basename, shard)

    def wait(self) -> None:
        """Wait for the last shard, and raise its error."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _store(self, part: str, basename: str, shard: Shard) -> None:
        file = shard.to_file(basename)
        self._folder.write(f"{part}/{file.name}", file.content)
        sha256 = hashlib.sha256(file.content).hexdigest()
        record = ShardRecord(file.name, len(file.content), sha256, file.num_rows)
        self.stored.setdefault(part, []).append(_Stored(file.entry, record))
