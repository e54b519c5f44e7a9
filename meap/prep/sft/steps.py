"""Conversations -> rows: encode, cut to length, hold out a share for validation, pack whole conversations into rows.

Packing is done here, once for every epoch and every number of machines: a stored row is a sample, so order, elasticity
and resumption are those of pre-training rows. The room of a masked copy is known here, since whether a conversation
gets one depends on the lengths of its answers alone.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, cast

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import ArrayLike, NDArray

from meap.answers import LONG, SCORED, Flags, answer_spans, long_answers, with_long_answers
from meap.errors import DataError
from meap.mds.writing import MdsWriter, Shard
from meap.prep.document_counts import hash_of
from meap.prep.documents import split_of
from meap.prep.encoding import RoundTrip
from meap.prep.formats import BadRecord
from meap.prep.job import Job
from meap.prep.progress import Tally
from meap.prep.resolved import ResolvedSft
from meap.prep.sft.messages import ASSISTANT, Messages, RecordError, is_scored
from meap.prep.sft.records import Conversation, bad_records
from meap.prep.sft.rendering import ChatTemplate, Rendered
from meap.prep.sft.report import (
    ANSWERS,
    CUT,
    CUT_TOKENS,
    DROPPED,
    ENDED_BY,
    LONG_ANSWERS,
    OPEN_ANSWERS,
    POSITIONS,
    SHORTENED,
    UNPROMPTED,
)
from meap.prep.steps import LOSSY_DOCUMENTS, TRIED_DOCUMENTS
from meap.schema import (
    ANSWER_COLUMN,
    COPIED,
    COPIED_COLUMN,
    LENGTHS_COLUMN,
    TOKENS_COLUMN,
    TRAIN_SPLIT,
    VALIDATION_SPLIT,
    token_dtype,
)

__all__ = ["ConversationBatch", "PackConversations", "pack_best_fit", "views_of"]

_BATCH_CONVERSATIONS = 256
_BATCH_CHARACTERS = 1_000_000
_BATCH_ROWS = 256


@dataclass(frozen=True)
class ConversationBatch:
    """Some rows of one split."""

    part: str
    rows: list[dict[str, NDArray[Any]]]

    def write_to(self, writer: MdsWriter) -> Iterator[Shard]:
        """Append the rows to a writer; yields the shards they fill."""
        for row in self.rows:
            yield from writer.add(row)


class PackConversations(PipelineStep):
    """Turns a task's conversations into rows; holds all of them as tokens until the task's files are read.

    That takes 3 bytes per token (5 with a vocabulary of more than 65,536 ids), and some 70 per conversation while rows
    are chosen: about 30 MB for Alpaca's 52,002, 3 to 5 GB for a billion tokens. More `tasks` hold less each.

    Args:
        template: Renders and encodes.
        tally: Where conversations and tokens are counted.
        config: Lengths, copies, held-out ratio and seed.
    """

    type = "PACK"
    name = "conversations"

    def __init__(self, template: ChatTemplate, tally: Tally, *, config: ResolvedSft) -> None:
        super().__init__()
        self.template = template
        self.tally = tally
        self.config = config
        self.bad = bad_records(tally, config.max_bad_records)
        self.round_trip = RoundTrip(template.tokenizer.plain.to_str())

    @classmethod
    def of(cls, job: Job[ResolvedSft]) -> PackConversations:
        """The packer of a job's conversations."""
        tokenizer = job.tokenizer
        template = ChatTemplate(tokenizer, job.config.template, tokenizer.source_config["chat_template"])
        return cls(template, job.tally, config=job.config)

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; rows leave this step
        self, data: Iterable[Conversation], rank: int = 0, world_size: int = 1
    ) -> Iterator[ConversationBatch]:
        """Yield the rows of a task's conversations.

        Raises:
            BadInputError: There are too many records that cannot be encoded.
            ConfigError: The chat template does not end.
            DataError: A conversation contains the mask token's id.
        """
        del rank, world_size
        dtype = token_dtype(self.template.tokenizer.vocab_size)
        kept = {TRAIN_SPLIT: _Kept(dtype), VALIDATION_SPLIT: _Kept(dtype)}
        for batch in _batched(data):
            with self.track_time("batch"):
                views = [views_of(conversation.messages, self.config.turns) for conversation in batch]
                asked = [(view, each.tools) for each, own in zip(batch, views, strict=True) for view in own]
                rendered = iter(self.template.render_batch(asked))
                for conversation, own in zip(batch, views, strict=True):
                    self._keep_all(conversation, [next(rendered) for _ in own], kept)
                for split, conversations in kept.items():
                    self.tally.add_documents(split, *conversations.take_counts())
                self.tally.report()
        for split, conversations in kept.items():
            if self.tally.counts[split, LOSSY_DOCUMENTS]:
                self.tally.counts[split, TRIED_DOCUMENTS] = self.tally.tried[split]
            sizes = conversations.sizes
            rows = pack_best_fit(sizes, self.config.seq_len) if self.config.pack else [[n] for n in range(len(sizes))]
            for start in range(0, len(rows), _BATCH_ROWS):
                yield ConversationBatch(split, [conversations.row(row) for row in rows[start : start + _BATCH_ROWS]])

    def _keep_all(
        self, conversation: Conversation, views: Sequence[Rendered | RecordError], kept: dict[str, _Kept]
    ) -> None:
        """Keep the views of a record, all in one split, or count it as bad."""
        if error := next((each for each in views if isinstance(each, RecordError)), None):
            bad = BadRecord(str(error), sum(len(each["content"].encode()) for each in conversation.messages))
            self.bad.leave_out(conversation.file, conversation.number, bad)
            return
        rendered = cast("Sequence[Rendered]", views)
        split = split_of(rendered[-1].text.encode(), self.config.heldout_ratio, self.config.seed)
        self.tally.counts[split, SHORTENED] += conversation.is_shortened
        if self.round_trip.chosen(
            [len(rendered[-1].tokens)], [hash_of(rendered[-1].tokens)], tried=self.tally.tried[split]
        ):
            self._try_round_trip(conversation, split)
        for view in rendered:
            self._refuse_mask_id(view, conversation)
            self._keep(view, split, kept[split])

    def _try_round_trip(self, conversation: Conversation, split: str) -> None:
        """Encode and decode what is said; not what the template adds, around which decoders set spaces of their own."""
        self.tally.tried[split] += 1
        for message in conversation.messages:
            ids = self.template.tokenizer.plain.encode(message["content"], add_special_tokens=False).ids
            if (loss := self.round_trip.loss(message["content"], np.array(ids, np.int64))) is not None:
                self.tally.counts[split, LOSSY_DOCUMENTS] += 1
                where = f"{conversation.file}:{conversation.number}"
                self.tally.first_loss = self.tally.first_loss or f"{loss} of {where}"
                return

    def _keep(self, rendered: Rendered, split: str, kept: _Kept) -> None:
        """Cut a conversation to length and keep it, unless nothing of its answers is left; count it either way."""
        counts = self.tally.counts
        limit = self.config.max_length
        counts[split, CUT] += len(rendered.tokens) > limit
        counts[split, CUT_TOKENS] += max(0, len(rendered.tokens) - limit)
        counts[split, UNPROMPTED] += not rendered.is_prompted
        for end in rendered.ends:
            counts[split, OPEN_ANSWERS if end is None else f"{ENDED_BY}{end}"] += 1
        tokens, flags = rendered.tokens[:limit], rendered.flags[:limit]
        # Nothing stands before the first token that could predict it.
        if not (flags[1:] & SCORED).any():
            counts[split, DROPPED] += 1
            return
        flags = with_long_answers(flags, self.config.min_answer_tokens)
        is_copied = self.config.copies and bool((flags & LONG).any())
        counts[split, ANSWERS] += len(answer_spans(flags))
        counts[split, LONG_ANSWERS] += len(long_answers(flags))
        counts[split, COPIED] += is_copied
        counts[split, POSITIONS] += len(tokens) * (1 + is_copied)
        kept.append(tokens, flags, is_copied=is_copied)
        text = rendered.text.encode()
        self.tally.text_bytes += len(text)
        self.tally.kept_bytes[split] += len(text)
        self.tally.tokens[split] += len(tokens)

    def _refuse_mask_id(self, rendered: Rendered, conversation: Conversation) -> None:
        tokenizer = self.template.tokenizer
        if (rendered.tokens == tokenizer.mask_id).any():
            raise DataError(
                f"{conversation.file}:{conversation.number} contains the mask token {tokenizer.mask_token!r} "
                f"(id {tokenizer.mask_id}), which is a word of the tokenizer's own vocabulary: choose a "
                "tokenizer.mask_token that the vocabulary lacks"
            )


