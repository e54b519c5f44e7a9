"""Line charts: series over a common axis, as SVG with their values under the pointer, or on axes of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.show.figures import COLOURS, Drawn, classes, colour_of, draw_svg
from meap.show.numbers import short
from meap.show.pointer import MARGINS, pointer_strips

__all__ = ["Chart", "Line", "Mark", "draw_lines", "show_lines", "thin_out"]

_COLUMNS = 240
"""Columns of which a line keeps the lowest and the highest point."""
_STRIPS = 60
"""Places, at the most, that show their values under the pointer."""
_HIGH_CUT, _LOW_CUT = 0.1, 0.002
"""Share of the points that may lie beyond the picture: the first steps would leave no room for the others."""
_FEWEST_CUT = 50


@dataclass(frozen=True)
class Line:
    """One series of a chart."""

    number: int
    """Decides its colour and the classes by which a page can hide it."""
    x: NDArray[np.float64]
    """Ascending, at least one."""
    y: NDArray[np.float64]
    smooth: NDArray[np.float64] | None = None
    """The line to read; `y` is then drawn faintly behind it."""

    @property
    def main(self) -> NDArray[np.float64]:
        """What is drawn strongly."""
        return self.y if self.smooth is None else self.smooth


@dataclass(frozen=True)
class Mark:
    """A place of a series that a vertical line shows."""

    number: int
    x: float


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis."""

    title: str
    lines: Sequence[Line]
    x_title: str
    y_title: str
    from_zero: bool = False
    has_points: bool = False
    """Whether each value is marked."""
    is_log_x: bool = False
    is_cut: bool = False
    """Whether the highest points may lie beyond the picture."""
    marks: Sequence[Mark] = ()


def show_lines(chart: Chart) -> Drawn:
    """Lines as inline SVG with their values under the pointer."""

    def overlay(axes: Any) -> str:
        places = np.unique(np.concatenate([line.x for line in chart.lines]))
        if len(places) > _STRIPS:
            wanted = np.linspace(places[0], places[-1], _STRIPS)
            places = np.unique(places[np.clip(np.searchsorted(places, wanted), 0, len(places) - 1)])
        return pointer_strips(
            axes, places, [(f"{short(place)} {chart.x_title}", _values(chart, place)) for place in places]
        )

    return draw_svg(lambda axes: draw_lines(axes, chart), overlay=overlay, margins=MARGINS)


def draw_lines(axes: Any, chart: Chart) -> None:
    """Draw lines; each has the classes `r<number>`, and `raw` or `main`."""
    for line in chart.lines:
        if line.smooth is not None:
            _plot(axes, chart, line, line.y, "raw", linewidth=1, alpha=0.3)
    for line in chart.lines:
        _plot(axes, chart, line, line.main, "main", linewidth=1.8)
    for mark in chart.marks:
        colour, group = colour_of(mark.number), classes("mark", f"r{mark.number}")
        axes.axvline(mark.x, color=colour, linewidth=1.1, linestyle=(0, (1.5, 2.5)), alpha=0.8, gid=group)
    axes.set_title(chart.title, loc="left")
    axes.set(xlabel=chart.x_title, ylabel=chart.y_title, ylim=_bounds_y(chart), xlim=_bounds_x(chart))
    if chart.is_log_x:
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    else:
        axes.xaxis.get_major_locator().set_params(nbins=6)
    axes.yaxis.get_major_locator().set_params(nbins=6)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.yaxis.set_major_formatter(lambda value, _: short(0.0 if abs(value) < 1e-15 else value))


def thin_out(x: NDArray[np.float64], y: NDArray[np.float64], *, columns: int) -> NDArray[np.int64]:
    """Places of the points that look like all of them: the lowest and highest of each column, the first and the last.

    Args:
        x: Ascending.
        y: As many values.
        columns: Columns of the picture; at most two points are kept of each.
    """
    if len(x) <= 2 * columns + 2:
        return np.arange(len(x))
    width = (x[-1] - x[0]) / columns or 1.0
    column = np.minimum((x - x[0]) // width, columns - 1)
    order = np.lexsort((y, column))
    starts = np.flatnonzero(np.diff(column[order], prepend=-1.0))
    ends = np.append(starts[1:], len(order)) - 1
    return np.unique(np.concatenate([[0], order[starts], order[ends], [len(x) - 1]]))


def _plot(axes: Any, chart: Chart, line: Line, y: NDArray[np.float64], kind: str, **how: Any) -> None:
    kept = thin_out(line.x, y, columns=_COLUMNS)
    if len(line.x) == 1 or (chart.has_points and kind == "main" and len(line.x) <= _STRIPS):  # more would hide the line
        how |= {"marker": "o", "markersize": 5}
    if round_ := line.number // len(COLOURS):
        how["dashes"] = (6 * round_, 3)
    group = classes(kind, f"r{line.number}")
    axes.plot(line.x[kept], y[kept], color=colour_of(line.number), gid=group, **how)


def _bounds_x(chart: Chart) -> tuple[float, float]:
    low, high = min(line.x[0] for line in chart.lines), max(line.x[-1] for line in chart.lines)
    if not chart.is_log_x:
        low = 0.0
    if high <= low:
        high = low * 2 if chart.is_log_x else low + 1.0
    # Room for half of a point.
    return (low / 1.1, high * 1.1) if chart.is_log_x else (low, high + 0.01 * (high - low))


def _bounds_y(chart: Chart) -> tuple[float, float]:
    drawn = np.concatenate([each for line in chart.lines for each in (line.y, line.main)])
    low, high = float(drawn.min()), float(drawn.max())
    if chart.is_cut:
        # Each line on its own: a short one must not lie beyond the picture because a long one has more points.
        low = min(_quantile(line.y, _LOW_CUT) for line in chart.lines)
        high = max(_quantile(line.y, 1 - _HIGH_CUT) for line in chart.lines)
    if chart.from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return low - (0.0 if chart.from_zero and low == 0 else room), high + room


def _quantile(values: NDArray[np.float64], share: float) -> float:
    """Of few values the lowest or the highest."""
    return float(np.quantile(values, share if len(values) >= _FEWEST_CUT else round(share)))


def _values(chart: Chart, place: float) -> Sequence[tuple[int, str]]:
    return [
        (line.number, f"{float(line.main[int(np.argmin(np.abs(line.x - place)))]):.5g}")
        for line in chart.lines
        if line.x[0] <= place <= line.x[-1]
    ]
