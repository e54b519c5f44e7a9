"""Bar charts: upright as SVG with their values under the pointer, or on axes of a picture; sideways with names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meap.show.figures import COLOURS, FAINT, Drawn, draw_svg
from meap.show.pointer import MARGINS, pointer_strips

__all__ = ["Bars", "draw_bars", "draw_sideways_bars", "show_bars"]


@dataclass(frozen=True)
class Bars:
    """A bar for each label."""

    title: str
    labels: Sequence[str]
    """Below the axis as many as fit."""
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

    def rows(self) -> list[tuple[str, str]]:
        """The bars as rows of a table."""
        return [(label, self.format_value(value)) for label, value in zip(self.labels, self.values, strict=True)]


def show_bars(bars: Bars) -> Drawn:
    """Bars as inline SVG with their values under the pointer."""

    def overlay(axes: Any) -> str:
        told = [(f"{label}: {value}", ()) for label, value in bars.rows()]
        return pointer_strips(axes, np.arange(len(told), dtype=np.float64), told)

    return draw_svg(lambda axes: draw_bars(axes, bars), overlay=overlay, margins=MARGINS)


def draw_bars(axes: Any, bars: Bars) -> None:
    """Draw a bar for each value, with as many labels below as fit."""
    places = range(len(bars.values))
    axes.bar(places, bars.values, width=0.88, color=COLOURS[0])
    if bars.reference is not None:
        axes.axhline(bars.reference, color=COLOURS[1], linewidth=1.5, linestyle="--")
    longest = max(map(len, bars.labels), default=1)
    every = max(1, math.ceil(len(bars.labels) * (longest + 2) / 62))
    axes.set_xticks(places[::every], bars.labels[::every])
    axes.margins(x=0.01)
    axes.set_title(bars.title, loc="left")
    axes.set(xlabel=bars.x_title, ylabel=bars.y_title)
    axes.yaxis.get_major_locator().set_params(nbins=5, integer=not bars.is_share)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g} %" if bars.is_share else f"{value:,.0f}")


def draw_sideways_bars(
    axes: Any, names: Sequence[str], values: Sequence[float], *, colour: str = COLOURS[0], fewest_slots: int = 7
) -> None:
    """Draw shares by name, the first on top, each with its value.

    Args:
        axes: To draw on.
        names: Beside the bars.
        values: Shares.
        colour: Of the bars.
        fewest_slots: Room is left for as many bars, so that few are no thicker than many.
    """
    places = range(len(names))
    axes.barh(places, values, color=colour, height=0.7)
    axes.set_yticks(places, names)
    axes.set_ylim(max(len(names), fewest_slots) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x")
    axes.set_xlim(0, max([0.01, *values]) * 1.22)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if value > 1 else f"{value:.1%}".replace(".0%", "%"))
    axes.xaxis.get_major_locator().set_params(nbins=4)
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:.1%}", va="center", fontsize=8.5, color=FAINT)
