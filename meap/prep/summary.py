"""What a preparation wrote and what it lost, as the command prints it last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from meap.manifest import CONVERSATIONS, ROWS
from meap.prep.job import Job
from meap.prep.removal.report import REMOVED_DIR, describe_removed
from meap.prep.resolved import ResolvedJob, ResolvedPrep
from meap.prep.selection import describe_selection
from meap.prep.sft.report import describe_packing
from meap.prep.task_records import SplitRecord, TaskRecord, unpublished_streams
from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT
from meap.show.numbers import size

__all__ = ["summary"]


def summary(job: Job[ResolvedJob]) -> str:
    """One line about the published data set, its losses and this command's speed; then what filters removed."""
    records = job.records().values()
    by_part = [each for record in records for each in record.splits.items()]
    splits = [split for _, split in by_part]
    noun = "documents" if job.kind == ROWS else "conversations"
    heldout_rows = sum(split.rows for part, split in by_part if part.endswith(VALIDATION_SPLIT))
    stored = sum(shard.bytes for each in splits for shard in each.shards)
    rows = f"{sum(each.rows for each in splits):,} rows ({heldout_rows:,} of them for validation)"
    tokens = f"{sum(each.tokens for each in splits):,} tokens"
    documents = f"{sum(each.documents for each in splits):,} {noun}"
    said = [f"{documents}, {tokens}, {rows}, {size(stored)} at {job.folder.url}"]
    if job.kind == CONVERSATIONS:
        said.append(_packing(job, [record.splits[TRAIN_SPLIT] for record in records]))
    said += filter(None, [_selection(job, by_part), _unpublished(records), _losses(job, records)])
    if not job.is_published:
        said.append(_speed(job))
    state = "already complete" if job.is_published else "complete"
    return f"{state}: {'; '.join(said)}" + describe_removed(records, f"{job.folder.url}/{REMOVED_DIR}")


def _losses(job: Job[ResolvedJob], records: Collection[TaskRecord]) -> str:
    things = "lines" if job.kind == ROWS else "records"
    bad = sum(record.bad_lines for record in records)
    bad_bytes = sum(record.bad_bytes for record in records)
    kept_bytes = sum(split.text_bytes for record in records for split in record.splits.values())
    share = f", {bad_bytes / (bad_bytes + kept_bytes):.2%} of the bytes" if kept_bytes else ""
    lost = [f"{bad:,} bad {things}" + (f" ({size(bad_bytes)}{share})" if bad_bytes else "")]
    if tail := sum(split.dropped_tail_tokens for record in records for split in record.splits.values()):
        lost.append(f"{tail:,} tokens that filled no row at the end of a task")
    if empty := sum(record.empty_documents for record in records):
        lost.append(f"{empty:,} empty documents")
    return f"left out: {', '.join(lost)}"


def _unpublished(records: Collection[TaskRecord]) -> str:
    streams = ", ".join(f"{stream} ({count:,} tokens)" for stream, count in unpublished_streams(records).items())
    return f"too little for a row to train on: {streams}" if streams else ""


def _speed(job: Job[ResolvedJob]) -> str:
    seconds = job.progress.seconds or 1e-9
    text = f"{size(job.progress.text_bytes / seconds)} of text/s, " if job.progress.text_bytes else ""
    return f"{seconds:,.1f} s, {text}{job.progress.tokens / seconds:,.0f} tokens/s"


def _selection(job: Job[ResolvedJob], by_part: Collection[tuple[str, SplitRecord]]) -> str:
    return describe_selection(
        sum((Counter(split.counts) for _, split in by_part), Counter[str]()),
        tokens=sum(split.tokens for _, split in by_part),
        train_tokens=sum(split.tokens for part, split in by_part if part.endswith(TRAIN_SPLIT)),
        max_tokens=job.config.max_tokens if isinstance(job.config, ResolvedPrep) else None,
    )


def _packing(job: Job[ResolvedJob], parts: Collection[SplitRecord]) -> str:
    return "for training " + describe_packing(
        sum((Counter(part.counts) for part in parts), Counter[str]()),
        conversations=sum(part.documents for part in parts),
        rows=sum(part.rows for part in parts),
        seq_len=job.config.seq_len,
    )
