"""Shards of all tasks -> a data set: the indexes are written last, from the task records.

The train split's index comes last of all, so that no reader sees half a data set.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version

import meap
from meap.errors import DataError, IncompleteError
from meap.manifest import ROWS, Manifest
from meap.mds.index import HASH_ALGORITHM, INDEX_NAME, index_json
from meap.prep.document_counts import DOCUMENTS_NAME, DocumentCounts
from meap.prep.job import Job, output_config
from meap.prep.progress import BadLine
from meap.prep.removal.report import removed_counts
from meap.prep.removal.stages import WORK_DIR
from meap.prep.resolved import ResolvedJob, ResolvedPrep, ResolvedSft
from meap.prep.sft.report import ROWS_PER_BATCH, rows_per_batch, stop_ids
from meap.prep.streams import MAX_STREAMS
from meap.prep.task_records import SplitRecord, TaskRecord, parts_of
from meap.schema import MANIFEST_NAME, TOKENIZER_DIR, TRAIN_SPLIT, token_dtype
from meap.tokenizer import tokenizer_files

__all__ = ["publish"]


def publish(job: Job[ResolvedJob]) -> None:
    """Check that every shard is in place, then write tokenizers, counts, manifests and indexes, train's index last.

    Raises:
        IncompleteError: A task has no record, or a shard is not there as recorded.
        DataError: There is not a single row, or something cannot be written.
    """
    job.place.require()
    records = job.final_records
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
            f"the tasks have found {len(streams)} streams, and {MAX_STREAMS} are the most: choose a stream_key that "
            "names sources, not documents"
        )
    if isinstance(job.config, ResolvedPrep) and job.config.dedup.is_on:
        job.folder.remove(WORK_DIR)  # all tasks are complete: a rerun needs it no more
    manifests = {part: _manifest(job, part, in_order) for part in with_rows}
    level = max(split.document_counts.level for record in in_order for split in record.splits.values())
    for name, content in tokenizer_files(job.tokenizer).items():
        for stream in sorted(streams):
            job.folder.write(f"{stream}/{TOKENIZER_DIR}/{name}".removeprefix("/"), content)
    for part in with_rows:
        counts = [record.splits[part].document_counts for record in in_order if part in record.splits]
        values = DocumentCounts.total(counts, level=level).to_values()
        job.folder.write(f"{part}/{DOCUMENTS_NAME}", json.dumps(values).encode())
        job.folder.write(f"{part}/{MANIFEST_NAME}", manifests[part].to_json().encode())
    job.place.require()
    for part in with_rows:
        shards = [entry for record in in_order if part in record.splits for entry in record.splits[part].index]
        job.folder.write(f"{part}/{INDEX_NAME}", index_json(shards))


def _no_rows(job: Job[ResolvedJob], records: Sequence[TaskRecord]) -> str:
    splits = [split for record in records for part, split in record.splits.items() if part.endswith(TRAIN_SPLIT)]
    tokens, num_bad = sum(split.tokens for split in splits), sum(record.bad_lines for record in records)
    first_bad = next((BadLine(**bad) for record in records for bad in record.kept_bad_lines), None)
    if first_bad is not None and not any(split.documents or split.counts for split in splits):
        return f"not a single row, since nothing could be read; the first of {num_bad} bad records is {first_bad}"
    if isinstance(job.config, ResolvedSft):
        return (
            f"not a single row: no conversation has an answer within max_length={job.config.max_length} tokens, "
            f"{num_bad} records were bad: see the warnings above, or raise max_length"
        )
    num_removed = sum(sum(record.removed.values()) for record in records)
    removed = f" (filters and deduplication removed {num_removed} documents)" if num_removed else ""
    limits = [f"{key}={value}" for key in ("max_tokens", "heldout_ratio") if (value := getattr(job.config, key, None))]
    held_back = f" (some of it is held back by {', '.join(limits)})" if limits else ""
    return (
        f"not a single row: {tokens} tokens in {job.num_tasks} tasks{removed}, and a row takes "
        f"{job.config.seq_len + 1}: choose a smaller seq_len, fewer tasks, or more input{held_back}"
    )


def _manifest(job: Job[ResolvedJob], part: str, records: Sequence[TaskRecord]) -> Manifest:
    parts = [record.splits.get(part, SplitRecord()) for record in records]
    tokenizer = job.tokenizer
    return Manifest(
        split=part.rpartition("/")[2],
        seq_len=job.config.seq_len,
        dtype=token_dtype(tokenizer.vocab_size).name,
        hash_algorithm=HASH_ALGORITHM,
        documents=sum(part.documents for part in parts),
        tokens=sum(part.tokens for part in parts),
        rows=sum(part.rows for part in parts),
        dropped_tail_tokens=sum(part.dropped_tail_tokens for part in parts),
        dropped_tail_documents=sum(part.dropped_tail_documents for part in parts),
        bad_lines=sum(record.bad_lines for record in records),
        tokenizer=tokenizer.record,
        kind=job.kind,
        text_bytes=sum(part.text_bytes for part in parts) or None,
        counts=_counts(job, parts) | removed_counts(records),
        stop_ids=stop_ids(split.counts for record in records for split in record.splits.values()),
        shards=tuple(shard for part in parts for shard in part.shards),
        sources=job.inputs.urls,
        job=job.identity,
        config=output_config(job.config),
        versions={
            "python": platform.python_version(),
            "meap": meap.__version__,
            **{name: version(name) for name in ("datatrove", "fastokens", "numpy", "tokenizers", "zstandard")},
        },
    )


def _counts(job: Job[ResolvedJob], parts: Sequence[SplitRecord]) -> dict[str, int]:
    counts = dict(sum((Counter(part.counts) for part in parts), Counter[str]()))
    if job.kind == ROWS:
        return counts
    documents, rows = sum(part.documents for part in parts), sum(part.rows for part in parts)
    return counts | {ROWS_PER_BATCH: rows_per_batch(documents, rows)}
