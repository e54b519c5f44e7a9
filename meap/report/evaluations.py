"""Results of evaluations: the numbers to compare, and what was asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meap.json_text import parse_json, read_small

__all__ = ["Evaluation", "read_evaluation"]

_NOT_ASKED = {"model", "out_dir", "batch_size", "batch_tokens", "prefill_chunk", "tasks", "compare"}
"""Settings of an evaluation that change none of its questions."""
_PARTS = {"value", "low", "high", "n"}


@dataclass(frozen=True)
class Evaluation:
    """A file that `recipes/evaluate.py` wrote."""

    estimates: Mapping[str, Mapping[str, float]]
    """By label: value, and where known low and high (95 % interval) and n."""
    asked: Mapping[str, Any]
    """Settings that decide the questions."""
    tasks: Mapping[str, Mapping[str, Any]]
    """All numbers of each task."""


def read_evaluation(path: Path) -> Evaluation | None:
    """The results in a file; None where it holds something else."""
    try:
        found = parse_json(read_small(path))
        estimates = {
            label: {key: float(each[key]) for key in each.keys() & _PARTS if each[key] is not None}
            for label, each in _labelled(found)
        }
        tasks = dict(found["tasks"])
        asked = _asked(found["config"], tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not estimates or not all("value" in each for each in estimates.values()):
        return None
    return Evaluation(estimates, {key: value for key, value in asked.items() if key not in _NOT_ASKED}, tasks)


def _asked(config: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings, but held-out rows by what they are: data may have moved between two evaluations."""
    asked = dict(config)
    if "perplexity" in asked:
        asked["perplexity"] = {key: value for key, value in asked["perplexity"].items() if key != "remote"}
    if rows := tasks.get("perplexity", {}).get("prompts_sha256"):
        asked["held-out rows"] = rows
    return asked


def _labelled(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Estimates of the headline; where there is none, every metric of every task."""
    if "headline" in found:
        yield from found["headline"].items()
        return
    for name, numbers in found["tasks"].items():
        for metric, estimate in numbers["metrics"].items():
            yield f"{numbers.get('title', name)}: {estimate.get('label', metric)}", estimate
