"""What a preparation wrote and what it lost, as the command prints it last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from meap.manifest import CONVERSATIONS, ROWS
from meap.prep.job import Job
from meap.prep.removal.report import REMOVED_DIR, describe_removed
from meap.prep.resolved import ResolvedJob, ResolvedPrep, ResolvedSft
from meap.prep.selection import describe_selection
from meap.prep.sft.report import describe_context, describe_packing, warning_of_context, warnings_of
from meap.prep.steps import LOSSY_DOCUMENTS, SPELLED_TOKENS, SPELLING_DOCUMENTS, TRIED_DOCUMENTS
from meap.prep.task_records import SplitRecord, TaskRecord, parts_of, unpublished_streams
from meap.schema import TRAIN_SPLIT, VALIDATION_SPLIT
from meap.show.numbers import size
from meap.tokenizer import model_context

__all__ = ["summary"]

_LARGE_TAIL = 0.01
_FEW_LOSSY = 0.01
_MOST_UNREAD = 20
_MOST_HELDOUT = 0.5


def summary(job: Job[ResolvedJob]) -> str:
    """One line about the data set, its losses and this command's speed; what was removed or not read; and warnings."""
    records = job.final_records.values()
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
    told = [_selection(job, by_part), _special_tokens(job, splits), _unpublished(records), _losses(job, records)]
    said += filter(None, [_context(job), *told])
    if not job.is_published:
        said.append(_speed(job))
    state = "already complete" if job.is_published else "complete"
    whole = f"{state}: {'; '.join(said)}" + describe_removed(records, f"{job.folder.url}/{REMOVED_DIR}")
    return "\n".join([whole, *_unread(records), *(f"warning: {each}" for each in _warnings(job, records))])


def _losses(job: Job[ResolvedJob], records: Collection[TaskRecord]) -> str:
    things = "lines" if job.kind == ROWS else "records"
    bad = sum(record.bad_lines for record in records)
    bad_bytes = sum(record.bad_bytes for record in records)
    kept_bytes = sum(split.text_bytes for record in records for split in record.splits.values())
    share = f", {bad_bytes / (bad_bytes + kept_bytes):.2%} of the bytes" if kept_bytes else ""
    lost = [f"{bad:,} bad {things}" + (f" ({size(bad_bytes)}{share})" if bad_bytes else "")]
    lost += [str(each) for each in _tails(records)]
    if empty := sum(record.empty_documents for record in records):
        lost.append(f"{empty:,} empty documents")
    return f"left out: {', '.join(lost)}"


@dataclass(frozen=True)
class _Tail:
    """What filled no row of a part, at the ends of tasks."""

    part: str
    dropped: int
    tokens: int
    ending: int
    """Documents that end there."""
    documents: int

    def __str__(self) -> str:
        of_part = "" if self.part == TRAIN_SPLIT else f" of {self.part}"
        ends = f", where {self.ending:,} of {self.documents:,} documents end" if self.ending else ""
        return f"{self.dropped:,} tokens{of_part} ({self.dropped / self.tokens:.1%}) that filled no row{ends}"


def _tails(records: Collection[TaskRecord]) -> list[_Tail]:
    published, tails = parts_of(records), list[_Tail]()
    for part in published:
        splits = [record.splits[part] for record in records if part in record.splits]
        dropped, tokens = (sum(each.dropped_tail_tokens for each in splits), sum(each.tokens for each in splits))
        if dropped:
            ending = sum(each.dropped_tail_documents for each in splits)
            tails.append(_Tail(part, dropped, tokens, ending, sum(each.documents for each in splits)))
    return tails


