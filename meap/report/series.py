"""A metric by training step: joined from the lines of a file, and smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "join_series", "running_mean"]


@dataclass(frozen=True)
class Series:
    """Finite values by step."""

    steps: NDArray[np.int64]
    """Ascending, each once."""
    values: NDArray[np.float64]
    dropped: tuple[int, ...] = ()
    """Steps whose value was NaN or infinite."""

    def upto(self, step: float) -> Series:
        """What was recorded up to and including `step`."""
        end = int(np.searchsorted(self.steps, step, side="right"))
        return Series(self.steps[:end], self.values[:end])

    def mean_of_end(self, share: float) -> float | None:
        """Mean over the last `share` of the steps; None where nothing was recorded."""
        if not len(self.steps):
            return None
        return float(self.values[self.steps > self.steps[-1] * (1 - share)].mean())


def join_series(steps: Sequence[int], values: Sequence[float]) -> Series:
    """A series from values in the order of writing; the last value of a step counts."""
    written = np.asarray(values, np.float64)
    # np.unique gives the first index of each step: in reversed order, the last one written.
    unique, first = np.unique(np.asarray(steps, np.int64)[::-1], return_index=True)
    last = written[::-1][first]
    finite = np.isfinite(last)
    return Series(unique[finite], last[finite], tuple(unique[~finite].tolist()))


def running_mean(series: Series, *, window: float) -> NDArray[np.float64]:
    """Mean around each step: over `window` steps, fewer near the beginning, where values fall steeply.

    Args:
        series: At least one value.
        window: Steps, half of them before; around step s never more than s / 5, so that the beginning is not smeared.
    """
    half = np.minimum(window / 2, series.steps / 10)
    first = np.searchsorted(series.steps, series.steps - half, side="left")
    beyond = np.searchsorted(series.steps, series.steps + half, side="right")
    sums = np.concatenate([[0.0], np.cumsum(series.values)])
    return (sums[beyond] - sums[first]) / (beyond - first)
