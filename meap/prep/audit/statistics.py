"""Measures prepared data sets: documents as preparation counted them, tokens and rows in one pass over the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from meap.errors import DataError
from meap.manifest import CONVERSATIONS, Manifest
from meap.mds.findings import ShardError
from meap.mds.index import INDEX_NAME, parse_entry
from meap.prep.audit.contents import NGRAM, contents_of
from meap.prep.audit.places import (
    DataSet,
    read_documents,
    read_index,
    read_tokenizer,
    read_whole_manifest,
    task_records,
)
from meap.prep.audit.shard import ShardTask, expected_columns
from meap.prep.audit.workers import ShardMeter, in_order
from meap.prep.document_counts import DOCUMENTS_NAME
from meap.prep.sampling import HashSample, Repeats
from meap.tokenizer import Tokenizer

__all__ = ["SourceShare", "SplitNumbers", "Statistics", "measure", "shards_of"]

_FEWEST_TEXTS = 20
_DOCUMENTS, _ROWS, _NGRAMS = "documents", "rows", f"{NGRAM}-grams"


@dataclass(frozen=True)
class SplitNumbers:
    """A split, as its manifest describes it."""

    name: str
    kind: str
    documents: int
    tokens: int
    rows: int
    seq_len: int
    shards: int
    stored_bytes: int
    raw_bytes: int
    text_bytes: int | None
    """UTF-8 bytes of the documents; None for imported rows, which come without their text."""
    dropped_tail_tokens: int
    bad_lines: int

    @property
    def bytes_per_token(self) -> float | None:
        """Of text, per token; None if not known."""
        return self.text_bytes / self.tokens if self.text_bytes and self.tokens else None


@dataclass(frozen=True)
class SourceShare:
    """What the input files of one task gave; or those of a whole data set, if it has no task records.

    A stream of several has none.
    """

    stream: str
    files: tuple[str, ...]
    documents: int
    tokens: int


@dataclass
class Statistics:
    """What was measured."""

    location: str
    tokenizer: str
    vocab_size: int
    splits: list[SplitNumbers] = field(default_factory=list)
    sources: list[SourceShare] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    """Documents by tokens, BOS and EOS excluded; from 256 on to eight significant bits."""
    token_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    token_texts: dict[int, str] = field(default_factory=dict)
    """Texts of the most frequent tokens."""
    repeats: dict[str, Repeats] = field(default_factory=dict)
    """Of rows, documents if known, and n-grams if asked for."""
    notes: list[str] = field(default_factory=list)
    shards: int = 0
    seconds: float = 0.0

    @property
    def is_conversations(self) -> bool:
        """Whether documents are conversations."""
        return bool(self.splits) and all(split.kind == CONVERSATIONS for split in self.splits)

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes of all documents; None if those of a split are not known."""
        known = [split.text_bytes for split in self.splits if split.text_bytes is not None]
        return sum(known) if len(known) == len(self.splits) else None

    @property
    def bytes_per_token(self) -> float | None:
        """Of text, per token; None if not known."""
        tokens = sum(split.tokens for split in self.splits)
        return self.text_bytes / tokens if self.text_bytes and tokens else None

    def top_tokens(self, count: int) -> list[tuple[int, int]]:
        """The most frequent token ids with their counts."""
        order = np.argsort(-self.token_counts, kind="stable")[:count]
        return [(int(each), int(self.token_counts[each])) for each in order if self.token_counts[each]]

    def length_at(self, share: float) -> int:
        """The length that `share` of the documents do not exceed."""
        wanted, seen = share * self.lengths.total(), 0
        for length, count in sorted(self.lengths.items()):
            seen += count
            if seen >= wanted:
                return length
        return 0


def measure(data_sets: Sequence[DataSet], *, workers: int, ngrams: bool, top: int) -> Statistics:
    """Read every shard of finished data sets.

    Args:
        data_sets: Where they are.
        workers: Shards read at the same time; each takes the memory of its stored and its decompressed bytes.
        ngrams: Whether to count repeated n-grams too.
        top: Frequent tokens to decode.

    Raises:
        DataError: A data set is not finished, or damaged, or of another tokenizer than the first.
    """
    splits = [(data, split, read_whole_manifest(data, split)) for data in data_sets for split in data.splits]
    if not splits:
        raise DataError(f"{data_sets[0].folder.url} holds no split: run the same preparation command again")
    tokenizer = _same_tokenizer(splits)
    first = splits[0][2].tokenizer
    statistics = Statistics(
        location=splits[0][0].folder.url.removesuffix(f"/{splits[0][0].stream}"),
        tokenizer=first.name,
        vocab_size=first.vocab_size,
    )
    tasks_of = [shards_of(*each) for each in splits]
    for (data, split, manifest), tasks in zip(splits, tasks_of, strict=True):
        statistics.splits.append(_numbers_of(data, split, manifest, tasks))
    _add_sources(statistics, data_sets, splits)
    _add_contents(statistics, [task for tasks in tasks_of for task in tasks], workers=workers, ngrams=ngrams)
    _add_documents(statistics, splits)
    if tokenizer is not None:
        shown = statistics.top_tokens(max(top, _FEWEST_TEXTS))
        statistics.token_texts = {each: _text_of(each, tokenizer) for each, _ in shown}
    _add_notes(statistics)
    return statistics


