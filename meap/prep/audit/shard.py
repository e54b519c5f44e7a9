"""One shard, checked and decoded: size, hashes, rows, and every token of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from meap.answers import END, LONG, SCORED
from meap.errors import DataError
from meap.manifest import CONVERSATIONS, Manifest, ShardRecord
from meap.mds.findings import FETCH_AGAIN, PREPARE_AGAIN, Finding, ShardError
from meap.mds.index import ShardEntry, task_of_shard
from meap.mds.reading import HASHES, decode_conversations, decode_rows, decompress
from meap.places.folder import Folder
from meap.schema import (
    ANSWER_COLUMN,
    COPIED_COLUMN,
    LENGTHS_COLUMN,
    TOKENS_COLUMN,
    conversation_columns,
    mds_columns,
)

__all__ = ["CheckedShard", "ShardTask", "check_shard", "expected_columns", "read_shard"]

_TRY_AGAIN = f"try again, and if it stays so {FETCH_AGAIN}"
_BLOCK = 1 << 20
"""Tokens checked at once, so that temporary arrays stay small beside the shard."""


@dataclass(frozen=True)
class ShardTask:
    """A shard, its entry in the index, and its record in the manifest."""

    folder: Folder
    name: str
    """Below the folder, with its split."""
    entry: ShardEntry
    record: ShardRecord | None
    """The manifest's; None if it has none."""
    size: int | None
    """Bytes of the file as listed; None if it does not exist."""
    manifest: Manifest

    @property
    def file(self) -> str:
        """As shown to users."""
        return self.folder.url_of(self.name)

    @property
    def task_number(self) -> str:
        """The preparation task that wrote it."""
        return task_of_shard(self.entry.stored.basename)


@dataclass
class CheckedShard:
    """What was found in a shard."""

    findings: list[Finding] = field(default_factory=list)
    rows: int = 0
    conversations: int = 0
    conversation_tokens: int = 0
    borders: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    """Tokens that are BOS, and that are EOS."""
    first_token: int | None = None


def expected_columns(manifest: Manifest) -> dict[str, str]:
    """MDS columns that follow from a manifest."""
    vocab_size = manifest.tokenizer.vocab_size
    if manifest.kind == CONVERSATIONS:
        return conversation_columns(vocab_size)
    return mds_columns(manifest.seq_len, vocab_size)


def read_shard(task: ShardTask) -> NDArray[Any] | list[dict[str, NDArray[Any]]]:
    """The rows of a shard, or its conversations' columns row by row; the size is checked, hashes are not.

    Raises:
        DataError: It cannot be read or decoded.
    """
    raw = decompress(_fetch(task), task.entry, task.file)
    if task.manifest.kind == CONVERSATIONS:
        return list(decode_conversations(raw, task.entry, task.file))
    return decode_rows(raw, task.entry, task.file)


def check_shard(task: ShardTask) -> CheckedShard:
    """Check every byte of a shard."""
    checked = CheckedShard()
    try:
        content = _fetch(task)
        stored = task.entry.stored
        if task.record is not None:
            _check_hash(checked, task.file, "sha256", content, task.record.sha256)
        for algorithm, expected in stored.hashes.items():
            _check_hash(checked, task.file, algorithm, content, expected)
        raw = decompress(content, task.entry, task.file)
        del content
        if task.entry.zipped is not None:
            for algorithm, expected in task.entry.raw.hashes.items():
                _check_hash(checked, f"{task.file} (decompressed)", algorithm, raw, expected)
        if task.manifest.kind == CONVERSATIONS:
            _check_conversations(checked, task, raw)
        else:
            _check_rows(checked, task, decode_rows(raw, task.entry, task.file))
    except ShardError as error:
        checked.findings.append(error.finding)
    except DataError as error:  # of the storage
        checked.findings.append(Finding(task.file, "content", "a readable file", str(error), _TRY_AGAIN))
    return checked


def _fetch(task: ShardTask) -> bytes:
    # A file that is listed with another size is not fetched: it may not fit into memory.
    expected, size = task.entry.stored.bytes, task.size
    content = task.folder.read(task.name, most=expected) if size == expected else None
    if content is None or len(content) != expected:
        found = "no such file" if size is None else f"{size if content is None else len(content):,}"
        raise ShardError(Finding(task.file, "bytes", f"{expected:,}", found, FETCH_AGAIN))
    return content


def _check_hash(checked: CheckedShard, file: str, algorithm: str, content: bytes, expected: str) -> None:
    if algorithm in HASHES and (found := HASHES[algorithm](content).hexdigest()) != expected:
        checked.findings.append(Finding(file, algorithm, expected, found, FETCH_AGAIN))