class _Kept:
    """Conversations of a split, back to back in flat buffers: array objects would take more than the tokens."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._tokens = bytearray()
        self._flags = bytearray()
        self._ends = array("Q", [0])
        self._copied = bytearray()
        self._hashes = array("Q")
        """Of the conversations since `take_counts`."""

    def append(self, tokens: NDArray[np.uint32], flags: Flags, *, is_copied: bool) -> None:
        stored = tokens.astype(self._dtype)
        self._tokens += stored.tobytes()
        self._hashes.append(hash_of(stored))
        self._flags += flags.tobytes()
        self._ends.append(self._ends[-1] + len(tokens))
        self._copied.append(is_copied)

    def take_counts(self) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
        """Lengths and hashes of the conversations since the last call."""
        hashes, self._hashes = np.array(self._hashes, np.uint64), array("Q")
        return np.diff(np.array(self._ends[-1 - len(hashes) :], np.int64)), hashes

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Positions that each takes, with its copy."""
        return np.diff(np.array(self._ends, np.int64)) * (1 + np.frombuffer(self._copied, np.uint8).astype(np.int64))

    def row(self, row: Sequence[int]) -> dict[str, NDArray[Any]]:
        """The row of the conversations numbered in `row`, by column."""
        tokens, flags = np.frombuffer(self._tokens, self._dtype), np.frombuffer(self._flags, np.uint8)
        spans = [slice(self._ends[number], self._ends[number + 1]) for number in row]
        return {
            TOKENS_COLUMN: np.concatenate([tokens[span] for span in spans]),
            ANSWER_COLUMN: np.concatenate([flags[span] for span in spans]),
            LENGTHS_COLUMN: np.array([span.stop - span.start for span in spans], np.uint32),
            COPIED_COLUMN: np.array([self._copied[number] for number in row], np.uint8),
        }


