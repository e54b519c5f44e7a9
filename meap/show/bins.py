"""Sorts numbers into bins for a histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["bin_by_powers_of_two", "bin_linearly"]


def bin_by_powers_of_two(values: Sequence[int]) -> tuple[list[str], list[int]]:
    """Labels and counts of values of at least 1 in the bins 1, 2-3, 4-7, 8-15, ... that are needed."""
    exponents = [value.bit_length() - 1 for value in values]
    if not exponents:
        return [], []
    first, last = min(exponents), max(exponents)
    counts = np.bincount(np.array(exponents) - first, minlength=last - first + 1).tolist()
    edges = [(1 << exponent, (2 << exponent) - 1) for exponent in range(first, last + 1)]
    return [f"{low:,}" if low == high else f"{low:,}-{high:,}" for low, high in edges], counts


def bin_linearly(values: Sequence[int], *, most_bins: int = 24) -> tuple[list[str], list[int]]:
    """Labels and counts of values of at least 0 in bins of one round width."""
    if not values:
        return [], []
    first = min(values)
    width = math.ceil(_round_up((max(values) - first + 1) / most_bins))
    first = first // width * width
    counts = np.bincount((np.array(values) - first) // width).tolist()
    lows = [first + number * width for number in range(len(counts))]
    return [f"{low:,}" if width == 1 else f"{low:,}-{low + width - 1:,}" for low in lows], counts


def _round_up(value: float) -> float:
    """The next of ..., 1, 2, 5, 10, 20, 50, ..."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(factor * unit for factor in (1.0, 2.0, 5.0, 10.0) if factor * unit >= value * (1 - 1e-9))
