"""Bar charts as inline SVG: no library, legible in light and dark, with the numbers beside every bar and in a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

__all__ = ["Bars", "bin_by_powers_of_two", "bin_linearly", "draw_bars"]

_WIDTH, _HEIGHT = 640, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 52
_CHARACTER = 7
"""Width of a digit, about."""
_GAP = 1.5


@dataclass(frozen=True)
class Bars:
    """What a chart shows."""

    labels: Sequence[str]
    """One per bar; below the axis as many as fit."""
    values: Sequence[float]
    x_title: str
    y_title: str
    is_share: bool = False
    """Whether values are shares, written in per cent."""
    reference: float | None = None
    """Height of a dashed line, such as the value expected."""

    def format_value(self, value: float) -> str:
        """A value as it is written."""
        return f"{value:.2%}" if self.is_share else f"{value:,.0f}"


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


def draw_bars(bars: Bars) -> str:
    """The chart as an ``<svg>`` element."""
    if not bars.values:
        return '<p class="note">nothing to show</p>'
    step = _round_up(max([*bars.values, bars.reference or 0.0]) / 4) or 1.0
    if not bars.is_share:
        step = max(step, 1.0)
    top = step * max(1, math.ceil(max([*bars.values, bars.reference or 0.0]) / step))
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    floor = _TOP + plot_height

    def height_of(value: float) -> float:
        return plot_height * value / top

    parts: list[str] = []
    for number in range(round(top / step) + 1):
        y = floor - height_of(number * step)
        label = f"{number * step:.4g}" if not bars.is_share else f"{number * step * 100:.4g} %"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    slot = plot_width / len(bars.values)
    every = math.ceil((max(map(len, bars.labels)) + 2) * _CHARACTER / slot)
    for number, (label, value) in enumerate(zip(bars.labels, bars.values, strict=True)):
        x, height = _LEFT + number * slot, height_of(value)
        parts.append(
            f'<rect class="bar" x="{x + _GAP / 2:.1f}" y="{floor - height:.1f}" width="{max(slot - _GAP, 0.5):.1f}" '
            f'height="{height:.1f}"><title>{escape(label)}: {bars.format_value(value)}</title></rect>'
        )
        if number % every == 0:
            parts.append(f'<text x="{x + slot / 2:.1f}" y="{floor + 16}" text-anchor="middle">{escape(label)}</text>')
    if bars.reference is not None:
        y = floor - height_of(bars.reference)
        parts.append(
            f'<line class="reference" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}">'
            f"<title>expected: {bars.format_value(bars.reference)}</title></line>"
        )
    parts.append(
        f'<text x="{_LEFT + plot_width / 2:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(bars.x_title)}</text>'
    )
    middle = _TOP + plot_height / 2
    parts.append(
        f'<text x="14" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 14 {middle:.1f})">'
        f"{escape(bars.y_title)}</text>"
    )
    name = escape(f"{bars.y_title} by {bars.x_title}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _round_up(value: float) -> float:
    """The next of ..., 1, 2, 5, 10, 20, 50, ..."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(factor * unit for factor in (1.0, 2.0, 5.0, 10.0) if factor * unit >= value * (1 - 1e-9))
