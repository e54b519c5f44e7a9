"""Rows -> shards -> a published data set.

A task stores each shard under its final name as soon as it is full, and its record when all of them are in place; a
task without a record never happened, and a rerun writes the same bytes under the same names. `publish` writes the
indexes from the records of all tasks, and train's index last of all, so that a reader never sees a part of a data set.

    <remote>/train/{shard.TTTTT.SSSSS.mds.zstd, manifest.json, index.json}      T task, S shard of the task
    <remote>/validation/...                                                     where any document was held out
    <remote>/tokenizer/...
    <remote>/<stream>/{train, validation, tokenizer}                            a corpus that is divided into streams
    <remote>/.prep/{job.json, tasks/TTTTT.json, logs}                           for a rerun, not for readers
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from datatrove.pipeline.base import PipelineStep

import meap
from meap.errors import DataError, IncompleteError
from meap.manifest import ROWS, Manifest, ShardRecord, TokenizerRecord
from meap.mds.index import HASH_ALGORITHM, INDEX_NAME, index_json, shard_name
from meap.mds.writing import MdsWriter, Shard
from meap.places.folder import Folder
from meap.prep.documents import part_of
from meap.prep.progress import Tally
from meap.prep.removal.report import removed_counts
from meap.prep.sft.report import ROWS_PER_BATCH, rows_per_batch
from meap.prep.sizes import bytes_of_size
from meap.prep.streams import MAX_STREAMS
from meap.schema import (
    MANIFEST_NAME,
    TOKENIZER_DIR,
    TRAIN_SPLIT,
    VALIDATION_SPLIT,
    token_dtype,
)
from meap.tokenizer import tokenizer_files

if TYPE_CHECKING:
    from meap.prep.job import Job

__all__ = [
    "SPLITS",
    "Samples",
    "SplitRecord",
    "TaskRecord",
    "WriteShards",
    "parts_of",
    "publish",
    "task_record_name",
    "unpublished_streams",
]

SPLITS = (TRAIN_SPLIT, VALIDATION_SPLIT)


class Samples(Protocol):
    """What the step before the writer yields: some rows of one part of the output."""

    @property
    def part(self) -> str:
        """Folder below the output, such as train."""
        ...

    def write_to(self, writer: MdsWriter) -> Iterator[Shard]:
        """Append the rows; yields the shards they fill."""
        ...


@dataclass(frozen=True)
class SplitRecord:
    """What a task contributed to a part."""

    documents: int = 0
    tokens: int = 0
    rows: int = 0
    dropped_tail_tokens: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the documents; 0 for imported rows, which come without their text."""
    index: list[dict[str, Any]] = field(default_factory=list)
    """Entries of ``index.json``."""
    shards: list[ShardRecord] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """What else was counted."""


@dataclass(frozen=True)
class TaskRecord:
    """What a task did. It is written when all that it names is in place, and never names anything else."""

    task: int
    files: list[str]
    splits: dict[str, SplitRecord]
    """By part: `train`, or `<stream>/train`."""
    empty_documents: int
    bad_lines: int
    kept_bad_lines: list[dict[str, Any]]
    removed: dict[str, int] = field(default_factory=dict)
    """Documents that filters and deduplication took out, by `step/reason`."""
    removed_lines: dict[str, int] = field(default_factory=dict)
    """Lines that a filter cut out of documents that stay, by `step/reason`."""

    def to_json(self) -> bytes:
        """The record as JSON."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> TaskRecord:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        splits: Any = {
            name: SplitRecord(**split | {"shards": [ShardRecord(**shard) for shard in split["shards"]]})
            for name, split in values["splits"].items()
        }
        return cls(**values | {"splits": splits})


def task_record_name(task: int) -> str:
    """Where a task's record is, in the output folder."""
    return f".prep/tasks/{task:05d}.json"


