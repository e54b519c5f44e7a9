"""What prepared data sets are made of, measured in one pass over their shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from meap.errors import DataError
from meap.manifest import CONVERSATIONS, Manifest
from meap.mds.findings import ShardError
from meap.mds.index import INDEX_NAME, parse_entry
from meap.prep.audit.documents import Borders, DocumentJoiner
from meap.prep.audit.places import DataSet, read_index, read_tokenizer, read_whole_manifest, task_records
from meap.prep.audit.sampling import HashSample, Repeats, hash_ngrams
from meap.prep.audit.shard import ShardTask, expected_columns, read_shard
from meap.prep.audit.workers import ShardMeter, in_order
from meap.schema import COPIED_COLUMN, LENGTHS_COLUMN, TOKENS_COLUMN
from meap.tokenizer import Tokenizer

__all__ = ["NGRAM", "SourceShare", "SplitNumbers", "Statistics", "measure", "shards_of"]

NGRAM = 13
"""Tokens of the n-grams whose repeats are counted (as in the decontamination of GPT-3, Brown et al. 2020)."""

_BLOCK = 1 << 20
_FEWEST_TEXTS = 20
_SIGNIFICANT_BITS = 8
_NO_HASHES = np.empty(0, np.uint64)


@dataclass(frozen=True)
class SplitNumbers:
    """A split, as its manifest has it."""

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
    """UTF-8 bytes of the documents; None where their text was not there."""
    dropped_tail_tokens: int
    bad_lines: int

    @property
    def bytes_per_token(self) -> float | None:
        """Of text, per token; None where it is not known."""
        return self.text_bytes / self.tokens if self.text_bytes and self.tokens else None


@dataclass(frozen=True)
class SourceShare:
    """What came from the input files that one task read, which cannot be told apart any more; or a whole data set.

    It is a data set where the records of its tasks are not there, as with one stream of several.
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
    """Whole documents by tokens, BOS and EOS excluded; from 256 on to eight significant bits."""
    num_cut: int = 0
    """Documents that are not whole in the rows, and therefore not among `lengths`."""
    token_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    token_texts: dict[int, str] = field(default_factory=dict)
    """Texts of the most frequent tokens."""
    repeats: dict[str, Repeats] = field(default_factory=dict)
    """Of rows, documents and, if asked for, n-grams."""
    notes: list[str] = field(default_factory=list)
    shards: int = 0
    seconds: float = 0.0

    @property
    def is_conversations(self) -> bool:
        """Whether documents are conversations."""
        return bool(self.splits) and all(split.kind == CONVERSATIONS for split in self.splits)

    @property
    def text_bytes(self) -> int | None:
        """UTF-8 bytes of all documents; None where those of a split are not known."""
        known = [split.text_bytes for split in self.splits if split.text_bytes is not None]
        return sum(known) if len(known) == len(self.splits) else None

    @property
    def bytes_per_token(self) -> float | None:
        """Of text, per token; None where it is not known."""
        tokens = sum(split.tokens for split in self.splits)
        return self.text_bytes / tokens if self.text_bytes and tokens else None

    def top_tokens(self, count: int) -> list[tuple[int, int]]:
        """The most frequent token ids with their counts."""
        order = np.argsort(-self.token_counts, kind="stable")[:count]
        return [(int(each), int(self.token_counts[each])) for each in order if self.token_counts[each]]

    def length_at(self, share: float) -> int:
        """The length that `share` of the whole documents do not exceed."""
        wanted, seen = share * self.lengths.total(), 0
        for length, count in sorted(self.lengths.items()):
            seen += count
            if seen >= wanted:
                return length
        return 0


@dataclass
class _ShardNumbers:
    """What a worker finds in a shard."""

    rows: int
    row_hashes: NDArray[np.uint64]
    token_counts: NDArray[np.int64]
    documents: int
    document_hashes: NDArray[np.uint64]
    lengths: Counter[int]
    head: NDArray[Any]
    """Tokens before the first document that surely begins in the shard; of rows."""
    tail: NDArray[Any] | None
    ngrams: int = 0
    ngram_hashes: NDArray[np.uint64] = field(default_factory=lambda: _NO_HASHES)


