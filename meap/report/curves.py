"""Runs -> charts of their metrics, by steps, tokens and hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meap.report.metrics import METRICS
from meap.report.runs import Run
from meap.report.series import running_mean
from meap.show.lines import Chart, Line, Mark, thin_out

__all__ = ["AXES", "SMOOTHED", "as_points", "axes_of", "curves_of", "evaluation_curves"]

SMOOTHED = 0.02
"""Width of the running mean, as a share of the longest run."""

_FEWEST_STEPS = 5
_POINTS = 500
_MOST_MARKS = 50

_Placed = Callable[[Run, NDArray[np.int64]], NDArray[np.float64] | None]


def _by_steps(run: Run, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    return steps.astype(np.float64)


def _by_tokens(run: Run, steps: NDArray[np.int64]) -> NDArray[np.float64] | None:
    return None if run.tokens_per_step is None else steps.astype(np.float64) * run.tokens_per_step


def _by_hours(run: Run, steps: NDArray[np.int64]) -> NDArray[np.float64] | None:
    if run.hours is None or not len(run.hours.steps):
        return None
    # After resuming from an older checkpoint, steps may have been faster: recorded hours would run backwards.
    return np.maximum.accumulate(np.interp(steps, run.hours.steps, run.hours.values))


AXES: dict[str, _Placed] = {"steps": _by_steps, "tokens": _by_tokens, "hours": _by_hours}
"""Horizontal axes of the charts."""


def axes_of(runs: Sequence[Run]) -> list[str]:
    """The axes on which every run can be drawn."""
    return [name for name, place in AXES.items() if all(place(run, np.array([1])) is not None for run in runs)]


def curves_of(runs: Sequence[Run], axis: str) -> Iterator[Chart]:
    """A chart of each metric that any run recorded."""
    marks = list(_marks(runs, axis))
    for metric in METRICS:
        lines: list[Line] = []
        for number, run in enumerate(runs):
            x = AXES[axis](run, run.series[metric.key].steps) if metric.key in run.series else None
            if x is None:
                continue
            series = run.series[metric.key]
            smooth = running_mean(series, window=_window(runs)) if metric.is_smoothed else None
            lines.append(Line(number, x, series.values, smooth))
        if lines:
            yield Chart(
                metric.title,
                lines,
                axis,
                metric.unit,
                from_zero=metric.from_zero,
                has_points=not metric.is_smoothed,
                is_cut=metric.falls_steeply,
                marks=marks,
            )
        if metric.key == "heldout_loss":
            yield from _differences(runs[0], lines, axis, metric.unit)


def evaluation_curves(runs: Sequence[Run]) -> Iterator[Chart]:
    """What evaluations measured of parts: held-out loss by context, answers by where they stand."""
    sources = dict.fromkeys(source for run in runs for source in run.evaluations)
    for source in sources:
        suffix = f" ({source})" if len(sources) > 1 else ""
        by_context = _lines(runs, source, "perplexity", _by_context)
        if by_context:
            yield Chart(
                "Held-out loss by context" + suffix,
                by_context,
                "tokens before the predicted one",
                "nats per token",
                has_points=True,
                is_log_x=True,
            )
        for way in ("ranking", "generation"):
            by_depth = _lines(runs, source, "key_retrieval", partial(_by_depth, way=way))
            if by_depth:
                title = f"Key retrieval by {way}{suffix}"
                yield Chart(title, by_depth, "depth", "share right", from_zero=True, has_points=True)


def _marks(runs: Sequence[Run], axis: str) -> Iterator[Mark]:
    """Where runs went on after they had been interrupted."""
    for number, run in enumerate(runs):
        places = AXES[axis](run, np.array(sorted(set(run.resumed_from))[:_MOST_MARKS], np.int64))
        for place in () if places is None else places.tolist():
            yield Mark(number, place)


def _differences(first: Run, lines: Sequence[Line], axis: str, unit: str) -> Iterator[Chart]:
    """Curves that lie close together, each less the first run's, where that has been measured before and after."""
    if not lines or lines[0].number != 0:
        return
    x, y = lines[0].x, lines[0].y
    differences: list[Line] = []
    for line in lines[1:]:
        common = (line.x >= x[0]) & (line.x <= x[-1])
        if common.any():
            change = line.y[common] - np.interp(line.x[common], x, y)
            differences.append(Line(line.number, line.x[common], change))
    if differences:
        yield Chart(
            f"Held-out loss, less that of {first.name}", differences, axis, unit, from_zero=True, has_points=True
        )


def as_points(runs: Sequence[Run]) -> dict[str, Any]:
    """The curves by steps, smoothed as they are drawn and thinned out, for programs."""
    curves: dict[str, Any] = {}
    for metric in METRICS:
        for run in runs:
            if (series := run.series.get(metric.key)) is None:
                continue
            values = running_mean(series, window=_window(runs)) if metric.is_smoothed else series.values
            kept = thin_out(series.steps.astype(np.float64), values, columns=_POINTS)
            points = {"steps": series.steps[kept].tolist(), "values": values[kept].tolist()}
            curves.setdefault(metric.key, {})[run.name] = points
    return curves


def _window(runs: Sequence[Run]) -> float:
    return max(_FEWEST_STEPS, SMOOTHED * max(run.last_step for run in runs))


def _lines(
    runs: Sequence[Run], source: str, task: str, points: Callable[[Mapping[str, Any]], list[tuple[float, float]]]
) -> list[Line]:
    lines: list[Line] = []
    for number, run in enumerate(runs):
        if source not in run.evaluations:
            continue
        try:
            found = sorted(points(run.evaluations[source].tasks.get(task, {})))
        except (KeyError, TypeError):
            continue  # results of a task that has changed since
        if found:
            x, y = np.array(found, np.float64).T
            lines.append(Line(number, x, y))
    return lines


def _by_context(numbers: Mapping[str, Any]) -> list[tuple[float, float]]:
    bins = [each for each in numbers.get("loss_by_position", ()) if each["last"] > 0]  # 0 has no place on a log axis
    return [((each["first"] + each["last"]) / 2, each["loss"]) for each in bins]


def _by_depth(numbers: Mapping[str, Any], *, way: str) -> list[tuple[float, float]]:
    if "by_depth" in numbers:
        return [(each["depth"], each[way]["value"]) for each in numbers["by_depth"]]
    return [(row["by"]["depth"], row["metrics"][way]["value"]) for row in numbers.get("rows", ())]
