"""Means with 95 % intervals, and tests of their differences.

A row of a table is a mean over examples, weighted if the metric says so. A table of several rows is the mean of these:
of a grid, or of seven benchmarks of different sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "Estimate", "Group", "estimate", "mcnemar", "paired_difference", "wilson"]

_Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
_DRAWS = 2000
_DRAWN_AT_ONCE = 1 << 22
_CONSTANT = 1e-12
"""Smaller differences of means come from rounding."""


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, its standard error, and its number of examples."""

    value: float
    low: float
    high: float
    n: int
    standard_error: float


@dataclass(frozen=True)
class Difference:
    """The second mean less the first, on the same examples."""

    value: float
    low: float
    high: float
    p: float
    """Probability of a difference at least this large between two equally good models; two-sided."""
    test: str
    """The test: ``mcnemar`` (exact) or ``bootstrap``."""


@dataclass(frozen=True)
class Group:
    """The scores of the examples of one row of a table."""

    values: NDArray[np.float64]
    """Scores by example."""
    weights: NDArray[np.float64]
    """Weight of each example in the mean of the group, above 0."""

    def __post_init__(self) -> None:
        assert len(self.values) == len(self.weights) > 0


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
    return replace(_score_interval(num_correct / n, n), n=n)


def estimate(groups: Sequence[Group], *, binary: bool = False, bounded: bool = False, seed: int = 0) -> Estimate:
    """Mean over groups of the means of their examples.

    Args:
        groups: At least one; every group has the same weight, whatever its size.
        binary: Whether examples are right or wrong. If none is right in part, groups of equal size have Wilson's
            interval of their union, which is not narrower than that of the groups, and not empty if all are right or
            all are wrong.
        bounded: Whether values lie in [0, 1]; the interval is then never empty.
        seed: Seed of the bootstrap, which resamples examples within each group, not tokens: tokens of one text are
            correlated, and an interval over tokens would be too narrow.
    """
    sizes = [len(group.values) for group in groups]
    if binary and len(set(sizes)) == 1 and _right_or_wrong(groups):
        return wilson(round(float(sum(group.values.sum() for group in groups))), sum(sizes))
    value = _mean(groups)
    drawn = _bootstrap(groups, seed)
    if bounded and np.ptp(drawn) < _CONSTANT:
        # If all examples score the same, the bootstrap has no variance: it would claim certainty. A variable in [0, 1]
        # has at most the variance of a binary one with the same mean, so a proportion's interval is wide enough.
        # Groups of different sizes count as groups of equal size with the same standard error.
        n = len(sizes) ** 2 / sum(1 / size for size in sizes)
        return replace(_score_interval(value, n), n=sum(sizes))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(value, float(low), float(high), sum(sizes), float(drawn.std()))


def paired_difference(first: Sequence[Group], second: Sequence[Group], *, binary: bool, seed: int = 0) -> Difference:
    """`second` less `first`, with an interval of the paired bootstrap over examples.

    Args:
        first: Scores of one model, by group.
        second: Scores of the other on the same examples in the same order.
        binary: Whether examples are right or wrong: McNemar's exact test then applies to a single group in which none
            is right in part.
        seed: Seed of the bootstrap.
    """
    drawn = _bootstrap(second, seed) - _bootstrap(first, seed)  # equal seeds and sizes draw the same examples
    low, high = (float(each) for each in np.quantile(drawn, (0.025, 0.975)))
    value = _mean(second) - _mean(first)
    if binary and len(first) == 1 and _right_or_wrong([*first, *second]):
        gained = int(((second[0].values == 1) & (first[0].values == 0)).sum())
        lost = int(((second[0].values == 0) & (first[0].values == 1)).sum())
        return Difference(value, low, high, mcnemar(gained, lost), "mcnemar")
    # One draw is added to both sides: a finite number of draws never proves p = 0.
    below, above = (int((drawn <= 0).sum()) + 1, int((drawn >= 0).sum()) + 1)
    return Difference(value, low, high, min(1.0, 2 * min(below, above) / (len(drawn) + 1)), "bootstrap")


def mcnemar(gained: int, lost: int) -> float:
    """Exact p-value of McNemar's test, two-sided.

    Args:
        gained: Examples that only the second model gets right.
        lost: Examples that only the first model gets right.
    """
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**n)


def _score_interval(share: float, n: float) -> Estimate:
    """Wilson's interval of a share of `n`; neither needs to be whole."""
    scale = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    error = math.sqrt(share * (1 - share) / n)
    low, high = max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding may cross the share
    return Estimate(share, low, high, round(n), error)


def _right_or_wrong(groups: Sequence[Group]) -> bool:
    return all(bool(np.isin(group.values, (0.0, 1.0)).all()) for group in groups)


def _mean(groups: Sequence[Group]) -> float:
    return float(np.mean([np.average(group.values, weights=group.weights) for group in groups]))


def _bootstrap(groups: Sequence[Group], seed: int) -> NDArray[np.float64]:
    """Means of `_DRAWS` bootstrap samples of the groups."""
    rng = np.random.default_rng(seed)
    means = np.zeros(_DRAWS)
    for group in groups:
        n = len(group.values)
        step = max(1, _DRAWN_AT_ONCE // n)
        weighted = group.values * group.weights
        for start in range(0, _DRAWS, step):
            chosen = rng.integers(n, size=(min(step, _DRAWS - start), n))
            means[start : start + step] += weighted[chosen].sum(1) / group.weights[chosen].sum(1)
    return means / len(groups)