def measure(data_sets: Sequence[DataSet], *, workers: int, ngrams: bool, top: int) -> Statistics:
    """Read every shard of finished data sets.

    Args:
        data_sets: Where they are.
        workers: Shards read at the same time; each takes the memory of its decompressed bytes and its stored ones.
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
    statistics.token_counts = np.zeros(first.vocab_size, np.int64)
    samples = {
        "rows": HashSample(sum(manifest.rows for *_, manifest in splits)),
        "documents": HashSample(sum(manifest.documents for *_, manifest in splits)),
    }
    if ngrams:
        samples[f"{NGRAM}-grams"] = HashSample(sum(manifest.tokens for *_, manifest in splits))
    tasks_of = [shards_of(*each) for each in splits]
    for (data, split, manifest), tasks in zip(splits, tasks_of, strict=True):
        statistics.splits.append(_numbers_of(data, split, manifest, tasks))
    jobs = [(task, first) for tasks in tasks_of for task, first in _with_beginnings(tasks)]
    joiner = DocumentJoiner(Borders.of(splits[0][2]))
    look = partial(_look_into, samples=samples)
    with ShardMeter(len(jobs), sum(task.entry.stored.bytes for task, _ in jobs)) as meter:
        for (task, begins), found in zip(jobs, in_order(look, jobs, workers), strict=True):
            if begins:
                _end(statistics, samples, joiner)
                joiner = DocumentJoiner(Borders.of(task.manifest))
            _add(statistics, samples, found)
            if task.manifest.kind != CONVERSATIONS:
                _add_documents(statistics, samples, joiner.join(found.head, found.tail), joiner.borders)
            meter.add(task.entry.stored.bytes)
    _end(statistics, samples, joiner)

    _add_sources(statistics, data_sets, splits)
    statistics.repeats = {name: sample.repeats() for name, sample in samples.items()}
    if tokenizer is not None:
        shown = statistics.top_tokens(max(top, _FEWEST_TEXTS))
        statistics.token_texts = {each: _text_of(each, tokenizer) for each, _ in shown}
    statistics.shards, statistics.seconds = len(jobs), meter.seconds
    _add_notes(statistics)
    return statistics


def _same_tokenizer(splits: Sequence[tuple[DataSet, str, Manifest]]) -> Tokenizer | None:
    """The tokenizer of all splits; None where it is not stored with them."""
    first, split, manifest = splits[0]
    for data, other, theirs in splits[1:]:
        if theirs.tokenizer.fingerprint != manifest.tokenizer.fingerprint:
            raise DataError(
                f"{data.folder.url_of(other)} was made with another tokenizer ({theirs.tokenizer.name}) than "
                f"{first.folder.url_of(split)} ({manifest.tokenizer.name}): look at one of them at a time"
            )
    try:
        return read_tokenizer(first, manifest.tokenizer.name)
    except DataError:
        return None


def _text_of(token: int, tokenizer: Tokenizer) -> str:
    piece = tokenizer.full.id_to_token(token) or ""
    # SentencePiece's mark of a space, which decoding a single token would lose.
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
            raise DataError(f"{error} (`meap verify` lists all that is wrong)") from error
        if {column.name: column.encoding for column in entry.columns} != columns:
            raise DataError(
                f"{data.folder.url_of(split)}/{entry.stored.basename} has not the columns of its manifest: "
                "`meap verify` tells more"
            )
        tasks.append(
            ShardTask(
                data.folder, f"{split}/{entry.stored.basename}", entry, None, sizes.get(entry.stored.basename), manifest
            )
        )
    return tasks


def _with_beginnings(tasks: Sequence[ShardTask]) -> Iterator[tuple[ShardTask, bool]]:
    """Each shard of a split, and whether its first token is the first of a preparation task's stream."""
    previous = None
    for task in tasks:
        yield task, task.task_number != previous
        previous = task.task_number


def _look_into(job: tuple[ShardTask, bool], *, samples: Mapping[str, HashSample]) -> _ShardNumbers:
    task, is_start = job
    try:
        content = read_shard(task)
    except ShardError as error:
        raise DataError(f"{error} (`meap verify` lists all that is wrong)") from error
    if isinstance(content, list):
        return _look_at_conversations(task, content, samples)
    tokens = content.reshape(-1)
    borders = Borders.of(task.manifest)
    starts = borders.beginnings(tokens, is_start=is_start)
    ends = starts[1:]
    found = _ShardNumbers(
        rows=len(content),
        row_hashes=samples["rows"].choose(_hash_spans(tokens, np.arange(len(content) + 1) * content.shape[1])),
        token_counts=_count_tokens(tokens, task),
        documents=len(ends),
        document_hashes=samples["documents"].choose(_hash_spans(tokens, starts)),
        lengths=_rounded(borders.content_lengths(tokens, starts[:-1], ends)),
        head=tokens[: starts[0]].copy() if len(starts) else tokens,
        tail=tokens[starts[-1] :].copy() if len(starts) else None,
    )
    _add_ngrams(found, tokens, borders, samples)
    return found


