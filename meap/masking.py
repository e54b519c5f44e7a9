"""The method: which input tokens of a row are replaced by the mask token.

MEAP (arXiv 2502.07490, section 3) replaces a fraction of the *input* tokens by ``[MASK]``, keeps the labels clean, and
trains plain next-token prediction. A draw is an address, not a stream: (seed, epoch, sample id) alone decides which
of the tokens in scope are masked. There is no state to checkpoint, and no worker or rank can get out of step. The
same body runs on numpy arrays (loader workers) and torch tensors (training process, CPU or CUDA), bit for bit.

Invariants, one test per number:

1. Labels are the clean tokens: masking returns new inputs and never touches its arguments.
2. The count is exact: ``max(1, int(T * ratio))`` distinct positions of T in scope (official code), not Bernoulli.
3. Padding, tokens out of scope, protected ids and, unless `mask_last`, the last input token are never chosen.
4. The choice depends on the address and on what is in scope: not on batch, rank, worker, order, or other token values.
5. Both sites agree: numpy and torch give the same positions bit for bit.
6. Ratio 0 is plain next-token prediction: inputs come back equal.
7. Every feasible placement is equally likely: of single tokens, and of spans that do not overlap.

Single positions are the first distinct values of a stream of uniform indices; an index is ``word * n >> 32`` of a
32-bit word, uniform up to a relative 2**-16 for n <= 65,536. Spans are drawn as single positions among the slots that
remain when every span is shrunk to one slot, and then grown again, which makes every placement equally likely. Spans
lie among the choosable tokens: one may reach across a token that is out of scope.

Words come from Philox4x64-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11), keyed
by (seed, epoch) and counted by (block, sample id, 1, purpose). numpy has it in C; on tensors `philox4x64` computes
the same.
"""

from __future__ import annotations

import math
import random
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MaskRule",
    "choose_masked",
    "count_masked",
    "official_positions",
    "philox4x64",
]

Array: TypeAlias = Any
"""A numpy array or a torch tensor."""

_POSITIONS, _SHORT_SPAN = 0, 1
"""Purposes of a draw: the last word of the counter."""
_VIEW = 1
"""The word before it: that of every draw so far, and so part of every mask."""

_LOW_32 = 0xFFFFFFFF
_PHILOX_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_PHILOX_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_PHILOX_ROUNDS = 10
_WORDS_PER_BLOCK = 8
"""32-bit words: four of 64 bits."""

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
    """Which input tokens of a row are masked: all that a run fixes, for both sites.

    Args:
        mask_id: Id of the mask token.
        ratio: Share of the input tokens in scope to mask, in [0, 1).
        seed: The run's seed, in [0, 2**32).
        span_length: Tokens per span; 1 masks single tokens.
        mask_last: Whether the last input token of a row may be chosen.
        protected_ids: Token ids that are never masked; they do not count as input tokens in scope.

    Source: paper section 3 and Table 15 (spans); the counting rule is the official code's.
    """

    mask_id: int
    ratio: float
    seed: int
    span_length: int = 1
    mask_last: bool = False
    protected_ids: tuple[int, ...] = ()

    @property
    def depends_on_tokens(self) -> bool:
        """Whether the mask of a row cannot be drawn from its address alone."""
        return bool(self.protected_ids)

    def choose(self, sample_ids_B: Array, *, num_tokens: int, epoch: int, **scope: Array | None) -> Array:
        """Choose the masked positions of rows (B, T) as `choose_masked` does, which also describes `scope`."""
        return choose_masked(
            sample_ids_B,
            num_tokens=num_tokens,
            ratio=self.ratio,
            seed=self.seed,
            epoch=epoch,
            span_length=self.span_length,
            mask_last=self.mask_last,
            **scope,
        )

    def apply(
        self,
        input_ids_BT: Array,
        sample_ids_B: Array,
        *,
        epoch: int,
        in_scope_BT: Array | None = None,
        is_token_BT: Array | None = None,
    ) -> Array:
        """Replace the chosen input tokens by the mask token; labels are the caller's and stay clean.

        Args:
            input_ids_BT: Token ids (B, T), a numpy array or torch tensor; not changed.
            sample_ids_B: Row numbers in the data set (B,), int64, of the same library and device.
            epoch: Epoch number, from 0.
            in_scope_BT: Boolean (B, T), True where a token may be masked; all may be where it is None.
            is_token_BT: Boolean (B, T), False at padding, which is out of scope; no padding where it is None.

        Returns:
            Masked token ids (B, T), of the same type as `input_ids_BT`.

        Raises:
            ValueError: The ratio is outside [0, 1), or the span length is below 1.
        """
        for token_id in self.protected_ids:
            allowed_BT = input_ids_BT != token_id
            in_scope_BT = allowed_BT if in_scope_BT is None else in_scope_BT & allowed_BT
        scope = {"in_scope_BT": in_scope_BT, "is_token_BT": is_token_BT}
        masked_BT = _copy(input_ids_BT)
        masked_BT[self.choose(sample_ids_B, num_tokens=input_ids_BT.shape[1], epoch=epoch, **scope)] = self.mask_id
        return masked_BT


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
            return _full((num_rows, num_tokens), False, like=sample_ids_B)
        drawn = _draw(sample_ids_B, [num_choices] * num_rows, [num_chosen] * num_rows, key, span_length)
        return drawn if mask_last else _append_false(drawn)

    choosable_BT = in_scope_BT if mask_last else _without_last(in_scope_BT, is_token_BT)
    scope_sizes, choices = ([int(size) for size in each.sum(1)] for each in (in_scope_BT, choosable_BT))
    chosen = [min(count_masked(size, ratio), most) for size, most in zip(scope_sizes, choices, strict=True)]
    if max(chosen, default=0) == 0:
        return _full((num_rows, num_tokens), False, like=sample_ids_B)
    # The draw is among ranks: the r-th choosable position of a row is masked where rank r was drawn.
    drawn = _draw(sample_ids_B, choices, chosen, key, span_length)
    num_choices_B1 = _like(np.array(choices), sample_ids_B)[:, None]
    chosen_BT = _full((num_rows, num_tokens), False, like=sample_ids_B)
    chosen_BT[choosable_BT] = drawn[_arange(drawn.shape[1], like=sample_ids_B) < num_choices_B1]
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


