"""Conversations -> rows: encode, cut to length, keep a share for validation, pack whole conversations into rows.

Packing is done here, once, for every epoch and every number of machines: a stored row is a sample, so that order,
elasticity and resumption are those of pre-training rows. The room that a masked copy takes is known here, since whether
a conversation gets one depends on the length of its answers only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datatrove.pipeline.base import PipelineStep
from numpy.typing import NDArray

from meap.config.sft_prep import SftPrepConfig
from meap.errors import DataError
from meap.prep.progress import Tally
from meap.prep.sft.messages import RecordError
from meap.prep.sft.records import BadRecords, Conversation
from meap.prep.sft.rendering import ChatTemplate, Rendered
from meap.prep.steps import split_of
from meap.schema import (
    ANSWER_COLUMN,
    COPIED_COLUMN,
    LENGTHS_COLUMN,
    TOKENS_COLUMN,
    TRAIN_SPLIT,
    VALIDATION_SPLIT,
    token_dtype,
)

__all__ = ["PackConversations", "SampleBatch", "pack_best_fit"]

CUT, DROPPED, COPIED = "conversations_cut", "conversations_dropped", "conversations_copied"
"""Counts that the manifest reports, by split: cut to length, left out since no answer was left, and copied."""


@dataclass(frozen=True)
class SampleBatch:
    """Some rows of one split, ready to be written."""

    split: str
    samples: list[dict[str, NDArray[Any]]]


@dataclass(frozen=True)
class _Fitted:
    """A conversation that is not longer than allowed."""

    tokens: NDArray[np.uint32]
    answer: NDArray[np.uint8]
    is_copied: bool

    @property
    def positions(self) -> int:
        return len(self.tokens) * (2 if self.is_copied else 1)


class PackConversations(PipelineStep):
    """Turns a task's conversations into rows; it holds all of them, as tokens, until the task's files are read.

    Args:
        template: Renders and encodes.
        tally: Where conversations and tokens are counted.
        bad: Where records that cannot be encoded are counted.
        config: Lengths, copies, held-out ratio and seed.
        seq_len: Positions of a row.
    """

    type = "PACK"
    name = "conversations"

    def __init__(
        self, template: ChatTemplate, tally: Tally, bad: BadRecords, *, config: SftPrepConfig, seq_len: int
    ) -> None:
        super().__init__()
        self.template = template
        self.tally = tally
        self.bad = bad
        self.config = config
        self.seq_len = seq_len

    def run(  # type: ignore[override]  # datatrove's NewType of a generator or None; rows leave this step
        self, data: Iterable[Conversation], rank: int = 0, world_size: int = 1
    ) -> Iterator[SampleBatch]:
        """Yield the rows of a task's conversations.

        Raises:
            BadInputError: There are too many records that cannot be encoded.
            DataError: A conversation contains the mask token's id.
        """
        del rank, world_size
        fitted: dict[str, list[_Fitted]] = {TRAIN_SPLIT: [], VALIDATION_SPLIT: []}
        for conversation in data:
            try:
                rendered = self.template.render(conversation.messages)
            except RecordError as error:
                self.bad.leave_out(conversation.file, conversation.number, str(error))
                continue
            self._refuse_mask_id(rendered, conversation)
            text = rendered.text.encode()
            split = split_of(text, self.config.heldout_ratio, self.config.seed)
            kept = self._fit(rendered, split)
            if kept is not None:
                fitted[split].append(kept)
                self.tally.text_bytes += len(text)
                self.tally.documents[split] += 1
                self.tally.tokens[split] += len(kept.tokens)
            self.tally.report()
        for split, conversations in fitted.items():
            sizes = [each.positions for each in conversations]
            rows = pack_best_fit(sizes, self.seq_len) if self.config.pack else [[n] for n in range(len(sizes))]
            if rows:
                yield SampleBatch(split, [self._sample([conversations[n] for n in row]) for row in rows])

    def _fit(self, rendered: Rendered, split: str) -> _Fitted | None:
        """The conversation cut to length, or None where nothing of its answers is left; counted either way."""
        limit = self.config.max_length
        if len(rendered.tokens) > limit:
            self.tally.counts[split, CUT] += 1
        tokens, answer = rendered.tokens[:limit], rendered.answer[:limit]
        num_scored = int(answer[1:].sum())  # nothing stands before the first token that could predict it
        if not num_scored:
            self.tally.counts[split, DROPPED] += 1
            return None
        is_copied = self.config.copies and num_scored > self.config.min_answer_tokens
        self.tally.counts[split, COPIED] += is_copied
        return _Fitted(tokens, answer, is_copied)

    def _sample(self, row: Sequence[_Fitted]) -> dict[str, NDArray[Any]]:
        dtype = token_dtype(self.template.tokenizer.vocab_size)
        return {
            TOKENS_COLUMN: np.concatenate([each.tokens for each in row]).astype(dtype),
            ANSWER_COLUMN: np.concatenate([each.answer for each in row]),
            LENGTHS_COLUMN: np.array([len(each.tokens) for each in row], np.uint32),
            COPIED_COLUMN: np.array([each.is_copied for each in row], np.uint8),
        }

    def _refuse_mask_id(self, rendered: Rendered, conversation: Conversation) -> None:
        tokenizer = self.template.tokenizer
        if (rendered.tokens == tokenizer.mask_id).any():
            raise DataError(
                f"{conversation.file}:{conversation.number} contains the mask token {tokenizer.mask_token!r} "
                f"(id {tokenizer.mask_id}), which is a word of the tokenizer's own vocabulary: choose a "
                "tokenizer.mask_token that the vocabulary lacks"
            )


def pack_best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Pack items into bins of `room`: best fit, largest first, ties by number; a function of its arguments alone.

    Args:
        sizes: Size of each item, at most `room`.
        room: Size of a bin.

    Returns:
        Numbers of the items of each bin, every item in exactly one bin.

    Source: best-fit decreasing (Johnson 1973), at most 11/9 of the fewest bins plus a constant.
    """
    bins: list[list[int]] = []
    open_bins: list[tuple[int, int]] = []  # (room left, bin), sorted
    for item in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        assert 0 < sizes[item] <= room
        place = bisect_left(open_bins, (sizes[item], 0))
        if place < len(open_bins):
            left, number = open_bins.pop(place)
        else:
            left, number = room, len(bins)
            bins.append([])
        bins[number].append(item)
        if left > sizes[item]:
            insort(open_bins, (left - sizes[item], number))
    return bins
