"""Run tasks and write what they find."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from meap import __version__
from meap.evals import key_retrieval, perplexity, pictures
from meap.evals.scoring import Estimate
from meap.evals.task import Task, TaskInputs

__all__ = ["TASKS", "print_table", "run_tasks"]

TASKS: dict[str, Task] = {
    "perplexity": Task(perplexity.check, perplexity.evaluate, pictures.draw_perplexity),
    "key_retrieval": Task(key_retrieval.check, key_retrieval.evaluate, pictures.draw_key_retrieval),
}
"""Every task there is, in the order in which they run."""

RESULTS_NAME = "results.json"
PICTURE_NAME = "summary.png"

_PROGRESS_SECONDS = 5.0


def run_tasks(
    inputs: TaskInputs, names: Iterable[str], out_dir: Path, *, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run the named tasks and write results.json, summary.png and, for each task, <task>.jsonl.

    Args:
        inputs: Model, tokenizer, configuration and data.
        names: Keys of `TASKS`.
        out_dir: Folder to write to, made if need be. Files in it are replaced, each atomically.
        facts: Further entries for results.json.

    Returns:
        What results.json holds.

    Raises:
        MeapError: A task cannot run; found out before the first one does.
    """
    names = list(names)
    for name in names:
        TASKS[name].check(inputs)
    out_dir.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    headline: dict[str, dict[str, Any]] = {}
    panels: list[tuple[Callable[[Any, dict[str, Any]], None], dict[str, Any]]] = []
    for name in names:
        started = time.perf_counter()
        result = TASKS[name].evaluate(dataclasses.replace(inputs, progress=_progress_lines(name)))
        found[name] = result.numbers | {"seconds": round(time.perf_counter() - started, 3)}
        headline |= {label: dataclasses.asdict(estimate) for label, estimate in result.headline.items()}
        panels.append((TASKS[name].draw, result.numbers))
        _write(out_dir / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in result.records))
    model = inputs.model.describe()
    results = {
        "model": model,
        "tokenizer": {"name": inputs.tokenizer.name, "fingerprint": inputs.tokenizer.fingerprint},
        "headline": headline,
        "tasks": found,
        "config": dataclasses.asdict(inputs.config),
        **(facts or {}),
        "versions": {"meap": __version__, "python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "tokenizers")},
    }
    _write(out_dir / RESULTS_NAME, json.dumps(results, indent=2) + "\n")
    pictures.draw_summary(panels, out_dir / PICTURE_NAME, title=str(model["name"]))
    return results


def print_table(results: Mapping[str, Any]) -> None:
    """Print the headline numbers."""
    rows: Sequence[tuple[str, Estimate]] = [
        (label, Estimate(**values)) for label, values in results["headline"].items()
    ]
    width = max(len(label) for label, _ in rows)
    print(f"\n{'':{width}}  {'value':>9}  {'95 % interval':>20}  {'n':>6}")
    for label, found in rows:
        print(f"{label:{width}}  {found.value:>9.4f}  {f'[{found.low:.4f}, {found.high:.4f}]':>20}  {found.n:>6,}")


def _progress_lines(name: str) -> Callable[[int, int], None]:
    """A line now and then, and one at the end, with the time left."""
    started = printed = time.perf_counter()

    def report(done: int, total: int) -> None:
        nonlocal printed
        now = time.perf_counter()
        if done < total and now - printed < _PROGRESS_SECONDS:
            return
        printed = now
        left = timedelta(seconds=round((now - started) / done * (total - done)))
        took = timedelta(seconds=round(now - started))
        print(f"{name:<14} {done:>6,}/{total:,} | {took} so far, {left} left", flush=True)

    return report


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