def _warnings(job: Job[ResolvedJob], records: Collection[TaskRecord]) -> Iterator[str]:
    for tail in _tails(records):
        if tail.dropped > _LARGE_TAIL * tail.tokens:
            of_tasks, fewer = (
                (f"each of {job.num_tasks} tasks", "fewer tasks, ") if job.num_tasks > 1 else ("the end", "")
            )
            yield (
                f"{tail.dropped / tail.tokens:.1%} of the tokens of {tail.part} filled no row: {of_tasks} loses less "
                f"than a row of {job.config.seq_len + 1:,}; choose {fewer}a smaller seq_len, or more text"
            )
    if job.kind == ROWS and (warning := _without_heldout(job, records)):
        yield warning
    counts = sum((Counter(split.counts) for record in records for split in record.splits.values()), Counter[str]())
    if isinstance(job.config, ResolvedSft):
        by_part = [each for record in records for each in record.splits.items()]
        heldout_rows = sum(split.rows for part, split in by_part if part.endswith(VALIDATION_SPLIT))
        yield from warnings_of(
            counts,
            conversations=sum(split.documents for _, split in by_part),
            heldout_rows=heldout_rows if job.config.heldout_ratio else None,
            max_length=job.config.max_length,
            views=job.config.views,
            min_answer_tokens=job.config.min_answer_tokens,
        )
        context, views = model_context(job.tokenizer.name), job.config.views
        if warning := warning_of_context(context, max_length=job.config.max_length, views=views):
            yield warning
    if counts[LOSSY_DOCUMENTS] > _FEW_LOSSY * counts[TRIED_DOCUMENTS]:
        first = next((record.first_loss for record in records if record.first_loss is not None), "")
        noun = "documents" if job.kind == ROWS else "conversations"
        yield (
            f"{counts[LOSSY_DOCUMENTS]:,} of {counts[TRIED_DOCUMENTS]:,} {noun} that were encoded and decoded as a "
            f"trial do not come back: the tokenizer loses {first}; choose one that can spell this text"
        )


def _without_heldout(job: Job[ResolvedJob], records: Collection[TaskRecord]) -> str:
    """A warning where documents were to be held out, and fill no row."""
    asked = job.config.heldout_ratio
    held_out = [split for record in records for part, split in record.splits.items() if part.endswith(VALIDATION_SPLIT)]
    tokens = sum(split.tokens for record in records for split in record.splits.values())
    if not asked or not tokens or any(split.rows for split in held_out):
        return ""
    documents, lost = sum(each.documents for each in held_out), sum(each.tokens for each in held_out)
    row = job.config.seq_len + 1
    enough = 2 * max(asked, row * job.num_tasks / tokens)
    remedy = f"raise heldout_ratio to {enough:.1g}" if enough < _MOST_HELDOUT else "prepare more text"
    return (
        f"there is no validation split: heldout_ratio={asked:g} held out {documents:,} documents, whose {lost:,} "
        f"tokens fill no row of {row:,}; {remedy}, or choose a smaller seq_len, in another folder"
    )


def _special_tokens(job: Job[ResolvedJob], splits: Collection[SplitRecord]) -> str:
    counts = sum((Counter(split.counts) for split in splits), Counter[str]())
    if not counts[SPELLING_DOCUMENTS] or not isinstance(job.config, ResolvedPrep):
        return ""
    mode = job.config.tokenizer.special_tokens_in_text
    how = "read as plain characters" if mode == "text" else "read as these tokens"
    return (
        f"{counts[SPELLING_DOCUMENTS]:,} documents spell special tokens ({counts[SPELLED_TOKENS]:,} times), {how} "
        f"(tokenizer.special_tokens_in_text={mode})"
    )


def _unpublished(records: Collection[TaskRecord]) -> str:
    streams = ", ".join(f"{stream} ({count:,} tokens)" for stream, count in unpublished_streams(records).items())
    return f"too little for a row to train on: {streams}" if streams else ""


def _unread(records: Collection[TaskRecord]) -> Iterator[str]:
    counts = sum((Counter(record.unread) for record in records), Counter[str]())
    fields = [f"{name} ({count:,} record{'s'[: count != 1]})" for name, count in counts.most_common(_MOST_UNREAD)]
    more = f" and {len(counts) - len(fields):,} other fields" if len(counts) > len(fields) else ""
    if fields:
        yield f"not read: {', '.join(fields)}{more}"


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


def _context(job: Job[ResolvedJob]) -> str:
    if not isinstance(job.config, ResolvedSft):
        return ""
    context = model_context(job.tokenizer.name)
    return describe_context(context, max_length=job.config.max_length, views=job.config.views)


def _packing(job: Job[ResolvedJob], parts: Collection[SplitRecord]) -> str:
    return "for training " + describe_packing(
        sum((Counter(part.counts) for part in parts), Counter[str]()),
        conversations=sum(part.documents for part in parts),
        rows=sum(part.rows for part in parts),
        seq_len=job.config.seq_len,
    )
