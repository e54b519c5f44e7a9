"""A comparison -> what the template `report.html` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from meap.report.comparison import Comparison, Figure, Result
from meap.report.curves import SMOOTHED, axes_of, curves_of, evaluation_curves
from meap.report.runs import Run
from meap.report.tables import UNKNOWN, describe_change, describe_setting, describe_value
from meap.show.figures import COLOURS, Drawn
from meap.show.intervals import Interval, show_intervals
from meap.show.lines import show_lines
from meap.show.pages import render
from meap.show.text import escape_controls

__all__ = ["render_page"]

_MOST_ANSWERS = 10
"""Shown of a run to a prompt."""
_WEIGHTS = {
    "result": "decide what is trained",
    "speed": "should change speed only",
    "name": "go with the name of the run",
}


@dataclass(frozen=True)
class _Cell:
    text: str
    change: str = ""
    kind: str = ""
    """`good` or `bad`, where a change is one."""
    detail: str = ""


@dataclass(frozen=True)
class _Row:
    label: str
    cells: Sequence[_Cell]
    intervals: Drawn | None = None


def render_page(comparison: Comparison) -> str:
    """The page as text."""
    runs = comparison.runs
    return render(
        "report.html",
        title=" · ".join(run.name for run in runs),
        runs=[
            {"name": run.name, "colour": f"c{number % len(COLOURS)}", "dashes": _dashes(number)}
            for number, run in enumerate(runs)
        ],
        remarks=comparison.remarks,
        figures=[_figure_row(figure) for figure in comparison.figures],
        curves=[(axis, list(map(show_lines, curves_of(runs, axis)))) for axis in axes_of(runs)],
        smoothed=f"{SMOOTHED:.0%}",
        results=[_result_row(result) for result in comparison.results],
        evaluation_charts=list(map(show_lines, evaluation_curves(runs))) if comparison.results else [],
        settings=list(_settings(comparison)),
        same=[(key, describe_setting(value)) for key, value in comparison.same.items()],
        versions=[_plain_row(name, values) for name, values in comparison.versions.items()],
        samples=[_samples(number, run) for number, run in enumerate(runs) if run.samples],
        starts=[_starts(number, run) for number, run in enumerate(runs) if run.starts],
    )


def _dashes(number: int) -> str:
    round_ = number // len(COLOURS)
    return f"{6 * round_} 3" if round_ else ""


def _figure_row(figure: Figure) -> _Row:
    first, kind = figure.values[0], figure.kind
    cells = [
        _cell(describe_value(value, kind), describe_change(value, first, kind) if number else "", value, first, figure)
        for number, value in enumerate(figure.values)
    ]
    return _Row(figure.label, cells)


def _cell(text: str, change: str, value: float | None, first: float | None, figure: Figure) -> _Cell:
    if not figure.better or value is None or first is None or value == first:
        return _Cell(text, change)
    return _Cell(text, change, "good" if (value < first) == (figure.better == "lower") else "bad")


def _result_row(result: Result) -> _Row:
    known = [
        Interval(number, estimate["value"], estimate["low"], estimate["high"])
        for number, estimate in enumerate(result.estimates)
        if estimate is not None and "low" in estimate and "high" in estimate
    ]
    cells = [_result_cell(result, number) for number in range(len(result.estimates))]
    return _Row(result.name, cells, show_intervals(f"{result.name}: intervals", known) if known else None)


def _result_cell(result: Result, number: int) -> _Cell:
    estimate, first = result.estimates[number], result.estimates[0]
    if estimate is None:
        return _Cell(UNKNOWN)
    value = estimate["value"]
    change = describe_change(value, first["value"], "loss") if number and first is not None else ""
    detail = f"{estimate['low']:,.4f} to {estimate['high']:,.4f}" if {"low", "high"} <= estimate.keys() else ""
    if detail and "n" in estimate:
        detail += f", {estimate['n']:,.0f}"
    return _Cell(f"{value:,.4f}", change, detail=detail)


def _settings(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for weight, meaning in _WEIGHTS.items():
        rows = [_plain_row(each.key, each.values) for each in comparison.differing if each.weight == weight]
        if rows:
            yield {"meaning": meaning, "rows": rows, "is_open": weight != "name"}


def _plain_row(label: str, values: Sequence[Any]) -> _Row:
    return _Row(label, [_Cell(describe_setting(value)) for value in values])


def _samples(number: int, run: Run) -> dict[str, Any]:
    """A run's answers to each prompt, the newest first; of many steps, some that are spread evenly."""
    steps = sorted(run.samples, reverse=True)
    chosen = sorted({round(place * (len(steps) - 1) / (_MOST_ANSWERS - 1)) for place in range(_MOST_ANSWERS)})
    prompts: dict[str, dict[str, Any]] = {}
    for step in (steps[place] for place in chosen):
        for sample in run.samples[step]:
            texts = {key: escape_controls(text) for key, text in sample.items()}
            known = prompts.setdefault(sample["prompt"], texts | {"answers": []})
            known["answers"].append((f"{step:,}", texts["answer"]))
    return {"number": number, "name": run.name, "prompts": [*prompts.values()]}


def _starts(number: int, run: Run) -> dict[str, Any]:
    # What no start changed is in the table of versions.
    facts = {key: [start.get(key, ...) for start in run.starts] for start in run.starts for key in start}
    keys = [key for key, values in facts.items() if {*map(str, values)} != {str(run.versions.get(key, ...))}]
    rows = [[describe_setting(start.get(key, ...)) for key in keys] for start in run.starts]
    return {"number": number, "name": run.name, "keys": keys, "rows": rows}
