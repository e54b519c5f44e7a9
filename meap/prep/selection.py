"""Chooses documents by their length: a bound on tokens, and a smallest share of them in long documents.

For context extension, short documents are left out until the long ones have the wanted share of each source, as in Fu
et al., "Data Engineering for Scaling Language Models to 128K Context" (2024): from about 30 % to about 70 % of
the tokens in documents of 4,096 tokens and more, with the shares of the sources unchanged. Their code keeps a short
document with a probability of 0.1, which gives each source another share; here the share is set, and kept exactly:

    a long document is taken; a short one of n tokens is taken if short + n <= (1 - share) * (short + n + long)

where short and long are the tokens taken so far. So the share holds at every moment, the order stays, and nothing is
random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from meap.config.prep import LongConfig, PrepStreamConfig
from meap.errors import BadInputError
from meap.prep.inputs import InputFiles
from meap.prep.progress import Tally
from meap.schema import TRAIN_SPLIT

__all__ = ["BEYOND_MAX", "LONG_TOKENS", "SHORT_LEFT_OUT", "Selection", "SelectionRule", "describe_selection"]

BEYOND_MAX = "documents_beyond_max_tokens"
LONG_TOKENS = "tokens_in_long_documents"
SHORT_LEFT_OUT = "short_documents_left_out"
_ALL_STREAMS = ""
_SHORT_TOKENS_LEFT_OUT = "tokens_in_short_documents_left_out"


@dataclass(frozen=True)
class SelectionRule:
    """The rule of a job."""

    inputs: InputFiles
    """Of the whole job: each task that reads training files has its part of `max_tokens`."""
    long: LongConfig = field(default_factory=LongConfig)
    max_tokens: int | None = None
    """Of the train split, in all streams and tasks."""
    streams: Mapping[str, PrepStreamConfig] = field(default_factory=dict[str, PrepStreamConfig])
    """How `max_tokens` is divided among streams, by name; empty if it is not."""

    @property
    def is_on(self) -> bool:
        """Whether it leaves out anything."""
        return self.long.share > 0 or self.max_tokens is not None

    def of_task(self, task: int, tasks: int, tally: Tally) -> Selection:
        """The rule of task `task` of `tasks`.

        Args:
            task: Its number.
            tasks: How many there are.
            tally: Where left-out documents are counted.
        """
        part = self.inputs.share_of_task(task, tasks)
        if self.max_tokens is None or part is None:
            return Selection(self.long, None, tally)
        index, of = part
        weights = {name: Fraction(str(stream.proportion)) for name, stream in self.streams.items()}
        weights = weights or {_ALL_STREAMS: Fraction(1)}
        totals = {name: int(self.max_tokens * weight / sum(weights.values())) for name, weight in weights.items()}
        room = {name: total * (index + 1) // of - total * index // of for name, total in totals.items()}
        return Selection(self.long, room, tally)


class Selection:
    """The documents that a task has taken so far; see `SelectionRule`.

    Args:
        long: The share of long documents.
        room: Tokens of the train split that may still be taken, by stream or for `_ALL_STREAMS`; None for any number.
        tally: See `SelectionRule.of_task`.
    """

    def __init__(self, long: LongConfig, room: dict[str, int] | None, tally: Tally) -> None:
        self._min_tokens = long.min_tokens
        self._short_share = 1 - Fraction(str(long.share))  # 0.7 as it is written
        self._room = room
        self._full = {name for name, left in (room or {}).items() if not left}
        self._short: Counter[str] = Counter()
        self._long: Counter[str] = Counter()
        self._tally = tally  # not its counts, which the reader replaces

    @property
    def is_complete(self) -> bool:
        """Whether no more documents will be taken for training, so that reading can stop."""
        return self._room is not None and len(self._full) == len(self._room)

    def takes(self, part: str, stream: str, split: str, num_tokens: int, place: tuple[str, int]) -> bool:
        """Whether a document is taken; counts it either way.

        Args:
            part: Folder of the output it would go to; the share of long documents is kept in each.
            stream: Its stream.
            split: Its split; only train's tokens are bounded.
            num_tokens: Its tokens, BOS and EOS included.
            place: File and line, for error messages.

        Raises:
            BadInputError: Its stream has no share of the bound.
        """
        is_long = num_tokens >= self._min_tokens
        if not is_long and not self._has_room_for_short(part, num_tokens):
            self._tally.counts[part, SHORT_LEFT_OUT] += 1
            self._tally.counts[part, _SHORT_TOKENS_LEFT_OUT] += num_tokens
            return False
        if split == TRAIN_SPLIT and not self._fits(stream, num_tokens, place):
            self._tally.counts[part, BEYOND_MAX] += 1
            return False
        (self._long if is_long else self._short)[part] += num_tokens
        if is_long and self._short_share < 1:
            self._tally.counts[part, LONG_TOKENS] += num_tokens
        return True

    def _has_room_for_short(self, part: str, num_tokens: int) -> bool:
        short = self._short[part] + num_tokens
        return short * self._short_share.denominator <= (short + self._long[part]) * self._short_share.numerator

    def _fits(self, stream: str, num_tokens: int, place: tuple[str, int]) -> bool:
        if self._room is None:
            return True
        name = _ALL_STREAMS if _ALL_STREAMS in self._room else stream
        if name not in self._room:
            raise BadInputError(
                f"{place[0]}:{place[1]} is of the stream {stream!r}, which has no share of max_tokens: add "
                f"streams.{stream}.proportion, where 0 leaves it out; there are {', '.join(self._room)}"
            )
        if name in self._full:
            return False
        if num_tokens > self._room[name]:
            self._full.add(name)  # closed from here on: taking what still fits would favour short documents
            return False
        self._room[name] -= num_tokens
        return True


def describe_selection(counts: Mapping[str, int], *, tokens: int, train_tokens: int, max_tokens: int | None) -> str:
    """What was left out, for the summary; empty if nothing was.

    Args:
        counts: Of all parts of the output, by name.
        tokens: How many were taken.
        train_tokens: How many of them for training.
        max_tokens: Their bound.
    """
    said: list[str] = []
    if LONG_TOKENS in counts or SHORT_LEFT_OUT in counts:
        share = counts.get(LONG_TOKENS, 0) / max(1, tokens)
        said.append(
            f"{share:.1%} of the tokens in long documents, {counts.get(SHORT_LEFT_OUT, 0):,} short ones left out"
        )
    if max_tokens is not None:
        said.append(f"{train_tokens:,} of max_tokens={max_tokens:,} for training")
    return ", ".join(said)
