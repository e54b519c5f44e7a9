"""What each task of a job did, and what follows from it for the data set: which parts have rows to publish."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from meap.manifest import ShardRecord
from meap.prep.documents import part_of
from meap.schema import TRAIN_SPLIT

__all__ = ["SplitRecord", "TaskRecord", "parts_of", "task_record_name", "unpublished_streams"]


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
