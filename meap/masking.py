"""The method: which input tokens of a row are chosen, and what replaces them.

MEAP (arXiv 2502.07490, section 3) replaces a fraction of the *input* tokens by ``[MASK]``, keeps the labels clean, and
trains plain next-token prediction. A draw is an address, not a stream: (seed, epoch, sample id) alone decides which
of the tokens in scope are chosen. There is no state to checkpoint, and no worker or rank can get out of step. The
same body runs on numpy arrays (loader workers) and torch tensors (training process, CPU or CUDA), bit for bit.

Beyond the paper, a share of the chosen tokens may become a random token, or stay as it is, and a share of the rows may
be read right to left.

Invariants, one test per number:

1. Labels are the clean tokens: masking returns new inputs and never touches its arguments.
2. The count is exact: ``max(1, int(T * ratio))`` distinct positions of T in scope (official code), not Bernoulli.
3. Padding, tokens out of scope, protected ids and, unless `mask_last`, the last input token are never chosen.
4. The choice depends on the address and on what is in scope: not on batch, rank, worker, order, or other token values.
5. Both sites agree: numpy and torch give the same positions, tokens and directions bit for bit.
6. Ratio 0 is plain next-token prediction: inputs come back equal. So does a row of which no share is reversed.
7. Every feasible placement is equally likely: of single tokens, and of spans that do not overlap.
8. What becomes of a chosen token depends on its address, its place among the row's tokens, and itself alone. It is
   masked, random or kept by the shares, each token on its own.
9. A random token is any ordinary one but the one that it replaces, each equally likely; never a special token.
10. A reversed row is the direction token, never chosen, and the row from its end; its labels are those of the row from
   their end. Which rows are reversed depends on the address alone.

Single positions are the first distinct values of a stream of uniform indices; an index is ``word * n >> 32`` of a
32-bit word, uniform up to a relative 2**-16 for n <= 65,536. Spans are drawn as single positions among the slots that
remain when every span is shrunk to one slot, and then grown again, which makes every placement equally likely. Spans
lie among the choosable tokens: one may reach across a token that is out of scope. A random token is an index among the
ordinary ids, drawn alike. Words are those of `meap.philox`, for each purpose others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from meap.arrays import (
    Array,
    arange,
    cast_like,
    concatenate,
    copy_of,
    flip,
    full,
    is_numpy,
    like,
    place_in,
    repeat,
    torch_of,
    where,
)
from meap.philox import draw_words

__all__ = [
    "MaskRule",
    "choose_masked",
    "count_masked",
    "official_positions",
]

_POSITIONS, _SHORT_SPAN, _KIND, _RANDOM_TOKEN, _DIRECTION = range(5)
"""Purposes of a draw."""
_WORDS = 1 << 32
"""Values of a random word."""
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


@dataclass(frozen=True)
class MaskRule:
    """Which input tokens of a row are chosen, and what replaces them: all that a run fixes, for both sites.

    Args:
        mask_id: Id of the mask token.
        ratio: Share of the input tokens in scope to choose, in [0, 1).
        seed: The run's seed, in [0, 2**32).
        span_length: Tokens per span; 1 chooses single tokens.
        mask_last: Whether the last input token of a row may be chosen.
        protected_ids: Token ids that are never chosen; they do not count as input tokens in scope.
        random_share: Share of the chosen tokens that a random token replaces. What neither this nor `keep_share` takes
            is masked.
        keep_share: Share of the chosen tokens that stay as they are.
        num_ids: Number of ids, of which random tokens are drawn; only needed for these.
        special_ids: Ids that are never drawn.
        reversed_ratio: Share of the rows that are read right to left, in [0, 1].
        direction_id: Id of the token that begins them; only needed for these.
        later: Rules of later epochs, each with the first epoch in which it is in force, ascending; see `at`.

    Source: paper section 3 and Table 15 (spans); the counting rule is the official code's.
    """

    mask_id: int
    ratio: float
    seed: int
    span_length: int = 1
    mask_last: bool = False
    protected_ids: tuple[int, ...] = ()
    random_share: float = 0.0
    keep_share: float = 0.0
    num_ids: int = 0
    special_ids: tuple[int, ...] = ()
    reversed_ratio: float = 0.0
    direction_id: int | None = None
    later: tuple[tuple[int, MaskRule], ...] = ()

    def at(self, epoch: int) -> MaskRule:
        """The rule in force in an epoch, counted from 0."""
        return [self, *(rule for first, rule in self.later if first <= epoch)][-1]

    @property
    def depends_on_tokens(self) -> bool:
        """Whether the chosen positions of a row cannot be drawn from its address alone."""
        return bool(self.protected_ids)

    @property
    def changes_rows(self) -> bool:
        """Whether rows of any epoch are read in another way than as they are stored."""
        return self.ratio > 0.0 or self.reversed_ratio > 0.0 or any(rule.changes_rows for _, rule in self.later)

    @property
    def shows_choice(self) -> bool:
        """Whether a chosen token is always the mask token."""
        return not (self.random_share or self.keep_share)

    def is_reversed(self, sample_ids_B: Array, *, epoch: int) -> Array:
        """Which rows are read right to left: boolean (B,)."""
        return draw_words(sample_ids_B, 1, (self.seed, epoch), _DIRECTION)[:, 0] < round(self.reversed_ratio * _WORDS)

    def turn(self, input_ids_BT: Array, labels_BT: Array, sample_ids_B: Array, *, epoch: int) -> tuple[Array, Array]:
        """Inputs and shifted labels of rows (B, T), as they are read: some of them from their end; not changed."""
        if not self.reversed_ratio:
            return input_ids_BT, labels_BT
        is_reversed_B1 = self.is_reversed(sample_ids_B, epoch=epoch)[:, None]
        backwards_BT = flip(labels_BT)
        first_B1 = 0 * backwards_BT[:, :1] + self.direction_id
        behind_BT = cast_like(concatenate([first_B1, backwards_BT[:, :-1]]), input_ids_BT)
        return where(is_reversed_B1, behind_BT, input_ids_BT), where(is_reversed_B1, backwards_BT, labels_BT)

    def choose(
        self,
        sample_ids_B: Array,
        *,
        num_tokens: int,
        epoch: int,
        input_ids_BT: Array | None = None,
        in_scope_BT: Array | None = None,
        is_token_BT: Array | None = None,
    ) -> Array:
        """Choose positions of rows, as they are read: boolean (B, T).

        Args:
            sample_ids_B: Row numbers in the data set (B,), int64.
            num_tokens: Input tokens per row, T.
            epoch: Epoch number, from 0.
            input_ids_BT: Token ids (B, T), needed where the rule depends on tokens.
            in_scope_BT: Boolean (B, T), True where a token may be chosen; all may be where it is None.
            is_token_BT: Boolean (B, T), False at padding, which is out of scope; no padding where it is None.
        """
        for token_id in self.protected_ids:
            assert input_ids_BT is not None
            allowed_BT = input_ids_BT != token_id
            in_scope_BT = allowed_BT if in_scope_BT is None else in_scope_BT & allowed_BT
        if self.reversed_ratio:  # of which the first token is the direction
            is_reversed_B1 = self.is_reversed(sample_ids_B, epoch=epoch)[:, None]
            allowed_BT = ~is_reversed_B1 | (arange(num_tokens, like=sample_ids_B) > 0)
            in_scope_BT = allowed_BT if in_scope_BT is None else in_scope_BT & allowed_BT
        return choose_masked(
            sample_ids_B,
            num_tokens=num_tokens,
            ratio=self.ratio,
            seed=self.seed,
            epoch=epoch,
            span_length=self.span_length,
            mask_last=self.mask_last,
            in_scope_BT=in_scope_BT,
            is_token_BT=is_token_BT,
        )

    def replace(
        self,
        input_ids_BT: Array,
        chosen_BT: Array,
        sample_ids_B: Array,
        *,
        epoch: int,
        is_token_BT: Array | None = None,
    ) -> Array:
        """Replace chosen tokens: by the mask token, or by what the shares say.

        Args:
            input_ids_BT: Token ids (B, T); not changed.
            chosen_BT: What `choose` returned.
            sample_ids_B: Row numbers in the data set (B,), int64.
            epoch: Epoch number, from 0.
            is_token_BT: As `choose` was given it.

        Returns:
            Token ids (B, T), of the same type as `input_ids_BT`.
        """
        replaced_BT = copy_of(input_ids_BT)
        if self.shows_choice:
            replaced_BT[chosen_BT] = self.mask_id
            return replaced_BT

        def words_for(purpose: int) -> Array:
            words_BT = draw_words(sample_ids_B, input_ids_BT.shape[1], (self.seed, epoch), purpose)
            if is_token_BT is not None:  # padding does not count: on whichever side it stands, it changes nothing
                rows_B1 = arange(len(sample_ids_B), like=sample_ids_B)[:, None]
                words_BT = words_BT[rows_B1, is_token_BT.cumsum(1) - 1]
            return words_BT[chosen_BT]

        tokens = input_ids_BT[chosen_BT]
        drawn = self._random_tokens(tokens, words_for(_RANDOM_TOKEN)) if self.random_share else tokens
        if self.random_share < 1:
            kinds, changed = words_for(_KIND), 0 * tokens + self.mask_id
            unmasked = self.random_share + self.keep_share
            changed = where(kinds < round(unmasked * _WORDS), tokens, changed)
            drawn = where(kinds < round(self.random_share * _WORDS), drawn, changed)
        replaced_BT[chosen_BT] = drawn
        return replaced_BT

    def apply(
        self,
        input_ids_BT: Array,
        sample_ids_B: Array,
        *,
        epoch: int,
        in_scope_BT: Array | None = None,
        is_token_BT: Array | None = None,
    ) -> Array:
        """Choose input tokens and replace them, as `choose` and `replace` of the rule that is in force in the epoch do.

        Labels are the caller's and stay clean.

        Raises:
            ValueError: The ratio is outside [0, 1), or the span length is below 1.
        """
        rule = self.at(epoch)
        chosen_BT = rule.choose(
            sample_ids_B,
            num_tokens=input_ids_BT.shape[1],
            epoch=epoch,
            input_ids_BT=input_ids_BT,
            in_scope_BT=in_scope_BT,
            is_token_BT=is_token_BT,
        )
        return rule.replace(input_ids_BT, chosen_BT, sample_ids_B, epoch=epoch, is_token_BT=is_token_BT)

    def _random_tokens(self, tokens: Array, words: Array) -> Array:
        """For each word an ordinary token other than the one given."""
        ordinary = like(_ordinary_ids(self.num_ids, self.special_ids), words)
        most = ordinary.shape[0]
        places = place_in(ordinary, cast_like(tokens, ordinary))
        is_ordinary = ordinary[places.clip(max=most - 1)] == tokens
        # An ordinary token is left out: those after it move up.
        drawn = words * (most - 1 * is_ordinary) >> 32
        return cast_like(ordinary[drawn + 1 * (is_ordinary & (drawn >= places))], tokens)


@lru_cache(maxsize=8)
def _ordinary_ids(num_ids: int, special_ids: tuple[int, ...]) -> NDArray[np.int64]:
    return np.setdiff1d(np.arange(num_ids, dtype=np.int64), special_ids)


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
    short_B1 = draw_words(sample_ids_B, 1, key, _SHORT_SPAN) * spans_B1 >> 32
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
        words = draw_words(sample_ids_B, num_draws, key, _POSITIONS)
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
