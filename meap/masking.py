"""The method: which input tokens of a row are replaced by the mask token.

MEAP (arXiv 2502.07490, section 3) replaces a fraction of the *input* tokens by ``[MASK]``, keeps the labels clean, and
trains plain next-token prediction. A draw is an address, not a stream: (seed, epoch, sample id, view) alone decides the
positions, so there is no state to checkpoint and nothing that a worker or a rank could get out of step. The same body
runs on numpy arrays (loader workers) and torch tensors (training process, CPU or CUDA), bit for bit.

Invariants, one test per number:

1. Labels are the clean tokens: masking returns new inputs and never touches its arguments.
2. The count is exact: ``max(1, int(T * ratio))`` distinct positions of T in scope (official code), not Bernoulli.
3. Protected ids and, unless `mask_last`, the last input position are never chosen.
4. The choice depends on the address alone: not on batch, rank, worker, order, or the token values.
5. Both sites agree: numpy and torch give the same positions bit for bit.
6. The first view is clean: view 0 is never masked.
7. Ratio 0 is plain next-token prediction: inputs come back equal.
8. Every set of positions is equally likely: position frequencies are flat.

Positions are the first distinct values of a stream of uniform indices, drawn from Philox4x32-10 (Salmon, Moraes, Dror,
Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11) keyed by the seed and counted by the rest of the address.
An index is ``word * n >> 32`` of a 32-bit word, which is uniform up to a relative 2**-16 for n <= 65,536.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLEAN_VIEW", "MASKED_VIEW", "choose_masked", "count_masked", "mask_inputs", "philox4x32"]

Array: TypeAlias = Any
"""A numpy array or a torch tensor."""

CLEAN_VIEW = 0
MASKED_VIEW = 1

_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)
_PHILOX_ROUNDS = 10
_WORDS_PER_BLOCK = 4
_LOW_32 = 0xFFFFFFFF


def count_masked(num_tokens: int, ratio: float) -> int:
    """How many of `num_tokens` input tokens are masked at `ratio`: exact, at least one unless the ratio is 0.

    Args:
        num_tokens: Input tokens in scope; for a pre-training row all of them (4,096 at 0.15 gives 614).
        ratio: Share of tokens to mask, in [0, 1).
    """
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"masking ratio {ratio} is out of range: it must be in [0, 1)")
    return max(1, int(num_tokens * ratio)) if ratio > 0.0 and num_tokens > 0 else 0


def mask_inputs(
    input_ids_BT: Array,
    sample_ids_B: Array,
    *,
    mask_id: int,
    ratio: float,
    seed: int,
    epoch: int,
    view: int = MASKED_VIEW,
    mask_last: bool = False,
    protected_ids: Sequence[int] = (),
) -> Array:
    """Replace the chosen input tokens by the mask token; labels are the caller's and stay clean.

    Args:
        input_ids_BT: Token ids (B, T), a numpy array or torch tensor; not changed.
        sample_ids_B: Row numbers in the data set (B,), int64, of the same library and device.
        mask_id: Id of the mask token.
        ratio: Share of input tokens to mask, in [0, 1).
        seed: The run's seed, in [0, 2**32).
        epoch: Epoch number, from 0.
        view: `CLEAN_VIEW` is returned unmasked; pre-training has the masked view only.
        mask_last: Whether the last input position may be chosen.
        protected_ids: Token ids that are never masked; they do not count as input tokens in scope.

    Returns:
        Masked token ids (B, T), of the same type as `input_ids_BT`.

    Raises:
        ValueError: `ratio` is outside [0, 1).

    Source: paper section 3; the counting rule is the official code's.
    """
    in_scope_BT = None
    for token_id in protected_ids:
        allowed_BT = input_ids_BT != token_id
        in_scope_BT = allowed_BT if in_scope_BT is None else in_scope_BT & allowed_BT
    chosen_BT = choose_masked(
        sample_ids_B,
        num_tokens=input_ids_BT.shape[1],
        ratio=ratio,
        seed=seed,
        epoch=epoch,
        view=view,
        mask_last=mask_last,
        in_scope_BT=in_scope_BT,
    )
    masked_BT = _copy(input_ids_BT)
    masked_BT[chosen_BT] = mask_id
    return masked_BT


def choose_masked(
    sample_ids_B: Array,
    *,
    num_tokens: int,
    ratio: float,
    seed: int,
    epoch: int,
    view: int = MASKED_VIEW,
    mask_last: bool = False,
    in_scope_BT: Array | None = None,
) -> Array:
    """Choose the masked input positions of each row, from the address alone.

    Args:
        sample_ids_B: Row numbers (B,), int64; a numpy array or torch tensor, which decides the library used.
        num_tokens: Input tokens per row, T.
        ratio: Share of the tokens in scope to mask, in [0, 1).
        seed: The run's seed, in [0, 2**32).
        epoch: Epoch number, from 0.
        view: `CLEAN_VIEW` chooses nothing.
        mask_last: Whether the last input position may be chosen.
        in_scope_BT: Boolean (B, T), True where a token may be masked; all may be where it is None.

    Returns:
        Boolean (B, T), True at masked positions.
    """
    num_rows = sample_ids_B.shape[0]
    ratio = 0.0 if view == CLEAN_VIEW else ratio
    if in_scope_BT is None:
        num_choices = num_tokens if mask_last else num_tokens - 1
        num_chosen = min(count_masked(num_tokens, ratio), num_choices)
        chosen_BT = _full((num_rows, num_tokens), False, like=sample_ids_B)
        if num_chosen > 0:
            ranks = _draw_distinct(sample_ids_B, [num_choices] * num_rows, [num_chosen] * num_rows, seed, epoch, view)
            chosen_BT[:, :num_choices] = ranks
        return chosen_BT

    count_masked(0, ratio)  # the range check, also where every row is empty
    choosable_BT = _copy(in_scope_BT)
    if not mask_last:
        choosable_BT[:, -1] = False
    scope_sizes = [int(size) for size in in_scope_BT.sum(1)]
    choices = [int(size) for size in choosable_BT.sum(1)]
    chosen = [min(count_masked(size, ratio), most) for size, most in zip(scope_sizes, choices, strict=True)]
    if max(chosen, default=0) == 0:
        return _full((num_rows, num_tokens), False, like=sample_ids_B)
    # The draw is among ranks: the r-th choosable position of a row is masked where rank r was drawn.
    ranks = _draw_distinct(sample_ids_B, choices, chosen, seed, epoch, view)
    rank_of_position_BT = (choosable_BT.cumsum(1) - 1).clip(0, ranks.shape[1] - 1)
    row_B1 = _arange(num_rows, like=sample_ids_B)[:, None]
    return ranks[row_B1, rank_of_position_BT] & choosable_BT


def philox4x32(counters: Sequence[Array], key: tuple[int, int], rounds: int = _PHILOX_ROUNDS) -> tuple[Array, ...]:
    """The Philox4x32 counter-based generator (Salmon et al., SC'11), on int64 arrays that hold 32-bit words.

    Args:
        counters: Four int64 arrays of words in [0, 2**32), of the same shape.
        key: Two words.
        rounds: 10 is the published default.

    Returns:
        Four int64 arrays of words in [0, 2**32).
    """
    # Both halves of a round run as one array: words 0 and 2 are multiplied, words 1 and 3 are mixed in.
    multiplied, mixed = _stack((counters[0], counters[2])), _stack((counters[1], counters[3]))
    pair_shape = (2,) + (1,) * (multiplied.ndim - 1)
    multipliers = _like(_PHILOX_MULTIPLIERS, multiplied).reshape(pair_shape)
    for keys in _like(_round_keys(key, rounds), multiplied).reshape(rounds, *pair_shape):
        # The product wraps around and keeps all 64 bits. Its low word needs no masking before it is mixed in, and the
        # one mask also undoes the sign that the arithmetic shift has spread: five operations a round.
        product = multiplied * multipliers
        multiplied = (_swap(product >> 32) ^ mixed ^ keys) & _LOW_32
        mixed = _swap(product)
    mixed = mixed & _LOW_32
    return multiplied[0], mixed[0], multiplied[1], mixed[1]


@lru_cache(maxsize=64)
def _round_keys(key: tuple[int, int], rounds: int) -> NDArray[np.int64]:
    """The key of each round, (rounds, 2): a Weyl sequence."""
    steps = np.arange(rounds, dtype=np.int64)[:, None]
    return (np.array(key, np.int64) + steps * np.array(_PHILOX_WEYL, np.int64)) & _LOW_32


def _draw_distinct(
    sample_ids_B: Array, choices: Sequence[int], chosen: Sequence[int], seed: int, epoch: int, view: int
) -> Array:
    """For each row draw `chosen` distinct values below `choices`: boolean (B, max choices), True where drawn."""
    num_rows, width = len(choices), max(choices)
    chosen_B1 = _like(np.array(chosen)[:, None], sample_ids_B)
    choices_B1 = _like(np.array(choices)[:, None], sample_ids_B)
    row_offsets_B1 = _arange(num_rows, like=sample_ids_B)[:, None] * width

    num_draws = max(_enough_draws(most, wanted) for most, wanted in zip(choices, chosen, strict=True))
    while True:
        words = _draw_words(sample_ids_B, num_draws, seed, epoch, view)
        slots = (words * choices_B1 >> 32) + row_offsets_B1
        is_first = _first_occurrences(slots, num_rows * width)
        order = is_first.cumsum(1)
        if bool((order[:, -1:] >= chosen_B1).all()):
            break
        num_draws *= 2  # a longer prefix of the same stream: what was drawn before stays drawn
    drawn = _full((num_rows * width,), False, like=sample_ids_B)
    drawn[slots[is_first & (order <= chosen_B1)]] = True
    return drawn.reshape(num_rows, width)


def _enough_draws(choices: int, chosen: int) -> int:
    """Uniform draws below `choices` that almost surely hold `chosen` distinct values (coupon collector, 6 sigma)."""
    if chosen == 0:
        return 1
    left = choices - chosen + 1
    mean = choices * math.log(choices / left) + choices / left
    deviation = math.sqrt(choices * chosen) / left + math.sqrt(mean)
    return min(math.ceil(mean + 6 * deviation * (mean - chosen + 1) / mean) + 8, 16 * choices)


def _draw_words(sample_ids_B: Array, num_words: int, seed: int, epoch: int, view: int) -> Array:
    """Uniform 32-bit words (B, num_words), as int64: word w of a row is lane w % 4 of block w // 4."""
    num_rows, num_blocks = sample_ids_B.shape[0], -(-num_words // _WORDS_PER_BLOCK)
    blocks = _full((num_rows, num_blocks), 0, like=sample_ids_B) + _arange(num_blocks, like=sample_ids_B)
    sample_B1 = sample_ids_B[:, None]
    low, high_and_view = sample_B1 & _LOW_32, (sample_B1 >> 32 & 0xFFFFFF) | view << 24
    zeros = blocks * 0
    lanes = philox4x32((blocks, zeros + low, zeros + high_and_view, zeros + epoch), (seed & _LOW_32, 0))
    # Blocks in order, (4, B, N) -> (B, 4 * N) lane by lane within a block: a longer draw begins with the shorter one.
    return _blocks_in_order(lanes)[:, :num_words]


# What numpy and torch do not spell the same way. torch is never imported here: whoever passes a tensor has done so.


def _is_numpy(array: Array) -> bool:
    return isinstance(array, np.ndarray)


def _torch() -> Any:
    return sys.modules["torch"]


def _copy(array: Array) -> Array:
    return array.copy() if _is_numpy(array) else array.clone()


def _arange(stop: int, *, like: Array) -> Array:
    return np.arange(stop, dtype=np.int64) if _is_numpy(like) else _torch().arange(stop, device=like.device)


def _full(shape: tuple[int, ...], value: bool | int, *, like: Array) -> Array:
    return np.full(shape, value) if _is_numpy(like) else _torch().full(shape, value, device=like.device)


def _like(values: Any, like: Array) -> Array:
    return np.asarray(values) if _is_numpy(like) else _torch().as_tensor(values, device=like.device)


def _stack(arrays: Sequence[Array]) -> Array:
    return np.array(arrays) if _is_numpy(arrays[0]) else _torch().stack(tuple(arrays))


def _swap(pair: Array) -> Array:
    return pair[::-1] if _is_numpy(pair) else pair.flip(0)


def _blocks_in_order(lanes: Sequence[Array]) -> Array:
    library = np if _is_numpy(lanes[0]) else _torch()
    return library.stack(tuple(lanes), -1).reshape(lanes[0].shape[0], -1)


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
