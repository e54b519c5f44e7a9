"""Responses -> the numbers of a task: each metric overall and by row of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from meap.config import EvaluationConfig
from meap.evals.scoring import Group, estimate
from meap.evals.task import Response, Task

__all__ = ["group_responses", "select", "summarise"]


def summarise(task: Task, responses: Sequence[Response], config: EvaluationConfig) -> dict[str, Any]:
    """Numbers of a task, as JSON values.

    Returns:
        ``metrics``: each metric that any response has, as the mean of the table's rows without controls.
        ``rows``: for each combination of `Task.by`, the mean of every metric; controls come last.
    """
    rows = group_responses(responses, task.by)
    metrics: dict[str, dict[str, Any]] = {}
    for metric in task.metrics:
        groups = [
            group
            for _, control, members in rows
            if not control and (group := select(members, metric.name, metric.weight)) is not None
        ]
        if not groups:
            continue  # no judge was asked
        metrics[metric.name] = {
            "label": metric.label,
            "weight": metric.weight,
            "bounded": metric.bounded,
            "higher_is_better": metric.higher_is_better,
            "chance": metric.chance(config) if metric.chance else None,
            "rows": len(groups),
            **asdict(estimate(groups, bounded=metric.bounded)),
        }
    numbers = {
        "title": task.title,
        "headline": next(iter(metrics)),
        "by": list(task.by),
        "n": sum(not response["control"] for response in responses),
        "too_long": sum(response["too_long"] for response in responses),
        "metrics": metrics,
        "rows": [
            {
                "by": by,
                "control": control,
                "n": len(members),
                "metrics": {
                    metric.name: asdict(estimate([group], bounded=metric.bounded))
                    for metric in task.metrics
                    if (group := select(members, metric.name, metric.weight)) is not None
                },
            }
            for by, control, members in rows
        ],
        **task.further(responses),
    }
    return numbers | {"tables": task.tables(numbers)}


def group_responses(
    responses: Sequence[Response], by: Sequence[str]
) -> list[tuple[dict[str, Any], bool, list[Response]]]:
    """For each row of a table its facts, whether it is a control, and its responses; controls come last."""
    groups: dict[tuple[Any, ...], list[Response]] = {}
    for response in responses:
        groups.setdefault((response["control"], *(response.get(fact) for fact in by)), []).append(response)
    return [
        (dict(zip(by, facts, strict=True)), control, members)
        for (control, *facts), members in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def select(responses: Sequence[Response], metric: str, weight: str | None) -> Group | None:
    """One metric of the responses; examples that are too long count as wrong. None if no response has the metric."""
    chosen = [response for response in responses if response.get(metric) is not None or response["too_long"]]
    if not any(response.get(metric) is not None for response in chosen) and not all(
        response["too_long"] for response in responses
    ):
        return None
    values = np.array([response.get(metric) or 0.0 for response in chosen], np.float64)
    weights = np.array([response.get(weight) or 1.0 for response in chosen], np.float64) if weight else None
    return Group(values, weights, [response["cluster"] for response in chosen])
