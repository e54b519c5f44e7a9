"""Metrics and samples as lines of JSON in the run's folder: always written, and read by reports."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meap.places.whole import append_whole
from meap.run_files import METRICS_NAME, SAMPLES_NAME
from meap.train.loggers.stepwise import StepwiseLogger, Table

__all__ = ["MetricsFile"]


class MetricsFile(StepwiseLogger):
    """Append ``{"step": 10, "loss/train/total": 2.5, ...}`` to metrics.jsonl, the first step being 1.

    Samples go to samples.jsonl, a line each. A step may have several lines, also because a resumed run repeats steps:
    the last value of a metric, and the last samples, count.

    Args:
        run_dir: The run's folder.
        interval: Batches between writings.
    """

    is_local = True

    def __init__(self, run_dir: Path, *, interval: int) -> None:
        super().__init__(interval=interval)
        self._run_dir = run_dir
        self._lines: dict[str, list[str]] = defaultdict(list)

    @property
    def place(self) -> Path:
        """The file of metrics."""
        return self._run_dir / METRICS_NAME

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a line."""
        self._add(METRICS_NAME, {"step": step, **metrics})

    def write_table(self, step: int, table: Table) -> None:
        """Add a line per row of the samples."""
        for record in table.records():
            self._add(SAMPLES_NAME, {"step": step, **record})

    def flush(self) -> None:
        """Append all lines at once."""
        for name, lines in self._lines.items():
            append_whole(self._run_dir / name, "".join(lines))
        self._lines.clear()

    def _add(self, name: str, record: dict[str, Any]) -> None:
        self._lines[name].append(json.dumps(record) + "\n")
