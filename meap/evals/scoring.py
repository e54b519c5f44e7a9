"""Means with 95 % intervals, and tests of their differences, by question.

A row of a table is a mean over examples, weighted if the metric says so. A table of several rows is the mean of these:
of a grid, or of seven benchmarks of different sizes.

Examples of one question, at several positions or depths, are no independent observations: they form a *cluster*, and
intervals and tests count clusters. Rows that share clusters form a *block*; the mean of a block is a mean over its
clusters, and blocks are independent of each other. Where each example has its own question, clusters are examples and
blocks are rows.

    shares and scores in [0, 1]       Wilson (1927), with the variance between clusters; for several blocks Price and
                                      Bonett (2004)
    their differences                 the same, on the scale from -1 to 1; Agresti and Min (2005) where clusters only
                                      gain, lose or tie
    losses and other measurements     Student; for several blocks with Satterthwaite's degrees of freedom

The p-value is the share of all exchanges of the two models within clusters (a sign-flip test, which
is McNemar's exact one for answers that are right or wrong); with many different differences, that of the t-test.
`benchmarks/interval_coverage.py` measures how often the intervals hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Difference",
    "Estimate",
    "Group",
    "estimate",
    "holm",
    "paired_difference",
    "quantile_of_t",
    "sign_flip",
    "student_t",
]

_Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
_MOST_FLIPS = 16
"""Most differences whose signs are exchanged in all ways."""
_CONSTANT = 1e-12
"""Smaller differences of means come from rounding."""

_Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    value: float
    low: float | None
    """None if there are too few clusters: fewer than two."""
    high: float | None
    n: int
    """Examples."""
    clusters: int
    """Questions, which are independent of each other."""
    standard_error: float | None


@dataclass(frozen=True)
class Difference:
    """The second mean less the first, on the same examples."""

    value: float
    low: float | None
    high: float | None
    p: float
    """Probability of a difference at least this large between two equally good models; two-sided."""
    test: str
    """The test: ``sign flip`` (exact; McNemar's for answers that are right or wrong) or ``t``."""


@dataclass(frozen=True)
class Group:
    """The scores of the examples of one row of a table."""

    values: _Values
    """Scores by example."""
    weights: _Values | None = None
    """Weight of each example in the mean of the group, above 0; None: equal weights."""
    clusters: Sequence[str] | None = None
    """Question of each example; None: each has its own."""

    def __post_init__(self) -> None:
        assert len(self.values) > 0
        assert all(each is None or len(each) == len(self.values) for each in (self.weights, self.clusters))


@dataclass(frozen=True)
class _Block:
    """Rows that share clusters."""

    share: float
    """Its share of all rows."""
    by_cluster: _Values
    """A value per cluster, whose mean is that of the block: the mean of a cluster, where all are in all rows."""
    in_part: bool
    """Whether an example can be right in part: its score, or the difference of two, is not -1, 0 or 1."""

    @property
    def mean(self) -> float:
        return float(self.by_cluster.mean())

    @property
    def size(self) -> int:
        return len(self.by_cluster)

    @property
    def variance(self) -> float:
        """Of a cluster; NaN if there is only one."""
        return float(self.by_cluster.var(ddof=1)) if self.size > 1 else math.nan


def estimate(groups: Sequence[Group], *, bounded: bool = False) -> Estimate:
    """Mean over groups of the means of their examples.

    Args:
        groups: At least one; every group has the same weight, whatever its size.
        bounded: Whether values lie in [0, 1]; the interval is then never empty.
    """
    blocks = _blocks(groups)
    low, high = _interval(blocks, _interval_of_share if bounded else _interval_of_mean)
    error = math.sqrt(_squared_error(blocks))
    return Estimate(
        value=_total(blocks),
        low=low,
        high=high,
        n=sum(len(group.values) for group in groups),
        clusters=sum(block.size for block in blocks),
        standard_error=None if math.isnan(error) else error,
    )


def paired_difference(first: Sequence[Group], second: Sequence[Group], *, bounded: bool = False) -> Difference:
    """`second` less `first`.

    Args:
        first: Scores of one model, by group.
        second: Scores of the other on the same examples in the same order, with the same weights and clusters.
        bounded: Whether values lie in [0, 1].
    """
    pairs = zip(first, second, strict=True)
    blocks = _blocks([Group(two.values - one.values, one.weights, one.clusters) for one, two in pairs])
    low, high = _interval(blocks, _interval_of_difference if bounded else _interval_of_mean)
    # Their sum is the difference: exchanging the models of a cluster changes the sign of one of them.
    parts = np.concatenate([block.share / block.size * block.by_cluster for block in blocks])
    parts = np.where(np.abs(parts) < _CONSTANT, 0.0, parts)
    exact = sign_flip(parts)
    if exact is not None:
        return Difference(_total(blocks), low, high, exact, "sign flip")
    df = _degrees_of_freedom([(block, block.size - 1) for block in blocks])
    p = student_t(float(parts.sum()), _squared_error(blocks), df)[1]
    return Difference(_total(blocks), low, high, 1.0 if p is None else p, "t")


def sign_flip(differences: Sequence[float] | _Values) -> float | None:
    """Exact p-value of the sign-flip test, two-sided; None if there are too many ways to try.

    It is the share of all exchanges within pairs that give a sum at least as far from 0. Differences of 0 change
    nothing. If all others are equally large, it is McNemar's exact test, for any number of pairs.

    Args:
        differences: One per pair.
    """
    numbers = np.asarray(differences, np.float64)
    numbers = numbers[numbers != 0]
    n = len(numbers)
    if n and np.ptp(np.abs(numbers)) < _CONSTANT + 1e-9 * np.abs(numbers).max():
        rarer = int(min((numbers > 0).sum(), (numbers < 0).sum()))
        return min(1.0, 2 * sum(math.comb(n, k) for k in range(rarer + 1)) / 2**n)
    if n > _MOST_FLIPS:
        return None
    signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    # The order of a sum changes its last bits, hence the tolerance.
    return float(np.mean(np.abs(signs @ numbers) >= abs(numbers.sum()) * (1 - 1e-12)))


def student_t(difference: float, squared_error: float, df: float) -> tuple[float | None, float | None]:
    """T and its two-sided p; None if the error is 0 or unknown."""
    if not squared_error > 0:
        return None, None
    from scipy.special import stdtr

    t = difference / math.sqrt(squared_error)
    return t, 2 * float(stdtr(df, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, corrected for their number (Holm 1979), in the same order."""
    found = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        found[place] = min(1.0, largest)
    return found


def quantile_of_t(df: float) -> float:
    """97.5 % quantile of Student's t; that of the normal distribution for infinite `df`."""
    if math.isinf(df):
        return _Z
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975))


def _blocks(groups: Sequence[Group]) -> list[_Block]:
    """Groups joined where they share clusters."""
    joined: list[tuple[set[str], list[Group]]] = []
    for group in groups:
        names = set(group.clusters or ())
        members = [group]
        apart: list[tuple[set[str], list[Group]]] = []
        for others, their in joined:
            if names.isdisjoint(others):
                apart.append((others, their))
            else:
                names, members = names | others, [*their, *members]
        joined = [*apart, (names, members)]
    return [_block(members, len(members) / len(groups)) for _, members in joined]


def _block(groups: Sequence[Group], share: float) -> _Block:
    """The contribution of each cluster to the mean of the groups (its influence), on the scale of the mean."""
    parts: list[_Values] = []
    means: list[float] = []
    for group in groups:
        weights = np.ones(len(group.values)) if group.weights is None else group.weights
        mean = float(np.average(group.values, weights=weights))
        means.append(mean)
        parts.append(weights * (group.values - mean) / weights.sum() / len(groups))
    influences = np.concatenate(parts)
    if groups[0].clusters is not None:
        names = [name for group in groups for name in group.clusters or ()]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        influences = np.bincount([numbers[name] for name in names], influences)
    by_cluster = float(np.mean(means)) + len(influences) * influences
    # Differences that come from rounding would look like a tiny variance.
    rounded = np.round(by_cluster, 12)
    by_cluster = np.where(np.abs(by_cluster - rounded) < _CONSTANT, rounded, by_cluster)
    return _Block(share, by_cluster, not all(_is_whole(group.values) for group in groups))


def _is_whole(values: _Values) -> bool:
    """Whether all values are -1, 0 or 1."""
    return bool((values * values == np.abs(values)).all())


def _interval_of_mean(blocks: Sequence[_Block]) -> tuple[float, float] | None:
    """Student's."""
    if any(block.size < 2 for block in blocks):
        return None
    value, df = _total(blocks), _degrees_of_freedom([(block, block.size - 1) for block in blocks])
    half = quantile_of_t(df) * math.sqrt(_squared_error(blocks))
    return value - half, value + half


def _interval_of_share(blocks: Sequence[_Block]) -> tuple[float, float]:
    """Wilson's interval: all shares p from which the mean m is at most `quantile` standard errors away.

    A variable in [0, 1] has at most the variance p (1 - p) of a binary one. `ratio` is its share of that: 1 if every
    cluster is right or wrong as a whole, where it is so by definition, not by estimation. If all clusters score the
    same, it is taken to be 1: no variance is no certainty.

    A sample that scores low by chance varies less, too: its variance goes with (m (1 - m))^power, where power is
    1 for counts of right answers and 2 / (1 + ratio) for scores with a Beta distribution (skewness over standard
    deviation). What is left of the variance's own error after that is that of (n - 1) / (1 - ratio) degrees of freedom,
    again exact for counts.
    """
    ratios: list[float] = []
    for block in blocks:
        m, variance = block.mean, block.variance
        ratios.append(variance / (m * (1 - m) + variance / block.size) if variance > _CONSTANT else 1.0)
    df = _degrees_of_freedom(
        [
            (block, math.inf if ratio > 1 - 1e-9 else (block.size - 1) / (1 - ratio))
            for block, ratio in zip(blocks, ratios, strict=True)
        ]
    )
    value, quantile = _total(blocks), quantile_of_t(df)
    if len(blocks) == 1:
        power = 2 / (1 + ratios[0]) if blocks[0].in_part else 1.0
        low, high = _score_limits(value, quantile**2 * ratios[0] / blocks[0].size, power)
    else:
        low, high = _price_bonett(blocks, ratios, quantile)
    return max(0.0, min(value, low)), min(1.0, max(value, high))


def _score_limits(mean: float, squared_errors: float, power: float) -> tuple[float, float]:
    """Smallest and largest p with ``(mean - p)^2 <= squared_errors * m (1 - m) * (p (1 - p) / m (1 - m))^power``."""
    scale = squared_errors * (mean * (1 - mean)) ** (1 - power)

    def limit(inside: float, outside: float) -> float:
        for _ in range(60):  # bisection
            middle = (inside + outside) / 2
            if (mean - middle) ** 2 <= scale * (middle * (1 - middle)) ** power:
                inside = middle
            else:
                outside = middle
        return inside

    return limit(mean, 0.0), limit(mean, 1.0)


def _price_bonett(blocks: Sequence[_Block], ratios: Sequence[float], quantile: float) -> tuple[float, float]:
    """The interval of a sum of shares: four more answers in all, half of them right."""
    more = 4 / len(blocks)
    centre = squared_error = 0.0
    for block, ratio in zip(blocks, ratios, strict=True):
        n = block.size / ratio
        share = (n * block.mean + more / 2) / (n + more)
        centre += block.share * share
        squared_error += block.share**2 * share * (1 - share) / (n + more)
    half = quantile * math.sqrt(squared_error)
    return centre - half, centre + half


def _interval_of_difference(blocks: Sequence[_Block]) -> tuple[float, float]:
    """That of shares; where clusters only gain, lose or tie, that of Agresti and Min: two more, of which one ties."""
    if not all(_is_whole(block.by_cluster) for block in blocks):
        low, high = _interval_of_share([replace(block, by_cluster=(1 + block.by_cluster) / 2) for block in blocks])
        return 2 * low - 1, 2 * high - 1
    more = 2 / len(blocks)
    centre = squared_error = 0.0
    for block in blocks:
        n = block.size + more
        mean = float(block.by_cluster.sum()) / n
        centre += block.share * mean
        squared_error += block.share**2 * (float((block.by_cluster**2).sum() + more / 2) / n - mean**2) / n
    value, half = _total(blocks), _Z * math.sqrt(squared_error)
    return max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def _interval(
    blocks: Sequence[_Block], of: Callable[[Sequence[_Block]], tuple[float, float] | None]
) -> tuple[float, float] | tuple[None, None]:
    return (of(blocks) if sum(block.size for block in blocks) > 1 else None) or (None, None)


def _total(blocks: Sequence[_Block]) -> float:
    return float(sum(block.share * block.mean for block in blocks))


def _squared_error(blocks: Sequence[_Block]) -> float:
    return sum(block.share**2 * block.variance / block.size for block in blocks)


def _degrees_of_freedom(blocks: Sequence[tuple[_Block, float]]) -> float:
    """Satterthwaite's, of the sum of the variances of the means."""
    parts = [(block.share**2 * block.variance / block.size, df) for block, df in blocks if block.size > 1]
    squares = sum(part**2 / df for part, df in parts)
    return sum(part for part, _ in parts) ** 2 / squares if squares else math.inf