def pack_best_fit(sizes: ArrayLike, room: int) -> list[list[int]]:
    """Pack items into bins of `room`: best fit, largest first, ties by number; a function of its arguments alone.

    Args:
        sizes: Size of each item, at most `room`.
        room: Size of a bin.

    Returns:
        Numbers of the items of each bin, every item in exactly one bin: ascending in a bin, and bins by their first,
        so that the beginning of the rows is not where the long conversations are.

    Source: best-fit decreasing (Johnson 1973), at most 11/9 of the fewest bins plus a constant.
    """
    size_of_item = np.asarray(sizes, np.int64)
    order = np.argsort(-size_of_item, kind="stable")
    bins: list[list[int]] = []
    rooms: list[int] = []  # that open bins have left, sorted, each once: at most as many as there are positions
    bins_with: dict[int, list[int]] = {}  # heap of the bins that have so much left
    for item, size in zip(order.tolist(), size_of_item[order].tolist(), strict=True):
        assert 0 < size <= room
        place = bisect_left(rooms, size)
        if place < len(rooms):
            left = rooms[place]
            number = heappop(bins_with[left])
            if not bins_with[left]:
                del rooms[place]
        else:
            left, number = room, len(bins)
            bins.append([])
        bins[number].append(item)
        if left := left - size:
            heap = bins_with.setdefault(left, [])
            if not heap:
                insort(rooms, left)
            heappush(heap, number)
    for each in bins:
        each.sort()
    return sorted(bins)


def views_of(messages: Messages, turns: str) -> list[Messages]:
    """The conversations that are tuned on instead of one, by `turns`: itself, or some of its beginnings.

    Args:
        messages: A conversation with at least one scored answer.
        turns: See `SftPrepConfig.turns`.
    """
    if turns == "all":
        return [messages]
    ends = [number for number, message in enumerate(messages) if is_scored(message)]
    history: Messages = [
        {**message, "scored": False} if message["role"] == ASSISTANT else message for message in messages
    ]
    return [[*history[:end], messages[end]] for end in (ends if turns == "each" else ends[-1:])]


def _batched(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    batch: list[Conversation] = []
    characters = 0
    for conversation in conversations:
        batch.append(conversation)
        characters += sum(len(message["content"]) for message in conversation.messages)
        if len(batch) >= _BATCH_CONVERSATIONS or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
