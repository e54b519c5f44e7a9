"""Results, or a comparison of two -> the page of the template `evaluation.html`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from meap.config import flatten
from meap.evals.comparison import SIGNIFICANCE, comparison_lines, contrast_tables, picture_of, short_names
from meap.evals.pictures import panel
from meap.evals.responses import read_responses
from meap.evals.runner import read_results
from meap.evals.samples import choose_samples
from meap.evals.tables import (
    ESTIMATE_HEADER,
    estimate_cells,
    headline_of,
    metric_of,
    notes_of,
    shown,
    task_lines,
    unit_of,
)
from meap.evals.task import Response
from meap.evals.tasks import TASKS
from meap.places.whole import write_whole
from meap.show.figures import draw_svg
from meap.show.pages import render

__all__ = ["PAGE_NAME", "render_comparison", "render_results", "write_comparison_page", "write_results_page"]

PAGE_NAME = "report.html"

_PARTIAL = "partial: not all examples were asked (limit)"


def write_results_page(folder: Path) -> None:
    """Write the page of the results in `folder` beside them."""
    results = read_results(folder)
    responses = {name: read_responses(folder, name) for name in results["tasks"]}
    write_whole(folder / PAGE_NAME, render_results(results, responses))


def write_comparison_page(found: Mapping[str, Any], folder: Path) -> None:
    """Write the page of a comparison beside the files that `compare` wrote to `folder`."""
    results = [read_results(Path(each)) for each in found["folders"]]
    write_whole(folder / PAGE_NAME, render_comparison(found, results))


def render_results(results: Mapping[str, Any], responses: Mapping[str, Sequence[Response]]) -> str:
    """The page of an evaluation as text.

    Args:
        results: Content of results.json.
        responses: Responses of its tasks, by name.
    """
    remarks = [_PARTIAL] if results["partial"] else []
    remarks += [f"skipped {name}: {reason}" for name, reason in results["skipped"].items()]
    tasks = [
        {
            "title": numbers["title"],
            "about": f"{name}: {headline_of(numbers)}",
            "tables": [task_lines(numbers), *numbers["tables"]],
            "notes": notes_of(numbers),
            "picture": draw_svg(panel(TASKS[name].draw, numbers)),
            "samples": choose_samples(numbers, responses[name]),
        }
        for name, numbers in results["tasks"].items()
    ]
    return render(
        "evaluation.html",
        title=str(results["model"]["name"]),
        remarks=remarks,
        overview=list(_overview(results)),
        tasks=tasks,
        footnote="",
        origin=_origin([results], ["value"]),
    )


def render_comparison(found: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> str:
    """The page of a comparison as text.

    Args:
        found: Content of compare.json.
        results: Contents of the two results.json.
    """
    names = short_names(found["models"])
    remarks = [_PARTIAL] if found["partial"] else []
    for name, each in zip(names, results, strict=True):
        remarks += [f"{name}: skipped {task}: {reason}" for task, reason in each["skipped"].items()]
        remarks += [f"{name}: {task} was not compared" for task in each["tasks"] if task not in found["tasks"]]
    tasks = [
        {
            "title": numbers["title"],
            "about": f"{task}: {metric_of(numbers)}",
            "tables": [comparison_lines(numbers, names), *contrast_tables(task, numbers, names)],
            "notes": numbers["notes"],
            "picture": draw_svg(picture_of(found, task)),
            "samples": [],
        }
        for task, numbers in found["tasks"].items()
    ]
    return render(
        "evaluation.html",
        title=" and ".join(found["models"]),
        remarks=remarks,
        overview=[],
        tasks=tasks,
        footnote=SIGNIFICANCE,
        origin=_origin(results, names),
    )


def _overview(results: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield *ESTIMATE_HEADER, "chance"
    for numbers in results["tasks"].values():
        metric = numbers["metrics"][numbers["headline"]]
        chance = "" if metric["chance"] is None else shown(metric, metric["chance"])
        label = ", ".join(filter(None, (f"{numbers['title']}: {metric['label']}", unit_of(metric))))
        yield label, *estimate_cells(metric, metric), chance


def _origin(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The models, the software and the settings."""
    facts = [
        each["model"]
        | {"tokenizer": each["tokenizer"]["name"], "tokenizer fingerprint": each["tokenizer"]["fingerprint"]}
        | {key: each.get(key) for key in ("seed", "add_bos", "partial", "data")}
        for each in results
    ]
    details = [
        (title, list(_side_by_side([flatten(each[key]) for each in results], names)))
        for title, key in (("software", "versions"), ("all settings", "config"))
    ]
    return {"facts": list(_side_by_side(facts, names)), "details": details}


def _side_by_side(columns: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    yield "", *names
    for key in dict.fromkeys(key for each in columns for key in each):
        yield key, *(_as_text(each.get(key)) for each in columns)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
