"""Values with their intervals: as a small SVG beside a number, or as points and lines on axes of a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meap.show.figures import Drawn, classes, colour_of, draw_svg

__all__ = ["Interval", "draw_interval_points", "show_intervals"]


@dataclass(frozen=True)
class Interval:
    """A value with its interval."""

    number: int
    value: float
    low: float
    high: float


def show_intervals(name: str, intervals: Sequence[Interval]) -> Drawn:
    """Values with their intervals, one above the other on a common axis, as a small picture without text."""

    def draw(axes: Any) -> None:
        axes.set_axis_off()
        axes.margins(0.03, 0.5 / len(intervals))
        axes.invert_yaxis()
        for place, each in enumerate(intervals):
            colour = colour_of(each.number)
            group = classes(f"r{each.number}")
            axes.plot([each.low, each.high], [place, place], color=colour, linewidth=2, gid=group)
            axes.plot([each.value], [place], color=colour, marker="o", markersize=6, gid=group)

    return draw_svg(
        draw,
        name=name,
        width=200,
        height=10 + 12 * len(intervals),
        margins={"left": 0, "right": 1, "bottom": 0, "top": 1},
    )


def draw_interval_points(
    axes: Any,
    places: Sequence[float],
    found: Sequence[Mapping[str, float | None]],
    *,
    colour: str,
    label: str,
    line: str = "-",
) -> None:
    """Draw values with their intervals.

    Args:
        axes: To draw on.
        places: Along the horizontal axis.
        found: `value`, `low` and `high` of each; no interval is drawn where these are None.
        colour: Of points and line.
        label: In the legend.
        line: Style of the line between them: `none` for points alone.
    """
    values = [each["value"] or 0.0 for each in found]
    limits = [(_or(each["low"], value), _or(each["high"], value)) for each, value in zip(found, values, strict=True)]
    below = [max(0.0, value - low) for value, (low, _) in zip(values, limits, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, limits, strict=True)]
    axes.errorbar(
        places,
        values,
        yerr=[below, above],
        color=colour,
        marker="o",
        markersize=5,
        capsize=3,
        linewidth=1.6,
        elinewidth=1,
        linestyle=line,
        label=label,
    )


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