class WriteShards(PipelineStep):
    """Writes a task's rows as MDS shards, then its record.

    Shards are compressed, hashed and stored by a thread, while the steps before go on.

    Args:
        folder: Where the data set goes.
        tally: What the steps before this one have counted.
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
        files: Sequence[Sequence[str]],
        columns: dict[str, str],
        compression: str | None,
        shard_size: str,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.tally = tally
        self.files = files
        self.columns = columns
        self.compression = compression
        self.shard_size = shard_size

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; the last step yields nothing
        self, data: Iterable[Samples], rank: int = 0, world_size: int = 1
    ) -> None:
        """Write the shards of task `rank`, then its record.

        Raises:
            DataError: They cannot be written, for want of space for example.
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
            task=rank,
            files=list(self.files[rank]),
            splits={part: self._record(part, storing.stored.get(part, [])) for part in sorted(parts)},
            empty_documents=self.tally.empty_documents,
            bad_lines=self.tally.bad_lines,
            kept_bad_lines=[asdict(each) for each in self.tally.kept_bad_lines],
            removed=dict(self.tally.removed),
            removed_lines=dict(self.tally.removed_lines),
        )
        self.folder.write(task_record_name(rank), record.to_json())
        self.tally.finish()

    def _record(self, part: str, stored: list[_Stored]) -> SplitRecord:
        return SplitRecord(
            documents=self.tally.documents[part],
            tokens=self.tally.tokens[part],
            rows=sum(each.record.rows for each in stored),
            dropped_tail_tokens=self.tally.tail_tokens[part],
            text_bytes=self.tally.kept_bytes[part],
            index=[each.entry for each in stored],
            shards=[each.record for each in stored],
            counts={name: count for (of_part, name), count in self.tally.counts.items() if of_part == part},
        )


@dataclass(frozen=True)
class _Stored:
    """A shard that is in place."""

    entry: dict[str, Any]
    record: ShardRecord


class _Storing:
    """Compresses, hashes and stores the shards of a task in order, by a thread that is one shard behind at most."""

    def __init__(self, folder: Folder, task: int) -> None:
        self.stored: dict[str, list[_Stored]] = {}
        self._folder = folder
        self._task = task
        self._count: Counter[str] = Counter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._pending: Future[None] | None = None

    def add(self, part: str, shard: Shard) -> None:
        """Hand over a shard; waits for the one before it, and raises what went wrong with that."""
        self.wait()
        basename = shard_name(self._task, self._count[part])
        self._count[part] += 1
        self._pending = self._thread.submit(self._store, part, basename, shard)

    def wait(self) -> None:
        """Wait for the last shard, and raise what went wrong with it."""
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


def publish(job: Job) -> None:
    """Check that every shard is in place, then write tokenizers, manifests and indexes, train's index last.

    Raises:
        IncompleteError: A task has no record, or a shard is not there as recorded.
        DataError: There is not a single row, or something cannot be written.
    """
    records = job.records()
    if missing := [task for task in range(job.num_tasks) if task not in records]:
        raise IncompleteError(
            f"{job.folder.url}: task {missing[0]} and {len(missing) - 1} more of {job.num_tasks} are not complete or "
            "their shards are not in place: run the same command again"
        )
    in_order = [records[task] for task in range(job.num_tasks)]
    with_rows = sorted(parts_of(in_order), key=lambda part: (part.endswith(TRAIN_SPLIT), part))
    if not with_rows:
        raise DataError(_no_rows(job, in_order))
    if len(streams := {part.rpartition("/")[0] for part in with_rows}) > MAX_STREAMS:
        raise DataError(
            f"{len(streams)} streams of which no task has more than {MAX_STREAMS}: choose a stream_key that names "
            "sources, not documents"
        )
    manifests = {part: _manifest(job, part, in_order) for part in with_rows}
    for name, content in tokenizer_files(job.tokenizer).items():
        for stream in sorted(streams):
            job.folder.write(f"{stream}/{TOKENIZER_DIR}/{name}".removeprefix("/"), content)
    for part in with_rows:
        job.folder.write(f"{part}/{MANIFEST_NAME}", manifests[part].to_json().encode())
    for part in with_rows:
        shards = [entry for record in in_order if part in record.splits for entry in record.splits[part].index]
        job.folder.write(f"{part}/{INDEX_NAME}", index_json(shards))