def _check_rows(checked: CheckedShard, task: ShardTask, rows: NDArray[Any]) -> None:
    checked.rows = len(rows)
    _check_tokens(checked, task, rows.reshape(-1), row_len=rows.shape[1])
    if len(rows):
        checked.first_token = int(rows[0, 0])


def _check_conversations(checked: CheckedShard, task: ShardTask, raw: bytes) -> None:
    wrong: dict[str, list[int]] = {}
    rows: list[NDArray[Any]] = []
    for number, row in enumerate(decode_conversations(raw, task.entry, task.file)):
        for problem in _problems_of_row(row, task.manifest.seq_len):
            wrong.setdefault(problem, []).append(number)
        rows.append(row[TOKENS_COLUMN])
        checked.conversations += len(row[LENGTHS_COLUMN])
    checked.rows = len(rows)
    checked.conversation_tokens = sum(map(len, rows))
    for problem, numbers in wrong.items():
        found = f"row {numbers[0]:,} and {len(numbers) - 1:,} more that are not"
        checked.findings.append(Finding(task.file, "rows of conversations", problem, found, PREPARE_AGAIN))
    if rows:
        starts = np.cumsum([0, *map(len, rows)])
        _check_tokens(checked, task, np.concatenate(rows), row_starts=starts)


def _problems_of_row(row: dict[str, NDArray[Any]], seq_len: int) -> Sequence[str]:
    tokens, answer, lengths, copied = (
        row[name] for name in (TOKENS_COLUMN, ANSWER_COLUMN, LENGTHS_COLUMN, COPIED_COLUMN)
    )
    lengths = lengths.astype(np.int64)
    problems: list[str] = []
    if not len(tokens) == len(answer) == lengths.sum():
        problems.append("as many tokens as answer flags and as the lengths add up to")
    if len(copied) != len(lengths):
        problems.append("a copy flag for each conversation")
    elif (lengths * (1 + copied.astype(np.int64))).sum() > seq_len:
        problems.append(f"at most {seq_len:,} positions, with copies")
    if (lengths < 1).any():
        problems.append("conversations of at least 1 token")
    if (answer > SCORED | END | LONG).any() or ((answer & SCORED == 0) & (answer != 0)).any():
        problems.append("flags of an end or a long answer at scored tokens only")
    if (copied > 1).any():
        problems.append("copy flags of 0 and 1")
    return problems


def _check_tokens(
    checked: CheckedShard,
    task: ShardTask,
    tokens: NDArray[Any],
    *,
    row_len: int | None = None,
    row_starts: NDArray[np.int64] | None = None,
) -> None:
    """Count BOS and EOS, and find ids that no row may hold; rows are of `row_len` tokens, or begin at `row_starts`."""
    tokenizer = task.manifest.tokenizer
    masks, beyond = _Places(), _Places()
    for start in range(0, len(tokens), _BLOCK):
        block = tokens[start : start + _BLOCK]
        checked.borders += [int(np.count_nonzero(block == each)) for each in (tokenizer.bos_id, tokenizer.eos_id)]
        if int(block.max()) >= tokenizer.mask_id:
            masks.add(np.flatnonzero(block == tokenizer.mask_id), start)
            beyond.add(np.flatnonzero(block >= tokenizer.vocab_size), start)

    def place_of(position: int) -> str:
        if row_len is not None:
            return f"row {position // row_len:,}, position {position % row_len:,}"
        starts = cast("NDArray[np.int64]", row_starts)
        row = int(np.searchsorted(starts, position, side="right")) - 1
        return f"row {row:,}, position {position - int(starts[row]):,}"

    if beyond.num:
        found = f"{beyond.num:,} beyond, the first {int(tokens[beyond.first]):,} in {place_of(beyond.first)}"
        expected = f"less than the tokenizer's {tokenizer.vocab_size:,}"
        checked.findings.append(Finding(task.file, "token ids", expected, found, PREPARE_AGAIN))
    if masks.num:
        found = f"{masks.num:,}, the first in {place_of(masks.first)}"
        expected = f"none with the mask token's id {tokenizer.mask_id}"
        checked.findings.append(Finding(task.file, "token ids", expected, found, PREPARE_AGAIN))


@dataclass
class _Places:
    """How many positions there are, and the first of them."""

    num: int = 0
    first: int = -1

    def add(self, positions: NDArray[np.int64], start: int) -> None:
        if len(positions) and not self.num:
            self.first = start + int(positions[0])
        self.num += len(positions)