def philox4x64(counters: Sequence[Array], key: tuple[int, int], rounds: int = _PHILOX_ROUNDS) -> tuple[Array, ...]:
    """The Philox4x64 counter-based generator (Salmon et al., SC'11), on int64 arrays that hold 64-bit words.

    Args:
        counters: Four int64 arrays of the same shape; bit patterns of unsigned words.
        key: Two unsigned words.
        rounds: 10 is the published default.

    Returns:
        Four int64 arrays; bit patterns of unsigned words.
    """
    word0, word1, word2, word3 = counters
    key0, key1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(word0, _PHILOX_MULTIPLIERS[0])
        high1, low1 = _multiply(word2, _PHILOX_MULTIPLIERS[1])
        word0, word1, word2, word3 = high1 ^ word1 ^ _signed(key0), low1, high0 ^ word3 ^ _signed(key1), low0
        key0, key1 = key0 + _PHILOX_WEYL[0], key1 + _PHILOX_WEYL[1]
    return word0, word1, word2, word3


def _multiply(words: Array, multiplier: int) -> tuple[Array, Array]:
    """High and low 64 bits of unsigned products, from 32-bit halves; int64 wraps around and keeps the low 64 bits."""
    low, high = words & _LOW_32, words >> 32 & _LOW_32
    by_low, by_high = multiplier & _LOW_32, multiplier >> 32
    low_low, low_high, high_low = low * by_low, low * by_high, high * by_low
    carry = (low_low >> 32 & _LOW_32) + (low_high & _LOW_32) + (high_low & _LOW_32)
    upper = high * by_high + (low_high >> 32 & _LOW_32) + (high_low >> 32 & _LOW_32) + (carry >> 32)
    return upper, words * _signed(multiplier)