def _add_contents(statistics: Statistics, tasks: Sequence[ShardTask], *, workers: int, ngrams: bool) -> None:
    """Count tokens, and find repeated rows and n-grams."""
    rows, grams = HashSample(), HashSample() if ngrams else None
    statistics.token_counts = np.zeros(statistics.vocab_size, np.int64)
    look = partial(contents_of, rows=rows, ngrams=grams)
    with ShardMeter(len(tasks), sum(task.entry.stored.bytes for task in tasks)) as meter:
        for task, found in zip(tasks, in_order(look, tasks, workers), strict=True):
            statistics.token_counts += found.token_counts
            rows.add(found.row_hashes, items=found.rows)
            if grams is not None:
                grams.add(found.ngram_hashes, items=found.ngrams)
            meter.add(task.entry.stored.bytes)
    statistics.shards, statistics.seconds = len(tasks), meter.seconds
    statistics.repeats[_ROWS] = rows.repeats()
    if grams is not None:
        statistics.repeats[_NGRAMS] = grams.repeats()


def _add_documents(statistics: Statistics, splits: Sequence[tuple[DataSet, str, Manifest]]) -> None:
    """Add what preparation has counted of documents."""
    sample = HashSample()
    for data, split, manifest in splits:
        counts = read_documents(data, split)
        if counts is None:
            statistics.notes.append(
                f"lengths of {data.label(split)} are not known, nor which documents are copies: there is no "
                f"{DOCUMENTS_NAME} beside its manifest"
            )
            continue
        statistics.lengths += counts.lengths
        sample.add(counts.hashes, items=manifest.documents, level=counts.level)
    if statistics.lengths:
        statistics.repeats = {_ROWS: statistics.repeats[_ROWS], _DOCUMENTS: sample.repeats()} | statistics.repeats


def _same_tokenizer(splits: Sequence[tuple[DataSet, str, Manifest]]) -> Tokenizer | None:
    """The tokenizer of all splits; None if it is not stored with them."""
    first, split, manifest = splits[0]
    for data, other, theirs in splits[1:]:
        if theirs.tokenizer.fingerprint != manifest.tokenizer.fingerprint:
            raise DataError(
                f"{data.folder.url_of(other)} was made with another tokenizer ({theirs.tokenizer.name}) than "
                f"{first.folder.url_of(split)} ({manifest.tokenizer.name}): measure one of them at a time"
            )
    try:
        return read_tokenizer(first, manifest.tokenizer.name)
    except DataError:
        return None


def _text_of(token: int, tokenizer: Tokenizer) -> str:
    piece = tokenizer.full.id_to_token(token) or ""
    # SentencePiece marks a space so, which decoding a single token would drop.
    return piece.replace("▁", " ") if "▁" in piece else tokenizer.decode([token])


def shards_of(data: DataSet, split: str, manifest: Manifest) -> list[ShardTask]:
    """The shards of a split, in the order of its index.

    Raises:
        DataError: The index cannot be read, names something that is not allowed, or has other columns than it should.
    """
    columns = expected_columns(manifest)
    sizes = data.folder.sizes(split)
    tasks: list[ShardTask] = []
    for number, values in enumerate(read_index(data, split)):
        try:
            entry = parse_entry(values, f"{data.folder.url_of(split)}/{INDEX_NAME}, shard {number}")
        except ShardError as error:
            raise DataError(f"{error} (`meap verify` lists everything that is wrong)") from error
        if {column.name: column.encoding for column in entry.columns} != columns:
            raise DataError(
                f"{data.folder.url_of(split)}/{entry.stored.basename} has not the columns of its manifest: "
                "`meap verify` says more"
            )
        tasks.append(
            ShardTask(
                data.folder, f"{split}/{entry.stored.basename}", entry, None, sizes.get(entry.stored.basename), manifest
            )
        )
    return tasks


def _numbers_of(data: DataSet, split: str, manifest: Manifest, tasks: Sequence[ShardTask]) -> SplitNumbers:
    return SplitNumbers(
        name=data.label(split),
        kind=manifest.kind,
        documents=manifest.documents,
        tokens=manifest.tokens,
        rows=manifest.rows,
        seq_len=manifest.seq_len,
        shards=len(tasks),
        stored_bytes=sum(task.entry.stored.bytes for task in tasks),
        raw_bytes=sum(task.entry.raw.bytes for task in tasks),
        text_bytes=manifest.text_bytes,
        dropped_tail_tokens=manifest.dropped_tail_tokens,
        bad_lines=manifest.bad_lines,
    )


def _add_sources(
    statistics: Statistics, data_sets: Sequence[DataSet], splits: Sequence[tuple[DataSet, str, Manifest]]
) -> None:
    for data in data_sets:
        records = {} if data.is_part else task_records(data.folder)
        manifests = [manifest for of, _, manifest in splits if of is data]
        if records and len(records) == manifests[0].config.get("tasks", len(records)):
            for record in records.values():
                parts = record.splits.values()
                tokens, documents = sum(part.tokens for part in parts), sum(part.documents for part in parts)
                statistics.sources.append(SourceShare(data.stream, tuple(record.files), documents, tokens))
        else:
            tokens, documents = (sum(getattr(each, of) for each in manifests) for of in ("tokens", "documents"))
            statistics.sources.append(SourceShare(data.stream, manifests[0].sources, documents, tokens))


def _add_notes(statistics: Statistics) -> None:
    if statistics.text_bytes is None:
        statistics.notes.append("bytes of text are not known: imported rows come without their text")
    for name, each in statistics.repeats.items():
        if each.one_in > 1:
            statistics.notes.append(f"copies of {name} are estimated from 1 in {each.one_in:,} of them, chosen by hash")
