"""Which positions of a row are chosen: drawn from the row's address, in the same way by numpy and torch.

Single positions are the first distinct values of a stream of uniform indices; an index is ``word * n >> 32`` of a
32-bit word, uniform up to a relative 2**-16 for n <= 65,536. Spans are drawn as single positions among the slots that
remain when every span is shrunk to one slot, and then grown again, which makes every placement equally likely. Spans
lie among the choosable tokens: one may reach across a token that is out of scope. Words are those of
`meap.philox`. The official code's positions stand beside them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from meap.arrays import Array, arange, concatenate, full, is_numpy, like, repeat, torch_of
from meap.philox import POSITIONS, SHORT_SPAN, draw_words

__all__ = ["choose_masked", "count_masked", "official_positions"]

_OFFICIAL_PATTERNS = 51
_OFFICIAL_FIRST_SEED = 50


def count_masked(num_tokens: int, ratio: float) -> int:
    """How many of `num_tokens` input tokens are masked at `ratio`: exact, at least one unless the ratio is 0.

    Args:
        num_tokens: Input tokens in scope; for a pre-training row all of them (4,096 at 0.15 gives 614).
        ratio: Share of tokens to mask, in [0, 1).

    Raises:
        ValueError: `ratio` is outside [0, 1).
    """
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"masking ratio {ratio} is out of range: it must be in [0, 1)")
    return max(1, int(num_tokens * ratio)) if ratio > 0.0 and num_tokens > 0 else 0


def choose_masked(
    sample_ids_B: Array,
    *,
    num_tokens: int,
    ratio: float,
    seed: int,
    epoch: int,
    span_length: int = 1,
    mask_last: bool = False,
    in_scope_BT: Array | None = None,
    is_token_BT: Array | None = None,
) -> Array:
    """Choose the masked input positions of each row, from the address alone.

    Args:
        sample_ids_B: Row numbers (B,), int64; a numpy array or torch tensor, which decides the library used.
        num_tokens: Input tokens per row, T.
        ratio: Share of the tokens in scope to mask, in [0, 1).
        seed: The run's seed, in [0, 2**32).
        epoch: Epoch number, from 0.
        span_length: Tokens per span, at least 1; where the count does not divide, one span is shorter.
        mask_last: Whether the last input token of a row may be chosen.
        in_scope_BT: Boolean (B, T), True where a token may be masked; all may be where it is None.
        is_token_BT: Boolean (B, T), False at padding, which is out of scope; no padding where it is None.

    Returns:
        Boolean (B, T), True at masked positions.

    Raises:
        ValueError: `ratio` is outside [0, 1), or `span_length` is below 1.
    """
    if span_length < 1:
        raise ValueError(f"span length {span_length} is too small: it must be at least 1")
    num_rows = sample_ids_B.shape[0]
    key = (seed, epoch)
    if is_token_BT is not None:
        in_scope_BT = is_token_BT if in_scope_BT is None else in_scope_BT & is_token_BT
    if in_scope_BT is None:
        num_choices = num_tokens if mask_last else num_tokens - 1
        num_chosen = min(count_masked(num_tokens, ratio), num_choices)
        if num_chosen == 0:
            return full((num_rows, num_tokens), False, like=sample_ids_B)
        drawn = _draw(sample_ids_B, [num_choices] * num_rows, [num_chosen] * num_rows, key, span_length)
        return drawn if mask_last else _append_false(drawn)

    choosable_BT = in_scope_BT if mask_last else _without_last(in_scope_BT, is_token_BT)
    scope_sizes, choices = ([int(size) for size in each.sum(1)] for each in (in_scope_BT, choosable_BT))
    chosen = [min(count_masked(size, ratio), most) for size, most in zip(scope_sizes, choices, strict=True)]
    if max(chosen, default=0) == 0:
        return full((num_rows, num_tokens), False, like=sample_ids_B)
    # The draw is among ranks: the r-th choosable position of a row is masked where rank r was drawn.
    drawn = _draw(sample_ids_B, choices, chosen, key, span_length)
    num_choices_B1 = like(np.array(choices), sample_ids_B)[:, None]
    chosen_BT = full((num_rows, num_tokens), False, like=sample_ids_B)
    chosen_BT[choosable_BT] = drawn[arange(drawn.shape[1], like=sample_ids_B) < num_choices_B1]
    return chosen_BT


@lru_cache(maxsize=2 * _OFFICIAL_PATTERNS)
def _official_pattern(pattern_seed: int, num_choices: int, num_chosen: int) -> tuple[int, ...]:
    return tuple(sorted(random.Random(pattern_seed).sample(range(num_choices), num_chosen)))  # noqa: S311


def official_positions(step: int, *, num_tokens: int, ratio: float) -> tuple[int, ...]:
    """The positions that the official code masks at a training step, in every row alike, ascending.

    Their shuffle is reseeded with ``50 + step % 51``, so that a whole run has 51 patterns (scitix/MEAP at 0f5e837).

    Args:
        step: Training step, from 0.
        num_tokens: Input tokens per row; the last is never masked.
        ratio: Share of tokens to mask, in [0, 1).
    """
    num_choices = num_tokens - 1
    num_chosen = min(count_masked(num_tokens, ratio), num_choices)
    return _official_pattern(_OFFICIAL_FIRST_SEED + step % _OFFICIAL_PATTERNS, num_choices, num_chosen)


def _draw(
    sample_ids_B: Array,
    choices: Sequence[int],
    chosen: Sequence[int],
    key: tuple[int, int],
    span_length: int,
) -> Array:
    """For each row mark `chosen` of its `choices`, in spans: boolean (B, max choices), False beyond a row's choices."""
    if span_length == 1:
        return _draw_distinct(sample_ids_B, choices, chosen, key)
    spans = [-(-count // span_length) for count in chosen]
    slots = [most - count + number for most, count, number in zip(choices, chosen, spans, strict=True)]
    slots_BS = _draw_distinct(sample_ids_B, slots, spans, key)

    # Grow the spans again: a free slot is one position wide, a span as wide as it is long, and one span is shorter.
    column = like(np.array([choices, chosen, slots, spans]), sample_ids_B)[:, :, None]
    choices_B1, chosen_B1, slots_B1, spans_B1 = column
    short_B1 = draw_words(sample_ids_B, 1, key, SHORT_SPAN) * spans_B1 >> 32
    short_length_B1 = chosen_B1 - (spans_B1 - 1) * span_length
    is_short_BS = (slots_BS.cumsum(1) - 1 == short_B1) & slots_BS
    slot_1S = arange(slots_BS.shape[1], like=sample_ids_B)[None, :]
    width_BS = (slot_1S < slots_B1) + slots_BS * (span_length - 1) + is_short_BS * (short_length_B1 - span_length)
    # A last slot fills every row up to the longest, so that all rows end where the next begins.
    most = max(choices)
    width_BS = concatenate([width_BS, most - choices_B1])
    grown = repeat(_append_false(slots_BS).reshape(-1), width_BS.reshape(-1))
    return grown.reshape(len(choices), most)


def _draw_distinct(sample_ids_B: Array, choices: Sequence[int], chosen: Sequence[int], key: tuple[int, int]) -> Array:
    """For each row draw `chosen` distinct values below `choices`: boolean (B, max choices), True where drawn."""
    num_rows, width, fewest = len(choices), max(choices), min(chosen)
    num_draws = max(map(_enough_draws, choices, chosen))
    choices_B1, chosen_B1 = like(np.array([choices, chosen]), sample_ids_B)[:, :, None]
    while True:
        words = draw_words(sample_ids_B, num_draws, key, POSITIONS)
        slots = words * choices_B1 >> 32
        if num_rows > 1:
            slots = slots + arange(num_rows, like=sample_ids_B)[:, None] * width
        # The first `fewest` draws hold no more distinct values than any row needs, so their order does not matter.
        drawn = full((num_rows * width,), False, like=sample_ids_B)
        drawn[slots[:, :fewest]] = True
        missing_B1 = chosen_B1 - drawn.reshape(num_rows, width).sum(1)[:, None]
        slots = slots[:, fewest:]
        is_new = _first_occurrences(slots, num_rows * width) & ~drawn[slots]
        order = is_new.cumsum(1)
        if bool((order[:, -1:] >= missing_B1).all()):
            break
        num_draws *= 2  # a longer prefix of the same stream: what was drawn before stays drawn
    drawn[slots[is_new & (order <= missing_B1)]] = True
    return drawn.reshape(num_rows, width)


@lru_cache(maxsize=4096)
def _enough_draws(choices: int, chosen: int) -> int:
    """Uniform draws below `choices` that almost surely hold `chosen` distinct values (coupon collector, 6 sigma)."""
    if chosen == 0:
        return 1
    left = choices - chosen + 1
    mean = choices * math.log(choices / left) + choices / left
    deviation = math.sqrt(choices * chosen) / left + math.sqrt(mean)
    return min(math.ceil(mean + 6 * deviation * (mean - chosen + 1) / mean) + 8, 16 * choices)


def _append_false(chosen: Array) -> Array:
    """One more column, of False."""
    return concatenate([chosen, full((chosen.shape[0], 1), False, like=chosen)])


def _without_last(in_scope: Array, is_token: Array | None) -> Array:
    """False also at the last token of each row."""
    if is_token is None:
        return _append_false(in_scope[:, :-1])
    return in_scope & (is_token.cumsum(1) < is_token.sum(1)[:, None])


def _first_occurrences(slots: Array, num_slots: int) -> Array:
    """True where a value of `slots` (B, N) appears for the first time; values of different rows are disjoint."""
    flat = slots.reshape(-1)
    order = arange(flat.shape[0], like=slots)
    if is_numpy(slots):
        first = np.empty(num_slots, np.int64)
        first[flat[::-1]] = order[::-1]  # of repeated indices numpy keeps the last assignment
    else:
        first = torch_of().full((num_slots,), flat.shape[0], device=slots.device)
        first.scatter_reduce_(0, flat, order, "amin")
    return (first[flat] == order).reshape(slots.shape)