def _signed(word: int) -> int:
    """An unsigned 64-bit word as the int64 of the same bits."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


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
    column = _like(np.array([choices, chosen, slots, spans]), sample_ids_B)[:, :, None]
    choices_B1, chosen_B1, slots_B1, spans_B1 = column
    short_B1 = _draw_words(sample_ids_B, 1, key, _SHORT_SPAN) * spans_B1 >> 32
    short_length_B1 = chosen_B1 - (spans_B1 - 1) * span_length
    is_short_BS = (slots_BS.cumsum(1) - 1 == short_B1) & slots_BS
    slot_1S = _arange(slots_BS.shape[1], like=sample_ids_B)[None, :]
    width_BS = (slot_1S < slots_B1) + slots_BS * (span_length - 1) + is_short_BS * (short_length_B1 - span_length)
    # A last slot fills every row up to the longest, so that all rows end where the next begins.
    most = max(choices)
    width_BS = _concatenate([width_BS, most - choices_B1])
    grown = _repeat(_append_false(slots_BS).reshape(-1), width_BS.reshape(-1))
    return grown.reshape(len(choices), most)


def _draw_distinct(sample_ids_B: Array, choices: Sequence[int], chosen: Sequence[int], key: tuple[int, int]) -> Array:
    """For each row draw `chosen` distinct values below `choices`: boolean (B, max choices), True where drawn."""
    num_rows, width, fewest = len(choices), max(choices), min(chosen)
    num_draws = max(map(_enough_draws, choices, chosen))
    choices_B1, chosen_B1 = _like(np.array([choices, chosen]), sample_ids_B)[:, :, None]
    while True:
        words = _draw_words(sample_ids_B, num_draws, key, _POSITIONS)
        slots = words * choices_B1 >> 32
        if num_rows > 1:
            slots = slots + _arange(num_rows, like=sample_ids_B)[:, None] * width
        # The first `fewest` draws hold no more distinct values than any row needs, so their order does not matter.
        drawn = _full((num_rows * width,), False, like=sample_ids_B)
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


def _draw_words(sample_ids_B: Array, num_words: int, key: tuple[int, int], purpose: int) -> Array:
    """Uniform 32-bit words (B, num_words), as int64: low and high halves of the 64-bit words of blocks 1, 2, ..."""
    num_blocks = -(-num_words // _WORDS_PER_BLOCK)
    if _is_numpy(sample_ids_B):
        rows = [_numpy_words(int(sample), num_blocks, key, purpose) for sample in sample_ids_B]
        return np.concatenate(rows).reshape(len(rows), -1)[:, :num_words].astype(np.int64)
    blocks = _arange(num_blocks, like=sample_ids_B)[None, :] + 1
    zeros = (blocks * 0) + (sample_ids_B[:, None] * 0)
    lanes = philox4x64((zeros + blocks, zeros + sample_ids_B[:, None], zeros + _VIEW, zeros + purpose), key)
    words = _torch().stack(lanes, -1)  # (B, N, 4)
    halves = _torch().stack((words & _LOW_32, words >> 32 & _LOW_32), -1)  # (B, N, 4, 2)
    return halves.reshape(sample_ids_B.shape[0], -1)[:, :num_words]


class _Generator(threading.local):
    """numpy's Philox4x64-10, one per thread; setting its state is several times cheaper than making another."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.state: Any = self.philox.state
        """At the end of its buffer, so that the next word is computed."""


_generator = _Generator()


def _numpy_words(sample: int, num_blocks: int, key: tuple[int, int], purpose: int) -> NDArray[np.uint32]:
    state = _generator.state["state"]
    # numpy increments the counter before it computes a block, so the counter starts at 0 for block 1.
    state["counter"][:] = 0, sample, _VIEW, purpose
    state["key"][:] = key
    _generator.philox.state = _generator.state
    words = _generator.philox.random_raw(4 * num_blocks)
    return words.astype("<u8", copy=False).view("<u4")


# Operations that numpy and torch spell differently. torch is never imported here: a caller with tensors has done so.


def _is_numpy(array: Array) -> bool:
    return isinstance(array, np.ndarray)


def _torch() -> Any:
    return sys.modules["torch"]


def _copy(array: Array) -> Array:
    return array.copy() if _is_numpy(array) else array.clone()


def _arange(stop: int, *, like: Array) -> Array:
    return np.arange(stop, dtype=np.int64) if _is_numpy(like) else _torch().arange(stop, device=like.device)


def _full(shape: tuple[int, ...], value: bool, *, like: Array) -> Array:
    return np.full(shape, value) if _is_numpy(like) else _torch().full(shape, value, device=like.device)


def _like(values: NDArray[Any], like: Array) -> Array:
    return values if _is_numpy(like) else _torch().as_tensor(values, device=like.device)


def _concatenate(columns: Sequence[Array]) -> Array:
    return np.concatenate(columns, 1) if _is_numpy(columns[0]) else _torch().cat(tuple(columns), 1)


def _repeat(values: Array, times: Array) -> Array:
    return np.repeat(values, times) if _is_numpy(values) else _torch().repeat_interleave(values, times)


def _append_false(chosen: Array) -> Array:
    """One more column, of False."""
    return _concatenate([chosen, _full((chosen.shape[0], 1), False, like=chosen)])


def _without_last(in_scope: Array, is_token: Array | None) -> Array:
    """False also at the last token of each row."""
    if is_token is None:
        return _append_false(in_scope[:, :-1])
    return in_scope & (is_token.cumsum(1) < is_token.sum(1)[:, None])


def _first_occurrences(slots: Array, num_slots: int) -> Array:
    """True where a value of `slots` (B, N) appears for the first time; values of different rows are disjoint."""
    flat = slots.reshape(-1)
    order = _arange(flat.shape[0], like=slots)
    if _is_numpy(slots):
        first = np.empty(num_slots, np.int64)
        first[flat[::-1]] = order[::-1]  # of repeated indices numpy keeps the last assignment
    else:
        first = _torch().full((num_slots,), flat.shape[0], device=slots.device)
        first.scatter_reduce_(0, flat, order, "amin")
    return (first[flat] == order).reshape(slots.shape)
