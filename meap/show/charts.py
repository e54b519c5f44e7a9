"""The kinds of chart: lines, bars, sideways bars, points with intervals, a heat map; drawn on matplotlib's axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.extras import require_packages
from meap.show.figures import COLOURS, FAINT, INK, PAPER, Drawn, classes, draw_svg
from meap.show.numbers import short
from meap.show.pages import render

__all__ = [
    "Bars",
    "Chart",
    "Interval",
    "Line",
    "Mark",
    "colour_of",
    "draw_bars",
    "draw_heat_map",
    "draw_interval_points",
    "draw_lines",
    "draw_sideways_bars",
    "show_bars",
    "show_intervals",
    "show_lines",
    "thin_out",
]

_COLUMNS = 240
"""Columns of which a line keeps the lowest and the highest point."""
_STRIPS = 60
"""Places, at the most, that show their values under the pointer."""
_HIGH_CUT, _LOW_CUT = 0.1, 0.002
"""Share of the points that may lie beyond the picture: the first steps would leave no room for the others."""
_FEWEST_CUT = 50
_LEVELS = 20
_MARGINS = {"left": 0.12, "right": 0.985, "top": 0.97, "bottom": 0.14}
"""Room for labels of six characters."""


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


@dataclass(frozen=True)
class Interval:
    """A value with its interval."""

    number: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class _Strip:
    """A column of a chart that shows, under the pointer, what is there."""

    left: float
    right: float
    x: float
    label: str
    values: Sequence[tuple[int, str]]


def colour_of(number: int) -> str:
    """The colour of series `number`; beyond the last one they begin again."""
    return COLOURS[number % len(COLOURS)]


def show_lines(chart: Chart) -> Drawn:
    """Lines as inline SVG with their values under the pointer."""

    def overlay(axes: Any) -> str:
        places = np.unique(np.concatenate([line.x for line in chart.lines]))
        if len(places) > _STRIPS:
            wanted = np.linspace(places[0], places[-1], _STRIPS)
            places = np.unique(places[np.clip(np.searchsorted(places, wanted), 0, len(places) - 1)])
        return _strips(axes, places, [(f"{short(place)} {chart.x_title}", _values(chart, place)) for place in places])

    return draw_svg(lambda axes: draw_lines(axes, chart), overlay=overlay, margins=_MARGINS)


def show_bars(bars: Bars) -> Drawn:
    """Bars as inline SVG with their values under the pointer."""

    def overlay(axes: Any) -> str:
        told = [(f"{label}: {value}", ()) for label, value in bars.rows()]
        return _strips(axes, np.arange(len(told), dtype=np.float64), told)

    return draw_svg(lambda axes: draw_bars(axes, bars), overlay=overlay, margins=_MARGINS)


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


def draw_interval_points(
    axes: Any,
    places: Sequence[float],
    found: Sequence[Mapping[str, float]],
    *,
    colour: str,
    label: str,
    line: str = "-",
) -> None:
    """Draw values with their intervals.

    Args:
        axes: To draw on.
        places: Along the horizontal axis.
        found: `value`, `low` and `high` of each.
        colour: Of points and line.
        label: In the legend.
        line: Style of the line between them: `none` for points alone.
    """
    values = [each["value"] for each in found]
    below = [max(0.0, each["value"] - each["low"]) for each in found]
    above = [max(0.0, each["high"] - each["value"]) for each in found]
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


def draw_heat_map(
    axes: Any,
    values: Sequence[Sequence[float]],
    *,
    columns: Sequence[str],
    rows: Sequence[str],
    label: str,
    most_numbers: int = 150,
) -> None:
    """Draw shares as shades of one colour, with numbers in the cells where there are few enough; NaN stays empty.

    Args:
        axes: To draw on.
        values: Of each row, from the top.
        columns: Labels below.
        rows: Labels beside.
        label: What the values are.
        most_numbers: Cells that may have a number.
    """
    require_packages("a heat map", "matplotlib", extra="train")
    from matplotlib.colors import ListedColormap, to_rgb

    # One colour over paper, so that the cells of a page follow light and dark.
    shades = ListedColormap([(*to_rgb(COLOURS[0]), 0.04 + 0.96 * level / _LEVELS) for level in range(_LEVELS + 1)])
    shades = shades.with_extremes(bad=(0, 0, 0, 0))
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), vmin=0, vmax=1, cmap=shades)
    axes.invert_yaxis()
    axes.grid(visible=False)
    if len(rows) * len(columns) <= most_numbers:
        for row, of_row in enumerate(values):
            for column, value in enumerate(of_row):
                if not math.isnan(value):
                    colour = PAPER if value > 0.5 else INK
                    text = f"{100 * value:.0f}"
                    axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha="right")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    bar = axes.figure.colorbar(mesh, ax=axes, fraction=0.04, pad=0.02, label=label)
    bar.outline.set_visible(False)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


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


def _strips(axes: Any, places: NDArray[np.float64], told: Sequence[tuple[str, Sequence[tuple[int, str]]]]) -> str:
    """Columns around `places`, as SVG in the units of the view box."""
    if not len(places):
        return ""
    box = axes.get_window_extent()
    across = axes.get_xaxis_transform().transform(np.column_stack([places, np.zeros(len(places))]))[:, 0]
    borders = np.concatenate([[box.x0], (across[1:] + across[:-1]) / 2, [box.x1]])
    strips = [
        _Strip(float(borders[number]), float(borders[number + 1]), float(across[number]), label, values)
        for number, (label, values) in enumerate(told)
    ]
    bottom = axes.figure.bbox.height - box.y0
    top = axes.figure.bbox.height - box.y1
    return render("strips.svg", strips=strips, top=top, bottom=bottom, middle=(box.x0 + box.x1) / 2)
