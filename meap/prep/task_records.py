"""What each task of a job did, and which parts of the output have rows to publish."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from meap.json_text import parse_json, require_types
from meap.manifest import ShardRecord
from meap.prep.document_counts import DocumentCounts
from meap.prep.documents import part_of
from meap.schema import TRAIN_SPLIT

__all__ = ["PREP_DIR", "TASKS_DIR", "SplitRecord", "TaskRecord", "parts_of", "task_record_name", "unpublished_streams"]

PREP_DIR = ".prep"
"""Folder below the output for files that a rerun needs and readers do not."""
TASKS_DIR = f"{PREP_DIR}/tasks"


@dataclass(frozen=True)
class SplitRecord:
    """What a task contributed to a part."""

    documents: int = 0
    tokens: int = 0
    rows: int = 0
    dropped_tail_tokens: int = 0
    dropped_tail_documents: int = 0
    """Documents that end in these tokens."""
    text_bytes: int = 0
    """UTF-8 bytes of the documents; 0 for imported rows, which come without their text."""
    index: list[dict[str, Any]] = field(default_factory=list)
    """Entries of ``index.json``."""
    shards: list[ShardRecord] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """What else was counted."""
    document_counts: DocumentCounts = field(default_factory=DocumentCounts)


@dataclass(frozen=True)
class TaskRecord:
    """What a task did; written once everything that it names is in place."""

    job: str
    """Identity of the job, see `meap.prep.identity`."""
    task: int
    files: list[str]
    splits: dict[str, SplitRecord]
    """By part: `train`, or `<stream>/train`."""
    empty_documents: int
    bad_lines: int
    bad_bytes: int
    kept_bad_lines: list[dict[str, Any]]
    removed: dict[str, int] = field(default_factory=dict)
    """Documents that filters and deduplication removed, by `step/reason`."""
    removed_bytes: int = 0
    """UTF-8 bytes of these documents."""
    removed_lines: dict[str, int] = field(default_factory=dict)
    """Lines that a filter cut out of kept documents, by `step/reason`."""
    first_loss: str | None = None
    """What the first document lost that does not come back when it is decoded."""
    unread: dict[str, int] = field(default_factory=dict[str, int])
    """Records with a field that carries text and is not read, by its name."""

    def to_json(self) -> bytes:
        """The record as JSON."""
        values = asdict(self)
        for part, split in self.splits.items():
            values["splits"][part]["document_counts"] = split.document_counts.to_values()
        return json.dumps(values, indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> TaskRecord:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = parse_json(text)
        splits: Any = {name: _split_record(split) for name, split in values["splits"].items()}
        record = cls(**values | {"splits": splits})
        require_types(record)
        return record


def _split_record(values: dict[str, Any]) -> SplitRecord:
    shards = [ShardRecord(**shard) for shard in values["shards"]]
    document_counts = DocumentCounts.from_values(values["document_counts"])
    return SplitRecord(**values | {"shards": shards, "document_counts": document_counts})


def task_record_name(task: int) -> str:
    """Path of a task's record below the output folder."""
    return f"{TASKS_DIR}/{task:05d}.json"


def parts_of(records: Iterable[TaskRecord]) -> list[str]:
    """The parts of the output that are published, sorted: those with rows, of streams with rows to train on."""
    rows: Counter[str] = Counter()
    for record in records:
        rows.update({part: split.rows for part, split in record.splits.items()})
    return sorted(part for part in rows if rows[part] and rows[part_of(part.rpartition("/")[0], TRAIN_SPLIT)])


def unpublished_streams(records: Iterable[TaskRecord]) -> dict[str, int]:
    """Streams whose documents do not fill a row to train on, with the tokens that are lost."""
    in_order, tokens = list(records), Counter[str]()
    published = {part.rpartition("/")[0] for part in parts_of(in_order)}
    for record in in_order:
        for part, split in record.splits.items():
            stream = part.rpartition("/")[0]
            if stream not in published and (split.documents or split.counts):
                tokens[stream] += split.tokens
    return dict(sorted(tokens.items()))
