"""Results as text: one table per task, its rows as in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from meap.show.tables import align

__all__ = [
    "ESTIMATE_HEADER",
    "estimate_cells",
    "grid_csv",
    "headline_of",
    "metric_of",
    "notes_of",
    "print_results",
    "row_label",
    "shown",
    "shown_interval",
    "task_lines",
    "unit_of",
]

ESTIMATE_HEADER = ("", "value", "95 % interval", "n", "questions")
"""Header of a table of `estimate_cells`: n counts examples, of which several may ask one question."""


def print_results(results: Mapping[str, Any]) -> None:
    """Print, for each task, the headline metric by row, the mean of every metric, and its floors."""
    for name, numbers in results["tasks"].items():
        print(f"\n{numbers['title']} ({name}): {headline_of(numbers)}")
        for table in (task_lines(numbers), *numbers["tables"]):
            print("\n".join(align(table)))
        for note in notes_of(numbers):
            print(f"note: {note}")
    for name, reason in results["skipped"].items():
        print(f"\nskipped {name}: {reason}")


def unit_of(metric: Mapping[str, Any]) -> str:
    """Unit of the values of a metric in tables and pictures: shares are in percent; others name theirs in the label."""
    return "%" if metric["higher_is_better"] else ""


def metric_of(numbers: Mapping[str, Any]) -> str:
    """The metric of a task's table, its unit and its chance level."""
    metric = numbers["metrics"][numbers["headline"]]
    chance = "" if metric["chance"] is None else f"chance {shown(metric, metric['chance'])}"
    return ", ".join(filter(None, (metric["label"], unit_of(metric), chance)))


def headline_of(numbers: Mapping[str, Any]) -> str:
    """The metric of a task's table, and remarks on all rows."""
    too_long = f"{numbers['too_long']:,} too long" if numbers["too_long"] else ""
    return ", ".join(filter(None, (metric_of(numbers), "partial" if numbers["partial"] else "", too_long)))


def task_lines(numbers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A task's table: its header, the headline metric by row, and the mean of every metric."""
    chosen = numbers["headline"]
    lines: list[tuple[str, ...]] = [ESTIMATE_HEADER]
    if len(numbers["rows"]) > 1:
        lines += [
            (row_label(row), *estimate_cells(numbers["metrics"][chosen], row["metrics"][chosen]))
            for row in numbers["rows"]
            if chosen in row["metrics"]
        ]
    lines += [(f"mean, {each['label']}", *estimate_cells(each, each)) for each in numbers["metrics"].values()]
    for floor, scores in numbers.get("floors", {}).items():
        lines.append((f"floor, {floor}", shown(numbers["metrics"][chosen], scores[chosen]), "", "", ""))
    return lines


def notes_of(numbers: Mapping[str, Any]) -> Sequence[str]:
    """Remarks that go with a task's table."""
    return numbers.get("notes", ())


def row_label(row: Mapping[str, Any]) -> str:
    """Label of a row of the table."""
    facts = ", ".join(
        f"{fact} {value}" if isinstance(value, int | float) else str(value)
        for fact, value in row["by"].items()
        if value is not None
    )
    return f"{facts or 'all'} (control)" if row["control"] else facts or "all"


def shown(metric: Mapping[str, Any], value: float, *, sign: bool = False) -> str:
    """A value of a metric as text: shares in percent, losses and descriptive metrics as numbers."""
    plus = "+" if sign else ""
    if metric["higher_is_better"]:
        return f"{100 * value:{plus}.1f}"
    return f"{value:{plus}.2e}" if 0 < abs(value) < 1e-3 else f"{value:{plus}.4f}"


def shown_interval(metric: Mapping[str, Any], found: Mapping[str, Any], *, sign: bool = False) -> str:
    """The interval of an estimate as text; a dash if there is none."""
    if found["low"] is None or found["high"] is None:
        return "-"
    return f"[{shown(metric, found['low'], sign=sign)}, {shown(metric, found['high'], sign=sign)}]"


def grid_csv(grid: Mapping[str, Any]) -> str:
    """A grid as comma-separated values: a line per depth, a column per length; empty where no example was asked."""
    lines = [["depth", *map(str, grid["lengths"])]]
    for depth, values in zip(grid["depths"], grid["values"], strict=True):
        lines.append([str(depth), *("" if math.isnan(value) else str(value) for value in values)])
    return "".join(",".join(line) + "\n" for line in lines)


def estimate_cells(metric: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[str, ...]:
    """An estimate of a metric as cells of a table: value, interval, examples, questions."""
    value, interval = shown(metric, found["value"]), shown_interval(metric, found)
    return value, interval, f"{found['n']:,}", f"{found['clusters']:,}"