def parts_of(records: Iterable[TaskRecord]) -> list[str]:
    """The parts of the output that are published, sorted: those with rows, of streams that have rows to train on."""
    rows: Counter[str] = Counter()
    for record in records:
        rows.update({part: split.rows for part, split in record.splits.items()})
    return sorted(part for part in rows if rows[part] and rows[part_of(part.rpartition("/")[0], TRAIN_SPLIT)])


def unpublished_streams(records: Iterable[TaskRecord]) -> dict[str, int]:
    """Streams that have documents, and too few for a row to train on; with the tokens that are lost."""
    in_order, tokens = list(records), Counter[str]()
    published = {part.rpartition("/")[0] for part in parts_of(in_order)}
    for record in in_order:
        for part, split in record.splits.items():
            stream = part.rpartition("/")[0]
            if stream not in published and (split.documents or split.counts):
                tokens[stream] += split.tokens
    return dict(sorted(tokens.items()))


def _no_rows(job: Job, records: Sequence[TaskRecord]) -> str:
    if job.kind == ROWS:
        splits = [split for record in records for part, split in record.splits.items() if part.endswith(TRAIN_SPLIT)]
        num_removed = sum(sum(record.removed.values()) for record in records)
        removed = f" (filters and deduplication removed {num_removed} documents)" if num_removed else ""
        return (
            f"not a single row: {sum(split.tokens for split in splits)} tokens in {job.num_tasks} tasks{removed}, and "
            f"a row takes {job.seq_len + 1}: choose a smaller seq_len, fewer tasks, or more input"
        )
    return (
        f"not a single row: no conversation has an answer within max_length={job.lasting_config['max_length']} tokens, "
        f"{sum(record.bad_lines for record in records)} records were bad: see the warnings above, or raise max_length"
    )


def _manifest(job: Job, part: str, records: Sequence[TaskRecord]) -> Manifest:
    parts = [record.splits.get(part, SplitRecord()) for record in records]
    tokenizer = job.tokenizer
    return Manifest(
        split=part.rpartition("/")[2],
        seq_len=job.seq_len,
        dtype=token_dtype(tokenizer.vocab_size).name,
        hash_algorithm=HASH_ALGORITHM,
        documents=sum(part.documents for part in parts),
        tokens=sum(part.tokens for part in parts),
        rows=sum(part.rows for part in parts),
        dropped_tail_tokens=sum(part.dropped_tail_tokens for part in parts),
        bad_lines=sum(record.bad_lines for record in records),
        tokenizer=TokenizerRecord(
            name=tokenizer.name,
            fingerprint=tokenizer.fingerprint,
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            mask_id=tokenizer.mask_id,
        ),
        kind=job.kind,
        text_bytes=sum(part.text_bytes for part in parts) or None,
        counts=_counts(job, parts) | removed_counts(records),
        shards=tuple(shard for part in parts for shard in part.shards),
        sources=job.inputs.urls,
        config=job.lasting_config,
        versions={
            "python": platform.python_version(),
            "meap": meap.__version__,
            **{name: version(name) for name in ("datatrove", "fastokens", "numpy", "tokenizers", "zstandard")},
        },
    )


def _counts(job: Job, parts: Sequence[SplitRecord]) -> dict[str, int]:
    counts = dict(sum((Counter(part.counts) for part in parts), Counter[str]()))
    if job.kind == ROWS:
        return counts
    documents, rows = sum(part.documents for part in parts), sum(part.rows for part in parts)
    return counts | {ROWS_PER_BATCH: rows_per_batch(documents, rows)}
