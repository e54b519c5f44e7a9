"""A comparison as rows of text, for the terminal and the page, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from meap.report.comparison import Comparison, Figure
from meap.show.numbers import clock
from meap.show.tables import align

__all__ = ["as_json", "describe_change", "describe_setting", "describe_value", "table_lines"]

UNKNOWN = "\N{EN DASH}"


def describe_value(value: float | None, kind: str) -> str:
    """A number as text; `kind` is that of a `Figure`."""
    if value is None:
        return UNKNOWN
    match kind:
        case "count":
            return f"{value:,.0f}"
        case "share":
            return f"{value:.2%}"
        case "hours":
            return clock(3600 * value)
        case _:
            return f"{value:,.4f}"


def describe_change(value: float | None, first: float | None, kind: str) -> str:
    """The difference to the first run, and its share of what the first has."""
    if value is None or first is None or not math.isfinite(change := value - first):
        return ""
    if value == first:
        return "the same"
    if kind == "hours":
        absolute = ("-" if change < 0 else "+") + clock(3600 * abs(change))
    else:
        absolute = f"{change:+.2%}" if kind == "share" else f"{change:+,.0f}" if kind == "count" else f"{change:+,.4f}"
    return f"{absolute} ({change / abs(first):+.1%})" if first and kind != "share" else absolute


def describe_setting(value: Any) -> str:
    """A setting as yaml would have it."""
    if value is ...:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def table_lines(comparison: Comparison) -> Iterator[str]:
    """Remarks, figures, evaluation results and differing settings as text."""
    names = [run.name for run in comparison.runs]
    if comparison.remarks:
        yield from comparison.remarks
        yield ""
    rows = [_figure_row(figure) for figure in comparison.figures]
    rows += [
        (
            result.name,
            *(describe_value(each["value"] if each else None, "loss") for each in result.estimates),
        )
        for result in comparison.results
    ]
    yield from align([("", *names), *rows], left=range(len(names) + 1))
    deciding = [setting for setting in comparison.differing if setting.weight != "name"]
    if deciding:
        yield ""
        rows = [(setting.key, *map(describe_setting, setting.values)) for setting in deciding]
        yield from align([("settings that differ", *names), *rows], left=range(len(names) + 1))


def as_json(comparison: Comparison, curves: dict[str, Any]) -> str:
    """The same numbers for programs; figures by label, values by run."""
    names = [run.name for run in comparison.runs]

    def by_run(values: Sequence[Any]) -> dict[str, Any]:
        return {name: value for name, value in zip(names, values, strict=True) if value is not ...}

    values = {
        "runs": {
            run.name: {
                "folder": str(run.folder),
                "last_step": run.last_step,
                "versions": run.versions,
                "starts": run.starts,
                "notes": run.notes,
                "samples": {step: list(samples) for step, samples in run.samples.items()},
            }
            for run in comparison.runs
        },
        "remarks": comparison.remarks,
        "figures": {figure.label: by_run(figure.values) for figure in comparison.figures},
        "settings": {
            "differing": {setting.key: by_run(setting.values) for setting in comparison.differing},
            "same": comparison.same,
        },
        "evaluations": [
            {"source": result.source, "label": result.label, "values": by_run(result.estimates)}
            for result in comparison.results
        ],
        "curves": curves,
    }
    return json.dumps(values, indent=1, ensure_ascii=False, default=str) + "\n"


def _figure_row(figure: Figure) -> tuple[str, ...]:
    first, *others = figure.values
    cells = [describe_value(first, figure.kind)]
    for value in others:
        change = describe_change(value, first, figure.kind)
        cells.append(f"{describe_value(value, figure.kind)} {change}".strip())
    return (figure.label, *cells)
