"""Numbers with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "bootstrap_ratio", "wilson"]

_Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
_DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and how many examples it rests on."""

    value: float
    low: float
    high: float
    n: int


def wilson(num_correct: int, n: int) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927), which holds for few examples and near 0 and 1.

    Args:
        num_correct: Successes, in [0, `n`].
        n: Examples, at least 1.

    Raises:
        ValueError: A number is out of its range.
    """
    if not 0 <= num_correct <= n or n < 1:
        raise ValueError(f"num_correct={num_correct} of n={n} is not a proportion: 0 <= num_correct <= n, n >= 1")
    share = num_correct / n
    scale = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), n)


def bootstrap_ratio(totals: Sequence[float], counts: Sequence[int], *, seed: int = 0) -> Estimate:
    """Sum of `totals` over sum of `counts`, with a percentile interval from drawing examples anew.

    Examples are drawn, not their tokens: tokens of one text are alike, and an interval over tokens would be too narrow.

    Args:
        totals: For each example, a sum over its tokens.
        counts: For each example, its tokens, at least 1.
        seed: Seed of the draws.

    Raises:
        ValueError: There are no examples, or as many totals as counts are not given.
    """
    if not totals or len(totals) != len(counts):
        raise ValueError(f"{len(totals)} totals and {len(counts)} counts: give one of each per example, at least one")
    total, count = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
    rng = np.random.default_rng(seed)
    ratios = np.empty(_DRAWS)
    for draw in range(_DRAWS):
        chosen = rng.integers(len(total), size=len(total))
        ratios[draw] = total[chosen].sum() / count[chosen].sum()
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Estimate(float(total.sum() / count.sum()), float(low), float(high), len(total))
