"""Line charts as inline SVG: no library, no script, legible in light and dark; values show where the pointer is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from meap.report.series import thin_out

__all__ = ["Chart", "Interval", "Line", "Mark", "draw_intervals", "draw_lines", "write_short"]

_WIDTH, _HEIGHT = 680, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 10, 44
_COLUMNS = 320
_STRIPS = 60
_CUT = 0.1
"""Share of the highest points that may lie beyond the picture: the first steps would leave no room for the others."""
_FEWEST_CUT = 50
_FLOOR_CUT = 0.002
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Line:
    """One run in a chart."""

    run: int
    """Its number, which is its colour."""
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
    """A place of a run that a vertical line shows."""

    run: int
    x: float


@dataclass(frozen=True)
class Chart:
    """What a chart shows."""

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
class Interval:
    """A value with its interval, of one run."""

    run: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def place(self, value: NDArray[np.float64] | float) -> NDArray[np.float64]:
        values = np.asarray(value, np.float64)
        low, high = self.low, self.high
        if self.is_log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self, *, about: int) -> list[float]:
        if self.is_log:
            powers = range(math.floor(math.log2(self.low)), math.ceil(math.log2(self.high)) + 1)
            inside = [2.0**power for power in powers if self.low <= 2.0**power <= self.high]
            return inside[:: max(1, math.ceil(len(inside) / about))]
        step = _round_up((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def write_short(value: float) -> str:
    """A number in few characters: 1.5B, 20k, 0.0004."""
    for size, suffix in _SUFFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{value:.4g}"


def draw_lines(chart: Chart) -> str:
    """The chart as an ``<svg>`` element."""
    x_axis = _fit_x(chart)
    y_axis = _fit_y(chart)
    parts = [*_draw_grid(chart, x_axis, y_axis)]
    parts.append(f'<svg x="{_LEFT}" y="{_TOP}" width="{_plot_width()}" height="{_plot_height()}" ')
    # A nested svg clips what lies beyond it, without a name that other pictures of the page could also have.
    parts.append(f'viewBox="{_LEFT} {_TOP} {_plot_width()} {_plot_height()}" overflow="hidden">')
    parts += [
        f'<path class="raw s{line.run} r{line.run}" d="{_path(line.x, line.y, x_axis, y_axis)}"/>'
        for line in chart.lines
        if line.smooth is not None
    ]
    parts += [
        f'<path class="main s{line.run} r{line.run}" d="{_path(line.x, line.main, x_axis, y_axis)}"/>'
        for line in chart.lines
    ]
    parts += [
        f'<path class="mark s{mark.run} r{mark.run}" d="M{float(x_axis.place(mark.x)):.1f},{_TOP}v{_plot_height()}"/>'
        for mark in chart.marks
    ]
    parts.append("</svg>")
    parts += _draw_points(chart, x_axis, y_axis)
    parts += _draw_strips(chart, x_axis, y_axis)
    name = escape(f"{chart.title}: {chart.y_title} by {chart.x_title}")
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def draw_intervals(intervals: Sequence[Interval]) -> str:
    """Values of runs with their intervals, one above the other on a common axis."""
    low, high = min(each.low for each in intervals), max(each.high for each in intervals)
    axis = _Axis(low, high if high > low else low + 1.0, 6, 194)
    height = 8 + 12 * len(intervals)
    parts: list[str] = []
    for number, each in enumerate(intervals):
        y = 10 + 12 * number
        start, middle, end = axis.place(np.array([each.low, each.value, each.high]))
        parts.append(
            f'<g class="r{each.run}"><path class="main s{each.run}" d="M{start:.1f},{y}H{end:.1f}"/>'
            f'<circle class="f{each.run}" cx="{middle:.1f}" cy="{y}" r="4"/></g>'
        )
    return f'<svg class="intervals" viewBox="0 0 200 {height}" aria-hidden="true">{"".join(parts)}</svg>'


def _plot_width() -> int:
    return _WIDTH - _LEFT - _RIGHT


def _plot_height() -> int:
    return _HEIGHT - _TOP - _BOTTOM


def _fit_x(chart: Chart) -> _Axis:
    low, high = min(line.x[0] for line in chart.lines), max(line.x[-1] for line in chart.lines)
    if not chart.is_log_x:
        low = 0.0
    if high <= low:
        high = low * 2 if chart.is_log_x else low + 1.0
    return _Axis(float(low), float(high), _LEFT, _WIDTH - _RIGHT, chart.is_log_x)


def _fit_y(chart: Chart) -> _Axis:
    drawn = np.concatenate([each for line in chart.lines for each in (line.y, line.main)])
    low, high = float(drawn.min()), float(drawn.max())
    if chart.is_cut:
        # Each run on its own: a short one must not lie beyond the picture because a long one has more points.
        low = min(_quantile(line.y, _FLOOR_CUT) for line in chart.lines)
        high = max(_quantile(line.y, 1 - _CUT) for line in chart.lines)
    if chart.from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    return _Axis(low - (0.0 if chart.from_zero and low == 0 else room), high + room, _HEIGHT - _BOTTOM, _TOP)


def _quantile(values: NDArray[np.float64], share: float) -> float:
    """Of few values the lowest or the highest."""
    return float(np.quantile(values, share if len(values) >= _FEWEST_CUT else round(share)))


def _draw_grid(chart: Chart, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in y_axis.ticks(about=6):
        y = float(y_axis.place(value))
        yield f'<path class="grid" d="M{_LEFT},{y:.1f}H{right}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{write_short(value)}</text>'
    for value in x_axis.ticks(about=7):
        x = float(x_axis.place(value))
        yield f'<path class="grid" d="M{x:.1f},{floor}v4"/>'
        yield f'<text x="{x:.1f}" y="{floor + 17}" text-anchor="middle">{write_short(value)}</text>'
    centre = _LEFT + _plot_width() / 2
    yield f'<text x="{centre:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(chart.x_title)}</text>'
    if chart.y_title:
        middle = _TOP + _plot_height() / 2
        yield (
            f'<text x="13" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 13 {middle:.0f})">'
            f"{escape(chart.y_title)}</text>"
        )


def _path(x: NDArray[np.float64], y: NDArray[np.float64], x_axis: _Axis, y_axis: _Axis) -> str:
    kept = thin_out(x, y, columns=_COLUMNS)
    # What is far beyond the picture is drawn at its edge, where it is cut off as well, in fewer characters.
    down = np.clip(y_axis.place(y[kept]), -_HEIGHT, 2 * _HEIGHT)
    points = zip(x_axis.place(x[kept]).tolist(), down.tolist(), strict=True)
    return "M" + "L".join(f"{across:.1f},{height:.1f}" for across, height in points)


def _draw_points(chart: Chart, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    for line in chart.lines:
        if len(line.x) > 1 and (not chart.has_points or len(line.x) > _STRIPS):
            continue  # so many that they would hide the line
        is_inside = (line.main >= y_axis.low) & (line.main <= y_axis.high)
        across, down = x_axis.place(line.x[is_inside]), y_axis.place(line.main[is_inside])
        for x, y in zip(across.tolist(), down.tolist(), strict=True):
            yield f'<circle class="f{line.run} r{line.run}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'


def _draw_strips(chart: Chart, x_axis: _Axis, y_axis: _Axis) -> Iterator[str]:
    """Invisible columns that, under the pointer, show the values there."""
    places = np.unique(np.concatenate([line.x for line in chart.lines]))
    if len(places) > _STRIPS:
        wanted = np.linspace(places[0], places[-1], _STRIPS)
        places = np.unique(places[np.clip(np.searchsorted(places, wanted), 0, len(places) - 1)])
    across = x_axis.place(places)
    borders = np.concatenate([[_LEFT], (across[1:] + across[:-1]) / 2, [_WIDTH - _RIGHT]])
    for number, place in enumerate(places.tolist()):
        x = float(across[number])
        left, right = float(borders[number]), float(borders[number + 1])
        is_left = x < _WIDTH / 2
        at, anchor = (x + 8, "start") if is_left else (x - 8, "end")
        rows = [f'<tspan x="{at:.0f}" class="place">{write_short(place)} {escape(chart.x_title)}</tspan>']
        for line in chart.lines:
            nearest = int(np.argmin(np.abs(line.x - place))) if line.x[0] <= place <= line.x[-1] else None
            if nearest is not None:
                value = float(line.main[nearest])
                rows.append(f'<tspan x="{at:.0f}" dy="15" class="f{line.run} r{line.run}">{value:.5g}</tspan>')
        yield (
            f'<g class="at"><rect x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{_plot_height()}"/>'
            f'<path d="M{x:.1f},{_TOP}v{_plot_height()}"/>'
            f'<text x="{at:.0f}" y="{_TOP + 16}" text-anchor="{anchor}">{"".join(rows)}</text></g>'
        )


def _round_up(value: float) -> float:
    """The next of ..., 1, 2, 2.5, 5, 10, 20, 25, ..."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(factor * unit for factor in _STEPS if factor * unit >= value * (1 - 1e-9))
