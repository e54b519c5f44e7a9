"""Rows -> shards -> a published data set.

A task writes its shards in a staging folder, moves them to their flat names, and then writes its record; a task without
a record never happened. `publish` writes the indexes from the records of all tasks, and train's index last of all, so
that a reader never sees a part of a data set.

    <remote>/train/{shard.TTTTT.SSSSS.mds.zstd, manifest.json, index.json}      T task, S shard of the task
    <remote>/validation/...                                                     where any document was held out
    <remote>/tokenizer/...
    <remote>/.prep/{job.json, tasks/TTTTT.json, logs}                           for a rerun, not for readers
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from datatrove.pipeline.base import PipelineStep

import meap
from meap.errors import DataError, IncompleteError
from meap.manifest import ROWS, Manifest, ShardRecord, TokenizerRecord
from meap.prep.folder import OutputFolder, storage_errors
from meap.prep.progress import Tally
from meap.prep.sft.report import ROWS_PER_BATCH, rows_per_batch
from meap.schema import (
    MANIFEST_NAME,
    TOKENIZER_DIR,
    TRAIN_SPLIT,
    VALIDATION_SPLIT,
    token_dtype,
)

if TYPE_CHECKING:
    from meap.prep.job import Job

__all__ = ["INDEX_NAME", "SPLITS", "Samples", "SplitRecord", "TaskRecord", "WriteShards", "publish", "task_record_name"]

INDEX_NAME = "index.json"
SPLITS = (TRAIN_SPLIT, VALIDATION_SPLIT)
HASH_ALGORITHM = "xxh3_64"

_INDEX_VERSION = 2


class Samples(Protocol):
    """What the step before the writer yields: some rows of one split."""

    @property
    def split(self) -> str:
        """The split they belong to."""
        ...

    @property
    def samples(self) -> Iterable[dict[str, Any]]:
        """The rows, by column."""
        ...


@dataclass(frozen=True)
class SplitRecord:
    """What a task contributed to a split."""

    documents: int = 0
    tokens: int = 0
    rows: int = 0
    dropped_tail_tokens: int = 0
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
    text_bytes: int
    empty_documents: int
    bad_lines: int
    kept_bad_lines: list[dict[str, Any]]

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
    """Writes a task's rows as MDS shards, in place only when all of them are whole, then its record.

    Args:
        folder: Where the data set goes.
        tally: What the steps before this one have counted.
        staging_dir: Local folder for shards in the making; on the disk of a local `folder`, so that they are renamed.
        files: Input files of each task, for the record.
        columns: MDS columns of a row.
        compression: As `streaming.MDSWriter` takes it.
        shard_size: Uncompressed size of a shard, as `streaming.MDSWriter` takes it.
    """

    type = "WRITE"
    name = "MDS shards"

    def __init__(
        self,
        folder: OutputFolder,
        tally: Tally,
        *,
        staging_dir: Path,
        files: Sequence[Sequence[str]],
        columns: dict[str, str],
        compression: str | None,
        shard_size: str,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.tally = tally
        self.staging_dir = staging_dir
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
        with self._attempt(rank) as attempt:
            # A writer that is used with `with` publishes what it has after an exception, so it is not.
            writers: dict[str, Any] = {}
            for batch in data:
                with storage_errors(str(self.staging_dir)):
                    if batch.split not in writers:
                        writers[batch.split] = self._open_writer(attempt / batch.split)
                    for sample in batch.samples:
                        writers[batch.split].write(sample)
            record = TaskRecord(
                task=rank,
                files=list(self.files[rank]),
                splits={split: self._store(split, rank, writers.get(split)) for split in SPLITS},
                text_bytes=self.tally.text_bytes,
                empty_documents=self.tally.empty_documents,
                bad_lines=self.tally.bad_lines,
                kept_bad_lines=[asdict(each) for each in self.tally.kept_bad_lines],
            )
        self.folder.write(task_record_name(rank), record.to_json())
        self.tally.finish()

    @contextmanager
    def _attempt(self, task: int) -> Iterator[Path]:
        with storage_errors(str(self.staging_dir)):
            attempt = tempfile.mkdtemp(dir=self.staging_dir, prefix=f"{task:05d}-")
        try:
            yield Path(attempt)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)

    def _open_writer(self, folder: Path) -> Any:
        from streaming import MDSWriter  # takes seconds to import

        return MDSWriter(
            out=str(folder),
            columns=self.columns,
            compression=self.compression,
            hashes=[HASH_ALGORITHM],
            size_limit=self.shard_size,
        )

    def _store(self, split: str, task: int, writer: Any) -> SplitRecord:
        index: list[dict[str, Any]] = []
        shards: list[ShardRecord] = []
        if writer is not None:
            with storage_errors(str(self.staging_dir)):
                writer.finish()
            for number, entry in enumerate(cast("list[dict[str, Any]]", writer.shards)):
                raw, zipped = (self._flat(entry[key], task, number) for key in ("raw_data", "zip_data"))
                name = cast("dict[str, Any]", zipped or raw)["basename"]
                file = Path(writer.local) / (entry["zip_data"] or entry["raw_data"])["basename"]
                with file.open("rb") as content:
                    sha256 = _sha256(content)
                size = file.stat().st_size
                self.folder.store(file, f"{split}/{name}")
                index.append(entry | {"raw_data": raw, "zip_data": zipped})
                shards.append(ShardRecord(name, size, sha256, entry["samples"]))
        record = SplitRecord(
            documents=self.tally.documents[split],
            tokens=self.tally.tokens[split],
            rows=sum(shard.rows for shard in shards),
            dropped_tail_tokens=self.tally.tail_tokens[split],
            index=index,
            shards=shards,
            counts={name: count for (of_split, name), count in self.tally.counts.items() if of_split == split},
        )
        self.stat_update("shards", value=len(shards))
        self.stat_update("rows", value=record.rows)
        return record

    @staticmethod
    def _flat(described: dict[str, Any] | None, task: int, number: int) -> dict[str, Any] | None:
        """The description of a shard file under its name in the whole data set."""
        if described is None:
            return None
        suffix = described["basename"].split(".", 2)[2]  # shard.00000.mds.zstd
        return described | {"basename": f"shard.{task:05d}.{number:05d}.{suffix}"}


def publish(job: Job) -> None:
    """Check that every shard is in place, then write tokenizer, manifests and indexes, train's index last.

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
    manifests = {split: _manifest(job, split, in_order) for split in SPLITS}
    if not manifests[TRAIN_SPLIT].rows:
        raise DataError(
            f"not a single row: {manifests[TRAIN_SPLIT].tokens} tokens in {job.num_tasks} tasks, and a row takes "
            f"{job.seq_len + 1}: choose a smaller seq_len, fewer tasks, or more input"
            if job.kind == ROWS
            else "not a single row: no conversation has an answer within max_length="
            f"{job.lasting_config['max_length']} tokens, "
            f"{manifests[TRAIN_SPLIT].bad_lines} records were bad: see the warnings above, or raise max_length"
        )

    with tempfile.TemporaryDirectory(prefix="meap-tokenizer-", dir=job.scratch_dir) as saved:
        job.tokenizer.save(Path(saved))
        for file in sorted(Path(saved).iterdir()):
            job.folder.store(file, f"{TOKENIZER_DIR}/{file.name}")
    for split in (VALIDATION_SPLIT, TRAIN_SPLIT):
        if manifests[split].rows:
            job.folder.write(f"{split}/{MANIFEST_NAME}", manifests[split].to_json().encode())
    for split in (VALIDATION_SPLIT, TRAIN_SPLIT):
        if manifests[split].rows:
            shards = [entry for record in in_order for entry in record.splits[split].index]
            index = json.dumps({"version": _INDEX_VERSION, "shards": shards}, sort_keys=True)
            job.folder.write(f"{split}/{INDEX_NAME}", index.encode())


def _manifest(job: Job, split: str, records: Sequence[TaskRecord]) -> Manifest:
    parts = [record.splits[split] for record in records]
    tokenizer = job.tokenizer
    return Manifest(
        split=split,
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
        counts=_counts(job, parts),
        shards=tuple(shard for part in parts for shard in part.shards),
        sources=job.inputs.urls,
        config=job.lasting_config,
        versions={
            "python": platform.python_version(),
            "meap": meap.__version__,
            **{name: version(name) for name in ("datatrove", "mosaicml-streaming", "numpy", "tokenizers")},
        },
    )


def _counts(job: Job, parts: Sequence[SplitRecord]) -> dict[str, int]:
    counts = dict(sum((Counter(part.counts) for part in parts), Counter[str]()))
    if job.kind == ROWS:
        return counts
    documents, rows = sum(part.documents for part in parts), sum(part.rows for part in parts)
    return counts | {ROWS_PER_BATCH: rows_per_batch(documents, rows)}


def _sha256(content: Any) -> str:
    digest = hashlib.sha256()
    while block := content.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