def _look_at_conversations(
    task: ShardTask, rows: list[dict[str, NDArray[Any]]], samples: Mapping[str, HashSample]
) -> _ShardNumbers:
    nothing = np.empty(0, np.int64)
    tokens = np.concatenate([row[TOKENS_COLUMN] for row in rows]) if rows else nothing
    lengths = np.concatenate([row[LENGTHS_COLUMN] for row in rows]).astype(np.int64) if rows else nothing
    if lengths.sum() != len(tokens) or any(len(row[COPIED_COLUMN]) != len(row[LENGTHS_COLUMN]) for row in rows):
        raise DataError(f"{task.file} holds rows that contradict themselves: `meap verify` tells more")
    row_ends = np.cumsum([0, *(len(row[TOKENS_COLUMN]) for row in rows)])
    found = _ShardNumbers(
        rows=len(rows),
        row_hashes=samples["rows"].choose(_hash_spans(tokens, row_ends)),
        token_counts=_count_tokens(tokens, task),
        documents=len(lengths),
        document_hashes=samples["documents"].choose(_hash_spans(tokens, np.cumsum(np.append(0, lengths)))),
        lengths=_rounded(lengths),
        head=nothing,
        tail=None,
    )
    _add_ngrams(found, tokens, Borders.of(task.manifest), samples)
    return found


def _add_ngrams(
    found: _ShardNumbers, tokens: NDArray[Any], borders: Borders, samples: Mapping[str, HashSample]
) -> None:
    sample = samples.get(f"{NGRAM}-grams")
    if sample is None:
        return
    kept: list[NDArray[np.uint64]] = []
    for start in range(0, len(tokens), _BLOCK):
        hashes = hash_ngrams(tokens[start : start + _BLOCK + NGRAM - 1], NGRAM, (borders.bos_id, borders.eos_id))
        found.ngrams += len(hashes)
        kept.append(sample.choose(hashes))
    found.ngram_hashes = np.concatenate(kept) if kept else _NO_HASHES


def _add(statistics: Statistics, samples: Mapping[str, HashSample], found: _ShardNumbers) -> None:
    samples["rows"].add(found.rows, found.row_hashes)
    samples["documents"].add(found.documents, found.document_hashes)
    if f"{NGRAM}-grams" in samples:
        samples[f"{NGRAM}-grams"].add(found.ngrams, found.ngram_hashes)
    statistics.token_counts += found.token_counts
    statistics.lengths += found.lengths


def _end(statistics: Statistics, samples: Mapping[str, HashSample], joiner: DocumentJoiner) -> None:
    _add_documents(statistics, samples, joiner.end(), joiner.borders)
    statistics.num_cut += joiner.num_cut


def _add_documents(
    statistics: Statistics, samples: Mapping[str, HashSample], documents: Sequence[NDArray[Any]], borders: Borders
) -> None:
    for document in documents:
        ends = np.array([0, len(document)])
        samples["documents"].add(1, samples["documents"].choose(_hash_spans(document, ends)))
        statistics.lengths += _rounded(borders.content_lengths(document, ends[:1], ends[1:]))


def _hash_spans(tokens: NDArray[Any], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash of the tokens between each of `ends` and the next."""
    content = memoryview(cast("Any", np.ascontiguousarray(tokens))).cast("B")
    places = (ends * tokens.itemsize).tolist()
    hashes = (xxhash.xxh3_64_intdigest(content[start:end]) for start, end in pairwise(places))
    return np.fromiter(hashes, np.uint64, max(0, len(places) - 1))


def _count_tokens(tokens: NDArray[Any], task: ShardTask) -> NDArray[np.int64]:
    vocab_size = task.manifest.tokenizer.vocab_size
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(tokens), _BLOCK):
        of_block = np.bincount(tokens[start : start + _BLOCK], minlength=vocab_size)
        if len(of_block) > vocab_size:
            raise DataError(f"{task.file} holds token ids of {vocab_size} and beyond: `meap verify` tells more")
        counts += of_block
    return counts


def _rounded(lengths: NDArray[np.int64]) -> Counter[int]:
    """Counts of lengths, of which large ones are rounded down to eight significant bits."""
    excess = np.maximum(0, np.frexp(lengths.astype(np.float64))[1] - _SIGNIFICANT_BITS).astype(np.int64)
    values, counts = np.unique((lengths >> excess) << excess, return_counts=True)
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


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
    notes = statistics.notes
    if statistics.text_bytes is None:
        notes.append("bytes of text are not known: imported rows come without their text")
    if not statistics.is_conversations:
        documents = sum(split.documents for split in statistics.splits)
        beyond = documents - statistics.num_cut - statistics.lengths.total()
        notes.append(
            f"{statistics.num_cut:,} documents are cut by the end of a task's rows, and {max(0, beyond):,} lie "
            "beyond it altogether: they are not among the lengths and duplicates"
        )
    for name, each in statistics.repeats.items():
        if each.one_in > 1:
            notes.append(f"copies of {name} are estimated from 1 in {each.one_in:,} of them, chosen by hash")
