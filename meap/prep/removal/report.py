"""What was removed, and why: counts by step and reason, and examples of each to judge the filters by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from meap.prep.progress import Tally
from meap.prep.task_records import PREP_DIR, TaskRecord
from meap.show.numbers import size

__all__ = ["REMOVED_DIR", "Excluded", "describe_removed", "removed_counts"]

REMOVED_DIR = f"{PREP_DIR}/removed"
"""Folder below the output for examples."""
_EXAMPLES_PER_REASON = 5
_MAX_EXAMPLES = 200
_EXAMPLE_CHARACTERS = 1000


class Excluded(AbstractContextManager["Excluded"]):
    """Receives the documents that one of datatrove's blocks removes, in place of a writer.

    Args:
        step: Name of the block in the report.
        tally: Where they are counted.
        reason: Why, if the block does not say; a field of the document's metadata if it starts with ``$``.
    """

    def __init__(self, step: str, tally: Tally, reason: str = "") -> None:
        self.step = step
        self.tally = tally
        self.reason = reason

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, document: Any, rank: int = 0) -> None:
        """Count a document."""
        del rank
        reason = self.reason or document.metadata["filter_reason"]
        if reason.startswith("$"):
            reason = document.metadata[reason[1:]]
        key = f"{self.step}/{reason}"
        self.tally.removed[key] += 1
        self.tally.removed_bytes += len(document.text.encode())
        if self.tally.removed[key] <= _EXAMPLES_PER_REASON and len(self.tally.removed_examples) < _MAX_EXAMPLES:
            file, line = document.metadata["place"]
            text = document.text[:_EXAMPLE_CHARACTERS]
            name = {"id": document.metadata["id"]} if document.metadata["id"] else {}
            place = {"removed_by": key, "file": file, "line": line}
            self.tally.removed_examples.append({**place, **name, "text": text})


def removed_counts(records: Iterable[TaskRecord]) -> dict[str, int]:
    """What all tasks removed, for the manifest."""
    documents, lines = _totals(records)
    return {f"removed/{key}": count for key, count in sorted(documents.items())} | {
        f"removed_lines/{key}": count for key, count in sorted(lines.items())
    }


def describe_removed(records: Iterable[TaskRecord], examples: str) -> str:
    """A table of what was removed and why; empty if nothing was.

    Args:
        records: Of all tasks.
        examples: Folder or URL of the examples.
    """
    records = list(records)
    documents, lines = _totals(records)
    kept = sum(split.documents for record in records for split in record.splits.values())
    table = ""
    if documents:
        read = kept + documents.total()
        removed = size(sum(record.removed_bytes for record in records))
        table += f"\nremoved {documents.total():,} of {read:,} documents, {removed} of text (examples in {examples}):"
        table += _rows(documents, read)
    if lines:
        table += f"\ncut {lines.total():,} lines out of kept documents:"
        table += _rows(lines, lines.total())
    return table


def _totals(records: Iterable[TaskRecord]) -> tuple[Counter[str], Counter[str]]:
    documents, lines = Counter[str](), Counter[str]()
    for record in records:
        documents.update(record.removed)
        lines.update(record.removed_lines)
    return documents, lines


def _rows(counts: Counter[str], total: int) -> str:
    width = max(map(len, counts))
    return "".join(f"\n  {key:<{width}}  {count:>13,}  {count / total:>6.1%}" for key, count in counts.most_common())
