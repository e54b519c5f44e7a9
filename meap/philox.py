"""Random words by address, the same for numpy and torch.

They come from Philox4x64-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11), keyed
by (seed, epoch) and counted by (block, sample id, 1, purpose). numpy has it in C; on tensors `philox4x64` computes the
same.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.arrays import Array, arange, is_numpy, torch_of

__all__ = ["DIRECTION", "KIND", "POSITIONS", "RANDOM_TOKEN", "SHORT_SPAN", "draw_words", "philox4x64"]

POSITIONS, SHORT_SPAN, KIND, RANDOM_TOKEN, DIRECTION = range(5)
"""Purposes of a draw: which positions, which span is shorter, whether masked, which token, which way to read."""

_LOW_32 = 0xFFFFFFFF
_PHILOX_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_PHILOX_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_PHILOX_ROUNDS = 10
_WORDS_PER_BLOCK = 8
"""32-bit words: four of 64 bits."""
_PLACE = 1
"""Third word of every counter."""


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


def draw_words(sample_ids_B: Array, num_words: int, key: tuple[int, int], purpose: int) -> Array:
    """Uniform 32-bit words (B, num_words), as int64: low and high halves of the 64-bit words of blocks 1, 2, ...

    Args:
        sample_ids_B: Row numbers (B,), int64; a numpy array or torch tensor, which decides the library used.
        num_words: Words per row; of two calls the longer one begins with the words of the shorter.
        key: Seed and epoch.
        purpose: What they are for; each purpose has words of its own.
    """
    num_blocks = -(-num_words // _WORDS_PER_BLOCK)
    if is_numpy(sample_ids_B):
        rows = [_numpy_words(int(sample), num_blocks, key, purpose) for sample in sample_ids_B]
        return np.concatenate(rows).reshape(len(rows), -1)[:, :num_words].astype(np.int64)
    blocks = arange(num_blocks, like=sample_ids_B)[None, :] + 1
    zeros = (blocks * 0) + (sample_ids_B[:, None] * 0)
    lanes = philox4x64((zeros + blocks, zeros + sample_ids_B[:, None], zeros + _PLACE, zeros + purpose), key)
    words = torch_of().stack(lanes, -1)  # (B, N, 4)
    halves = torch_of().stack((words & _LOW_32, words >> 32 & _LOW_32), -1)  # (B, N, 4, 2)
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
    state["counter"][:] = 0, sample, _PLACE, purpose
    state["key"][:] = key
    _generator.philox.state = _generator.state
    words = _generator.philox.random_raw(4 * num_blocks)
    return words.astype("<u8", copy=False).view("<u4")
